"""What a control is, and the judgement that cannot be made without all of them.

(a) driftless   sign-randomised placebo: the same pipeline on a twin with random signs must be refused
(b) planted     injected-signal positive control: the same pipeline must find a stated edge in a twin
(c) shuffled    time-shifted inputs: given inputs of another time, the same policies must lose their advantage
(d) lag         every decision one bar late: an honest edge shrinks, a leak collapses
(e) costs       x1, x2, x3
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from himari_rl.errors import RefusedError
from himari_rl.evaluation import statistics
from himari_rl.evaluation.one_liners import OneLiners
from himari_rl.evaluation.verdict import Verdict, look_ahead_suspected
from himari_rl.schema import FloatArray

POWER = 0.95  # with which the planted edge must be shown
FIXED = "fixed"  # among the numbers of `planted`: 1 where the policy came out the same on every fold and twin
LEARNS_NOTHING = (
    " This policy learned nothing, it is the same on every fold and twin, so it cannot find what is planted there and "
    "no gate releases it: what it earned against 1.0, cash and the one-liners stands as measured, and whether its edge "
    "is more than luck is not shown."
)
SURE = 0.95  # of a twin that its own Sharpe ratio is above 0


@dataclass(frozen=True, kw_only=True)
class Control:
    """One control: its numbers, and what `control` says that they mean."""

    name: str
    passed: bool
    sentence: str
    numbers: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"numbers": dict(self.numbers)}


def control(name: str, numbers: Mapping[str, float]) -> Control:
    """A control from its numbers and nothing else: the gate makes each again and compares.

    Raises:
        KeyError: a number is missing, or there is no such control.
    """
    passed, sentence = _RULES[name](numbers)
    return Control(name=name, passed=passed, sentence=sentence, numbers=numbers)


def _found(of: Mapping[str, float]) -> bool:
    """What both twins are asked: own Sharpe ratio deflated for one trial, and the paired difference, both 95 % sure."""
    return not of["look_ahead"] and of["utility_lower"] > 0.0 and of["deflated_sharpe"] > SURE


def _driftless(of: Mapping[str, float]) -> tuple[bool, str]:
    found = _found(of)
    sharpe = f"Sharpe ratio {of['sharpe']:+.2f}, deflated {of['deflated_sharpe']:.2f}"
    return (
        not found,
        f"On a driftless twin of these bars the same pipeline is {'NOT ' if found else ''}refused ({sharpe}).",
    )


def _planted(of: Mapping[str, float]) -> tuple[bool, str]:
    found, enough = _found(of), of["power"] >= POWER
    sentence = (
        f"A planted edge (correlation {of['edge']:g} with the next bar) is {'found' if found else 'NOT found'}: "
        f"{100.0 * of['utility']:+.1f} % a year over multiplier 1.0, Sharpe ratio {of['sharpe']:+.2f}. "
    )
    if enough:
        power = "more than 99" if of["power"] > 0.995 else f"{100.0 * of['power']:.0f}"
        sentence += f"So much data shows an edge of that size with {power} % power."
    else:
        sentence += f"TOO LITTLE DATA: even that edge is shown with a power of {100.0 * of['power']:.0f} % only."
    if of.get(FIXED) and not found:
        sentence += LEARNS_NOTHING
    return found and enough, sentence


def _shuffled(of: Mapping[str, float]) -> tuple[bool, str]:
    sentence = (
        f"With inputs of another time {100.0 * of['left']:+.1f} % a year is left of {100.0 * of['gain']:+.1f} %; what "
        f"the inputs are worth: {100.0 * of['inputs']:+.1f} % "
        f"({100.0 * of['inputs_lower']:+.1f} to {100.0 * of['inputs_upper']:+.1f})."
    )
    return of["gain"] <= 0.0 or of["left"] < 0.5 * of["gain"], sentence


def _lag(of: Mapping[str, float]) -> tuple[bool, str]:
    suspected = look_ahead_suspected(of["sharpe"], of["lagged_sharpe"], of["z"])
    sentence = (
        f"One bar late the Sharpe ratio before costs is {of['lagged_sharpe']:.2f} instead of {of['sharpe']:.2f} "
        f"(z of the loss {of['z']:.1f}){': a look-ahead is suspected' if suspected else ''}."
    )
    return not suspected, sentence


def _costs(of: Mapping[str, float]) -> tuple[bool, str]:
    told = ", ".join(f"{name} {value:+.2f}" for name, value in of.items())
    falls = all(earlier >= later - 1e-9 for earlier, later in pairwise(of.values()))
    return falls, f"Sharpe ratio at costs {told}."


_RULES: dict[str, Callable[[Mapping[str, float]], tuple[bool, str]]] = {
    "driftless": _driftless,
    "planted": _planted,
    "shuffled": _shuffled,
    "lag": _lag,
    "costs": _costs,
}
NAMES = tuple(_RULES)


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
    one_liners: OneLiners | None = None  # which rule is each fold's rival, and what it was chosen on

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
