"""A file of bars as it is, before anybody judges it.

    read_table(path)  -> Table     a file of any layout of layouts.py; what is no number or time is marked
    write_bars(bars, path)         the same columns back, atomically; read again they are the same bars

Nothing is repaired here in silence: `notes` say what the file was taken for and the little that grid.py settles.
checks.py says what is wrong, sources.py refuses it and audit.py reports it, all three from the same Table. Cells
that are no number become NaN, times that cannot be read become NOT_A_TIME, and both keep their row. Rows are
counted from 1, the header not included.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from himari_rl.data.cells import NOT_A_TIME, decimal_mark, is_text, numbers
from himari_rl.data.grid import settle, step
from himari_rl.data.layouts import Raw, recognise
from himari_rl.data.local_clock import lost_hour
from himari_rl.data.moments import times
from himari_rl.data.readers import CURES, SUFFIXES, read_raw
from himari_rl.errors import DataError
from himari_rl.schema import ACTIONS, LAYER2, PRICES, Bars, BoolArray, FloatArray, IntArray
from himari_rl.storage import is_remote, name_of, write_atomic
from himari_rl.storage.mirror import fetched, shown

REQUIRED = ("timestamp", *PRICES, "volume")

_TIERS = {"T1": 1, "T2": 2, "T3": 3, "T4": 4}
_WORDS = {"signal_action": ACTIONS, "signal_tier": _TIERS, "synthetic": {"TRUE": 1, "FALSE": 0}}
_DATE = re.compile(r"[_.-]?\d{4}(?:[_.-]?\d+)*$")
_NAME = re.compile(r"^(?P<symbol>.+?)[_-](?P<interval>\d+[smhdw])(?:[_.-].*)?$")


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of one file in file order. Arrays are (T,)."""

    source: str
    symbol: str
    timestamp: IntArray  # ms UTC, or NOT_A_TIME
    columns: dict[str, FloatArray]  # every numeric column by its lower-case name; unreadable cells are NaN
    ignored: tuple[str, ...] = ()  # columns of text that mean nothing here
    missing: tuple[str, ...] = ()  # required columns that the file does not have
    texts: dict[str, list[str]] = field(default_factory=dict)  # original cells of the columns that hold text
    notes: tuple[str, ...] = ()  # what the file was taken for, a line each
    rows: IntArray | None = None  # the rows' numbers in the file, where some were left out
    naive: bool = False  # the times stand there without a zone
    epochs: tuple[IntArray | FloatArray, int] | None = None  # the times as they stand there, in ticks a second

    def __len__(self) -> int:
        return int(self.timestamp.shape[0])

    def take(self, rows: BoolArray | IntArray) -> Table:
        """The chosen rows, in that order."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Table(
            source=self.source,
            symbol=self.symbol,
            timestamp=self.timestamp[rows],
            columns=columns,
            ignored=self.ignored,
            missing=self.missing,
            notes=self.notes,
        )


def name_parts(path: str | Path) -> tuple[str, str | None]:
    """("BTC-USDT", "1h") from BTC-USDT_1h.parquet or BTC-USDT_1h_2024.csv.

    The interval is None where the name does not tell one; then a date at its end is no part of the symbol.
    """
    stem = stem_of(path)
    match = _NAME.match(stem)
    return (match["symbol"], match["interval"]) if match else (_DATE.sub("", stem) or "asset", None)


def stem_of(path: str | Path) -> str:
    """The file name without the ending of its kind."""
    name = name_of(path)
    endings = [suffix for suffix in SUFFIXES if name.lower().endswith(suffix)]
    return name[: -len(max(endings, key=len))] if endings else name


def stamp(ms: int) -> str:
    """A time for people: 2024-01-01T00:00Z."""
    if ms == NOT_A_TIME:
        return "no time"
    moment = np.array([ms], "datetime64[ms]")
    return f"{np.datetime_as_string(moment, unit='m' if ms % 60_000 == 0 else 'ms')[0]}Z"


def read_table(path: str | Path) -> Table:
    """Reads one file of any layout of layouts.py.

    Times may be a timestamp column, ISO 8601 text (no zone means UTC), dates, or an epoch in s, ms, us or ns. A
    column that holds text and is none of ours is set aside and named in `ignored`.

    Raises:
        DataError: the file is missing, empty, not readable as its kind, of no layout, or names a column twice.
    """
    file = fetched(str(path)) if is_remote(path) else Path(path)
    name = file.name.lower()
    if not file.is_file():
        kind = "a folder" if file.is_dir() else "missing"
        raise DataError(f"{file} is {kind}", "a .csv, .csv.gz or .parquet file of bars", "check the path")
    if not name.endswith(SUFFIXES):
        cure = next((cure for ending, cure in CURES.items() if name.endswith(ending)), "rename it")
        raise DataError(f"{file} is of no known kind", f"a name that ends in {', '.join(SUFFIXES)}", cure)
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty (0 bytes)", "a header and rows of bars", "download it again")
    return interpret(shown(file), name_parts(file)[0], read_raw(file))


def interpret(source: str, symbol: str, raw: Raw) -> Table:
    """Columns of a file or a frame as a Table; a column `symbol` goes before the argument.

    Raises:
        DataError: no rows, several symbols, or times or numbers that nobody can tell.
    """
    rows = len(raw.columns[0]) if raw.columns else 0
    if rows == 0:
        found = f"{source} has a header but no rows" if raw.columns else f"{source} is empty"
        raise DataError(found, "rows of bars", "")
    named = recognise(source, raw)
    cells = dict(named.columns)
    symbol = _symbol(source, symbol, named.symbol, cells.pop("symbol", None))
    mark = _mark(source, [cells[name] for name in REQUIRED[1:] if name in cells], raw.delimiter)
    columns: dict[str, FloatArray] = {}
    texts: dict[str, list[str]] = {}
    ignored = list(named.ignored)
    for name, column in cells.items():
        if name == "timestamp":
            continue
        values, text = numbers(column, _WORDS.get(name, {}), mark)
        ours = name in REQUIRED or name in LAYER2 or name in ("funding_rate", "synthetic")
        if not ours and text is not None and bool(np.isnan(values).all()):
            ignored.append(name)
            continue
        columns[name] = values
        if text is not None:
            texts[name] = text
    told = times(cells["timestamp"]) if "timestamp" in cells else None
    if told is not None and told.trouble is not None:
        found, expected, cure = told.trouble
        raise DataError(f"{source}: {found}", expected, cure)
    if told is not None:
        texts["timestamp"] = told.texts
    notes = [*named.notes, *([told.form] if told is not None and told.form else [])]
    notes += [{",": "decimal commas", ".": "numbers written with thousands separators"}[mark]] if mark else []
    table = Table(
        source=source,
        symbol=symbol,
        timestamp=np.full(rows, NOT_A_TIME, np.int64) if told is None else told.ms,
        columns=columns,
        ignored=tuple(dict.fromkeys(ignored)),
        missing=tuple(name for name in REQUIRED if name not in cells),
        texts=texts,
        notes=(*([f"read as: {'; '.join(notes)}"] if notes else []), *raw.said),
        naive=told is not None and told.naive,
        epochs=None if told is None or told.raw is None else (told.raw, told.ticks),
    )
    return _settled(table, newest_first=named.newest_first, stamps_close=named.stamps_close)


def _mark(source: str, columns: list[Any], delimiter: str) -> str:
    """The decimal mark of numbers written for people; empty where programs wrote them, which is quickly told."""
    columns = [column for column in columns if is_text(column)]
    if not columns or (delimiter != ";" and all(numbers(column, {})[1] is None for column in columns)):
        return ""
    mark, unclear = decimal_mark(columns, delimiter)
    if unclear:
        found = f"{source} has cells such as {unclear!r}, whose mark may stand for decimals or for thousands"
        raise DataError(found, "1234.5", "write the numbers without thousands, with a decimal point and commas between")
    return mark


def _symbol(source: str, symbol: str, wrapped: str | None, column: Any) -> str:
    if column is None:
        return symbol if wrapped is None else wrapped
    symbols = sorted({str(value) for value in column.to_pylist()})
    if len(symbols) > 1:
        raise DataError(
            f"{source} mixes {len(symbols)} symbols ({', '.join(symbols[:4])})", "one", "split it into a file each"
        )
    return symbols[0].replace("/", "-")


def _settled(table: Table, *, newest_first: bool, stamps_close: bool) -> Table:
    """The table in rising order of its layout, its times on their grid; nothing where a time is broken or missing."""
    if newest_first and len(table) > 1 and (np.diff(table.timestamp) < 0).all():
        turned = _picked(table, np.arange(len(table))[::-1])
        table = replace(turned, notes=(*table.notes, "the newest row first, read from its end"))
    times = table.timestamp
    if table.missing or (times == NOT_A_TIME).any() or not (np.diff(times) > 0).all():
        return table
    interval = step(times)
    if stamps_close and interval and not (-times % interval).any():
        times = times - interval
    settled = settle(times)
    left = table if settled.left.all() else _picked(table, np.flatnonzero(settled.left))
    notes = [*table.notes, *settled.notes]
    if table.naive and (lost := lost_hour(settled.timestamp, interval)) is not None:
        at, place = lost
        notes.append(f"a lone gap at {stamp(at)}, where clocks go forward, looks like local time ({place}): bring UTC")
    return replace(left, timestamp=settled.timestamp, notes=tuple(notes))


def _picked(table: Table, rows: IntArray) -> Table:
    """The rows in that order, with their texts and their numbers in the file."""
    numbers_ = np.arange(1, len(table) + 1) if table.rows is None else table.rows
    return replace(
        table.take(rows),
        texts={name: [text[row] for row in rows.tolist()] if text else [] for name, text in table.texts.items()},
        rows=numbers_[rows],
        naive=table.naive,
    )


def write_bars(bars: Bars, path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Writes .csv, .csv.gz or .parquet, atomically; the symbol is the file name's part before `_1h`.

    A synthetic market carries the column `synthetic`, so that the label survives; a reference signal stays out.

    Raises:
        DataError: the name has another ending.
        StorageError: the place cannot be written.
    """
    columns = bars.recorded.columns() | ({"synthetic": np.ones(len(bars), np.int64)} if bars.synthetic else {})
    name = name_of(path).lower()
    if name.endswith((".parquet", ".pq")):
        write_atomic(path, _parquet_bytes(columns, metadata or {}))
    elif name.endswith((".csv", ".csv.gz")):
        data = _csv_bytes(columns)
        write_atomic(path, gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    else:
        raise DataError(f"{path} is of no known kind", f"a name that ends in {', '.join(SUFFIXES)}", "rename it")


def _parquet_bytes(columns: dict[str, IntArray | FloatArray], metadata: dict[str, str]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {name: pa.array(values) for name, values in columns.items()}
    arrays["timestamp"] = arrays["timestamp"].cast(pa.timestamp("ms", tz="UTC"))
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays).replace_schema_metadata(metadata), buffer, write_page_checksum=True)
    return buffer.getvalue()


def _csv_bytes(columns: dict[str, IntArray | FloatArray]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    stamps = np.datetime_as_string(columns["timestamp"].astype("datetime64[ms]"), timezone="UTC").tolist()
    writer.writerows(
        zip(stamps, *(values.tolist() for name, values in columns.items() if name != "timestamp"), strict=True)
    )
    return text.getvalue().encode()
