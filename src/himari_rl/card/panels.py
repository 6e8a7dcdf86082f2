"""The panels over time as the page draws them: every curve on one time axis, thinned, two bytes a point.

A point is its place between the least and the greatest value of its curve in 1/65534; 65535 is no value. On a thinned
axis a point is the last of its stretch, but for fills, which are summed over it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himari_rl.schema import FloatArray, IntArray

POINTS = 8000
MISSING = 65535


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The common time axis: which rows of the judged decisions are drawn."""

    time: IntArray  # (D,) ms UTC
    pick: IntArray  # (P,) rows, increasing

    @classmethod
    def of(cls, time: IntArray, points: int = POINTS) -> Axis:
        count = len(time)
        return cls(time=time, pick=np.unique(np.linspace(0, count - 1, min(count, points)).round().astype(np.int64)))

    def payload(self) -> dict[str, Any]:
        """Seconds since the first point, four bytes each."""
        seconds = (self.time[self.pick] - self.time[self.pick[0]]) // 1000
        return {"start": int(self.time[self.pick[0]] // 1000), "seconds": _packed(seconds.astype("<u4"))}

    def daily(self, day: IntArray, values: FloatArray) -> FloatArray:
        """Values (K,) of days at the axis's rows; NaN before the first. A day's is known when it is over."""
        row = np.searchsorted(day + 86_400_000, self.time, side="right") - 1
        return np.asarray(np.where(row >= 0, values[np.maximum(row, 0)], np.nan))

    def summed(self, values: FloatArray) -> FloatArray:
        """(D,) with each picked row's sum since the picked row before."""
        total = np.concatenate([[0.0], np.cumsum(values)])
        found = np.zeros_like(values)
        found[self.pick] = np.diff(total[np.concatenate([[0], self.pick + 1])])
        return found


def curve(axis: Axis, name: str, values: FloatArray, **look: Any) -> dict[str, Any]:
    """One curve (D,) of a panel.

    Args:
        look: what the script reads: `colour` (a variable of style.css), `width`, `dash`, `hidden`, `step`, `kind`.
    """
    drawn = np.asarray(values, float)[axis.pick]
    known = np.isfinite(drawn)
    low, high = (float(drawn[known].min()), float(drawn[known].max())) if known.any() else (0.0, 1.0)
    span = (high - low) or 1.0
    place = np.where(known, np.round((np.where(known, drawn, low) - low) / span * (MISSING - 1)), MISSING)
    return {"name": name, "low": low, "span": span, "points": _packed(place.astype("<u2")), **look}


def panel(name: str, title: str, curves: Sequence[Mapping[str, Any]], **look: Any) -> dict[str, Any]:
    """One panel.

    Args:
        name: of the element that it is drawn into.
        look: `unit` (per cent, a multiple, a price), `log`, `height`, `zero`.
    """
    return {"name": name, "title": title, "curves": list(curves), **look}


def unpacked(of: Mapping[str, Any]) -> FloatArray:
    """(P,) what the page draws of a curve."""
    place = np.frombuffer(base64.b64decode(of["points"]), "<u2").astype(float)
    return np.where(place == MISSING, np.nan, of["low"] + of["span"] * place / (MISSING - 1))


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
