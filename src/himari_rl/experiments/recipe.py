"""The recipe: how one fold and seed is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from himari_rl.agents.config import PPOConfig, config_type
from himari_rl.data.splits import PURGE_BARS
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one fold and seed is trained. The options against overfitting are off unless LOG.md says they help."""

    agent: PPOConfig = field(default_factory=PPOConfig)
    environment: TradingEnvConfig = field(default_factory=TradingEnvConfig)
    bars_per_seed: int = 500_000
    """Bars stepped in training, for each fold and seed."""
    validation_fraction: float = 0.0
    """Last share of the training rows, after a purge, that picks the best weights (early stopping); 0 is off."""
    bootstrap_paths: int = 0
    """Block-bootstrapped copies of the training rows beside the real ones."""
    synthetic_paths: int = 0
    """Driftless twins of the training rows beside the real ones: the same storms, nothing to know."""
    purge_bars: int = PURGE_BARS
    """Rows between training and validation rows."""

    @classmethod
    def of_kind(cls, kind: str, **changes: object) -> Recipe:
        """The default recipe of a kind of agent."""
        return cls(agent=config_type(kind)(), **changes)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        if not 0.0 <= self.validation_fraction < 0.9:
            raise ConfigError(f"validation_fraction {self.validation_fraction}", "0 (off) to below 0.9")
        if min(self.bootstrap_paths, self.synthetic_paths) < 0 or self.bars_per_seed < 1:
            raise ConfigError(
                f"{self.bars_per_seed} bars a seed, {self.bootstrap_paths} and {self.synthetic_paths} paths",
                "at least 1, and 0 or more",
            )

    def with_agent(self, settings: Mapping[str, object]) -> Recipe:
        """The same recipe with other settings of its agent."""
        return replace(self, agent=replace(self.agent, **settings))  # type: ignore[arg-type]
