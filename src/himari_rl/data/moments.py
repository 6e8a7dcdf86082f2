"""Cells of a time column become ms UTC, in whatever form people write a time; what is none is marked, never guessed.

    times(column)  -> Times     the moments, the form they were read in, and what is wrong with all of them at once

An epoch's unit is told by its size, and the sizes of 2000..2100 in s, ms, us and ns do not overlap. A time without
a zone is UTC. Day before month or behind it is told by the whole column, never by one cell.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any

import numpy as np

from himari_rl.data.cells import NOT_A_TIME, floats, integers, is_text, missing, number, plain, trimmed
from himari_rl.schema import DAY_MS, BoolArray, FloatArray, IntArray

_TICKS_PER_MS = {"us": 1000, "ns": 1_000_000}
_EPOCH_FIRST_S, _EPOCH_LAST_S = 946_684_800, 4_102_444_800  # 2000-01-01 and 2100-01-01
UNITS = (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9))  # ticks a second
_EXCEL_FIRST, _EXCEL_LAST, _EXCEL_EPOCH = 36_526, 73_050, 25_569  # days of 2000, 2100 and 1970 since 1899-12-30
_SPREADSHEET = "export the file again with the times as text or whole numbers (format the column as 0 before saving)"
_CLOCK = r"(?:[ T,]+(?P<h>\d{1,2}):(?P<m>\d{2})(?::(?P<s>\d{2})(?P<f>\.\d+)?)?)?\s*(?P<half>[AaPp][Mm])?"
_ZONE = r"\s*(?P<zone>Z|(?:UTC|GMT)?(?:[+-]\d{1,2}(?::?\d{2})?)?|UTC|GMT)?"
_DATE = re.compile(r"(?P<a>\d{1,4})(?P<mark>[/.-])(?P<b>\d{1,2})(?P=mark)(?P<c>\d{2,4})" + _CLOCK + _ZONE)
_ISO_ZONE = re.compile(r"(?:Z|[+-]\d\d:?\d\d|[+-]\d\d)$")
_COMMA = re.compile(r"\d+,\d+(?:[eE]\+?\d+)?")  # a number of a spreadsheet with decimal commas
_COMPACT = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


@dataclass(frozen=True, kw_only=True)
class Times:
    """(T,) moments of one column."""

    ms: IntArray  # UTC, or NOT_A_TIME
    texts: list[str]  # original cells, where they had to be read one by one
    form: str = ""  # in words, where it is not our own
    raw: IntArray | FloatArray | None = None  # the epochs as they stand there, in `ticks` a second
    ticks: int = 0
    naive: bool = False  # they stand there without a zone, and are taken as UTC
    trouble: tuple[str, str, str] | None = None  # found, expected, cure: wrong with the column as a whole


def times(column: Any) -> Times:
    """A pyarrow column as moments."""
    import pyarrow as pa

    column = plain(column)
    kind = column.type
    if pa.types.is_date(kind):
        column, kind = column.cast(pa.timestamp("ms")), pa.timestamp("ms")
    if pa.types.is_timestamp(kind):
        known = ~missing(column)
        ticks = integers(column)
        ms = ticks * 1000 if kind.unit == "s" else ticks // _TICKS_PER_MS.get(kind.unit, 1)
        times_ = np.where(known, ms, NOT_A_TIME)
        return Times(ms=times_, texts=[], naive=kind.tz is None, trouble=_wrong_unit(ms[known]))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        values = floats(column)
        return _numbers(integers(column) if pa.types.is_integer(kind) else values, np.isfinite(values), [])
    if not is_text(column):
        return Times(ms=np.full(len(column), NOT_A_TIME, np.int64), texts=[])
    column = trimmed(column)
    try:
        whole = integers(column)
        read = _numbers(whole, np.ones(len(whole), np.bool_), [])
        lost = bool((read.ms == NOT_A_TIME).any())
        return replace(read, texts=[str(cell) for cell in column.to_pylist()]) if lost else read
    except pa.ArrowInvalid:
        pass
    zone = "UTC" if _ISO_ZONE.search(str(column[0])[10:]) else None
    try:
        ms = integers(column.cast(pa.timestamp("ms", tz=zone)))
        return Times(ms=ms, texts=[], naive=zone is None, trouble=_wrong_unit(ms))
    except pa.ArrowInvalid:
        pass  # an epoch with decimals, another form, or a cell that is no time: read them one by one
    return _texts([str(cell) for cell in column.to_pylist()])


def _texts(written: list[str]) -> Times:
    text = [cell.replace(",", ".") if _COMMA.fullmatch(cell) else cell for cell in written]
    values = np.array([number(cell) for cell in text], np.float64)
    known = np.isfinite(values)
    if known.mean() > 0.5:
        if (rounded := _rounded(text, values, known)) is not None:
            return Times(ms=np.full(len(text), NOT_A_TIME, np.int64), texts=text, trouble=rounded)
        whole = [int(cell) if cell.isascii() and cell.isdigit() and len(cell) < 19 else 0 for cell in text]
        exact = np.array(whole, np.int64)
        return _numbers(exact if (exact[known] != 0).all() else values, known, text)
    ms = np.array([_iso(cell) for cell in text], np.int64)
    if (ms != NOT_A_TIME).mean() > 0.5:
        naive = _ISO_ZONE.search(text[0][10:]) is None and not text[0].endswith("UTC")
        return Times(ms=ms, texts=text, naive=naive, trouble=_wrong_unit(ms[ms != NOT_A_TIME]))
    return _dates(text, ms)


def _numbers(values: IntArray | FloatArray, known: BoolArray, text: list[str]) -> Times:
    """Epochs of one unit, dates in digits or Excel's day numbers; what lies outside 2000..2100 is no time."""
    result = np.full(len(values), NOT_A_TIME, np.int64)
    inside = [known & (values >= _EPOCH_FIRST_S * ticks) & (values < _EPOCH_LAST_S * ticks) for _, ticks in UNITS]
    used = [place for place, rows in enumerate(inside) if rows.any()]
    if not used:
        return _days(values, known, text) or _digits(values, known, text) or Times(ms=result, texts=text)
    first = min(used, key=lambda place: int(inside[place].argmax()))
    if len(used) > 1:
        at = min(int(inside[place].argmax()) for place in used if place != first)
        after = next(place for place in used if place != first and inside[place][at])
        found = f"the times are in {UNITS[first][0]} up to row {at} and in {UNITS[after][0]} from row {at + 1} on"
        cure = f"split the file before row {at + 1} and name both files, or bring all times in one unit"
        return Times(ms=result, texts=text, trouble=(found, "one unit in a file", cure))
    unit, ticks = UNITS[first]
    good = inside[first]
    scaled = values[good] * 1000 // ticks if ticks <= 1000 else values[good] // (ticks // 1000)
    result[good] = scaled.astype(np.int64)
    form = {"us": "times in microseconds", "ns": "times in nanoseconds"}.get(unit, "")
    return Times(ms=result, texts=text, form=form, raw=values[good], ticks=ticks)


def _days(values: IntArray | FloatArray, known: BoolArray, text: list[str]) -> Times | None:
    """Days since 1899-12-30, as Excel counts them, to the nearest second."""
    inside = known & (values >= _EXCEL_FIRST) & (values < _EXCEL_LAST)
    if inside.sum() <= 0.5 * max(int(known.sum()), 1) or values.dtype.kind != "f":
        return None
    decimals = max((len(cell.partition(".")[2]) for cell in text), default=12)
    ms = np.full(len(values), NOT_A_TIME, np.int64)
    if 0 < decimals < 5:
        found = f"the times are Excel's day numbers with {decimals} decimals, which hold {10**-decimals * 86_400:.0f} s"
        return Times(ms=ms, texts=text, trouble=(found, "times to the second", _SPREADSHEET))
    ms[inside] = np.rint((values[inside] - _EXCEL_EPOCH) * (DAY_MS / 1000)).astype(np.int64) * 1000
    return Times(ms=ms, texts=text, form="times as Excel's day numbers", naive=True)


def _digits(values: IntArray | FloatArray, known: BoolArray, text: list[str]) -> Times | None:
    """20240131, 202401310900 and 20240131090000."""
    known = known & (np.abs(values) < 1e15)  # what is more is no date, and from 2^63 on no integer here
    whole = values[known].astype(np.int64)
    size = len(str(int(whole[0]))) if whole.size else 0
    if size not in _COMPACT or (values.dtype.kind == "f" and (values[known] != whole).any()):
        return None
    ms = np.full(len(values), NOT_A_TIME, np.int64)
    rows = np.flatnonzero(known)
    for row, value in zip(rows.tolist(), whole.tolist(), strict=True):
        try:
            moment = datetime.strptime(str(value), _COMPACT[size]).replace(tzinfo=UTC)
        except ValueError:
            continue
        if 2000 <= moment.year < 2100:
            ms[row] = round(moment.timestamp() * 1000)
    return Times(ms=ms, texts=text, form="times as digits (year, month, day, ...)")


def _rounded(text: list[str], values: FloatArray, known: BoolArray) -> tuple[str, str, str] | None:
    """Whether 1.70407E+12 lost its last digits: what the printed ones can hold, against what the steps are."""
    written = [cell.upper().partition("E") for cell in text]
    some = [(place, len(head.partition(".")[2]), tail) for place, (head, mark, tail) in enumerate(written) if mark]
    some = [(place, decimals, tail) for place, decimals, tail in some if known[place]]
    if not some:
        return None
    decimals = max(count for _, count, _ in some)
    raw = 10.0 ** (int(some[0][2]) - decimals)
    first = float(values[some[0][0]])
    ticks = next((t for _, t in UNITS if _EPOCH_FIRST_S * t <= first < _EPOCH_LAST_S * t), 0)
    if not ticks or raw <= ticks:
        return None
    steps = np.diff(values[known])
    common = float(np.median(steps)) if steps.size else 0.0
    if steps.size and (steps > 0).all() and common > raw * 1.5 and not (np.rint(steps) % np.rint(common)).any():
        return None  # a program wrote all the digits that there are: 1.7040672E+12 for whole hours
    found = f"the times were rounded by a spreadsheet: {text[some[0][0]]!r} tells {raw / ticks:,.0f} s at best"
    return found, "times to the second", f"{_SPREADSHEET}; do not drop rows"


def _wrong_unit(ms: IntArray) -> tuple[str, str, str] | None:
    """Times in 1970: seconds or milliseconds that were read as something smaller."""
    if not ms.size or ms.min() < 0 or ms.max() >= 366 * DAY_MS:
        return None
    cure = "convert them again with their unit, as in pandas.to_datetime(column, unit='ms')"
    return "every time is in 1970: an epoch was read in a wrong unit", "times of bars", cure


def _iso(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text.removesuffix(" UTC"))
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return NOT_A_TIME
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000


def _dates(text: list[str], unread: IntArray) -> Times:
    """Dates with slashes or dots: the order of day and month that the whole column allows."""
    parsed = [_DATE.fullmatch(cell) for cell in text]
    good = [match for match in parsed if match is not None]
    if len(good) <= 0.5 * len(text):
        return Times(ms=unread, texts=text)
    orders = {}
    names = ("ymd",) if len(good[0]["a"]) == 4 else ("dmy",) if good[0]["mark"] == "." else ("mdy", "dmy")
    for order in names:
        ms = np.array([NOT_A_TIME if match is None else _moment(match, order) for match in parsed], np.int64)
        orders[order] = ms
    read = {order: ms for order, ms in orders.items() if (ms != NOT_A_TIME).sum() >= len(good)}
    if len(read) > 1:
        rising = {o: ms for o, ms in read.items() if (np.diff(ms) > 0).all() and _even(ms)}
        read = rising if len(rising) == 1 else read
    if len(read) > 1:
        found = f"the dates are like {good[0][0]!r}: month first or day first, the file allows both"
        return Times(ms=unread, texts=text, trouble=(found, "ISO 8601 such as 2024-01-31 09:00", "write the dates so"))
    if not read:
        return Times(ms=unread, texts=text)
    ((order, ms),) = read.items()
    words = {"mdy": "month/day/year", "dmy": "day/month/year", "ymd": "year/month/day"}[order]
    form = f"dates as {words.replace('/', good[0]['mark'])}"
    naive = not good[0]["zone"]
    return Times(ms=ms, texts=text, form=form, naive=naive, trouble=_wrong_unit(ms[ms != NOT_A_TIME]))


def _even(ms: IntArray) -> bool:
    """Whether no step is over 60 times the usual one: months read as days jump by a month."""
    steps = np.diff(ms)
    return bool(steps.size and steps.max() <= 60 * np.median(steps))


def _moment(match: re.Match[str], order: str) -> int:
    midnight = _midnight(match["a"], match["b"], match["c"], order)
    hour, half = int(match["h"] or 0), (match["half"] or "").upper()
    if midnight == NOT_A_TIME or hour > 23 or (half and not 1 <= hour <= 12):
        return NOT_A_TIME
    hour = hour % 12 + 12 * (half == "PM") if half else hour
    minute, second = int(match["m"] or 0), int(match["s"] or 0)
    if minute > 59 or second > 59:
        return NOT_A_TIME
    ms = ((hour * 60 + minute) * 60 + second) * 1000 + int(float(match["f"] or 0) * 1000)
    zone = re.search(r"([+-])(\d{1,2}):?(\d{2})?$", match["zone"] or "")
    away = (int(zone[2]) * 60 + int(zone[3] or 0)) * (1 if zone[1] == "+" else -1) if zone else 0
    return midnight + ms - away * 60_000


@lru_cache(maxsize=100_000)
def _midnight(first: str, second: str, third: str, order: str) -> int:
    parts = dict(zip(order, (first, second, third), strict=True))
    year = int(parts["y"]) + (2000 if len(parts["y"]) == 2 else 0)
    if len(parts["y"]) not in (2, 4) or max(len(parts["m"]), len(parts["d"])) > 2:
        return NOT_A_TIME
    try:
        return (date(year, int(parts["m"]), int(parts["d"])) - date(1970, 1, 1)).days * DAY_MS
    except ValueError:
        return NOT_A_TIME
