"""Returns as a tear sheet reads them: per UTC day, simple, with the definitions of quantstats 0.0.86 for these words.

A year has as many days as the span had bars on, per elapsed year: 365 where the market never closes, about 252 where it
does. The verdict itself rests on none of these; it is per bar, with intervals (evaluation/).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from himari_rl.evaluation import metrics
from himari_rl.schema import DAY_MS, FloatArray, IntArray, bars_per_year

TAIL = 0.05  # of value at risk and expected shortfall
MONTHS = 12


@dataclass(frozen=True, kw_only=True)
class Daily:
    """Simple returns of whole UTC days, or of bars where these are longer than a day."""

    day: IntArray  # (K,) ms UTC
    value: FloatArray  # (K,)
    per_year: float


def daily(fill_time: IntArray, end_time: int, log_growth: FloatArray) -> Daily:
    """Log-growth per decision (D,), compounded over the UTC days of its fills."""
    day, first = np.unique(fill_time // DAY_MS, return_index=True)
    value = np.expm1(np.add.reduceat(log_growth, first))
    return Daily(
        day=day * DAY_MS, value=value, per_year=float(bars_per_year(len(day), int(fill_time[0]), int(end_time)))
    )


def sharpe(value: FloatArray, per_year: float) -> float:
    """Mean over standard deviation of simple returns, a year; the verdict's own is of log-growth."""
    return float(metrics.sharpe_ratio(value.mean(), value.std(ddof=1))) * math.sqrt(per_year)


def sortino(value: FloatArray, per_year: float) -> float:
    """Mean over the root of the mean square of the losses, all periods counted (Sortino & van der Meer 1991)."""
    downside = math.sqrt(float((np.minimum(value, 0.0) ** 2).mean()))
    return float(metrics.sharpe_ratio(value.mean(), downside)) * math.sqrt(per_year)


def compound_growth(value: FloatArray, per_year: float) -> float:
    """Compound annual growth rate."""
    return float(np.exp(np.log1p(value).sum() * per_year / len(value)) - 1.0)


def deepest(value: FloatArray) -> float:
    """Deepest drawdown of the compounded returns, at most 0, from a start of 1."""
    return -metrics.max_drawdown(np.cumsum(np.log1p(value)))


def calmar(value: FloatArray, per_year: float) -> float:
    """Compound growth over the deepest drawdown; 0 without one."""
    return float(metrics.sharpe_ratio(compound_growth(value, per_year), abs(deepest(value))))


def value_at_risk(value: FloatArray) -> float:
    """The 5 % quantile of a normal distribution with these returns' mean and deviation."""
    spread = float(value.std(ddof=1))
    return float(value.mean()) + NormalDist().inv_cdf(TAIL) * spread


def expected_shortfall(value: FloatArray) -> float:
    """Mean beyond the value at risk of the same normal distribution: mu - sigma phi(z) / 5 %."""
    normal = NormalDist()
    return float(value.mean()) - float(value.std(ddof=1)) * normal.pdf(normal.inv_cdf(TAIL)) / TAIL


def worst_mean(value: FloatArray) -> float:
    """Mean of the returns at or below their own 5 % quantile: the expected shortfall as it was, without a normal."""
    return float(value[value <= np.quantile(value, TAIL)].mean())


def hit_rate(value: FloatArray) -> float:
    """Share of gains among the periods that gained or lost; 0 where nothing moved."""
    moved = np.count_nonzero(value)
    return float(np.count_nonzero(value > 0.0) / moved) if moved else 0.0


def payoff(value: FloatArray) -> float:
    """Mean gain over mean loss; 0 without one of them."""
    gains, losses = value[value > 0.0], value[value < 0.0]
    return float(gains.mean() / -losses.mean()) if len(gains) and len(losses) else 0.0


def time_in_market(value: FloatArray) -> float:
    """Share of the periods whose return is not 0."""
    return float(np.count_nonzero(value) / len(value))


def rolling(value: FloatArray, window: int, per_year: float) -> tuple[FloatArray, FloatArray]:
    """(K,) Sharpe ratio and volatility a year of the last `window` periods; NaN before there are so many."""
    sums = np.cumsum(np.insert(np.stack([value, value**2]), 0, 0.0, axis=1), axis=1)
    total, squares = sums[:, window:] - sums[:, :-window]
    mean = total / window
    variance = np.maximum(squares / window - mean**2, 0.0) * window / (window - 1)
    # sums cancel to some 1e-19 of variance where nothing moved: an account at rest has neither figure
    deviation = np.sqrt(np.where(variance > 1e-16, variance, 0.0))
    unknown = np.full(min(window - 1, len(value)), np.nan)
    ratio = metrics.sharpe_ratio(mean, deviation) * math.sqrt(per_year)
    return np.concatenate([unknown, ratio]), np.concatenate([unknown, deviation * math.sqrt(per_year)])


def months(fill_time: IntArray, log_growth: FloatArray) -> list[tuple[int, list[float | None], float]]:
    """Each calendar year with its twelve returns, None where there was no bar, and the year's."""
    month = fill_time.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
    which, first = np.unique(month, return_index=True)
    grown = dict(zip(which.tolist(), np.add.reduceat(log_growth, first).tolist(), strict=True))
    rows = []
    for year in range(int(which[0]) // MONTHS, int(which[-1]) // MONTHS + 1):
        parts = [grown.get(year * MONTHS + k) for k in range(MONTHS)]
        whole = math.expm1(sum(part for part in parts if part is not None))
        rows.append((1970 + year, [None if part is None else math.expm1(part) for part in parts], whole))
    return rows


@dataclass(frozen=True, kw_only=True)
class Fall:
    """One drawdown: from a peak to the deepest point and back."""

    peak: int
    """Row of the last time at the peak; -1 is the start."""
    trough: int
    recovered: int | None
    """First row at or above the peak again; None while it lasts."""
    depth: float
    """Share of the peak, below 0."""


def falls(log_equity: FloatArray, most: int = 5) -> list[Fall]:
    """The deepest drawdowns of an account marked at closes, (D,), the deepest first."""
    under = metrics.underwater(log_equity)
    below = np.concatenate([[False], under < 0.0, [False]])
    starts, ends = np.flatnonzero(~below[:-1] & below[1:]), np.flatnonzero(below[:-1] & ~below[1:])
    found = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        trough = start + int(under[start:end].argmin())
        back = end if end < len(under) else None
        found.append(Fall(peak=start - 1, trough=trough, recovered=back, depth=math.expm1(under[trough])))
    return sorted(found, key=lambda fall: fall.depth)[:most]
