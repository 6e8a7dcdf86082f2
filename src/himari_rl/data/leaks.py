"""Does a supplied column know the future? A column of Layer 2 is data here, so no code of ours can prove it causal.

A leak gives itself away by its shape: it predicts the very next return and nothing one bar later, while an honest
predictor fades as slowly as the column itself. Profit is no test: with costs a weak leak loses money.

The statistics, per column x, at every bar t:
  y[t]   the return that the decision at t earns, open[t+2]/open[t+1]-1, divided by the volatility known at t
         (exponential, so that clustering does not inflate t), as normal scores, less what the bars up to t already
         explain linearly (short-term reversal is real: a close near its high predicts the next hour at t = -16)
  x      normal scores of the column (ranks: any monotone version of it gives the same answer)
  t[k] = sqrt(n) corr(x[t-k], y[t]); under "knows nothing" a standard normal variable. Beside it the same with each
         bar weighted by its volatility and White's standard error: stronger where the leak is of the plain return.
         The larger |t| of the two speaks for the column.
A column is suspected where |t| > 5 stops at once: the next lag is below 3, the one after it below 4, and that is a
faster end than the column's own autocorrelation a allows (t[k] short of a t[k-1] by 3 standard errors, or a < 0.25).
With 20,000 bars a leak of correlation rho has t = 141 rho.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from himari_rl.schema import Bars, BoolArray, FloatArray

T_ALARM = 5.0  # noise in one of a hundred columns reaches it once in 17,000 audits
T_GONE, T_STILL_GONE = 3.0, 4.0  # one bar after the end, and two
NEXT_TO_NOTHING = 0.125  # beside a strong leak, a lagged t of an eighth of it is nothing too
MAX_HORIZON = 24  # bars ahead that a leak may reach: a day of hourly bars
MIN_BARS = 100
SHORT_MEMORY = 0.25

_GRID = (np.arange(8192) + 0.5) / 8192
_QUANTILES = np.array([NormalDist().inv_cdf(p) for p in _GRID.tolist()])
_DECAY = 0.94  # of the variance, per bar (RiskMetrics 1996)


@dataclass(frozen=True, kw_only=True)
class LeakReport:
    """How one column relates to the return that a decision earns."""

    column: str
    bars: int  # pairs of column and return
    correlation: float  # with the very next return
    t: float
    correlation_lagged: float  # the column one bar later than it was
    t_lagged: float
    autocorrelation: float  # of the column itself, one bar
    horizon_bars: int  # how many bars ahead it predicts before it stops at once; 0 = no such stop
    suspected: bool

    @property
    def message(self) -> str:
        verdict = f"knows the next {self.horizon_bars} return(s)" if self.suspected else "no sign of a leak"
        return (
            f"{self.column}: {verdict}: correlation {self.correlation:+.4f} (t {self.t:+.1f}) with the return the "
            f"decision earns, {self.correlation_lagged:+.4f} (t {self.t_lagged:+.1f}) one bar later, "
            f"own autocorrelation {self.autocorrelation:.2f}"
        )


def suspected_leaks(bars: Bars) -> list[LeakReport]:
    """The supplied columns that seem to know the future, strongest first; empty is the good answer."""
    return sorted((r for r in examine(bars) if r.suspected), key=lambda report: -abs(report.t))


def examine(bars: Bars) -> list[LeakReport]:
    """A report for every supplied column that varies: Layer 2 columns, action x confidence, and `extra`.

    Fewer than MIN_BARS bars cannot tell anything: the list is empty.
    """
    if len(bars) < MIN_BARS:
        return []
    earned, weight = unexplained_return(bars)
    reports = []
    for name, column in supplied_columns(bars).items():
        known = np.isfinite(column[: len(earned)])
        if known.sum() >= MIN_BARS and np.ptp(column[: len(earned)][known]) > 0.0:
            reports.append(_examine_column(name, column[: len(earned)], known, earned, weight))
    return reports


def supplied_columns(bars: Bars) -> dict[str, FloatArray]:
    """The columns whose causality we cannot prove, by name, each (T,)."""
    columns = dict(bars.extra)
    if bars.signals is not None and bars.signals.supplied:
        said = bars.signals
        columns["signal_action"] = said.action.astype(np.float64)
        columns["signal_confidence"] = said.confidence
        columns["signal_action x signal_confidence"] = said.action * said.confidence
        columns["signal_tier"] = said.tier.astype(np.float64)
        columns["cascade_risk"] = said.cascade_risk
    return columns


def _examine_column(
    name: str, column: FloatArray, known: BoolArray, earned: FloatArray, weight: FloatArray
) -> LeakReport:
    scores = np.zeros_like(column)
    scores[known] = normal_scores(column[known])
    both = [_statistics(scores, known, earned, by) for by in (None, weight)]
    t = max(both, key=lambda statistics: abs(float(statistics[0])))
    pairs = known[1:] & known[:-1]
    memory = float(np.mean(scores[1:][pairs] * scores[:-1][pairs])) if pairs.any() else 0.0
    horizon = _sudden_end(t, memory)
    n, n_lagged = int(known.sum()), max(int(known[:-1].sum()), 1)
    return LeakReport(
        column=name,
        bars=n,
        correlation=float(both[0][0] / np.sqrt(n)),
        t=float(t[0]),
        correlation_lagged=float(both[0][1] / np.sqrt(n_lagged)),
        t_lagged=float(t[1]),
        autocorrelation=memory,
        horizon_bars=horizon,
        suspected=horizon > 0,
    )


def _statistics(scores: FloatArray, known: BoolArray, earned: FloatArray, weight: FloatArray | None) -> FloatArray:
    """(MAX_HORIZON + 2,) t of the column 0, 1, 2 ... bars ago with the return earned now."""
    t = np.zeros(MAX_HORIZON + 2)
    weighted = earned if weight is None else earned * weight
    for lag in range(len(t)):
        rows = known[: len(known) - lag]
        products = scores[: len(scores) - lag][rows] * weighted[lag:][rows]
        error = np.sqrt(products.size) if weight is None else np.sqrt(float(np.sum(products**2)))
        t[lag] = products.sum() / error if error > 0.0 else 0.0
    return t


def _sudden_end(t: FloatArray, memory: float) -> int:
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
    past = [_lagged(normal_scores(base), lag) for base in (bar_return / scale, place) for lag in range(4)]
    past += [normal_scores(_momentum(close, length) / scale) for length in (4, 24)]
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
    share = np.empty(len(values))
    share[order] = middle[group] / len(values)
    scores = np.interp(share, _GRID, _QUANTILES)
    scores -= scores.mean()
    spread = float(scores.std())
    return np.asarray(scores / spread) if spread > 1e-9 else np.zeros(len(values))
