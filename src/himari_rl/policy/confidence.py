"""Confidence: how ordinary the state is and how far the ensemble agrees. Computed, never a literal.

    distance     d = mean over the kept features of x^2, x the normalised state
    familiarity  P(D >= d), the share of training states at least as far out as this one
    spread       s = the largest over assets of the members' standard deviation, in multipliers
    agreement    1 / (1 + s / spread_half)
    confidence   familiarity * agreement, in [0, 1]

Over the training states familiarity is uniform, so a lone member's confidence is 0.5 on an ordinary day and
below 0.01 on one day in a hundred. It falls with distance and with spread, and it says nothing about
whether the policy makes money: that is the verdict's business.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from himari_rl.errors import BundleError
from himari_rl.policy.manifest import ConfidenceSpec
from himari_rl.schema import BoolArray, FloatArray

SPREAD_HALF = 0.1  # members that differ by a tenth of the base position halve the confidence
OUTSIDE = 0.999  # a state further out than this share of the training states is out of distribution
_GRID = (0.0, 0.01, 0.05, *(i / 10 for i in range(1, 10)), 0.95, 0.98, 0.99, 0.995, OUTSIDE, 1.0)


def fit(normalised: FloatArray, keep: FloatArray, spread_half: float = SPREAD_HALF) -> ConfidenceSpec:
    """The calibration that goes into a manifest.

    Args:
        normalised: (N, F) training states after the normaliser, hidden features 0.
        keep: (F,) the normaliser's 0/1 mask.
        spread_half: the spread, in multipliers, that halves the confidence.

    Raises:
        BundleError: no states, no kept feature, or a state that is not finite.
    """
    kept = float(np.sum(keep))
    if normalised.ndim != 2 or len(normalised) == 0 or kept == 0 or not np.isfinite(normalised).all():
        raise BundleError(f"cannot fit a confidence on states {normalised.shape}", "(N, F) finite training states")
    distance = np.square(normalised, dtype=np.float64).sum(axis=1) / kept
    quantiles = np.maximum.accumulate(np.quantile(distance, _GRID))
    return ConfidenceSpec(
        probabilities=_GRID, distance_quantiles=tuple(quantiles.tolist()), spread_half=float(spread_half)
    )


class Confidence:
    """A calibration ready for one decision at a time."""

    def __init__(self, spec: ConfidenceSpec) -> None:
        self._p = list(spec.probabilities)
        self._q = list(spec.distance_quantiles)
        self._columns = np.array(self._p), np.array(self._q)
        self.spread_half = spec.spread_half
        self.outside = float(np.interp(OUTSIDE, self._p, self._q))
        """The distance beyond which fewer than one training state in a thousand lies."""

    def __call__(self, distance: float, spread: float) -> float:
        """Confidence in [0, 1]: familiarity times agreement; falls with `distance` and with `spread`, both >= 0."""
        return self.judge(distance, spread)[0]

    def judge(self, distance: float, spread: float) -> tuple[float, bool, float]:
        """Confidence, whether the state is out of distribution, and its familiarity.

        P(D >= distance) is linear between the stored quantiles.
        """
        p, q = self._p, self._q
        i = bisect_left(q, distance)
        if i == 0:
            familiarity = 1.0
        elif i == len(q):
            familiarity = 0.0
        else:
            share = (distance - q[i - 1]) / (q[i] - q[i - 1])  # bisect_left: q[i-1] < distance <= q[i]
            familiarity = 1.0 - (p[i - 1] + share * (p[i] - p[i - 1]))
        return familiarity / (1.0 + spread / self.spread_half), distance > self.outside, familiarity

    def judge_many(self, distances: FloatArray, spreads: FloatArray) -> tuple[FloatArray, BoolArray, FloatArray]:
        """`judge` of many decisions (B,), with the same bits."""
        p, q = self._columns
        i = q.searchsorted(distances)
        inner = i.clip(1, len(q) - 1)
        with np.errstate(divide="ignore", invalid="ignore"):  # before the first quantile, whose share is not looked at
            share = (distances - q[inner - 1]) / (q[inner] - q[inner - 1])
        between = 1.0 - (p[inner - 1] + share * (p[inner] - p[inner - 1]))
        familiarity = np.where(i == 0, 1.0, np.where(i == len(q), 0.0, between))
        return familiarity / (1.0 + spreads / self.spread_half), distances > self.outside, familiarity
