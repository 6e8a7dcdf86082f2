"""What an environment is: the ledger's config with an episode and a reward. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from himari_rl.config import require_ranges
from himari_rl.data.panel import check_symbols
from himari_rl.errors import ConfigError
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.code import with_hash
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.schema import RISK_AVERSION

BELIEVED = "believed"  # what training/beliefs.py believes is earned; for training only
REWARDS = (BELIEVED, "log_growth", "mean_variance", "differential_sharpe")


_RANGES = {  # NaN is in none
    "initial_capital": (1e-6, 1e15),
    "ruin": (0.0, 0.999),
    "risk_aversion": (0.0, 1000.0),
    "turnover_penalty": (0.0, 1.0),
    "drawdown_penalty": (0.0, 1000.0),
    "sharpe_rate": (1e-9, 1.0),
}


@dataclass(frozen=True, kw_only=True)
class TradingEnvConfig(LedgerConfig):
    """The ledger with an episode and a reward.

    >>> TradingEnvConfig(commission_rate=0.0004, slippage_bps=5.0).cost_rate
    0.0009
    """

    initial_capital: float = 100_000.0
    """Equity at the start of an episode, USD."""
    episode_bars: int = 500
    """Decisions in an episode; its end is a truncation, never a termination."""
    ruin: float = 0.5
    """The episode terminates when equity falls to this fraction of its start."""
    reward: str = "mean_variance"
    """believed (training only), mean_variance, log_growth, differential_sharpe, or MODULE:FUNCTION of your own, which
    PPO alone then learns from (docs/judge.md); the hash of its source is added."""
    risk_aversion: float = RISK_AVERSION
    """Weight of the variance in mean_variance."""
    turnover_penalty: float = 0.0
    """Extra charge per unit of turnover, on top of the costs. Off by default."""
    drawdown_penalty: float = 0.0
    """Charge per bar and unit of log drawdown. Off by default."""
    sharpe_rate: float = 0.01
    """Weight of the newest bar in differential_sharpe's moments."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.own_reward:
            object.__setattr__(self, "reward", with_hash(self.reward))
        elif self.reward not in REWARDS:
            raise ConfigError(f"reward {self.reward!r}", f"one of {', '.join(REWARDS)}, or MODULE:FUNCTION")
        if self.episode_bars < 1:
            raise ConfigError(f"episode_bars {self.episode_bars}", "at least 1")
        require_ranges(self, _RANGES)

    @property
    def own_reward(self) -> bool:
        """Whether the reward is code of somebody's own."""
        return ":" in self.reward


@dataclass(frozen=True, kw_only=True)
class MultiAssetEnvConfig(TradingEnvConfig):
    """`TradingEnvConfig` with the symbols, whose order is the order of the observation and of the action.

    >>> MultiAssetEnvConfig(symbols=("BTC-USD", "ETH-USD")).encoder.state_dim
    34
    """

    symbols: Sequence[str] = ("BTC-USD", "ETH-USD", "SOL-USD")
    """2 to 100 of them; the dimensions follow."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_symbols(self.symbols)
        object.__setattr__(self, "symbols", tuple(self.symbols))

    @property
    def encoder(self) -> StateEncoder:
        """What the environment observes with."""
        return StateEncoder(tuple(self.symbols))
