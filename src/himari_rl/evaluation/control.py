"""What a control is, and the judgement that cannot be made without all of them.

(a) driftless   the same pipeline on a twin with random signs (sign-randomised placebo): it must be refused
(b) planted     the same pipeline on a twin with a stated edge (injected-signal positive control): it must be found
(c) shuffled    the same policies on inputs of another time (time-shifted inputs): the advantage must vanish
(d) lag         every decision one bar late: an honest edge shrinks, a leak collapses
(e) costs       x1, x2, x3
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from himari_rl.errors import RefusedError
from himari_rl.evaluation import statistics
from himari_rl.evaluation.verdict import Verdict
from himari_rl.schema import FloatArray

NAMES = ("driftless", "planted", "shuffled", "lag", "costs")


@dataclass(frozen=True, kw_only=True)
class Control:
    """One control: what was found and whether that is as it must be."""

    name: str
    passed: bool
    sentence: str
    numbers: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"numbers": dict(self.numbers)}


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A walk-forward's verdict with everything it rests on.

    Raises:
        RefusedError: a control is missing.
    """

    verdict: Verdict
    own_deflated_sharpe: float  # that the policy's own Sharpe ratio is above 0, given the trials
    controls: tuple[Control, ...]
    detectable: float  # utility a year that this much data shows with 95 % power
    seeds: Mapping[str, float]  # Sharpe ratio a year of each seed alone
    training_gain: float  # utility a year over multiplier 1.0, mean of the folds' training rows

    def __post_init__(self) -> None:
        missing = [name for name in NAMES if name not in {control.name for control in self.controls}]
        if missing:
            raise RefusedError(f"the verdict lacks its controls: {', '.join(missing)}", "all five of them")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "verdict": self.verdict.to_dict(),
            "own_deflated_sharpe": self.own_deflated_sharpe,
            "controls": [control.to_dict() for control in self.controls],
            "detectable": self.detectable,
            "seeds": dict(self.seeds),
            "training_gain": self.training_gain,
        }


def own_deflated(log_growth: FloatArray, trials: int) -> float:
    """Deflated Sharpe ratio of the account itself, per bar, given every look at this span."""
    return statistics.deflated_sharpe(statistics.moments(log_growth), trials)
