"""One line of the gate's answer: a rule with its number, threshold, interval, pass or refuse, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Line:
    """One rule's answer."""

    rule: str
    number: float
    threshold: float
    comparison: str  # what `number` must be against `threshold`
    passed: bool
    why: str
    lower: float | None = None
    upper: float | None = None

    @property
    def head(self) -> str:
        """Rule, number, demand and interval in columns."""
        interval = "" if self.lower is None else f"{self.lower:+.3f} to {self.upper:+.3f}"
        return f"{self.rule:<28}{self.number:>8.3f}  {f'{self.comparison} {self.threshold:.4g}':<10}{interval}".rstrip()


def line(
    rule: str, number: float, comparison: str, threshold: float, why: str, interval: Mapping[str, float] | None = None
) -> Line:
    """The line of a rule that compares; NaN passes nothing."""
    asked = {">": number > threshold, "<": number < threshold, ">=": number >= threshold, "<=": number <= threshold}
    return Line(
        rule=rule,
        number=float(number),
        threshold=float(threshold),
        comparison=comparison,
        passed=bool(asked[comparison]),
        why=why,
        lower=None if interval is None else float(interval["lower"]),
        upper=None if interval is None else float(interval["upper"]),
    )


def fails(rule: str, threshold: float, why: str) -> Line:
    """The line of a rule that could not be asked."""
    return Line(rule=rule, number=0.0, threshold=threshold, comparison=">", passed=False, why=why)
