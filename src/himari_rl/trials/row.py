"""One row of the trial ledger, as every store keeps it."""

from __future__ import annotations

from typing import NamedTuple


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
