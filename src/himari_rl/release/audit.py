"""What has happened to an alias, event by event: one chain (storage/chain.py), in a file or in a bucket.

    line, rows = chained(event, rows), checked(lines, place)     both logs
    bucket_log("gs://bucket/aliases/champion.json")              one object an event, FOLDER/audit/000007.json

An event of a bucket is written once and never again, and its number can be taken only once (if_generation_match=0), so
that two promotions at the same time make two events in a row: what is changed or taken out shows.
"""

from __future__ import annotations

import hashlib
import json
import random
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from himari_rl.errors import ConflictError, StorageError
from himari_rl.storage import gcs, join, parent
from himari_rl.storage.chain import BEGINNING, beginning, first_break, link

FOLDER = "audit"
_READERS = 16


class Event(NamedTuple):
    """A row of the chain."""

    number: int
    content: tuple[str]
    chain: str | None  # None: an earlier release named the digest of the line before, as `before`

    @property
    def said(self) -> dict[str, Any]:
        """What happened."""
        found: dict[str, Any] = json.loads(self.content[0])
        return found


def chained(event: Mapping[str, Any], rows: Sequence[Event]) -> bytes:
    """An event's line, hung on the last of those before it."""
    last = (rows[-1].chain if rows else None) or beginning([row.content for row in rows])
    return _text({**event, "chain": link(last, [_text(event)])}).encode()


def checked(lines: Sequence[bytes], place: str | Path) -> list[Event]:
    """The events of a log's lines, the oldest first.

    Raises:
        StorageError: a line was changed or taken out.
    """
    rows: list[Event] = []
    before, broken = BEGINNING, ""
    for number, line in enumerate(lines, 1):
        try:
            event = dict(json.loads(line))
        except (ValueError, TypeError):
            broken = broken or f"row {number} is no event"
            continue
        said = event.pop("chain", None)
        if said is None and event.get("before") != before:
            broken = broken or f"row {number} does not follow the one before it"
        before = hashlib.sha256(line).hexdigest()
        rows.append(Event(number, (_text(event),), said))
    broken = broken or first_break(rows, (rows[-1].chain if rows else None) or "")
    if broken:
        raise StorageError(f"{place} was changed: {broken}", "an append-only log", "restore it")
    return rows


def bucket_log(path: str) -> BucketLog:
    """The log beside the alias at `path`, gs://."""
    return BucketLog(join(parent(path), FOLDER))


class BucketLog:
    """Events under a prefix."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._known: dict[int, bytes] = {}  # what has been read: no event ever changes

    def events(self) -> list[dict[str, Any]]:
        """Every event, the oldest first.

        Raises:
            StorageError: one was changed or taken out, or the bucket cannot be read.
        """
        return [row.said for row in self._rows()]

    def append(self, event: Mapping[str, Any]) -> None:
        """Adds an event behind the last one, whoever writes at the same time.

        Raises:
            StorageError: it cannot be written, or the log was changed.
        """
        own, until = {**event, "nonce": secrets.token_hex(8)}, time.monotonic() + gcs.CONTEST_S
        while True:
            rows = self._rows()
            try:
                gcs.create(self._named(len(rows) + 1), chained(own, rows))
                return
            except ConflictError:
                if time.monotonic() > until:
                    raise
                time.sleep(random.uniform(0, 0.1))  # nosec B311 - no secret: it spreads retries

    def _rows(self) -> list[Event]:
        count = len([name for name in gcs.names(self._place + "/") if name.endswith(".json")])
        new = [number for number in range(1, count + 1) if number not in self._known]
        with ThreadPoolExecutor(_READERS) as pool:
            self._known |= dict(zip(new, pool.map(lambda n: gcs.read_bytes(self._named(n)), new), strict=True))
        return checked([self._known[number] for number in range(1, count + 1)], self._place)

    def _named(self, number: int) -> str:
        return f"{self._place}/{number:06d}.json"


def _text(event: Mapping[str, Any]) -> str:
    return json.dumps(event, sort_keys=True)
