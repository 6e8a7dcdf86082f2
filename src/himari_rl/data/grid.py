"""The grid of times: its interval, and the rows that stand a little beside it.

step(timestamps)       the interval: the most common difference between neighbours
settle(timestamps)     times of closes read at their opens, a late row kept on its place or left out; both said
is_interval(ms)        whether anybody makes bars of that length: 10,000 s are rounded times
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from himari_rl.schema import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, BoolArray, IntArray

_FEW_OFF = 0.02  # of the rows may stand off the grid: a late start of one bar, an exchange's odd day
_FEW_EXTRA = 3  # of them where the place is taken: more are bars of another interval
_HALF_STEP = 0.10  # of the differences: a market that often does not trade has few of its shortest
_COMMON = 0.2  # share of the differences that the most common one has in bars, however many are missing in between
_FEW_STEPS = 20  # of fewer differences the most common one is the interval
_EARLY_MS = 1000  # a clock that runs ahead


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Times (K,) on their grid, the rows (T,) of them that are left, and what was done in words."""

    timestamp: IntArray
    left: BoolArray
    notes: tuple[str, ...]


def step(timestamps: IntArray) -> int:
    """The most common positive difference between neighbours in ms, the smaller of equals; 0 if there is none.

    A common smaller one of which all the others are multiples goes before it: a thin market's minutes. Rows that come
    only at events have no common one: there it is the grid that all of them stand on, from a minute up.
    """
    difference = np.diff(timestamps)
    steps, counts = np.unique(difference[difference > 0], return_counts=True)
    if not steps.size:
        return 0
    least = int(steps[0])
    if counts[0] >= _HALF_STEP * counts.sum() and not (steps % least).any():
        return least
    if counts.sum() > _FEW_STEPS and counts.max() < _COMMON * counts.sum():
        common = int(np.gcd.reduce(steps))
        if common >= MINUTE_MS:
            return common
    return int(steps[counts.argmax()])


def is_interval(ms: int) -> bool:
    """Whether it is a length of bars: whole minutes, whole seconds below one, or a fraction of a second."""
    return ms % MINUTE_MS == 0 if ms >= MINUTE_MS else ms % SECOND_MS == 0 or SECOND_MS % ms == 0


def settle(timestamps: IntArray) -> Settled:
    """Rising times (T,) of one file on their grid; times that do not need it come back as they are."""
    notes: list[str] = []
    interval = step(timestamps)
    all_rows = np.ones(len(timestamps), np.bool_)
    if len(timestamps) < 2:
        return Settled(timestamp=timestamps, left=all_rows, notes=())
    rests, counts = np.unique(-timestamps % MINUTE_MS, return_counts=True)
    rest = int(rests[counts.argmax()])  # to the next whole minute, of nearly every row
    whole = interval >= MINUTE_MS and interval % MINUTE_MS == 0
    if whole and 1 <= rest <= _EARLY_MS and counts.max() >= (1 - _FEW_OFF) * len(timestamps):
        example = str(np.datetime64(int(timestamps[0]), "ms"))[11:]
        notes.append(f"times of each bar's close (first {example}), read at its open")
        timestamps = timestamps + rest - interval
    minutes = (timestamps + MINUTE_MS // 2) // MINUTE_MS * MINUTE_MS
    away = np.abs(timestamps - minutes)
    if (away > 0).mean() > _FEW_OFF and (away <= _EARLY_MS).all() and (np.diff(minutes) > 0).all() and np.ptp(away):
        notes.append(f"times jitter by up to {int(away.max())} ms, read on their minute")
        timestamps, interval = minutes, step(minutes)
    left, moved, words = _late(timestamps, interval)
    return Settled(timestamp=moved[left], left=left, notes=(*notes, *words))


def _late(times: IntArray, interval: int) -> tuple[BoolArray, IntArray, list[str]]:
    """(rows left, times on the grid, words) for the few rows that stand off it; a row that overruns its place goes.

    A bar on its place must have closed where the next begins: one that opened 28 minutes late and lasted an hour
    would tell the future of its place.
    """
    left, moved = np.ones(len(times), np.bool_), times.copy()
    phases, counts = np.unique(times % interval, return_counts=True)
    phase = int(phases[counts.argmax()])
    off = np.flatnonzero(times % interval != phase)
    if not off.size or off.size > _FEW_OFF * len(times) or counts.max() < 3:
        return left, moved, []
    place = times[off] - (times[off] - phase) % interval
    early = place + interval - times[off] <= _EARLY_MS
    place = np.where(early, place + interval, place)
    straight = np.delete(times, off)
    _, which, shared = np.unique(place, return_inverse=True, return_counts=True)
    taken = np.isin(place, straight) | (shared[which] > 1)
    if taken.sum() > _FEW_EXTRA:
        return left, moved, []
    following = np.r_[times, np.iinfo(np.int64).max][off + 1]
    kept = ~taken & (following <= place + interval)
    moved[off] = place
    left[off[~kept]] = False
    return left, moved, [_said(times, off, place, kept)]


def _said(times: IntArray, off: IntArray, place: IntArray, kept: BoolArray) -> str:
    first, seconds = int(off[0]), (int(times[off[0]]) - int(place[0])) / 1000
    moment = np.datetime_as_string(np.datetime64(int(times[first]), "ms"), unit="s")
    late = f"{seconds:,.0f} s late" if seconds > 0 else f"{-seconds:,.3f} s early"
    if off.size == 1:
        what = "kept on its grid place" if kept[0] else "left out, as its place is taken or it overruns it"
        return f"1 row opens {late} (row {first + 1}, {moment}Z): {what}"
    return (
        f"{off.size} rows open off the grid, the first {late} (row {first + 1}, {moment}Z): {int(kept.sum())} kept on "
        f"their grid place, {int((~kept).sum())} left out, as their place is taken or they overrun it"
    )


def interval_name(ms: int) -> str:
    """1h for 3,600,000 ms; the largest unit that divides it."""
    for unit, size in (("d", DAY_MS), ("h", HOUR_MS), ("m", MINUTE_MS), ("s", SECOND_MS)):
        if ms and ms % size == 0:
            return f"{ms // size}{unit}"
    return f"{ms}ms"
