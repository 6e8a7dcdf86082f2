"""What a control is, and the judgement that cannot be made without all of them.

(a) driftless   sign-randomised placebo: the same pipeline on a twin with random signs must be refused
(b) planted     injected-signal positive control: the same pipeline must find a stated edge in a twin
(c) shuffled    time-shifted inputs: given inputs of another time, the same policies must lose their advantage
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


@dataclass(frozen=True, kw_only=True, repr=False)
class Judgement:
    """A walk-forward's verdict with everything it rests on. `print` shows the verdict's page with its controls.

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

    def __str__(self) -> str:
        page = self.verdict.summary([control.to_dict() for control in self.controls])
        power = f"a difference in utility of {100.0 * self.detectable:.1f} % a year (power 95 %)"
        return f"{page}\nThis much data shows {power}."

    def __repr__(self) -> str:
        failed = [control.name for control in self.controls if not control.passed]
        return f"Judgement({self.verdict!r}, {f'failed: {failed}' if failed else 'all controls passed'})"

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
