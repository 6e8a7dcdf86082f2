"""Several assets behind gymnasium's face: the same physics with A multipliers a step. Spaces and clock as `TradingEnv`.

    env = MultiAssetTradingEnv(panel, MultiAssetEnvConfig(symbols=["BTC-USD", "ETH-USD", "SOL-USD"]))

Without a panel the bars are a synthetic market of those symbols, labelled so: a first look, never a result.
"""

from __future__ import annotations

from himari_rl.data.panel import Panel
from himari_rl.data.synthetic_panel import synthetic_panel
from himari_rl.envs.config import MultiAssetEnvConfig
from himari_rl.envs.physics import Market
from himari_rl.envs.trading_env import TradingEnv, require_config, require_history
from himari_rl.envs.vector_env import VectorTradingEnv
from himari_rl.errors import ConfigError
from himari_rl.features.encoder import StateEncoder

__all__ = ["MultiAssetEnvConfig", "MultiAssetTradingEnv", "MultiAssetVectorEnv"]

SYNTHETIC_ROWS = 8_760  # a year of hours

PanelOrConfig = Panel | Market | MultiAssetEnvConfig | None


class MultiAssetTradingEnv(TradingEnv):
    """52 numbers in, three multipliers out for three symbols; one account, one bar a step.

    Args:
        panel: aligned bars, or a `Market`; without it, synthetic bars of the config's symbols. A MultiAssetEnvConfig
            may stand here as well, alone or before the panel: the two cannot be taken for each other.
        config: symbols, costs, limits, episode and reward; by default of the panel's symbols.
        action_space: "multiplier" is Box(0, 2); "centred" is Box(-1, 1).

    Raises:
        ConfigError: other symbols than the config's, or too few bars for one episode.
        DataError: a DataFrame or an array where a panel belongs.

    >>> env = MultiAssetTradingEnv(MultiAssetEnvConfig(symbols=["BTC-USD", "ETH-USD", "SOL-USD"], episode_bars=100))
    >>> observation, info = env.reset(seed=0)
    >>> observation, reward, terminated, truncated, info = env.step([1.0, 0.5, 0.0])
    >>> observation.shape, info["exposure"].shape
    ((52,), (3,))
    """

    def __init__(
        self, panel: PanelOrConfig = None, config: PanelOrConfig = None, *, action_space: str = "multiplier"
    ) -> None:
        panel, chosen = _panel_and_config(panel, config)
        super().__init__(panel, chosen, encoder=_encoder(panel, chosen), action_space=action_space)


class MultiAssetVectorEnv(VectorTradingEnv):
    """N accounts on one panel, stepped together; conventions as `VectorTradingEnv`, arguments as above."""

    def __init__(
        self,
        num_envs: int,
        panel: PanelOrConfig = None,
        config: PanelOrConfig = None,
        *,
        action_space: str = "multiplier",
    ) -> None:
        panel, chosen = _panel_and_config(panel, config)
        super().__init__(num_envs, panel, chosen, encoder=_encoder(panel, chosen), action_space=action_space)


def _encoder(panel: Panel | Market, config: MultiAssetEnvConfig) -> StateEncoder:
    """Of the panel, with its own features; of a market that names none, of the config."""
    return StateEncoder.of(panel) if isinstance(panel, Panel) else config.encoder


def _panel_and_config(panel: PanelOrConfig, config: PanelOrConfig) -> tuple[Panel | Market, MultiAssetEnvConfig]:
    """The two in order, each checked against the other."""
    if isinstance(panel, MultiAssetEnvConfig):
        panel, config = config, panel
    if isinstance(panel, MultiAssetEnvConfig):
        raise ConfigError("two configs", "one panel and one config", "write MultiAssetTradingEnv(panel, config)")
    if panel is not None:
        require_history(panel)
    if config is None and isinstance(panel, Panel):
        config = MultiAssetEnvConfig(symbols=panel.symbols)
    chosen = require_config(config, MultiAssetEnvConfig)
    symbols = tuple(chosen.symbols)
    if panel is None:
        return synthetic_panel(symbols, SYNTHETIC_ROWS, seed=0), chosen
    if isinstance(panel, Market):
        if panel.assets != len(symbols):
            raise ConfigError(f"a market of {panel.assets} assets", f"{len(symbols)}, one for each symbol")
    elif not isinstance(panel, Panel):
        cure = "panel_of([bars, ...]) aligns several, TradingEnv(bars) trades one"
        raise ConfigError(f"the bars of one symbol for {', '.join(symbols)}", "a Panel of all of them", cure)
    elif panel.symbols != symbols:
        raise ConfigError(
            f"a panel of {', '.join(panel.symbols)}", f"{', '.join(symbols)}, in this order", "load it so"
        )
    return panel, chosen
