"""Sudden stop: the column predicts the very next returns and nothing one bar later.

An honest predictor fades as slowly as the column itself. Profit is no test: with costs a weak leak loses money.

  t[k] = sqrt(n) corr(x[t-k], y[t]), x the normal scores of the column; under "knows nothing" a standard normal
         variable. Beside it the same with each bar weighted by its volatility and White's standard error: stronger
         where the leak is of the plain return. The larger |t| of the two speaks for the column.
A column is suspected where |t| > 5 stops at once: the next lag is below 3, the one after it below 4, and that is a
faster end than the column's own autocorrelation a allows (t[k] short of a t[k-1] by 3 standard errors, or a < 0.25).
With 20,000 bars a leak of correlation rho has t = 141 rho.
"""

from __future__ import annotations

import numpy as np

from himari_rl.schema import BoolArray, FloatArray

T_ALARM = 5.0  # noise in one of a hundred columns reaches it once in 17,000 audits
T_GONE, T_STILL_GONE = 3.0, 4.0  # one bar after the end, and two
NEXT_TO_NOTHING = 0.125  # beside a strong leak, a lagged t of an eighth of it is nothing too
MAX_HORIZON = 24  # bars ahead that a leak may reach: a day of hourly bars
SHORT_MEMORY = 0.25


def lagged_t(scores: FloatArray, known: BoolArray, earned: FloatArray, weight: FloatArray | None) -> FloatArray:
    """(MAX_HORIZON + 2,) t of the column 0, 1, 2 ... bars ago with the return earned now."""
    t = np.zeros(MAX_HORIZON + 2)
    weighted = earned if weight is None else earned * weight
    for lag in range(len(t)):
        rows = known[: len(known) - lag]
        products = scores[: len(scores) - lag][rows] * weighted[lag:][rows]
        error = np.sqrt(products.size) if weight is None else np.sqrt(float(np.sum(products**2)))
        t[lag] = products.sum() / error if error > 0.0 else 0.0
    return t


def memory_of(scores: FloatArray, known: BoolArray) -> float:
    """The column's own autocorrelation, one bar."""
    pairs = known[1:] & known[:-1]
    return float(np.mean(scores[1:][pairs] * scores[:-1][pairs])) if pairs.any() else 0.0


def sudden_end(t: FloatArray, memory: float) -> int:
    """The number of bars ahead after which the prediction stops at once; 0 if it never does."""
    noise = np.sqrt(max(1.0 - memory**2, 1e-6))
    for end in range(1, MAX_HORIZON + 1):
        before, after, later = t[end - 1], t[end], t[end + 1]
        if abs(before) <= T_ALARM:
            return 0
        strong = NEXT_TO_NOTHING * abs(before)
        gone = abs(after) < max(T_GONE, strong) and abs(later) < max(T_STILL_GONE, strong)
        shortfall = float(np.sign(before)) * (memory * before - after)
        if gone and (shortfall > 3.0 * noise or (end == 1 and abs(memory) < SHORT_MEMORY)):
            return end
    return 0
