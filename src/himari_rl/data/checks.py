"""What makes bars unusable: one list of rules, which load_bars enforces and the audit reports.

    problems(table)      rules about one file's columns and cells, each with its first offending row
    step(timestamps)     the interval: the most common difference between neighbours
    grid_problems(...)   rules about time over all rows of a data set: grid and mixed intervals
    dead_problems(...)   a feed that stands still: nothing can be learned or judged there

Gaps, outliers and bars without volume are facts of a market, not problems: the audit shows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from himari_rl.data.cells import NOT_A_TIME
from himari_rl.data.table import REQUIRED, Table, stamp
from himari_rl.errors import DataError
from himari_rl.schema import (
    DAY_MS,
    HOUR_MS,
    LAYER2,
    MINUTE_MS,
    PRICES,
    SECOND_MS,
    BoolArray,
    FloatArray,
    History,
    IntArray,
)

# The same larger step this many times in a row is a second interval, not a row of outages.
REPEATED_STEPS = 10
FEW = 100  # rows that may stand still: an hour's halt is no dead feed
COMMON = 0.2  # share of the differences that the most common one has in bars, however many are missing in between
FEW_STEPS = 20  # of fewer differences the most common one is the interval
EVENTS = "rows of events are no bars: himari data join BARS SIGNALS puts the signals onto bars"
"""The cure for rows that come only where Layer 2 said something."""

# column: (lowest, highest, only whole numbers, what was expected)
_RANGES = {
    "signal_action": (-1.0, 1.0, True, "SELL, HOLD, BUY, STRONG_SELL, STRONG_BUY or -1, 0, 1"),
    "signal_confidence": (0.0, 1.0, False, "a number from 0 to 1"),
    "signal_tier": (1.0, 4.0, True, "T1, T2, T3, T4 or 1..4"),
    "cascade_risk": (0.0, 1.0, False, "a number from 0 to 1"),
    "funding_rate": (-1.0, 1.0, False, "a fraction such as 0.0001, and 0 where nothing settles"),
    "synthetic": (0.0, 1.0, True, "0 or 1"),
}


@dataclass(frozen=True)
class Problem:
    """One broken rule: how many rows break it, and the first of them in words."""

    code: str
    count: int
    found: str
    expected: str
    cure: str

    def error(self) -> DataError:
        more = f" (and {self.count - 1} more rows)" if self.count > 1 else ""
        return DataError(self.found + more, self.expected, self.cure)


def problems(table: Table) -> list[Problem]:
    """Every broken rule of one file, the most telling first; empty when the file is sound."""
    if table.missing:
        have = ", ".join(["timestamp"] * ("timestamp" not in table.missing) + [*table.columns, *table.ignored])
        found = f"{table.source} has no column {', '.join(table.missing)} (it has: {have})"
        cure = EVENTS if "signal_action" in table.columns else "rename or add them"
        return [Problem("missing_column", 1, found, f"columns {', '.join(REQUIRED)}", cure)]
    return [*_times(table), *_prices(table), *_layer2(table)]


def cell_problems(table: Table) -> list[Problem]:
    """The rules for times and optional columns alone, for a file without prices (funding settlements)."""
    return [*_times(table), *_layer2(table)]


def _row(table: Table, row: int) -> str:
    return f"{table.source} row {row + 1} ({stamp(int(table.timestamp[row]))})"


def _cell(table: Table, name: str, row: int) -> str:
    if table.texts.get(name):
        return repr(table.texts[name][row][:40])
    return f"{float(table.columns[name][row]):g}" if name in table.columns else "not a time"


def _first(table: Table, code: str, bad: BoolArray, words: str, expected: str, cure: str) -> Iterator[Problem]:
    """One Problem if any row is bad; {column} in `words` shows the cell of the first bad row."""
    if bad.any():
        row = int(bad.argmax())
        found = f"{_row(table, row)}: " + words.format_map(_Cells(table, row))
        yield Problem(code, int(bad.sum()), found, expected, cure)


class _Cells(dict[str, str]):
    """The cells of one row as a message shows them."""

    def __init__(self, table: Table, row: int) -> None:
        super().__init__()
        self.table, self.row = table, row

    def __missing__(self, name: str) -> str:
        return _cell(self.table, name, self.row)


def _times(table: Table) -> Iterator[Problem]:
    times = table.timestamp
    unread = times == NOT_A_TIME
    yield from _first(
        table, "bad_time", unread, "the timestamp is {timestamp}", "ISO 8601 or an epoch in s or ms", "fix or drop it"
    )
    after = times[1:] - times[:-1]
    pair = ~unread[1:] & ~unread[:-1]
    for code, bad, words, cure in (
        ("unsorted", pair & (after < 0), "is earlier than the row before it", "sort the rows by timestamp"),
        ("duplicate", pair & (after == 0), "has the timestamp of the row before it", "keep one row of each"),
    ):
        yield from _first(table, code, np.r_[False, bad], words, "rising, unique timestamps", cure)


def _prices(table: Table) -> Iterator[Problem]:
    columns = table.columns
    for name in PRICES:
        value = columns[name]
        finite = np.isfinite(value)
        fix = "fix or drop the row"
        yield from _first(table, f"nan_{name}", ~finite, f"{name} is {{{name}}}", "a finite number", fix)
        low = finite & (value <= 0.0)
        yield from _first(table, f"non_positive_{name}", low, f"{name} is {{{name}}}", "a price above 0", fix)
    volume = columns["volume"]
    bad = ~np.isfinite(volume) | (volume < 0.0)
    yield from _first(table, "bad_volume", bad, "volume is {volume}", "a number >= 0", "fix or drop the row")
    opened, high, low_price, close = (columns[name] for name in PRICES)
    crossed = high < low_price
    order, fix = "low <= open, close <= high", "fix or drop the row"
    yield from _first(table, "high_below_low", crossed, "high {high} is below low {low}", order, fix)
    for name, value in (("open", opened), ("close", close)):
        outside = ~crossed & ((value > high) | (value < low_price))
        words = f"{name} {{{name}}} is outside {{low}}..{{high}}"
        yield from _first(table, f"{name}_outside", outside, words, order, fix)


def _layer2(table: Table) -> Iterator[Problem]:
    have = [name for name in LAYER2 if name in table.columns]
    if have and len(have) < len(LAYER2):
        lost = [name for name in LAYER2 if name not in have]
        found = f"{table.source} has {', '.join(have)} but not {', '.join(lost)}"
        yield Problem("partial_layer2", 1, found, "all four Layer 2 columns or none", "add them, or drop the others")
    for name, (low, high, whole, expected) in _RANGES.items():
        if name not in table.columns:
            continue
        value = table.columns[name]
        good = (value >= low) & (value <= high) & (np.floor(value) == value if whole else True)
        yield from _first(table, f"bad_{name}", ~good, f"{name} is {{{name}}}", expected, "fix the column")
    if "synthetic" in table.columns and np.unique(table.columns["synthetic"]).size > 1:
        found = f"{table.source} mixes synthetic and recorded rows"
        yield Problem("mixed_synthetic", 1, found, "one or the other", "split the file")


def step(timestamps: IntArray) -> int:
    """The most common positive difference between neighbours in ms, the smaller of equals; 0 if there is none.

    Rows that come only at events have no common one: there it is the grid that all of them stand on, from a minute up.
    """
    difference = np.diff(timestamps)
    steps, counts = np.unique(difference[difference > 0], return_counts=True)
    if counts.sum() > FEW_STEPS and counts.max() < COMMON * counts.sum():
        grid = int(np.gcd.reduce(steps))
        if grid >= MINUTE_MS:
            return grid
    return int(steps[counts.argmax()]) if steps.size else 0


def of_events(problem: Problem, columns: Iterable[str]) -> Problem:
    """The problem with another cure where signals came at times that are on no grid."""
    events = problem.code == "mixed_interval" and "signal_action" in columns
    return replace(problem, cure=EVENTS) if events else problem


def dead_problems(close: FloatArray, volume: FloatArray, where: str) -> list[Problem]:
    """Rules about all rows (T,) of a data set: a price that moves, and bars that trade. A few rows may stand still."""
    if len(close) < FEW:
        return []
    found = f"every one of the {len(close):,} closes of {where} is {close[0]:g}"
    still = [Problem("constant", 1, found, "prices that move", "bring recorded bars")] if np.ptp(close) == 0.0 else []
    if not volume.any():
        found = f"none of the {len(volume):,} bars of {where} has a volume: nothing trades there"
        still.append(Problem("no_volume", 1, found, "bars with volume", "bring bars with their volume"))
    return still


def grid_problems(timestamps: IntArray, where: str) -> list[Problem]:
    """Rules about time over sorted, unique timestamps (T,): enough rows, one grid, one interval."""
    interval = step(timestamps)
    if interval == 0:
        found = f"{where} has {len(timestamps)} row: an interval cannot be told"
        return [Problem("too_few", 1, found, "at least 2 rows", "add bars")]
    name = interval_name(interval)
    expected, cure = f"every timestamp on the {name} grid", "give one interval per data set"
    phases, counts = np.unique(timestamps % interval, return_counts=True)
    off = timestamps % interval != phases[counts.argmax()]
    if off.any():
        first = stamp(int(timestamps[off][0]))
        found = f"{where} mixes intervals: {int(off.sum())} of {off.size} rows are off the {name} grid, first {first}"
        return [Problem("mixed_interval", int(off.sum()), found, expected, cure)]
    steps = np.diff(timestamps) // interval
    starts = np.r_[0, np.flatnonzero(np.diff(steps)) + 1]
    lengths = np.diff(np.r_[starts, steps.size])
    runs = (steps[starts] > 1) & (lengths >= REPEATED_STEPS)
    if runs.any():
        at = int(starts[runs.argmax()])
        other = interval_name(int(steps[at]) * interval)
        found = f"{where} mixes intervals: {name} bars, and a run of {other} bars from {stamp(int(timestamps[at]))}"
        return [Problem("mixed_interval", int(lengths[runs].sum()), found, expected, cure)]
    return []


def interval_name(ms: int) -> str:
    """1h for 3,600,000 ms; the largest unit that divides it."""
    for unit, size in (("d", DAY_MS), ("h", HOUR_MS), ("m", MINUTE_MS), ("s", SECOND_MS)):
        if ms and ms % size == 0:
            return f"{ms // size}{unit}"
    return f"{ms}ms"


def interval_ms(name: str) -> int:
    """3,600,000 for 1h.

    Raises:
        DataError: no number, or a unit other than s, m, h, d, w.
    """
    units = {"s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS, "w": 7 * DAY_MS}
    number, unit = name[:-1], name[-1:]
    if not (number.isascii() and number.isdigit() and int(number) > 0 and unit in units):
        raise DataError(f"the interval {name!r} is unknown", "a number and s, m, h, d or w", "for example 1h")
    return int(number) * units[unit]


def require_rows(history: History, rows: int, why: str) -> None:
    """Refuses a history that is too short.

    Raises:
        DataError: fewer than `rows`; `why` says who needs them.
    """
    if len(history) < rows:
        raise DataError(
            f"{history.source} has {len(history):,} bars", f"at least {rows:,} {why}", "bring a longer history"
        )
