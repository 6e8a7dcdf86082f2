"""Is this the clock on somebody's wall? Local times show an hour twice in autumn and lose one in spring.

    repeated(ms)                    whether a time lies in the hour that some clocks show twice
    lost_hour(times, ...)           the lone gap where clocks go forward: worth a line
    merged_hour(times, ...)         one of the two equal hours was dropped: the price jumps where it stood
    shifted(times, interval)        coarse bars whose grid moves by an hour where clocks change

A dropped hour leaves a perfect grid. Only the price tells: in a market that never closes each open is the close
before it, but for the hour that is gone. A clock is suspected only where every change of it in the file agrees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np

from himari_rl.schema import DAY_MS, HOUR_MS, FloatArray, IntArray

_WINDOW = 250  # rows on both sides, whose jumps are the usual ones
_CONTINUOUS = 0.05  # of a bar's median move: the usual jump of a market that never closes
_FARTHER = 2.0  # times the largest usual jump


@dataclass(frozen=True)
class Clock:
    """A zone's changes: (month, which Sunday, hour on the wall at which the odd hour begins)."""

    name: str
    spring: tuple[int, int, int]
    autumn: tuple[int, int, int]


CLOCKS = (
    Clock("London", (3, -1, 1), (10, -1, 1)),
    Clock("Berlin", (3, -1, 2), (10, -1, 2)),
    Clock("Athens", (3, -1, 3), (10, -1, 3)),
    Clock("New York", (3, 2, 2), (11, 1, 1)),
    Clock("Sydney", (10, 1, 2), (4, 1, 2)),
    Clock("Auckland", (9, -1, 2), (4, 1, 2)),
)


def _sunday(year: int, month: int, which: int) -> date:
    if which > 0:
        first = date(year, month, 1)
        return first + timedelta(days=(6 - first.weekday()) % 7 + 7 * (which - 1))
    last = (date(year, month, 28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
    return last - timedelta(days=(last.weekday() - 6) % 7)


def changes(rule: tuple[int, int, int], first: int, last: int) -> Iterator[int]:
    """ms on the wall of each change within first..last."""
    month, which, hour = rule
    begin, end = (datetime.fromtimestamp(ms / 1000, UTC).year for ms in (first, last))
    for year in range(begin, end + 1):
        ms = (_sunday(year, month, which) - date(1970, 1, 1)).days * DAY_MS + hour * HOUR_MS
        if first < ms < last:
            yield ms


def repeated(ms: int) -> str | None:
    """The place whose clocks show this hour twice, if there is one."""
    for clock in CLOCKS:
        for change in changes(clock.autumn, ms - DAY_MS, ms + DAY_MS):
            if change <= ms < change + HOUR_MS:
                return clock.name
    return None


def _spring(times: IntArray, interval: int, clock: Clock) -> tuple[list[int], int]:
    """(changes at which just the lost hour is missing, changes at which it is there) of rising times (T,)."""
    lost, there = [], 0
    for change in changes(clock.spring, int(times[0]), int(times[-1])):
        before, after = np.searchsorted(times, [change, change + HOUR_MS])
        if before < after:
            there += 1
        elif times[before - 1] == change - interval and times[after] == change + HOUR_MS:
            lost.append(change)
    return lost, there


def lost_hour(times: IntArray, interval: int) -> tuple[int, str] | None:
    """The first lone gap that a clock which goes forward would leave, and the place; rising times (T,)."""
    if not _fine(times, interval):
        return None
    for clock in CLOCKS:
        lost, there = _spring(times, interval, clock)
        if lost and not there:
            return lost[0], clock.name
    return None


def merged_hour(times: IntArray, opened: FloatArray, close: FloatArray, interval: int) -> tuple[int, str] | None:
    """The first change of a clock at which the price jumps as where an hour was dropped, and the place.

    Nothing is suspected where the market jumps between its bars anyway, or where one change of the clock speaks
    against it.
    """
    if not _fine(times, interval):
        return None
    for clock in CLOCKS:
        _, there = _spring(times, interval, clock)
        if there:
            continue
        seen = [
            (change, max(_jump(times, opened, close, change), _jump(times, opened, close, change + HOUR_MS)))
            for change in changes(clock.autumn, int(times[0]), int(times[-1]))
        ]
        told = [(change, jump) for change, jump in seen if np.isfinite(jump)]
        if told and all(jump > _FARTHER for _, jump in told):
            return told[0][0], clock.name
    return None


def _fine(times: IntArray, interval: int) -> bool:
    return interval > 0 and HOUR_MS % interval == 0 and len(times) > 2


def _jump(times: IntArray, opened: FloatArray, close: FloatArray, at: int) -> float:
    """From the close before a time to its open, in the largest such jump around it; NaN where it cannot be told."""
    row = int(np.searchsorted(times, at))
    if not 0 < row < len(times) or times[row] != at:
        return float("nan")
    rows = slice(max(row - _WINDOW, 1), min(row + _WINDOW, len(times)))
    with np.errstate(invalid="ignore", divide="ignore"):
        jumps = np.abs(np.log(opened[rows] / close[rows.start - 1 : rows.stop - 1]))
        moves = float(np.median(np.abs(np.log(close[rows] / opened[rows]))))
    here = row - rows.start
    others = np.delete(jumps, slice(max(here - 12, 0), here + 13))  # the other boundary of the hour stands beside it
    if len(others) < 24 or not moves > 0.0 or not np.median(others) <= _CONTINUOUS * moves:
        return float("nan")
    usual = max(float(np.quantile(others, 0.995)), 0.5 * _CONTINUOUS * moves / _FARTHER)
    return float(jumps[here] / usual)


def shifted(times: IntArray, interval: int) -> int | None:
    """The first row (of rising times) from which a grid coarser than an hour stands an hour off, at a clock change."""
    if interval <= HOUR_MS:
        return None
    phases = times % min(interval, DAY_MS)
    turns = np.flatnonzero(np.diff(phases)) + 1
    if not turns.size:
        return None
    for row in turns[:8].tolist():
        moved = abs(int(phases[row]) - int(phases[row - 1]))
        around = (int(times[row - 1]) - DAY_MS, int(times[row]) + DAY_MS)
        near = any(True for clock in CLOCKS for rule in (clock.spring, clock.autumn) for _ in changes(rule, *around))
        if moved not in (HOUR_MS, min(interval, DAY_MS) - HOUR_MS) or not near:
            return None
    return int(turns[0])
