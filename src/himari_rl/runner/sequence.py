"""When has one of two policies been shown to be better? A confidence sequence: it may be looked at at any time.

    found = confidence_sequence(differences, AbConfig())     after every whole block: mean, half width
    found.first                                              the bar at which zero was left, for good

A 95 % interval that is looked at every hour excludes zero sooner or later, whatever is true. A confidence sequence
holds at all times at once, so whoever peeks at every bar stops wrongly in at most 5 % of all experiments. It is the
two-sided normal mixture (Robbins 1970; Howard, Ramdas, McAuliffe & Sekhon 2021, "Time-uniform, nonparametric,
nonasymptotic confidence sequences", eq. 14) with an estimated variance, which makes it asymptotic (Waudby-Smith,
Arbour, Sinha, Kennedy & Ramdas 2024, "Time-uniform central limit theory and asymptotic confidence sequences", thm 2.2):

    |mean - mu| <= s sqrt((n + rho) log((n + rho) / (rho alpha^2))) / n      for all n >= the first look

Assumed: the differences are stationary with a finite variance, and what they remember fades within some 30 blocks.
s^2 is their long-run variance: of block means, blocks of 1, 2, 4, ... times `block_bars`, each with the covariance of
neighbours where it is positive, and of these the largest. benchmarks/ab_sequence.py holds all of it against
autocorrelation, changing volatility and tails of infinite kurtosis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from himari_rl.runner.config import AbConfig
from himari_rl.schema import FloatArray

SCALES = 6  # blocks of up to 2^5 times the first are looked at
GROUPS = 10  # fewer blocks of a size say nothing about it


@dataclass(frozen=True, kw_only=True)
class ConfidenceSequence:
    """Of one series, or of S at once; leaves (B,) or (S, B), after each of B whole blocks."""

    bars: FloatArray  # (B,) bars in the blocks so far
    mean: FloatArray
    half_width: FloatArray  # infinite before the first look

    @property
    def excludes_zero(self) -> FloatArray:
        """0 where zero is inside, else the sign of the side that is left."""
        sign: FloatArray = np.sign(self.mean) * (np.abs(self.mean) > self.half_width)
        return sign

    @property
    def first(self) -> tuple[FloatArray, FloatArray]:
        """Bars until zero was left for the first time (infinite: never), and the sign of the mean then."""
        sign = self.excludes_zero
        if not len(self.bars):
            return np.full(sign.shape[:-1], np.inf), np.zeros(sign.shape[:-1])
        left = sign != 0.0
        at = left.argmax(axis=-1)
        ever = left.any(axis=-1)
        signs = np.take_along_axis(sign, at[..., None], axis=-1)[..., 0]
        return np.where(ever, self.bars[at], np.inf), np.where(ever, signs, 0.0)


def mixture_boundary(n: FloatArray, rho: float, alpha: float) -> FloatArray:
    """Two-sided boundary of a sum of n independent standard normal numbers, at all n at once.

    Args:
        rho: inverse variance of the mixture; `mixture_rho` makes it narrowest at some n.
    """
    bound: FloatArray = np.sqrt((n + rho) * np.log((n + rho) / (rho * alpha * alpha)))
    return bound


def mixture_rho(n: float, alpha: float) -> float:
    """The mixture that is narrowest at n: n / (-W(-alpha^2 / e) - 1) on Lambert's lower branch (Howard et al. 2021)."""
    target, w = -alpha * alpha / math.e, 2.0 * math.log(alpha) - 2.0
    for _ in range(100):  # Newton's method on w e^w = target
        power = math.exp(w)
        step = (w * power - target) / (power * (w + 1.0))
        w -= step
        if abs(step) < 1e-14 * abs(w):
            break
    return n / (-w - 1.0)


def confidence_sequence(differences: FloatArray, config: AbConfig) -> ConfidenceSequence:
    """The confidence sequence of the mean of differences (T,) or (S, T), a bar each, after every whole block."""
    series = np.asarray(differences, np.float64)
    rows = np.atleast_2d(series)
    size = config.block_bars
    count = rows.shape[1] // size
    blocks = rows[:, : count * size].reshape(len(rows), count, size).mean(axis=2)
    number = np.arange(1, count + 1)
    bars = (number * size).astype(np.float64)
    mean = blocks.cumsum(axis=1) / number
    rho = mixture_rho(float(config.horizon_bars), config.alpha)
    half = np.sqrt(long_run_variance(blocks) * size) * mixture_boundary(bars, rho, config.alpha) / bars
    half[:, number < config.min_blocks] = np.inf
    # two policies that decide alike differ by nothing, which is no evidence of anything
    half[half == 0.0] = np.inf
    lead = series.shape[:-1]
    return ConfidenceSequence(bars=bars, mean=mean.reshape(*lead, count), half_width=half.reshape(*lead, count))


def long_run_variance(blocks: FloatArray) -> FloatArray:
    """k times the variance of the mean of the first k blocks: (S, B) for block means (S, B), each from its past alone.

    Of groups of 1, 2, 4, ... blocks: variance and twice the covariance of neighbours, where that is positive, times
    the size of the group; the largest. What is remembered longer shows in larger groups; better too wide than too
    narrow.
    """
    count = blocks.shape[1]
    number = np.arange(1, count + 1)
    found = np.zeros_like(blocks)
    for scale in range(SCALES):
        size = 1 << scale
        groups = count // size
        if groups < min(GROUPS, 2):
            break
        x = blocks[:, : groups * size].reshape(len(blocks), groups, size).mean(axis=2)
        x = x - x[:, :1]  # a difference to the first costs no digits
        m = np.arange(1, groups + 1)
        total, squares = x.cumsum(axis=1), (x * x).cumsum(axis=1)
        products = np.zeros_like(x)
        products[:, 1:] = (x[:, 1:] * x[:, :-1]).cumsum(axis=1)
        mean, free = total / m, np.maximum(m - 1, 1)
        variance = (squares - total * mean) / free
        covariance = (products - mean * (2.0 * total - x[:, :1] - x) + (m - 1) * mean * mean) / free
        long_run = size * (np.maximum(variance, 0.0) + 2.0 * np.maximum(covariance, 0.0))
        whole = number // size
        found = np.where(whole >= GROUPS, np.maximum(found, long_run[:, np.maximum(whole - 1, 0)]), found)
    return found


def bars_to_show(difference: float, deviation: float, config: AbConfig, power: float = 0.8) -> float:
    """Bars after which a true difference has been shown with a probability of `power`; infinite: never.

    Args:
        difference: true mean, a bar.
        deviation: long-run standard deviation of a bar's difference.
    """
    if difference == 0.0 or deviation < 0.0:
        return math.inf
    rho, z = mixture_rho(float(config.horizon_bars), config.alpha), NormalDist().inv_cdf(power)
    least = float(config.min_blocks * config.block_bars)

    def short(n: float) -> float:
        """By how much the sum falls short of its boundary."""
        bound = float(mixture_boundary(np.array(n), rho, config.alpha)) + z * math.sqrt(n)
        return deviation * bound - abs(difference) * n

    low, high = least, least
    while short(high) > 0.0:
        low, high = high, 2.0 * high
        if high > 1e15:
            return math.inf
    while high - low > 1e-6 * high:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if short(middle) > 0.0 else (low, middle)
    return high
