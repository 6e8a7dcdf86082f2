"""A file of bars as it is, before anybody judges it.

    read_table(path)  -> Table     CSV, CSV.gz or Parquet; what cannot be read as a number or a time is marked
    write_bars(bars, path)         the same columns back, atomically; read again they are the same bars

Nothing is sorted, dropped or repaired here: checks.py says what is wrong, sources.py refuses it and audit.py
reports it, all three from the same Table. Cells that are no number become NaN, times that cannot be read
become NOT_A_TIME, and both keep their row. Rows are counted from 1, the header not included.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from himari_rl.data.cells import NOT_A_TIME, numbers, times
from himari_rl.errors import DataError
from himari_rl.schema import ACTIONS, LAYER2, PRICES, Bars, BoolArray, FloatArray, IntArray
from himari_rl.storage import write_atomic

REQUIRED = ("timestamp", *PRICES, "volume")
SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")

_TIERS = {"T1": 1, "T2": 2, "T3": 3, "T4": 4}
_WORDS = {"signal_action": ACTIONS, "signal_tier": _TIERS, "synthetic": {"TRUE": 1, "FALSE": 0}}
_DATE = re.compile(r"[_.-]?\d{4}(?:[_.-]?\d+)*$")
_NAME = re.compile(r"^(?P<symbol>.+?)_(?P<interval>\d+[smhdw])(?:[_.-].*)?$")


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
    name = Path(path).name
    endings = [suffix for suffix in SUFFIXES if name.lower().endswith(suffix)]
    return name[: -len(max(endings, key=len))] if endings else name


def stamp(ms: int) -> str:
    """A time for people: 2024-01-01T00:00Z."""
    if ms == NOT_A_TIME:
        return "no time"
    moment = np.array([ms], "datetime64[ms]")
    return f"{np.datetime_as_string(moment, unit='m' if ms % 60_000 == 0 else 'ms')[0]}Z"


def read_table(path: str | Path) -> Table:
    """Reads one file as it is.

    Times may be a timestamp column, ISO 8601 text (no zone means UTC) or an epoch in s, ms, us or ns. A column
    that holds text and is none of ours is set aside and named in `ignored`.

    Raises:
        DataError: the file is missing, empty, not readable as its kind, or names a column twice.
    """
    file = Path(path)
    if not file.is_file():
        kind = "a folder" if file.is_dir() else "missing"
        raise DataError(f"{file} is {kind}", "a .csv, .csv.gz or .parquet file of bars", "check the path")
    if not file.name.lower().endswith(SUFFIXES):
        raise DataError(f"{file} is of no known kind", f"a name that ends in {', '.join(SUFFIXES)}", "rename it")
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty (0 bytes)", "a header and rows of bars", "download it again")
    raw = _read_csv(file) if ".csv" in file.name.lower() else _read_parquet(file)
    symbol, _ = name_parts(file)
    return interpret(str(file), symbol, raw)


def _read_parquet(file: Path) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as reader:
            table = reader.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(file, "Parquet", error) from error
    return by_name(file, table.column_names, table.columns)


def _read_csv(file: Path) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.csv as pc

    opener = gzip.open if file.name.lower().endswith(".gz") else open
    try:
        with opener(file, "rt", encoding="utf-8-sig", newline="") as text:
            header = next(csv.reader(text), [])
        table = pc.read_csv(
            file,
            read_options=pc.ReadOptions(use_threads=False),
            convert_options=pc.ConvertOptions(
                column_types={name: pa.string() for name in header}, strings_can_be_null=False
            ),
        )
    except (pa.ArrowException, OSError, EOFError, ValueError, csv.Error) as error:
        raise _unreadable(file, "CSV", error) from error
    return by_name(file, table.column_names, table.columns)


def _unreadable(file: Path, kind: str, error: BaseException) -> DataError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return DataError(f"{file} cannot be read as {kind} ({reason})", "a whole file", "download or export it again")


def by_name(source: str | Path, names: Sequence[str], columns: Sequence[Any]) -> dict[str, Any]:
    """Columns by their names in lower case.

    Raises:
        DataError: two of them have one name.
    """
    tidy = [name.strip().lower() for name in names]
    twice = sorted({name for name in tidy if tidy.count(name) > 1})
    if twice:
        raise DataError(f"{source} has the column {twice[0]} twice", "each column once", "drop one of them")
    return dict(zip(tidy, columns, strict=True))


def interpret(source: str, symbol: str, raw: dict[str, Any]) -> Table:
    """Columns of pyarrow by lower-case name as a Table; a column `symbol` goes before the argument.

    Raises:
        DataError: no rows, or several symbols.
    """
    rows = len(next(iter(raw.values()))) if raw else 0
    if rows == 0:
        raise DataError(f"{source} has a header but no rows" if raw else f"{source} is empty", "rows of bars", "")
    if "symbol" in raw:
        symbols = sorted({str(value) for value in raw.pop("symbol").to_pylist()})
        if len(symbols) > 1:
            raise DataError(
                f"{source} mixes {len(symbols)} symbols ({', '.join(symbols[:4])})", "one", "split it into a file each"
            )
        symbol = symbols[0].replace("/", "-")
    columns: dict[str, FloatArray] = {}
    texts: dict[str, list[str]] = {}
    ignored = []
    for name, column in raw.items():
        if name == "timestamp":
            continue
        values, text = numbers(column, _WORDS.get(name, {}))
        ours = name in REQUIRED or name in LAYER2 or name in ("funding_rate", "synthetic")
        if not ours and text is not None and bool(np.isnan(values).all()):
            ignored.append(name)
            continue
        columns[name] = values
        if text is not None:
            texts[name] = text
    if "timestamp" in raw:
        timestamp, texts["timestamp"] = times(raw["timestamp"])
    else:
        timestamp = np.full(rows, NOT_A_TIME, np.int64)
    return Table(
        source=source,
        symbol=symbol,
        timestamp=timestamp,
        columns=columns,
        ignored=tuple(ignored),
        missing=tuple(name for name in REQUIRED if name not in raw),
        texts=texts,
    )


def write_bars(bars: Bars, path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Writes .csv, .csv.gz or .parquet, atomically; the symbol is the file name's part before `_1h`.

    A synthetic market carries the column `synthetic`, so that the label survives the file.

    Raises:
        DataError: the name has another ending.
        StorageError: the place cannot be written.
    """
    columns = bars.columns() | ({"synthetic": np.ones(len(bars), np.int64)} if bars.synthetic else {})
    name = Path(path).name.lower()
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
