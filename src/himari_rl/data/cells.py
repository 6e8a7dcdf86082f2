"""Cells of a column become numbers and times; what can be neither is marked, never guessed.

A cell that is no number becomes NaN, one that is no time NOT_A_TIME, and the original text comes along for the
message. Times are ms since the epoch, UTC; a time without a zone is taken as UTC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from himari_rl.schema import BoolArray, FloatArray, IntArray

NOT_A_TIME = int(np.iinfo(np.int64).min)

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_TICKS_PER_MS = {"us": 1000, "ns": 1_000_000}
# An epoch's unit is told by its size: these bounds are 2000-01-01 and 2100-01-01 in seconds.
_EPOCH_FIRST_S, _EPOCH_LAST_S = 946_684_800, 4_102_444_800
_EPOCH_UNITS = (
    (1, 1000, 1),
    (1000, 1, 1),
    (10**6, 1, 1000),
    (10**9, 1, 10**6),
)  # ticks a second, ms = ticks * factor // divisor


def numbers(column: Any, words: Mapping[str, int]) -> tuple[FloatArray, list[str] | None]:
    """A pyarrow column as (T,) float64, and its cells where they are no plain numbers.

    Args:
        column: a pyarrow ChunkedArray.
        words: cells with a meaning ("BUY": 1), in upper case.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = _plain(column)
    kind = column.type
    if pa.types.is_boolean(kind):
        column, kind = column.cast(pa.int8()), pa.int8()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return np.array(column.cast(pa.float64(), safe=False).to_numpy(), np.float64), None
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return np.full(len(column), np.nan), []
    column = pc.utf8_trim_whitespace(pc.fill_null(column, ""))
    if not words:
        try:
            return np.array(column.cast(pa.float64()).to_numpy(), np.float64), None
        except pa.ArrowInvalid:
            pass  # some cell is no number: read them one by one and keep the text for the message
    text = [str(cell) for cell in column.to_pylist()]
    lookup = {word: float(value) for word, value in words.items()}
    return np.array([lookup.get(cell.upper(), _number(cell)) for cell in text], np.float64), text


def _plain(column: Any) -> Any:
    """Categories (dictionary-encoded columns) as their values."""
    import pyarrow as pa

    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _number(text: str) -> float:
    return float(text) if _NUMBER.fullmatch(text) else float("nan")


def times(column: Any) -> tuple[IntArray, list[str]]:
    """A pyarrow column as (T,) ms UTC, and its cells where they had to be read one by one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = _plain(column)
    kind = column.type
    if pa.types.is_date(kind):
        column, kind = column.cast(pa.timestamp("ms")), pa.timestamp("ms")
    if pa.types.is_timestamp(kind):
        known = np.array(column.is_valid().to_numpy(), np.bool_)
        ticks = np.array(pc.fill_null(column.cast(pa.int64()), 0).to_numpy(), np.int64)
        ms = ticks * 1000 if kind.unit == "s" else ticks // _TICKS_PER_MS.get(kind.unit, 1)
        return np.where(known, ms, NOT_A_TIME), []
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        values = np.array(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)
        exact = np.array(pc.fill_null(column, 0).to_numpy()) if pa.types.is_integer(kind) else values
        return _epochs(exact, np.isfinite(values)), []
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return np.full(len(column), NOT_A_TIME, np.int64), []
    column = pc.utf8_trim_whitespace(pc.fill_null(column, ""))
    zone = "UTC" if str(column[0]).endswith(("Z", "+00:00")) else None
    try:
        ms = column.cast(pa.timestamp("ms", tz=zone))
        return np.array(ms.cast(pa.int64()).to_numpy(), np.int64), []
    except pa.ArrowInvalid:
        pass  # an epoch, a mixture of forms, or a cell that is no time: read them one by one
    text = [str(cell) for cell in column.to_pylist()]
    values = np.array([_number(cell) for cell in text], np.float64)
    if np.isfinite(values).mean() > 0.5:
        return _epochs(values, np.isfinite(values)), text
    return np.array([_iso(cell) for cell in text], np.int64), text


def _iso(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return NOT_A_TIME
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000


def _epochs(values: Any, known: BoolArray) -> IntArray:
    """Epochs of one unit, told by the size of the first one; what lies outside 2000..2100 is no time."""
    result = np.full(len(values), NOT_A_TIME, np.int64)
    first = float(values[int(known.argmax())]) if known.any() else 0.0
    for per_second, factor, divisor in _EPOCH_UNITS:
        low, high = _EPOCH_FIRST_S * per_second, _EPOCH_LAST_S * per_second
        if low <= first < high:
            good = known & (values >= low) & (values < high)
            scaled = values[good] * factor // divisor
            result[good] = scaled.astype(np.int64)
            break
    return result
