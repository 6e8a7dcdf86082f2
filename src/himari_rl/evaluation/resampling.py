"""The stationary bootstrap of means in numpy alone, many series at once: for whoever checks, without arch.

    block = block_length(paired)                        Politis & White (2004), corrected 2009
    draws = resampled_means(columns, 0, block=block)  (B, K)

The mean of a resample needs the rows only through their sums, so rows are summed into at most GROUPS groups first and
the groups are resampled in blocks of the same expected length. Blocks are then at least one group long, which the
stationary bootstrap allows: blocks that are longer than they need be cost a little precision and no bias.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from himari_rl.schema import FloatArray

GROUPS = 2000


def block_length(series: FloatArray) -> float:
    """Expected block of the stationary bootstrap for (T,) or (T, K): the largest column's, at least 1 bar."""
    columns = np.asarray(series, float).reshape(len(series), -1)
    return max([1.0, *(_optimal_block(column) for column in columns.T if column.std() > 0.0)])


def _optimal_block(x: FloatArray) -> float:
    count = len(x)
    e = x - x.mean()
    longest = math.ceil(min(3.0 * math.sqrt(count), count / 3.0))
    run = max(5, int(math.log10(count)))
    most = math.ceil(math.sqrt(count)) + run
    band = 2.0 * math.sqrt(math.log10(count) / count)
    squares = np.concatenate([[0.0], np.cumsum(e**2)])
    power = np.abs(np.fft.rfft(e, 1 << (count + most).bit_length())) ** 2  # long enough that no lag goes around
    covariance = np.fft.irfft(power)[: most + 1]
    lags = np.arange(most + 1)  # with the sums of squares that arch divides by: without the first and last k + 1 rows
    size = np.sqrt((squares[-1] - squares[lags + 1]) * squares[count - lags - 1])
    small = np.abs(covariance) < band * size
    quiet = [k for k in range(most - run + 1) if small[k : k + run].all()]
    m = min(2 * max(quiet[0], 1) if quiet else most, most)
    k = np.arange(1, m + 1)
    weight = np.where(k / m <= 0.5, 1.0, 2.0 * (1.0 - k / m))
    gamma = covariance[1 : m + 1] / count
    long_run = covariance[0] / count + 2.0 * float((weight * gamma).sum())
    slope = 2.0 * float((weight * k * gamma).sum())
    return float(min((slope**2 / long_run**2) ** (1 / 3) * count ** (1 / 3), longest))


def resampled_means(columns: FloatArray, seed: int, *, replications: int = 2000, block: float = 1.0) -> FloatArray:
    """Means of (T, K) over stationary bootstrap resamples; rows stay whole, so what is paired stays paired.

    Args:
        seed: of the draws; the same one resamples series of one length alike.
        block: expected block length in rows.

    Returns:
        (replications, K)
    """
    size = max(1, len(columns) // GROUPS)
    starts = np.arange(0, len(columns) - size + 1, size)
    sums = np.add.reduceat(columns, starts, axis=0)  # the last group takes the rows that are left
    counts = np.diff(np.append(starts, len(columns))).astype(float)
    whole = np.column_stack([sums, counts]).astype(np.float32)  # a bound needs no more digits
    drawn = (_weights(len(starts), replications, max(1.0, round(block / size, 1)), seed) @ whole).astype(float)
    return np.asarray(drawn[:, :-1] / drawn[:, -1:])


@lru_cache(maxsize=4)
def _weights(groups: int, replications: int, block: float, seed: int) -> NDArray[np.float32]:
    """(B, G) how often each group is in each resample: blocks of geometric length from anywhere, around the end."""
    rng = np.random.default_rng(seed)
    place, found = np.arange(groups), np.empty((replications, groups), np.float32)
    for row in found:
        fresh = rng.random(groups) < 1.0 / block
        fresh[0] = True
        began = np.maximum.accumulate(np.where(fresh, place, 0))
        first = rng.integers(0, groups, groups)[began]
        row[:] = np.bincount((first + place - began) % groups, minlength=groups)
    return found


def dependence(series: FloatArray) -> float:
    """Long-run variance of (T,) over its variance, at least 1: what memory does to the variance of a mean.

    Bartlett weights up to Newey & West's (1994) lag, 4 (T / 100)^(2/9). Below 1 it is not used: returns that reverse
    would make a Sharpe ratio look surer than independent ones.
    """
    e = np.asarray(series, float) - series.mean()
    total = float(e @ e)
    if total == 0.0:
        return 1.0
    most = min(int(4.0 * (len(e) / 100.0) ** (2.0 / 9.0)), len(e) - 1)
    rho = [float(e[k:] @ e[: len(e) - k]) / total for k in range(1, most + 1)]
    return max(1.0, 1.0 + 2.0 * sum((1.0 - k / (most + 1)) * r for k, r in enumerate(rho, start=1)))
