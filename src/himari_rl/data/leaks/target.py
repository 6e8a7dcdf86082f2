"""What a decision earns, as the tests of a column see it.

y[t] is the return that the decision at t earns, open[t+2]/open[t+1]-1, divided by the volatility known at t
(exponential, so that clustering does not inflate a t), as normal scores, less what the bars up to t already explain
linearly: short-term reversal is real, a close near its high predicts the next hour at t = -16, and so is the hour of
the day: on BTC a bar's return comes back 24 hours later at t = 9.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from himari_rl.schema import DAY_MS, Bars, FloatArray

MIN_BARS = 100

_GRID = (np.arange(8192) + 0.5) / 8192
_QUANTILES = np.array([NormalDist().inv_cdf(p) for p in _GRID.tolist()])
_DECAY = 0.94  # of the variance, per bar (RiskMetrics 1996)


def unexplained_return(bars: Bars) -> tuple[FloatArray, FloatArray]:
    """What the decision at t earns, in normal scores, less what the bars up to t explain linearly; and the weights.

    Returns:
        (T-2,) variance 1, and (T-2,) the volatility known at t over its root mean square.
    """
    opened, close = bars.open, bars.close
    rows = len(bars) - 2
    earned = opened[2:] / opened[1:-1] - 1.0
    bar_return = np.r_[close[0] / opened[0], close[1:] / close[:-1]] - 1.0
    scale = _volatility(bar_return)
    target = normal_scores(earned / scale[:rows])
    span = bars.high - bars.low
    place = np.where(span > 0.0, (close - bars.low) / np.where(span > 0.0, span, 1.0), 0.5)
    moved, placed = normal_scores(bar_return / scale), normal_scores(place)
    past = [_lagged(scores, lag) for scores in (moved, placed) for lag in range(4)]
    past += [normal_scores(_momentum(close, length) / scale) for length in (4, 24)]
    ago = (
        period // bars.interval_ms - 1 for period in (DAY_MS, 7 * DAY_MS)
    )  # the earned bar's hour, a day, a week ago
    past += [_lagged(moved, lag) for lag in ago if 4 <= lag < rows // 4]
    controls = np.column_stack([column[:rows] for column in past] + [np.ones(rows)])
    weights, *_ = np.linalg.lstsq(controls, target, rcond=None)
    residual = target - controls @ weights
    spread = float(residual.std())
    weight = scale[:rows] / np.sqrt(np.mean(scale[:rows] ** 2))
    return (residual / spread if spread > 1e-9 else np.zeros(rows)), weight


def _lagged(column: FloatArray, lag: int) -> FloatArray:
    return np.concatenate((np.zeros(lag), column[: len(column) - lag]))


def _momentum(close: FloatArray, length: int) -> FloatArray:
    return np.concatenate((np.zeros(length), close[length:] / close[:-length] - 1.0))


def _volatility(returns: FloatArray) -> FloatArray:
    """(T,) exponentially weighted root mean square of the returns up to and including each bar."""
    squared = returns**2
    variance = float(squared[:MIN_BARS].mean())
    path = []
    for value in squared.tolist():
        variance = _DECAY * variance + (1.0 - _DECAY) * value
        path.append(variance)
    return np.sqrt(np.maximum(path, 1e-16))


def normal_scores(values: FloatArray) -> FloatArray:
    """Ranks (ties share theirs) as standard normal quantiles, mean 0, variance 1; zeros where nothing varies."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    new = np.r_[True, ranked[1:] != ranked[:-1]]
    group = np.cumsum(new) - 1
    end = np.cumsum(np.bincount(group))
    middle = (np.r_[0, end[:-1]] + end) / 2.0
    scores = np.empty(len(values))
    scores[order] = np.interp(middle / len(values), _GRID, _QUANTILES)[group]  # one after the other, in rising order
    scores -= scores.mean()
    spread = float(scores.std())
    return np.asarray(scores / spread) if spread > 1e-9 else np.zeros(len(values))
