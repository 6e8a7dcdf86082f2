"""Training rows before test rows, with a gap between them that neither may use.

    train, test = train_test(bars)                          the last 20 % of the rows
    for fold in folds(bars, train="12mo", test="1mo"):       walk-forward: fit on the past, judge on what follows
        fold.cut(bars) -> (train, test)

Why a gap: the last training decision earns until two bars later, and the first test features look back over days.
Look-ahead warning: whatever is fitted (a normaliser, a policy, a choice among policies) may see fold.train alone.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np

from himari_rl.data.panel import Panel
from himari_rl.errors import ConfigError, DataError
from himari_rl.schema import DAY_MS, HOUR_MS, Bars

History = TypeVar("History", Bars, Panel, Bars | Panel)
# The longest window of the encoder, the return correlations. The reference signal, which stands in for Layer 2, looks
# further back; training slices are encoded from a cold start, so nothing of either crosses the gap.
PURGE_BARS = 168
_SPAN = re.compile(r"(?P<number>[1-9][0-9]{0,4})(?P<unit>h|d|w|mo|y)")
_FIXED_MS = {"h": HOUR_MS, "d": DAY_MS, "w": 7 * DAY_MS}
_MONTHS = {"mo": 1, "y": 12}


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Two ranges of rows, the training rows strictly before the test rows.

    Raises:
        ConfigError: an empty range, or training rows that touch the test rows.
    """

    train: slice
    test: slice

    def __post_init__(self) -> None:
        for name, rows in (("train", self.train), ("test", self.test)):
            if rows.step not in (None, 1) or rows.start is None or not 0 <= rows.start < rows.stop:
                raise ConfigError(f"the {name} rows are {rows}", "slice(start, stop) with 0 <= start < stop")
        if self.train.stop > self.test.start:
            raise ConfigError(
                f"training rows {self.train.start}..{self.train.stop - 1} reach into test rows from {self.test.start}",
                "training rows that end before the test rows",
            )

    def cut(self, bars: History) -> tuple[History, History]:
        """(train, test) of one symbol's bars or of a panel."""
        return bars[self.train], bars[self.test]


def train_test(bars: History, test_fraction: float = 0.2, purge_bars: int = PURGE_BARS) -> tuple[History, History]:
    """The last `test_fraction` of the rows for judging, the rows before them, less `purge_bars`, for training.

    Raises:
        ConfigError: a fraction outside (0, 1) or a negative gap.
        DataError: too few bars for both parts.
    """
    if not 0.0 < test_fraction < 1.0:
        raise ConfigError(f"test_fraction is {test_fraction}", "a number between 0 and 1")
    _require_gaps(purge_bars, 0)
    first = len(bars) - round(len(bars) * test_fraction)
    if first - purge_bars < 1 or first >= len(bars):
        raise DataError(
            f"{bars.source} has {len(bars):,} bars: {test_fraction:.0%} for the test and {purge_bars} of gap leave "
            f"{max(first - purge_bars, 0)} to train and {len(bars) - first} to test",
            "at least 1 of each",
            "bring a longer history",
        )
    return Fold(train=slice(0, first - purge_bars), test=slice(first, len(bars))).cut(bars)


def folds(
    bars: Bars | Panel,
    *,
    train: str = "12mo",
    test: str = "1mo",
    step: str | None = None,
    purge_bars: int = PURGE_BARS,
    embargo_bars: int = 0,
    anchored: bool = False,
) -> Iterator[Fold]:
    """Walk-forward folds in calendar time: train on [s, s + train), test on the `test` span after it, move by `step`.

    Only whole test spans are given. Spans are a number and h, d, w, mo (calendar months) or y. A fold whose training
    or test span holds no rows after the cuts (a long outage) is left out.

    Args:
        step: how far the next fold starts later; `test` if not given, so that test spans tile the history.
        purge_bars: rows taken off the end of the training span.
        embargo_bars: rows taken off the start of the test span.
        anchored: training always starts at the first bar instead of rolling.

    Raises:
        ConfigError: a span that cannot be read, or a negative gap.
        DataError: the bars are shorter than one train and one test span.
    """
    _require_gaps(purge_bars, embargo_bars)
    spans = (train, test, step or test)
    for span in spans:
        later(0, span)
    times = bars.timestamp
    if not len(bars) or later(later(int(times[0]), train), test) > int(times[-1]) + bars.interval_ms:
        days = (int(times[-1]) - int(times[0]) + bars.interval_ms) / DAY_MS if len(bars) else 0.0
        raise DataError(f"{bars.source} spans {days:.0f} days", f"at least {train} + {test}", "bring a longer history")
    return _walk(bars, spans, purge_bars, embargo_bars, anchored)


def _walk(bars: Bars | Panel, spans: tuple[str, str, str], purge: int, embargo: int, anchored: bool) -> Iterator[Fold]:
    train, test, step = spans
    times, origin = bars.timestamp, int(bars.timestamp[0])
    end_of_data = int(times[-1]) + bars.interval_ms
    first_border = later(origin, train)
    moves = 0
    while True:
        start, border = later(origin, step, moves), later(first_border, step, moves)
        end = later(first_border, test, moves + 1) if step == test else later(border, test)
        if end > end_of_data:
            return
        edges = (origin if anchored else start, border, end)
        first, split, last = (int(row) for row in np.searchsorted(times, edges, side="left"))
        if first < split - purge and split + embargo < last:
            yield Fold(train=slice(first, split - purge), test=slice(split + embargo, last))
        moves += 1


def later(start_ms: int, span: str, times: int = 1) -> int:
    """`start_ms` plus `times` spans; months keep the day of the month, or take the month's last.

    Raises:
        ConfigError: a span other than a number and h, d, w, mo or y.
    """
    match = _SPAN.fullmatch(span.strip())
    if match is None:
        raise ConfigError(f"the span {span!r} cannot be read", "a number and h, d, w, mo or y", "for example 6mo")
    number, unit = int(match["number"]) * times, match["unit"]
    if unit in _FIXED_MS:
        return start_ms + number * _FIXED_MS[unit]
    moment = datetime.fromtimestamp(start_ms // 1000, UTC)
    months = moment.year * 12 + moment.month - 1 + number * _MONTHS[unit]
    year, month = months // 12, months % 12 + 1
    if year > 9999:
        raise ConfigError(f"the span {span!r} ends after the year 9999", "a span of the data's length")
    day = min(moment.day, calendar.monthrange(year, month)[1])
    return int(moment.replace(year=year, month=month, day=day).timestamp()) * 1000 + start_ms % 1000


def until(bars: Bars, history: Bars | Panel) -> Bars:
    """The rows of another symbol up to the last one of a history."""
    return bars[: int(np.searchsorted(bars.timestamp, history.timestamp[-1], side="right"))]


def _require_gaps(purge_bars: int, embargo_bars: int) -> None:
    if purge_bars < 0 or embargo_bars < 0:
        raise ConfigError(f"purge {purge_bars} and embargo {embargo_bars} bars", "0 or more")
