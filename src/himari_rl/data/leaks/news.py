"""What is new in a column, beside the returns of the bars that follow.

e    the residual of an AR(48) of the column's normal scores: what its own past did not say
t_k  the t of e_t with y_{t+k}, the return of the bar k + 1 bars ahead, k = 0 .. 167

News share: S = sum (t_k^2 - 1) / n. What is new in an honest predictor of correlation rho explains rho^2 of all later
returns together (.15: .0225); a two-sided filter of the price has S near 1. News spike: an honest innovation is worth
most at once; one that is worth far more some bars later was stamped early. Volatility spike: the same on |y|.

S is a size and does not grow with n; a t does, so the spikes must also be of a size (a correlation of .05, .15): with
seven years of bars, real and useless effects have a t of 9. S is asked for more where few bars make it noisy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from himari_rl.schema import BoolArray, FloatArray, IntArray

ORDER = 48  # of the autoregression, bars
HORIZON = 168  # bars ahead
SHARE = 0.04
HONEST_SHARES = ((0.0225, 5.0), (0.0324, 3.0))  # honest correlations of .15 and .18, and standard errors beyond each
SPIKE_T, SPIKE_EXCESS, SPIKE_SIZE = 7.0, 6.0, 0.05
VOLATILITY_T, VOLATILITY_EXCESS, VOLATILITY_SIZE = 25.0, 10.0, 0.15
NO_NEWS = 1e-10  # of the variance: the column is a function of its own past, what is left is rounding
_CHUNK = 200_000  # rows of the lag matrix held at once
_MIN_PER_SLOT = 10  # bars of one hour of the week, for its mean


@dataclass(frozen=True, kw_only=True)
class News:
    """The three statistics of one column; zeros where nothing in it is new."""

    bars: int
    share: float  # S
    share_limit: float  # above which S is an alarm
    spike_t: float  # largest |t_k|, k >= 1
    spike_bars: int  # how many bars ahead: k + 1
    first_t: float  # |t_0|
    volatility_t: float
    volatility_bars: int
    volatility_first_t: float

    @property
    def share_alarm(self) -> bool:
        return self.share > self.share_limit

    @property
    def spike_alarm(self) -> bool:
        least = max(SPIKE_T, self.first_t + SPIKE_EXCESS, SPIKE_SIZE * math.sqrt(self.bars))
        return self.spike_t > least

    @property
    def volatility_alarm(self) -> bool:
        least = max(VOLATILITY_T, self.volatility_first_t + VOLATILITY_EXCESS, VOLATILITY_SIZE * math.sqrt(self.bars))
        return self.volatility_t > least


def news_of(scores: FloatArray, known: BoolArray, y: FloatArray, movement: FloatArray) -> News:
    """The statistics of a column.

    Args:
        scores: (n,) normal scores. known: (n,) where the column has a number. y: (n,) the return that row t earns.
        movement: (n,) as `movement_of` makes it.
    """
    horizon = min(HORIZON, len(y) // 4)
    e = innovations(held(scores, known))
    e = np.where(known, e, 0.0)
    spread = float(np.sqrt(np.mean(e[known] ** 2)))
    none = spread**2 < NO_NEWS
    e = np.zeros_like(e) if none else e / spread
    t, null = lag_t(e, y, horizon)
    n = int(known.sum())
    share = float(np.sum(t**2 - np.maximum(null, 1.0))) / n / _colour(e, horizon) if not none else 0.0
    # of the plain t and White's the smaller: a column of few events makes the one heavy-tailed, clustering the other
    robust = np.abs(t) / np.sqrt(np.maximum(null, 1.0))
    moved, null_moved = lag_t(e, movement, horizon)
    robust_moved = np.abs(moved) / np.sqrt(np.maximum(null_moved, 1.0))
    k, kv = int(np.argmax(robust[1:])) + 1, int(np.argmax(robust_moved[1:])) + 1
    return News(
        bars=n,
        share=share,
        share_limit=share_limit(n, horizon),
        spike_t=float(robust[k]),
        spike_bars=k + 1,
        first_t=float(np.abs(t[0])),
        volatility_t=float(robust_moved[kv]),
        volatility_bars=kv + 1,
        volatility_first_t=float(np.abs(moved[0])),
    )


def share_limit(n: int, horizon: int = HORIZON) -> float:
    """SHARE, or what an honest column is not seen to reach on so few bars; S has a variance of (2 K + 4 n S) / n^2."""
    return max(SHARE, *(s + k * float(np.sqrt(2.0 * horizon + 4.0 * n * s)) / n for s, k in HONEST_SHARES))


def held(scores: FloatArray, known: BoolArray) -> FloatArray:
    """The last known value in rows without one; 0, the mean, before the first."""
    last = np.maximum.accumulate(np.where(known, np.arange(len(scores)), -1))
    return np.where(last >= 0, scores[np.maximum(last, 0)], 0.0)


def innovations(x: FloatArray, order: int = ORDER) -> FloatArray:
    """(n,) residual of a least-squares autoregression; 0 in the first `order` rows."""
    width = order + 1
    windows = np.lib.stride_tricks.sliding_window_view(x, width)  # (n - order, order + 1), newest last
    gram = np.zeros((width, width))
    for start in range(0, len(windows), _CHUNK):
        part = windows[start : start + _CHUNK]
        gram += part.T @ part
    past, cross = gram[:-1, :-1], gram[:-1, -1]
    ridge = 1e-12 * float(np.trace(past)) / order
    weights, *_ = np.linalg.lstsq(past + ridge * np.eye(order), cross, rcond=None)
    taps = np.r_[-weights, 1.0]
    residual = np.concatenate([windows[s : s + _CHUNK] @ taps for s in range(0, len(windows), _CHUNK)])
    return np.concatenate((np.zeros(order), residual))


def lag_t(e: FloatArray, y: FloatArray, horizon: int) -> tuple[FloatArray, FloatArray]:
    """t of e_t with y_{t+k} for k < horizon, and the mean of e_t^2 y_{t+k}^2: White's variance of it, 1 by default."""
    pairs = np.maximum(len(y) - np.arange(horizon), 1)
    both = float(np.mean(e**2)) * float(np.mean(y**2))
    if both <= 0.0:
        return np.zeros(horizon), np.ones(horizon)
    t = _cross(e, y, horizon) / np.sqrt(pairs * both)
    return t, _cross(e**2, y**2, horizon) / (pairs * both)


def movement_of(y: FloatArray, slot: IntArray) -> FloatArray:
    """(n,) |y| less its mean in the hour of the week, unit variance: that prices move at 14:30 UTC is no secret.

    Args:
        slot: (n,) small numbers, one for each hour of the week.
    """
    size = np.abs(y)
    count = np.bincount(slot)
    mean = np.bincount(slot, size) / np.maximum(count, 1)
    usual = np.where(count >= _MIN_PER_SLOT, mean, size.mean())[slot]
    rest = size - usual
    rest -= rest.mean()
    spread = float(rest.std())
    return rest / spread if spread > 0.0 else rest


def _colour(e: FloatArray, horizon: int) -> float:
    """1 for white innovations; more where the autoregression left memory, which would count one news many times."""
    acf = _cross(e, e, horizon)[1:] / max(float(np.sum(e**2)), 1e-300)
    excess = 2.0 * float(np.sum(acf**2)) - 2.0 * horizon / len(e)
    return 1.0 + excess if excess > 0.5 else 1.0


def _cross(a: FloatArray, b: FloatArray, horizon: int) -> FloatArray:
    """sum over t of a_t b_{t+k} for k = 0 .. horizon - 1."""
    size = 1 << (len(a) + horizon - 1).bit_length()
    product = np.conj(np.fft.rfft(a, size)) * np.fft.rfft(b, size)
    return np.asarray(np.fft.irfft(product, size)[:horizon])
