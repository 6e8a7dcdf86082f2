"""Every statistic of a supplied column, and which of them raised an alarm, with its cause and cure.

An alarm is `named` where a mechanism is shown: the column stops at once, knows its candle, was filtered from both
sides. `implausible` is size alone: a correlation with the next return that no honest column was seen to have. It may be
honest all the same, so the gate lets it be accepted with a reason, which a named alarm never is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from himari_rl.data.leaks.bins import BinTest, bin_test
from himari_rl.data.leaks.calendar import NOTHING, CandleClock, CandleTest, strongest_candle
from himari_rl.data.leaks.news import News, movement_of, news_of
from himari_rl.data.leaks.stop import lagged_t, memory_of, sudden_end
from himari_rl.data.leaks.target import MIN_BARS, normal_scores, unexplained_return
from himari_rl.schema import DAY_MS, HOUR_MS, YEAR_MS, Bars, BoolArray, FloatArray

MIN_BARS_SHAPES = 500  # for every test but the sudden stop: below it honest columns look like anything
IMPLAUSIBLE = 0.15  # correlation with the next return; honest columns were seen up to .150
IMPLAUSIBLE_ERRORS = 2.0  # standard errors taken off before
STOP, SHARE, SPIKE, CALENDAR, BINS, VOLATILITY, SIZE = (
    "sudden stop",
    "news share",
    "news spike",
    "calendar",
    "bins",
    "volatility spike",
    "implausible column",
)


@dataclass(frozen=True, kw_only=True)
class LeakAlarm:
    """One test that a column failed."""

    test: str
    named: bool  # a mechanism is shown; False: size alone
    cause: str
    cure: str

    def __str__(self) -> str:
        return f"{self.cause} ({self.test}): {self.cure}"


@dataclass(frozen=True, kw_only=True)
class LeakReport:
    """How one column relates to the returns that decisions earn. All statistics are there, alarm or not."""

    column: str
    bars: int  # pairs of column and return
    correlation: float  # with the very next return
    t: float
    correlation_lagged: float  # the column one bar later than it was
    t_lagged: float
    autocorrelation: float  # of the column itself, one bar
    horizon_bars: int  # how many bars ahead it predicts before it stops at once; 0 = no such stop
    news: News | None  # None where there are too few bars, as for the two below
    candle: CandleTest | None
    bins: BinTest | None
    alarms: tuple[LeakAlarm, ...]
    suspected: bool  # a named alarm
    implausible: bool  # the size alarm, with or without a named one

    @property
    def message(self) -> str:
        said = "; ".join(str(alarm) for alarm in self.alarms) or "no sign of a leak"
        short = "" if self.news else f"; {self.bars} bars are too few for all tests but one ({MIN_BARS_SHAPES} needed)"
        return (
            f"{self.column}: {said}; correlation {self.correlation:+.4f} (t {self.t:+.1f}) with the return the "
            f"decision earns, {self.correlation_lagged:+.4f} (t {self.t_lagged:+.1f}) one bar later, "
            f"own autocorrelation {self.autocorrelation:.2f}{short}"
        )


def doubtful_columns(bars: Bars) -> tuple[list[LeakReport], list[LeakReport]]:
    """The supplied columns that a named test caught, and those that are only too good to be believed; strongest first.

    Two empty lists are the good answer.
    """
    found = sorted(examine(bars), key=lambda report: -abs(report.t))
    return [r for r in found if r.suspected], [r for r in found if r.implausible and not r.suspected]


def suspected_leaks(bars: Bars) -> list[LeakReport]:
    """The supplied columns that a named test caught, strongest first; empty is the good answer."""
    return doubtful_columns(bars)[0]


def examine(bars: Bars) -> list[LeakReport]:
    """A report for every supplied column that varies: Layer 2 columns, action x confidence, and `extra`.

    Fewer than MIN_BARS bars cannot tell anything: the list is empty. Below MIN_BARS_SHAPES only the sudden stop is
    tested, and the message says so.
    """
    columns = supplied_columns(bars)
    if len(bars) < MIN_BARS or not columns:
        return []
    market = _Market.of(bars)
    rows = len(market.earned)
    reports = []
    for name, column in columns.items():
        known = np.isfinite(column[:rows])
        if known.sum() >= MIN_BARS and np.ptp(column[:rows][known]) > 0.0:
            reports.append(_examine_column(name, column[:rows], known, market))
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


@dataclass(frozen=True, kw_only=True)
class _Market:
    """What every column of these bars is compared with."""

    earned: FloatArray  # (n,) what deciding at a row earns
    weight: FloatArray  # (n,)
    movement: FloatArray  # (n,) its size, less what is usual in that hour of the week
    clock: CandleClock | None
    interval_ms: int

    @staticmethod
    def of(bars: Bars) -> _Market:
        earned, weight = unexplained_return(bars)
        hour_of_week = bars.timestamp[1 : len(earned) + 1] // HOUR_MS % (7 * DAY_MS // HOUR_MS)
        return _Market(
            earned=earned,
            weight=weight,
            movement=movement_of(earned, hour_of_week),
            clock=CandleClock.of(bars.timestamp, bars.interval_ms, earned),
            interval_ms=bars.interval_ms,
        )


def _examine_column(name: str, column: FloatArray, known: BoolArray, market: _Market) -> LeakReport:
    earned = market.earned
    scores = np.zeros_like(column)
    scores[known] = normal_scores(column[known])
    both = [lagged_t(scores, known, earned, by) for by in (None, market.weight)]
    t = max(both, key=lambda statistics: abs(float(statistics[0])))
    memory = memory_of(scores, known)
    horizon = sudden_end(t, memory)
    n, n_lagged = int(known.sum()), max(int(known[:-1].sum()), 1)
    rho = float(both[0][0] / np.sqrt(n))
    news, candle, bins = None, None, None
    if n >= MIN_BARS_SHAPES:
        news = news_of(scores, known, earned, market.movement)
        candle = strongest_candle(column, known, market.clock) if market.clock is not None else NOTHING
        bins = bin_test(column, known, earned)
    alarms = tuple(_alarms(horizon, rho, n, news, candle, bins, market.interval_ms))
    return LeakReport(
        column=name,
        bars=n,
        correlation=rho,
        t=float(t[0]),
        correlation_lagged=float(both[0][1] / np.sqrt(n_lagged)),
        t_lagged=float(t[1]),
        autocorrelation=memory,
        horizon_bars=horizon,
        news=news,
        candle=candle,
        bins=bins,
        alarms=alarms,
        suspected=any(alarm.named for alarm in alarms),
        implausible=any(not alarm.named for alarm in alarms),
    )


def _alarms(
    horizon: int, rho: float, n: int, news: News | None, candle: CandleTest | None, bins: BinTest | None, step_ms: int
) -> list[LeakAlarm]:
    """What each test says of a column, the surest cause first."""
    said: list[tuple[str, bool, str, str]] = []
    if candle is not None and candle.alarm:
        own = "moves with a candle that starts" if candle.of_changes else "changes"
        cause = f"{own} at {candle.starts} and knows the rest of the {candle.candle} candle (r {candle.r:+.2f})"
        said.append((CALENDAR, True, cause, f"shift the {candle.candle} candle by one before merging or filling it"))
    if horizon:
        cause = f"knows the next {horizon} return(s) and nothing after"
        said.append((STOP, True, cause, f"it was known {horizon} bar(s) later than it says: shift it by as many"))
    if news is not None and news.spike_alarm:
        cause = f"knows the bar {news.spike_bars} bars ahead (t {news.spike_t:.0f}; {news.first_t:.0f} for the next)"
        said.append((SPIKE, True, cause, f"it is stamped early: shift it by {news.spike_bars} bars"))
    if news is not None and news.share_alarm:
        cause = f"what is new in it explains {news.share:.2f} of the returns that follow (honest: {rho**2:.2f})"
        cure = "no centred window, smoother, filtfilt or interpolation: compute each row from rows up to its own"
        said.append((SHARE, True, cause, cure))
    if bins is not None and bins.alarm:
        cause = f"some of its values know the next bar (F {bins.now:.0f}, one bar later {bins.later:.1f})"
        said.append((BINS, True, cause, "mark a high or low at the bar that confirmed it, not at its own"))
    if news is not None and news.volatility_alarm:
        cause = f"knows how far prices move {news.volatility_bars} bars ahead (t {news.volatility_t:.0f})"
        said.append((VOLATILITY, True, cause, "measure volatility on bars up to its own row"))
    if n >= MIN_BARS_SHAPES and abs(rho) - IMPLAUSIBLE_ERRORS / np.sqrt(n) > IMPLAUSIBLE:
        ratio = abs(rho) * np.sqrt(YEAR_MS / step_ms)
        cause = f"too good: a correlation of {rho:+.2f} with the next return is a gross Sharpe ratio of {ratio:.0f}"
        said.append((SIZE, False, cause, "look for a leak where it is made"))
    return [LeakAlarm(test=test, named=named, cause=cause, cure=cure) for test, named, cause, cure in said]
