"""Cells of a column become numbers; what is none is marked, never guessed. Times are moments.py's.

    numbers(column, words)      a column as float64, NaN where a cell is no number, with the text for the message
    decimal_mark(columns)       "." or ",": what the prices of a whole file say, never one cell alone
    floats(column)              a column of numbers as float64, NaN where a cell is missing; integers() the same

A cell that is no number becomes NaN, and the original text comes along for the message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from himari_rl.schema import BoolArray, FloatArray, IntArray

NOT_A_TIME = int(np.iinfo(np.int64).min)
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

# Cells that only one reading allows; 1,234 and 1.234 allow two, and are told by the others of the file.
_GROUP = "[ \u00a0\u202f'\u2019]"  # a space of any width or an apostrophe between thousands
_GROUPED = rf"\d{{1,3}}({_GROUP}\d{{3}})+"
_SURE_COMMA = rf"^[+-]?(\d+,(\d{{1,2}}|\d{{4,}})|0,\d+|\d{{4,}},\d+|\d{{1,3}}([.]\d{{3}})+,\d+|{_GROUPED},\d+)$"
_SURE_POINT = (
    r"^[+-]?(\d+\.(\d{1,2}|\d{4,})|0\.\d+|\d{4,}\.\d+|\d{1,3}(,\d{3})+\.\d+|\d{1,3}(,\d{3}){2,}"
    rf"|{_GROUPED}(\.\d+)?)$"
)
_EITHER_POINT = r"^[+-]?[1-9]\d{0,2}\.\d{3}$"


def numbers(column: Any, words: Mapping[str, int], mark: str = "") -> tuple[FloatArray, list[str] | None]:
    """A pyarrow column as (T,) float64, and its cells where they are no plain numbers.

    Args:
        column: a pyarrow ChunkedArray.
        words: cells with a meaning ("BUY": 1), in upper case.
        mark: the decimal mark of a file that writes numbers for people; empty where a program wrote them.
    """
    import pyarrow as pa

    column = plain(column)
    kind = column.type
    if pa.types.is_boolean(kind):
        column, kind = column.cast(pa.int8()), pa.int8()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return floats(column), None
    if not is_text(column):
        return np.full(len(column), np.nan), []
    column = trimmed(column)
    written = column
    if mark and not words:
        column = _for_programs(column, mark)
    if not words:
        try:
            return floats(column.cast(pa.float64())), None
        except pa.ArrowInvalid:
            pass  # some cell is no number: read them one by one and keep the text for the message
    text = [str(cell) for cell in column.to_pylist()]
    lookup = {word: float(value) for word, value in words.items()}
    values = np.array([lookup.get(cell.upper(), number(cell)) for cell in text], np.float64)
    return values, text if column is written else [str(cell) for cell in written.to_pylist()]


def _for_programs(column: Any, mark: str) -> Any:
    """1.234,50 and $1,234.50 as 1234.50; a cell that is no number for people stays as it is."""
    import pyarrow.compute as pc

    column = pc.replace_substring_regex(column, r"^([+-]?)[$€£]\s*", r"\1")
    group = "," if mark == "." else "."
    grouped = rf"^[+-]?\d{{1,3}}({re.escape(group)}\d{{3}})+({re.escape(mark)}\d*)?$"
    bare = pc.if_else(pc.match_substring_regex(column, grouped), pc.replace_substring(column, group, ""), column)
    spaced = rf"^[+-]?{_GROUPED}({re.escape(mark)}\d*)?$"
    bare = pc.if_else(pc.match_substring_regex(bare, spaced), pc.replace_substring_regex(bare, _GROUP, ""), bare)
    if mark == ".":
        return bare
    return pc.if_else(pc.match_substring_regex(bare, r"^[+-]?\d*,\d+$"), pc.replace_substring(bare, ",", "."), bare)


def decimal_mark(columns: Sequence[Any], delimiter: str) -> tuple[str, str]:
    """(the decimal mark of a file's numbers, a cell that both marks allow); empty where programs wrote them all.

    Both are empty for plain numbers. A cell comes back where no other cell tells which mark it is, or where cells
    contradict each other.

    Args:
        columns: the prices and the volume, columns of pyarrow.
        delimiter: of the file: between semicolons 42.283 may be a German's thousands.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = [trimmed(column) for column in map(plain, columns) if pa.types.is_string(column.type)]
    people = [t for t in texts if pc.any(pc.match_substring_regex(t, rf"^[+-]?[$€£]?\s*\d+(,|{_GROUP})\d")).as_py()]
    money = any(pc.any(pc.match_substring_regex(t, r"^[+-]?[$€£]")).as_py() for t in texts)
    if not people and not money:
        if delimiter != ";" or not texts:
            return "", ""
        either = [pc.match_substring_regex(text, _EITHER_POINT) for text in texts]
        whole = [pc.match_substring_regex(text, r"^\d+$|^$") for text in texts]
        told = not any(pc.any(rows).as_py() for rows in either)
        told = told or not all(pc.all(pc.or_(e, w)).as_py() for e, w in zip(either, whole, strict=True))
        return ("", "") if told else ("", _sample(texts, _EITHER_POINT))
    bare = [pc.replace_substring_regex(text, r"^([+-]?)[$€£]\s*", r"\1") for text in texts]
    comma = any(pc.any(pc.match_substring_regex(text, _SURE_COMMA)).as_py() for text in bare)
    point = any(pc.any(pc.match_substring_regex(text, _SURE_POINT)).as_py() for text in bare)
    if comma != point:
        return ("," if comma else "."), ""
    return "", _sample(people or bare, r"\d[,.]\d")


def _sample(texts: Sequence[Any], pattern: str) -> str:
    import pyarrow.compute as pc

    for text in texts:
        found = pc.index(pc.match_substring_regex(text, pattern), True).as_py()
        if found >= 0:
            return str(text[found])
    return ""


def floats(column: Any) -> FloatArray:
    """(T,) float64 of a pyarrow column of numbers; NaN where a cell is missing.

    pyarrow's own to_numpy and scalars import pandas: .3 CPU seconds and 50 MB in every process that reads bars. A cast
    to the type that a column has would import pyarrow.compute: 50 ms.
    """
    import pyarrow as pa

    exact = column if pa.types.is_float64(column.type) else column.cast(pa.float64(), safe=False)
    values = np.frombuffer(_bytes(exact), np.float64)
    if column.null_count:
        values[missing(column)] = np.nan
    return values


def integers(column: Any) -> IntArray:
    """(T,) int64 of a pyarrow column of integers, booleans or timestamps; 0 where a cell is missing."""
    import pyarrow as pa

    kind = column.type
    exact = column if pa.types.is_int64(kind) or pa.types.is_timestamp(kind) else column.cast(pa.int64())
    values = np.frombuffer(_bytes(exact), np.int64)
    if column.null_count:
        values[missing(column)] = 0
    return values


def missing(column: Any) -> BoolArray:
    """(T,) where a cell of a pyarrow column is missing."""
    return integers(column.is_null()) > 0 if column.null_count else np.zeros(len(column), np.bool_)


def trimmed(column: Any) -> Any:
    """A pyarrow column of text without spaces around it, empty where a cell is missing."""
    import pyarrow.compute as pc

    return pc.utf8_trim_whitespace(pc.fill_null(column, "") if column.null_count else column)


def _bytes(column: Any) -> bytearray:
    """The cells of a column of 8 bytes each in a buffer of its own, which may be written."""
    made = bytearray(8 * len(column))
    end = 0
    for chunk in column.chunks if hasattr(column, "chunks") else [column]:
        start, end = end, end + 8 * len(chunk)
        if len(chunk):
            made[start:end] = memoryview(chunk.buffers()[1])[8 * chunk.offset : 8 * (chunk.offset + len(chunk))]
    return made


def is_text(column: Any) -> bool:
    """Whether a pyarrow column holds text, as categories too."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def plain(column: Any) -> Any:
    """Categories (dictionary-encoded columns) as their values."""
    import pyarrow as pa

    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def number(text: str) -> float:
    """The number that a program would write so, else NaN."""
    return float(text) if NUMBER.fullmatch(text) else float("nan")
