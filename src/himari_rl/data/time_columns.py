"""Which column tells a bar's open, where a file has several that tell a time.

time_column(source, names, columns, taken)  -> TimeColumn

A column named for the open goes before one named for no moment in particular, and that before the close. Two that
could both be it must agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from himari_rl.data.cells import NOT_A_TIME
from himari_rl.data.moments import Times, times
from himari_rl.errors import DataError

OPEN_TIMES = (
    "open_time", "opentime", "time_open", "timeopen", "open_timestamp", "kline_open_time", "start", "start_time",
    "starttime", "window_start", "time_period_start", "period_start", "candle_begin_time", "start_at", "begin",
)  # fmt: skip
PLAIN_TIMES = (
    "timestamp", "unix", "unix_timestamp", "unix_time", "epoch", "datetime", "date_time", "date", "time", "ts", "t",
    "timestamp_ms", "time_utc", "date_utc", "datetime_utc", "timestamp_utc", "utc_time", "gmt_time", "utc", "day",
    "<date>", "<datetime>",
)  # fmt: skip
CLOSE_TIMES = (
    "close_time", "closetime", "time_close", "timeclose", "close_timestamp", "end_time", "time_period_end",
    "kline_close_time", "end",
)  # fmt: skip
INDEX_TIMES = ("__index_level_0__", "unnamed:_0", "index", "level_0", "")
LOCAL_TIMES = ("local_time", "localtime", "local_datetime", "local_date", "est", "cet", "et", "server_time")
TIMES = (*PLAIN_TIMES, *OPEN_TIMES, *INDEX_TIMES)
_BOTH = "date and time of day together"
_DAYS, _CLOCKS = ("date", "<date>", "day"), ("time", "<time>")


@dataclass(frozen=True, kw_only=True)
class TimeColumn:
    """The place of the column of times, or None; `column` goes before it where two were put together."""

    place: int | None
    column: Any = None
    notes: tuple[str, ...] = ()
    aside: frozenset[int] = frozenset()  # places of other columns of times
    stamps_close: bool = False


def plain_name(name: str) -> str:
    """A column's name for comparison: lower case, one _ for spaces, hyphens and brackets."""
    tidy = name.strip().lower()
    for mark in (" ", "-", "(", "["):
        tidy = tidy.replace(mark, "_")
    tidy = tidy.replace(")", "").replace("]", "")
    while "__" in tidy and not tidy.startswith("__index"):
        tidy = tidy.replace("__", "_")
    return tidy


def time_column(source: str, names: Sequence[str], columns: Sequence[Any], taken: set[int]) -> TimeColumn:
    """The column that tells each bar's open.

    Args:
        names: the columns' names in lower case.
        taken: places of columns that are something else.

    Raises:
        DataError: only a local time, or two columns of times that do not agree.
    """
    tidy = ["" if place in taken else plain_name(name) for place, name in enumerate(names)]
    place_of = {name: place for place, name in reversed(list(enumerate(tidy))) if place not in taken}
    both = _date_and_clock(place_of, columns)
    if both is not None:
        return both
    opens, plains, closes, indexes = (
        [place_of[name] for name in group if name in place_of]
        for group in (OPEN_TIMES, PLAIN_TIMES, CLOSE_TIMES, INDEX_TIMES)
    )
    if not (opens or plains or indexes or closes):
        local = [name for name in LOCAL_TIMES if name in place_of]
        if local:
            found = f"{source} has times only in the column {names[place_of[local[0]]].strip()}"
            raise DataError(found, "UTC: local clocks show an hour twice", "export it again in UTC")
        return TimeColumn(place=None)
    if not opens and not plains and not indexes:
        note = f"timestamp from {names[closes[0]].strip()}: each bar's close, read at its open"
        return TimeColumn(place=closes[0], notes=(note,), aside=frozenset(closes[1:]), stamps_close=True)
    read: dict[int, Times] = {}
    candidates = [*opens, *plains] or indexes
    if len(candidates) > 1 or closes or indexes:
        read = {place: times(columns[place]) for place in dict.fromkeys([*candidates, *closes])}
    good = [p for p in candidates if p not in read or (read[p].ms != NOT_A_TIME).mean() > 0.5 or read[p].trouble]
    rising = [place for place in good if place in read and len(read[place].ms) and (np.diff(read[place].ms) > 0).all()]
    chosen = (good or candidates)[0]
    if rising and tidy[chosen] != "timestamp":
        chosen = rising[0]
        for other in rising[1:]:
            _agree(source, names, read, chosen, other)
    aside = {place for place in read if place != chosen and (read[place].ms != NOT_A_TIME).mean() > 0.5}
    aside |= {place for place in indexes if place != chosen}
    return TimeColumn(place=chosen, aside=frozenset(aside - {chosen}))


def _agree(source: str, names: Sequence[str], read: dict[int, Times], opened: int, other: int) -> None:
    """Two columns that could both be the open: equal, or the other is the same bar's close."""
    one, two = read[opened].ms, read[other].ms
    late = two - one
    steps = np.diff(one)
    step = int(np.median(steps)) if steps.size else 0
    if (late == 0).all() or (np.abs(late - step) <= 1000).mean() > 0.9 or (two == NOT_A_TIME).all():
        return
    found = f"{source} has {names[opened].strip()} and {names[other].strip()}, which tell different times"
    raise DataError(found, "one column of times", "drop the one that is not the bar's open")


def _date_and_clock(place_of: dict[str, int], columns: Sequence[Any]) -> TimeColumn | None:
    """A column of dates and one of the time of day as one column of text."""
    days = next((place_of[name] for name in _DAYS if name in place_of), None)
    clock = next((place_of[name] for name in _CLOCKS if name in place_of), None)
    if days is None or clock is None or days == clock:
        return None
    import pyarrow as pa
    import pyarrow.compute as pc

    day, hour = columns[days], columns[clock]
    if pa.types.is_time(hour.type):
        hour = pc.utf8_slice_codeunits(hour.cast(pa.string()), 0, 8)
    elif not pa.types.is_string(hour.type):
        return None
    day = day.cast(pa.string())
    digits = pc.match_substring_regex(pc.fill_null(hour, ""), r"^\s*(\d{4}|\d{6})\s*$")
    if pc.all(digits).as_py():  # 20240131 and 093000
        bare = pc.replace_substring_regex(pc.fill_null(day, ""), r"[^0-9]", "")
        joined = pc.binary_join_element_wise(bare, pc.utf8_trim_whitespace(hour), "")
        return TimeColumn(place=days, column=joined, notes=(_BOTH,), aside=frozenset({clock}))
    clocks = pc.match_substring_regex(pc.fill_null(hour, ""), r"^\s*\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?\s*$|^\s*$")
    if not pc.all(clocks).as_py():
        return None
    day = pc.replace_substring_regex(pc.utf8_trim_whitespace(pc.fill_null(day, "")), r"[ T]0?0:00(:00)?(\.0+)?$", "")
    joined = pc.binary_join_element_wise(day, pc.utf8_trim_whitespace(pc.fill_null(hour, "")), " ")
    joined = pc.utf8_trim_whitespace(joined)
    return TimeColumn(place=days, column=joined, notes=(_BOTH,), aside=frozenset({clock}))
