"""How sure a Sharpe ratio or a difference is: PSR, deflated Sharpe, track record length, stationary bootstrap.

Every Sharpe ratio in this file is PER PERIOD and every count is in the same periods. Mixing an annualised ratio with
a count of bars passes 45 % of pure noise at the 95 % level; a test rebuilds that mistake.

Sources: Bailey & Lopez de Prado, "The Sharpe ratio efficient frontier" (2012) and "The deflated Sharpe ratio" (2014);
Politis & Romano, "The stationary bootstrap" (1994), with the block length of Politis & White (2004, corrected 2009).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from himari_rl.errors import ConfigError
from himari_rl.evaluation import metrics
from himari_rl.evaluation.bootstrap import BlockSums, drawn
from himari_rl.schema import FloatArray

NORMAL = NormalDist()
EULER_GAMMA = 0.5772156649015329
GROUPS = 2000  # of rows that are resampled together, in `resampled_means`


@dataclass(frozen=True)
class Moments:
    """What the Sharpe statistics need of a series of returns."""

    count: int
    sharpe: float  # per period
    skew: float = 0.0
    kurtosis: float = 3.0  # not excess: 3 for the normal
    dependence: float = 1.0  # long-run variance over variance, at least 1: what memory does to the mean's


def moments(returns: FloatArray) -> Moments:
    """Moments of returns (T,); a series that never moves has those of the normal and a Sharpe ratio of 0."""
    ratio = metrics.sharpe(returns)
    deviation = returns.std()
    if deviation == 0.0:
        return Moments(len(returns), ratio)
    z = (returns - returns.mean()) / deviation
    square = z * z  # a power of an array takes ten times as long
    return Moments(
        len(returns), ratio, float((square * z).mean()), float((square * square).mean()), dependence(returns)
    )


def sharpe_variance(of: Moments) -> float:
    """Variance of a Sharpe ratio's estimate times (count - 1): (1 - g3 SR + (g4 - 1) / 4 SR^2) times the dependence.

    The published formula, of independent returns, has no last factor. Lo, "The statistics of Sharpe ratios" (2002): an
    autocorrelation of .3 nearly doubles the variance; without the factor the gate passed 8 % of the best of 100 such
    noises (benchmarks/gate_curve.py).
    """
    return (1.0 - of.skew * of.sharpe + (of.kurtosis - 1.0) / 4.0 * of.sharpe**2) * of.dependence


def probabilistic_sharpe(of: Moments, benchmark: float = 0.0) -> float:
    """PSR: the probability that the true Sharpe ratio is above `benchmark` (per period too)."""
    return NORMAL.cdf((of.sharpe - benchmark) * math.sqrt(of.count - 1) / math.sqrt(sharpe_variance(of)))


def expected_maximum(trials: int) -> float:
    """Expected largest of `trials` standard normal draws; the maximum Sharpe of noise in units of its deviation.

    Raises:
        ConfigError: fewer than one trial.
    """
    if trials < 1:
        raise ConfigError(f"{trials} trials", "at least 1", "count every configuration that was tried")
    if trials == 1:
        return 0.0
    first, second = NORMAL.inv_cdf(1.0 - 1.0 / trials), NORMAL.inv_cdf(1.0 - 1.0 / (trials * math.e))
    return (1.0 - EULER_GAMMA) * first + EULER_GAMMA * second


def deflated_sharpe(of: Moments, trials: int, trial_variance: float | None = None) -> float:
    """DSR: PSR against the Sharpe ratio that the best of `trials` worthless strategies would show.

    Args:
        trial_variance: variance of the per-period Sharpe ratios over the trials; without it dependence / (count - 1),
            which is what worthless strategies of this length and memory have.
    """
    variance = of.dependence / (of.count - 1) if trial_variance is None else trial_variance
    return probabilistic_sharpe(of, math.sqrt(variance) * expected_maximum(trials))


def minimum_track_record(of: Moments, benchmark: float = 0.0, confidence: float = 0.95) -> float:
    """Periods after which PSR against `benchmark` would reach `confidence`; infinite at or below the benchmark.

    `of.count` is not used.
    """
    if of.sharpe <= benchmark:
        return math.inf
    return 1.0 + sharpe_variance(of) * (NORMAL.inv_cdf(confidence) / (of.sharpe - benchmark)) ** 2


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with what the bootstrap says about it."""

    estimate: float
    lower: float
    upper: float
    confidence: float
    positive: float  # share of the resamples above zero, ties counted half
    standard_error: float

    def scaled(self, factor: float) -> Interval:
        """The same in another unit, for example per year; `factor` is positive."""
        return Interval(
            estimate=self.estimate * factor,
            lower=self.lower * factor,
            upper=self.upper * factor,
            confidence=self.confidence,
            positive=self.positive,
            standard_error=self.standard_error * factor,
        )


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
    squares = np.concatenate([[0.0], np.cumsum(e * e)])
    power = np.abs(np.fft.rfft(e, 1 << (count + most).bit_length())) ** 2  # long enough that no lag goes around
    covariance = np.fft.irfft(power)[: most + 1]
    lags = np.arange(most + 1)  # with the sums of squares that arch divides by: without the first and last k + 1 rows
    size = np.sqrt((squares[-1] - squares[lags + 1]) * squares[count - lags - 1])
    small = np.abs(covariance) < band * size
    seen = np.concatenate([[0], np.cumsum(small[:most])])
    quiet = np.flatnonzero(seen[run:] - seen[:-run] == run)  # lags from which `run` in a row are small
    m = min(2 * max(int(quiet[0]), 1) if len(quiet) else most, most)
    k = np.arange(1, m + 1)
    weight = np.where(k / m <= 0.5, 1.0, 2.0 * (1.0 - k / m))
    gamma = covariance[1 : m + 1] / count
    long_run = covariance[0] / count + 2.0 * float((weight * gamma).sum())
    slope = 2.0 * float((weight * k * gamma).sum())
    return float(min((slope**2 / long_run**2) ** (1 / 3) * count ** (1 / 3), longest))


def resampled_means(columns: FloatArray, seed: int, *, replications: int = 2000, block: float = 1.0) -> FloatArray:
    """Means of (T, K) over stationary bootstrap resamples of groups of rows: for the gate, which asks for many bounds.

    The mean of a resample needs the rows only through their sums, so rows are summed into at most 2 GROUPS groups and
    these are resampled in blocks of the same expected length. A block is then at least one group long, which costs a
    little precision and adds no bias. Rows stay whole, so what is paired stays paired.

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


def resample(
    series: FloatArray,
    statistic: Callable[[FloatArray], FloatArray],
    rng: np.random.Generator,
    *,
    replications: int = 2000,
    block: float | None = None,
) -> FloatArray:
    """Draws of any statistic under the stationary bootstrap, each from a copy of the series: the definition.

    Means and drawdowns come from bootstrap.py without copies (`mean_interval`, comparison.py, portfolio.py).

    Args:
        series: (T, K); rows are resampled whole, so that what is paired stays paired.
        statistic: from (T, K) to (S,).
        block: expected block length in rows; the automatic one of `series` without it.

    Returns:
        (replications, S)
    """
    expected = block_length(series) if block is None else block
    twice = np.concatenate([series, series])
    return np.array([statistic(twice[each.rows()]) for each in drawn(len(series), rng, replications, expected)])


def interval(estimate: float, draws: FloatArray, confidence: float = 0.95) -> Interval:
    """Percentile interval from draws (B,)."""
    tail = (1.0 - confidence) / 2.0
    lower, upper = np.quantile(draws, [tail, 1.0 - tail])
    return Interval(
        estimate=float(estimate),
        lower=float(lower),
        upper=float(upper),
        confidence=confidence,
        positive=float(np.mean(draws > 0.0) + 0.5 * np.mean(draws == 0.0)),
        standard_error=float(draws.std(ddof=1)),
    )


def mean_interval(
    series: FloatArray, rng: np.random.Generator, *, replications: int = 2000, confidence: float = 0.95
) -> Interval:
    """Interval of the mean of (T,): pass a paired difference per bar to compare two accounts."""
    sums = BlockSums(series[:, None])
    resamples = drawn(len(series), rng, replications, block_length(series))
    return interval(float(series.mean()), np.array([sums.means(each)[0] for each in resamples]), confidence)
