"""One figure of a walk-forward's document, computed again from its curves, and what is wrong with the document's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from himari_rl.evaluation.statistics import Interval

SLACK = 1e-6  # relative, of figures that hold no random draw
BOUND_SLACK = 0.5  # standard errors, of a bound: five times what two sets of draws differ by


@dataclass(frozen=True)
class Figure:
    """One figure of the document, computed again."""

    name: str
    path: tuple[str | int, ...]  # where the document has it
    value: float
    slack: float = 0.0

    def objection(self, document: Mapping[str, Any]) -> str:
        """What is wrong with the document's; empty where it agrees."""
        said: Any = document
        try:
            for step in self.path:
                said = said[step]
            far = abs(float(said) - self.value)
        except (KeyError, IndexError, TypeError, ValueError):
            return f"{self.name}: the document has no number, the curves give {self.value:.6g}"
        if far <= self.slack + SLACK * max(1e-3, abs(self.value)):  # NaN is not
            return ""
        return f"{self.name}: the document says {float(said):.6g}, the curves give {self.value:.6g}"


def bounded(name: str, path: tuple[str, ...], found: Interval) -> list[Figure]:
    """An estimate and its two bounds."""
    room = BOUND_SLACK * found.standard_error
    bounds = [Figure(f"{name}, {end} bound", (*path, end), getattr(found, end), room) for end in ("lower", "upper")]
    return [Figure(name, (*path, "estimate"), found.estimate), *bounds]
