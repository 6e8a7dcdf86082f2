"""A trial ledger in a bucket, HIMARI_TRIALS=gs://bucket/prefix: one object a row, written once and never again.

Containers of one project share it without a server between them. An object's name ends in the hash of its content, and
its content names the rows that no other row had named when it was written, as a commit names its parents: whatever was
changed no longer has its name, and whatever was taken out is missed by the row that named it. The very last rows are
named by none yet; a retention policy on the bucket keeps those.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from himari_rl.errors import StorageError
from himari_rl.storage import gcs, join, read_bytes
from himari_rl.trials.row import Row

_READERS = 16
_SUFFIX = ".trial.json"


class BucketStore:
    """Rows as objects under a prefix."""

    def __init__(self, place: str) -> None:
        if not place.removeprefix("gs://").partition("/")[0]:
            raise StorageError(f"{place} names no bucket", "gs://bucket/prefix", "name a bucket in HIMARI_TRIALS")
        self._place = place.rstrip("/")
        self._read: dict[str, bytes] = {}

    def names(self) -> list[str]:
        """Every row's object, the oldest first: a name begins with the moment it was written."""
        return sorted(name for name in gcs.names(self._place + "/") if name.endswith(_SUFFIX))

    def add(self, row: Row) -> None:
        there = self._documents()
        seen = {parent for document in there.values() for parent in document.get("seen", [])}
        made = {"row": row._asdict(), "seen": sorted(there.keys() - seen), "nonce": secrets.token_hex(8)}
        data = json.dumps(made, sort_keys=True).encode()
        moment = "".join(c for c in row.at.partition("+")[0] if c.isalnum())
        gcs.create(join(self._place, f"{moment}-{_digest(data)}{_SUFFIX}"), data)

    def overlapping(self, first_ms: int, last_ms: int) -> list[Row]:
        rows = [Row(**document["row"]) for document in self._documents().values() if "row" in document]
        return [row for row in rows if row.first_ms <= last_ms and row.last_ms >= first_ms]

    def require_writable(self) -> None:
        """That the bucket answers; whether it takes a row is known when one is written, as rows are never test rows."""
        self.names()

    def broken(self) -> str:
        documents = self._documents()
        for name, document in documents.items():
            if _digest(self._read[name]) != name.removesuffix(_SUFFIX).rpartition("-")[2]:
                return f"object {name} was changed"
            if gone := [parent for parent in document["seen"] if parent not in documents]:
                return f"object {gone[0]} is gone"
        return ""

    def close(self) -> None:
        """Nothing is open."""

    def _documents(self) -> Mapping[str, dict[str, Any]]:
        """Every object's content by name; what has been read once is not asked for again, as no object changes."""
        names = self.names()
        new = [name for name in names if name not in self._read]
        with ThreadPoolExecutor(_READERS) as pool:
            self._read |= dict(zip(new, pool.map(lambda n: read_bytes(join(self._place, n)), new), strict=True))
        return {name: _parsed(self._read[name]) for name in names}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {"seen": []}  # `broken` names it, as its content is not what its name says
    return found if isinstance(found, dict) else {"seen": []}
