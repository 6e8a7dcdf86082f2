"""The chain of a ledger's rows: each holds the hash of the row before it and of its own content.

A row that was edited or taken out is found, and so is a cut end, as the last hash is kept beside the rows. Somebody who
may write the file can compute the whole chain again: against that a copy elsewhere helps, or a bucket that keeps what
was written (HIMARI_TRIALS=gs://... with a retention policy).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

BEGINNING = "0" * 64


class Row(NamedTuple):
    """One row as it is stored; the names are the table's columns."""

    at: str  # ISO 8601, UTC
    purpose: str
    market: str
    first_ms: int
    last_ms: int
    what: str
    detail: str  # JSON
    paths: str = "[]"  # JSON: a sketch of the price path for each asset (fingerprint.py)


def link(previous: str, row: Row) -> str:
    """The hash of a row: of the one before it and of its own content."""
    return hashlib.sha256(json.dumps([previous, *row]).encode()).hexdigest()


def beginning(old: Sequence[Row]) -> str:
    """What the first row of a chain hangs on: every row that was written before there were chains."""
    previous = BEGINNING
    for row in old:
        previous = link(previous, row)
    return previous


def first_break(rows: Iterable[tuple[int, Row, str | None]], last: str) -> str:
    """The first row that is not what was written, in words; empty where all are.

    Args:
        rows: number, content and hash of each, in order; a hash of None where it was written before there were chains.
        last: the hash that the ledger says it ends with; empty where it has none yet.
    """
    previous, chained, before, number = BEGINNING, False, 0, 0
    for number, row, said in rows:
        if said is None and not chained:
            previous = link(previous, row)
        elif said is None:
            return f"row {number} has no hash: it was not written by the ledger"
        elif said != link(previous, row):
            if number > before + 1:
                return f"row {before + 1} is gone"
            return f"row {number} was changed" if chained else f"one of the rows 1 to {number} was changed"
        else:
            previous, chained = said, True
        before = number
    if (last or chained) and last != previous:
        return f"what came after row {number} is gone"
    return ""
