"""Several assets behind gymnasium's face: the same physics with A multipliers a step. Spaces and clock as `TradingEnv`.

    env = MultiAssetTradingEnv(MultiAssetEnvConfig(symbols=["BTC-USD", "ETH-USD", "SOL-USD"]), panel)

Without a panel the bars are a synthetic market of those symbols, labelled so: a first look, never a result.
"""

from __future__ import annotations

from himari_rl.data.panel import Panel
from himari_rl.data.synthetic_panel import synthetic_panel
from himari_rl.envs.config import MultiAssetEnvConfig
from himari_rl.envs.physics import Market
from himari_rl.envs.trading_env import TradingEnv
from himari_rl.envs.vector_env import VectorTradingEnv
from himari_rl.errors import ConfigError

__all__ = ["MultiAssetEnvConfig", "MultiAssetTradingEnv", "MultiAssetVectorEnv"]

SYNTHETIC_ROWS = 8_760  # a year of hours


class MultiAssetTradingEnv(TradingEnv):
    """52 numbers in, three multipliers out for three symbols; one account, one bar a step.

    Args:
        config: symbols, costs, limits, episode and reward.
        panel: aligned bars of the config's symbols in its order, or a `Market`; synthetic ones without it.
        action_space: "multiplier" is Box(0, 2); "centred" is Box(-1, 1).

    Raises:
        ConfigError: other symbols than the config's, or too few bars for one episode.

    >>> env = MultiAssetTradingEnv(MultiAssetEnvConfig(symbols=["BTC-USD", "ETH-USD", "SOL-USD"], episode_bars=100))
    >>> observation, info = env.reset(seed=0)
    >>> observation, reward, terminated, truncated, info = env.step([1.0, 0.5, 0.0])
    >>> observation.shape, info["exposure"].shape
    ((52,), (3,))
    """

    def __init__(
        self, config: MultiAssetEnvConfig | None = None, panel: Panel | Market | None = None, *,
        action_space: str = "multiplier",
    ) -> None:  # fmt: skip
        config = config or MultiAssetEnvConfig()
        super().__init__(_bars(config, panel), config, encoder=config.encoder, action_space=action_space)


class MultiAssetVectorEnv(VectorTradingEnv):
    """N accounts on one panel, stepped together; see `VectorTradingEnv` for the conventions."""

    def __init__(
        self, num_envs: int, config: MultiAssetEnvConfig | None = None, panel: Panel | Market | None = None, *,
        action_space: str = "multiplier",
    ) -> None:  # fmt: skip
        config = config or MultiAssetEnvConfig()
        super().__init__(num_envs, _bars(config, panel), config, encoder=config.encoder, action_space=action_space)


def _bars(config: MultiAssetEnvConfig, panel: Panel | Market | None) -> Panel | Market:
    if panel is None:
        return synthetic_panel(tuple(config.symbols), SYNTHETIC_ROWS, seed=0)
    if isinstance(panel, Panel) and panel.symbols != tuple(config.symbols):
        raise ConfigError(
            f"a panel of {', '.join(panel.symbols)}", f"{', '.join(config.symbols)}, in this order", "load it so"
        )
    if isinstance(panel, Market) and panel.assets != len(config.symbols):
        raise ConfigError(f"a market of {panel.assets} assets", f"{len(config.symbols)}, one for each symbol")
    return panel
