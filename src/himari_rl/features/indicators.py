"""Causal indicators over a whole history at once: row t is a function of rows <= t and nothing else.

Every window is summed block by block (van Herk's scheme) and never as a difference of running totals, so one
absurd price leaves no trace once it has left the window, and a window without movement is exactly zero.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from himari_rl.schema import FloatArray, IntArray

FLAT = 1e-12  # a variance below this share of the mean square is rounding, not movement


def rolling_sum(values: FloatArray, window: int) -> FloatArray:
    """Sum of the last `window` rows, of (T,) or (T, K); of all rows there are before the window is full.

    A window that ends inside a block is the head of this block plus the tail of the block before it.
    """
    rows = values.shape[0]
    window = max(1, min(window, rows))
    blocks = -(-rows // window)
    padded = np.zeros((blocks * window, *values.shape[1:]))
    padded[:rows] = values
    block = padded.reshape(blocks, window, *values.shape[1:])
    sums = block.cumsum(axis=1)
    tails = block[:, ::-1].cumsum(axis=1)[:, ::-1]
    sums[1:, :-1] += tails[:-1, 1:]
    return sums.reshape(padded.shape)[:rows]


def bar_returns(close: FloatArray) -> FloatArray:
    """(T,) simple returns from close to close of neighbouring rows, whatever time lies between; row 0 is 0."""
    returns = np.zeros(close.shape[0])
    returns[1:] = close[1:] / close[:-1] - 1.0
    return returns


def rows_before(timestamp: IntArray, horizon_ms: int) -> IntArray:
    """(T,) the last row at least `horizon_ms` older than row t; -1 where the history does not reach that far."""
    return np.searchsorted(timestamp, timestamp - horizon_ms, side="right").astype(np.int64) - 1


def ratio_to_past(timestamp: IntArray, close: FloatArray, horizon_ms: int, interval_ms: int) -> FloatArray:
    """(T,) close over the last close known `horizon_ms` earlier on the bar clock; 1 where there is none.

    Across an outage that is the price before the outage: the last one anybody knew. Bars longer than the
    horizon (1 h momentum of daily bars) do not contain the price asked for, and the ratio is 1 throughout.
    """
    if interval_ms > horizon_ms:
        return np.ones(close.shape[0])
    past = rows_before(timestamp, horizon_ms)
    return np.where(past >= 0, close / close[past], 1.0)


def momentum(timestamp: IntArray, close: FloatArray, horizon_ms: int, interval_ms: int) -> FloatArray:
    """(T,) return over `horizon_ms` of time (not a count of rows), as a fraction; 0 where unknown."""
    return ratio_to_past(timestamp, close, horizon_ms, interval_ms) - 1.0


def volatility(close: FloatArray, window: int) -> FloatArray:
    """(T,) population standard deviation of the last `window` bar returns; 0 until there are that many."""
    returns = bar_returns(close)
    mean = rolling_sum(returns, window) / window
    mean_square = rolling_sum(returns * returns, window) / window
    variance = mean_square - mean * mean
    variance[variance <= FLAT * mean_square] = 0.0
    variance[:window] = 0.0
    return np.sqrt(variance)


def correlation_terms(a: FloatArray, b: FloatArray) -> FloatArray:
    """(T, 6) count, a, b, aa, bb, ab, zero where either return is missing (NaN)."""
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = np.where(both, a, 0.0), np.where(both, b, 0.0)
    return np.stack((both.astype(np.float64), a, b, a * a, b * b, a * b), axis=-1)


def correlation_from_sums(sums: FloatArray, window: int) -> FloatArray:
    """(...,) Pearson correlation from windowed sums (..., 6).

    0 while fewer than half of the window's rows have both returns, or one of the two did not move.
    """
    n, a, b, aa, bb, ab = np.moveaxis(sums, -1, 0)
    count = np.maximum(n, 1.0)
    var_a, var_b = aa - a * a / count, bb - b * b / count
    known = (2.0 * n >= window) & (var_a > FLAT * aa) & (var_b > FLAT * bb)
    scale = np.sqrt(np.where(known, var_a, 1.0)) * np.sqrt(np.where(known, var_b, 1.0))
    return np.where(known, np.clip((ab - a * b / count) / scale, -1.0, 1.0), 0.0)


def panel_correlations(returns: FloatArray, window: int = 168) -> FloatArray:
    """(T, A) returns to (T, A(A-1)/2) correlations over the last `window` rows, pairs (0,1), (0,2), (1,2), ...

    A missing return is NaN and leaves only the pairs it belongs to.
    """
    pairs = list(combinations(range(returns.shape[1]), 2))
    out = np.empty((returns.shape[0], len(pairs)))
    for column, (i, j) in enumerate(pairs):
        sums = rolling_sum(correlation_terms(returns[:, i], returns[:, j]), window)
        out[:, column] = correlation_from_sums(sums, window)
    return out
