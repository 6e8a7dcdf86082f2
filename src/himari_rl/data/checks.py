"""What makes bars unusable: one list of rules, which load_bars enforces and the audit reports.

    problems(table)      rules about one file's columns and cells, each with its first offending row
    grid_problems(...)   rules about time over all rows of a data set: grid and mixed intervals
    dead_problems(...)   a feed that stands still: nothing can be learned or judged there

A cure must leave good data: whoever follows it gets the right bars or the next refusal, never other bars.

Gaps, outliers and bars without volume are facts of a market, not problems: the audit shows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from himari_rl.data.cells import NOT_A_TIME
from himari_rl.data.grid import interval_name, is_interval, step
from himari_rl.data.local_clock import merged_hour, repeated, shifted
from himari_rl.data.orders import above, backwards, broken, swapped
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

# The same larger step this many times in a row is a second interval, not a row of outages: bars of another length
# stand on their own grid, and a thin market may well trade every second minute for a while.
REPEATED_STEPS, REPEATED_FEW = 10, 60
FEW_TIMES = 5  # the multiple up to which a thin market's runs are long
FEW = 100  # rows that may stand still: an hour's halt is no dead feed
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
    return [*_times(table), *_order(table), *_prices(table), *_layer2(table)]


def cell_problems(table: Table) -> list[Problem]:
    """The rules for times and optional columns alone, for a file without prices (funding settlements)."""
    return [*_times(table), *_layer2(table)]


def _row(table: Table, row: int) -> str:
    number = row + 1 if table.rows is None else int(table.rows[row])
    return f"{table.source} row {number} ({stamp(int(table.timestamp[row]))})"


def _cell(table: Table, name: str, row: int) -> str:
    if table.texts.get(name):
        return repr(table.texts[name][row][:40])
    return repr(float(table.columns[name][row])).removesuffix(".0") if name in table.columns else "not a time"


def _first(table: Table, code: str, bad: BoolArray, words: str, expected: str, cure: str) -> Iterator[Problem]:
    """One Problem if any row is bad; {column} in `words` shows the cell of the first bad row."""
    if bad.any():
        row = int(bad.argmax())
        cure = "export the column again" if cure.startswith("fix or drop") and bad.mean() > 0.5 else cure
        found = f"{_row(table, row)}: " + words.format_map(_Cells(table, row))
        yield Problem(code, int(bad.sum()), found, expected, cure)


class _Cells(dict[str, str]):
    """The cells of one row as a message shows them."""

    def __init__(self, table: Table, row: int) -> None:
        super().__init__()
        self.table, self.row = table, row

    def __missing__(self, name: str) -> str:
        return _cell(self.table, name, self.row)


_UTC = "write the times with their offset (+02:00), or convert them to UTC before saving; do not drop rows"
_EXPORT = "export the times again as whole numbers or ISO 8601 text; do not drop rows"
_MANY = 0.05  # of the rows with the time of the row before: they were rounded, or series were mixed


def _times(table: Table) -> Iterator[Problem]:
    times = table.timestamp
    unread = times == NOT_A_TIME
    yield from _first(
        table, "bad_time", unread, "the timestamp is {timestamp}", "ISO 8601 or an epoch in s or ms", "fix or drop it"
    )
    after = times[1:] - times[:-1]
    pair = ~unread[1:] & ~unread[:-1]
    same, back = np.r_[False, pair & (after == 0)], np.r_[False, pair & (after < 0)]
    if (narrow := _narrow(table, same)) is not None:
        yield narrow
        return
    if (same | back).any() and (place := repeated(int(times[int((same | back).argmax())]))):
        bad, words = same | back, f"the hour that clocks show twice in autumn stands there twice: local time ({place})"
        yield from _first(table, "local_time", bad, words, "times in UTC", _UTC)
        return
    yield from _first(table, "unsorted", back, "is earlier than the row before it", "rising, unique timestamps",
                      "sort the rows by timestamp")  # fmt: skip
    if same.any():
        words, cure = _alike(table, same)
        yield from _first(table, "duplicate", same, words, "rising, unique timestamps", cure)


def _narrow(table: Table, same: BoolArray) -> Problem | None:
    """Epochs that lost their last digits: held in 32 bits, or rounded to a power of ten."""
    if table.epochs is None or len(table) < 4:
        return None
    raw, ticks = table.epochs
    steps = np.diff(np.sort(raw.astype(np.float64)))
    steps = steps[steps > 0]
    if not steps.size:
        return None
    usual = float(np.median(steps))
    even = not same.any() and not (steps % usual).any() and is_interval(round(usual * 1000 / ticks))
    if even:
        return None
    exact = raw.astype(np.float64)
    if (exact == exact.astype(np.float32)).all() and float(np.spacing(np.float32(exact[0]))) > ticks:
        seconds = float(np.spacing(np.float32(exact[0]))) / ticks
        found = f"{table.source}: every time is one that float32 can hold, which is one in {seconds:,.0f} s"
        return Problem("float32_time", 1, found, "times in int64 or float64", _EXPORT)
    power = 10.0 ** np.arange(18, 0, -1)
    unit = next((p for p in power if not (exact % p).any()), 1.0)
    if unit / ticks >= 1000 or (unit / ticks >= 100 and same.mean() > _MANY):
        found = f"{table.source}: every time is a multiple of {unit / ticks:,.0f} s: a spreadsheet rounded them"
        return Problem("rounded_time", 1, found, "times to the second", _EXPORT)
    return None


def _alike(table: Table, same: BoolArray) -> tuple[str, str]:
    """Words and cure for rows with the time of the row before: equal, a bar that was still open, or others."""
    row = int(same.argmax())
    words = "has the timestamp of the row before it"
    if len(table) >= 20 and same.mean() > _MANY:
        share = f"{words}, as have {same.mean():.0%} of the rows: rounded times, or several series in one file"
        return share, "bring each bar with its own time; do not drop rows"
    now = {name: float(column[row]) for name, column in table.columns.items()}
    before = {name: float(column[row - 1]) for name, column in table.columns.items()}
    differing = [name for name in now if now[name] != before[name]]
    if not differing:
        return words, "keep one row of each"
    name = next((n for n in ("close", *PRICES, "volume") if n in differing), differing[0])
    words += f" but other values ({name} {before[name]!r}, then {now[name]!r})"
    if not {*PRICES, "volume"} <= now.keys():
        return f"{words}: they contradict each other", "keep the one that holds"
    later = now["high"] >= before["high"] and now["low"] <= before["low"] and now["volume"] >= before["volume"]
    earlier = now["high"] <= before["high"] and now["low"] >= before["low"] and now["volume"] <= before["volume"]
    if later and now["open"] == before["open"]:
        return f"{words}: a bar that was still open, then the same bar complete", "keep the last row of each time"
    if earlier and now["open"] == before["open"]:
        return f"{words}: the complete bar, then the same bar while it was open", "keep the first row of each time"
    return f"{words}: they contradict each other", "download them again; do not drop either"


def _order(table: Table) -> Iterator[Problem]:
    """Rules about which column is which, and about whose clock: what the prices say as a whole."""
    prices = {name: table.columns[name] for name in PRICES}
    sound = np.isfinite([prices[name] for name in PRICES]).all(axis=0)
    wrong = broken(*prices.values()) & sound
    if wrong.sum() >= FEW_TIMES and wrong.sum() > 0.5 * len(table):
        renamed = swapped({name: values[sound] for name, values in prices.items()})
        found = f"{table.source}: {int(wrong.sum()):,} of {len(table):,} rows are broken: the columns are swapped"
        if renamed is None:
            cure = "write the header for the columns as they are, and bring their prices alone"
            found = found.replace("the columns are swapped", "these columns are not open, high, low and close")
        else:
            holds = {ours: name for name, ours in renamed.items()}
            place = ", ".join(holds[name] for name in PRICES)
            cure = f"the columns named {', '.join(PRICES)} hold {place}: write these names above them"
        yield Problem("swapped_columns", 1, found, "low <= open, close <= high in nearly every row", cure)
    rising = bool((np.diff(table.timestamp) > 0).all()) and bool((table.timestamp != NOT_A_TIME).all())
    if rising and sound.all() and not wrong.any() and len(table) >= FEW_TIMES:
        if backwards(prices["open"], prices["close"]):
            found = f"{table.source}: each open is the close of the next row: open and close are swapped"
            yield Problem("swapped_columns", 1, found, "opens near the close before", "exchange the two names")
        merged = merged_hour(table.timestamp, prices["open"], prices["close"], step(table.timestamp))
        if table.naive and merged is not None:
            at, place = merged
            found = f"{table.source}: the price jumps at {stamp(at)}, the Sunday on which clocks go back, and nowhere"
            found += f" around: the hour that stands there twice in local time ({place}) was dropped once"
            yield Problem("local_time", 1, found, "times in UTC", "export it again with Z or an offset at each")


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
    crossed = above(low_price, high)
    order, fix = "low <= open, close <= high", "fix or drop the row"
    yield from _first(table, "high_below_low", crossed, "high {high} is below low {low}", order, fix)
    for name, value in (("open", opened), ("close", close)):
        outside = ~crossed & (above(value, high) | above(low_price, value))
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
    if off.any() and (row := shifted(timestamps, interval)) is not None:
        found = f"{where}: the {name} grid moves by an hour at {stamp(int(timestamps[row]))}, where clocks change"
        cure = "make the bars from hours in UTC; daily bars of an exchange: write dates without a time"
        return [Problem("local_time", 1, found, "the grid of UTC, not of a local clock", cure)]
    if not is_interval(interval):
        found = f"{where} has a {interval / SECOND_MS:,g} s grid, which is no interval of bars: the times were rounded"
        return [Problem("rounded_time", 1, found, "bars of whole minutes or seconds", _EXPORT)]
    if off.any():
        first = stamp(int(timestamps[off][0]))
        found = f"{where} mixes intervals: {int(off.sum())} of {off.size} rows are off the {name} grid, first {first}"
        return [Problem("mixed_interval", int(off.sum()), found, expected, cure)]
    steps = np.diff(timestamps) // interval
    starts = np.r_[0, np.flatnonzero(np.diff(steps)) + 1]
    lengths = np.diff(np.r_[starts, steps.size])
    runs = (steps[starts] > 1) & (lengths >= REPEATED_STEPS)
    for run in np.flatnonzero(runs).tolist():
        runs[run] = _second(timestamps, interval, int(starts[run]), int(steps[starts[run]]), int(lengths[run]))
    if runs.any():
        at = int(starts[runs.argmax()])
        other = interval_name(int(steps[at]) * interval)
        found = f"{where} mixes intervals: {name} bars, and a run of {other} bars from {stamp(int(timestamps[at]))}"
        return [Problem("mixed_interval", int(lengths[runs].sum()), found, expected, cure)]
    return []


def _second(times: IntArray, interval: int, start: int, multiple: int, length: int) -> bool:
    """Whether a run of equal steps is bars of another interval: long, and on that interval's own grid."""
    if length < (REPEATED_FEW if multiple <= FEW_TIMES else REPEATED_STEPS):
        return False
    longer = multiple * interval
    return not times[start] % min(longer, DAY_MS) or length >= REPEATED_FEW


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
