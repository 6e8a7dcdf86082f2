"""What an evaluation is asked for; fees, shorts and limits are those of the bundle's manifest."""

from __future__ import annotations

from dataclasses import dataclass

from himari_rl.config import require_ranges
from himari_rl.errors import ConfigError
from himari_rl.schema import RISK_AVERSION


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """One verdict on bars that training never saw."""

    test_fraction: float = 0.2
    """Share of the rows, at the end, to judge on."""
    costs: tuple[float, ...] = (2.0, 3.0)
    """Cost multiples to judge at beside x1."""
    trials: int | None = None
    """Configurations tried before this one was chosen (default: the trial ledger's count)."""
    risk_aversion: float = RISK_AVERSION
    """Of the mean-variance utility."""
    seed: int = 0
    """Of the bootstrap and the random baseline."""
    allow_seen: bool = False
    """Judge on bars of the training span, and say so."""

    def __post_init__(self) -> None:
        for multiple in self.costs:
            if not 0.0 <= multiple <= 100.0:  # NaN fails too
                raise ConfigError(f"cost multiple {multiple}", "a number from 0 to 100", "for example --costs 2 3")
        if not 0.0 <= self.risk_aversion <= 1000.0:
            raise ConfigError(
                f"risk aversion {self.risk_aversion}", "a number from 0 to 1000", f"{RISK_AVERSION} is the usual one"
            )
        require_ranges(self, {"seed": (0, 2**31)})
