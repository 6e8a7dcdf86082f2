"""The journal as one Parquet file: every entry with its chain, and a decision's numbers as columns of their own."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from himari_rl.errors import not_installed
from himari_rl.journal.entry import ANSWER, DECISION, Entry, Stored
from himari_rl.journal.store import DecisionJournal
from himari_rl.storage import write_atomic

NUMBERS = ("multiplier", "wanted", "confidence", "base_usd", "size_usd", "units", "equity_usd", "close", "latency_ms")
TEXTS = ("source", "cause", "version")
"""Of the body of a decision or an answer; empty for every other entry. `body` has all of it."""


def export(journal: DecisionJournal, place: str) -> int:
    """Writes every entry to a Parquet file, whole or not at all; how many they were.

    Raises:
        ConfigError: pyarrow is not installed. StorageError: the file cannot be written.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise not_installed("a Parquet file", error, "data") from error
    columns = _columns(journal.entries())
    types = {name: pa.float64() for name in NUMBERS} | {"number": pa.int64(), "bar": pa.int64()}
    fields = [(name, types.get(name, pa.string())) for name in columns]
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=pa.schema(fields)), buffer)
    write_atomic(place, buffer.getvalue())
    return len(columns["number"])


def _columns(rows: Iterable[Stored]) -> dict[str, list[Any]]:
    names = ("number", *Entry._fields, "chain", *TEXTS, *NUMBERS)
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for row in rows:
        said = row.entry.said if row.entry.kind in (DECISION, ANSWER) else {}
        found = {"number": row.number, "chain": row.chain} | row.entry._asdict()
        for name in names:
            value = found[name] if name in found else said.get(name)
            columns[name].append(float(value) if name in NUMBERS and value is not None else value)
    return columns
