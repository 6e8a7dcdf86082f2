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
from statistics import NormalDist
from typing import Any

import numpy as np

from himari_rl.errors import ConfigError, not_installed
from himari_rl.evaluation import metrics
from himari_rl.evaluation.resampling import block_length as block_length
from himari_rl.evaluation.resampling import dependence
from himari_rl.schema import FloatArray

NORMAL = NormalDist()
EULER_GAMMA = 0.5772156649015329


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


def resample(
    series: FloatArray,
    statistic: Callable[[FloatArray], FloatArray],
    rng: np.random.Generator,
    *,
    replications: int = 2000,
    block: float | None = None,
) -> FloatArray:
    """Draws of a statistic under the stationary bootstrap.

    Args:
        series: (T, K); rows are resampled whole, so that what is paired stays paired.
        statistic: from (T, K) to (S,).
        block: expected block length in rows; the automatic one of `series` without it.

    Returns:
        (replications, S)
    """
    expected = block_length(series) if block is None else block
    sampler = _arch().StationaryBootstrap(expected, series, seed=rng)
    return np.array([statistic(np.asarray(positional[0])) for positional, _ in sampler.bootstrap(replications)])


def _arch() -> Any:
    """arch.bootstrap: a second of imports, for those who resample."""
    try:
        from arch import bootstrap
    except ImportError as error:
        raise not_installed("a bootstrap interval", error, "judge") from error
    return bootstrap


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
    draws = resample(series[:, None], lambda rows: rows.mean(axis=0), rng, replications=replications)
    return interval(float(series.mean()), draws[:, 0], confidence)
