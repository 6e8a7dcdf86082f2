"""The log of an alias in a bucket: one object an event, FOLDER/audit/000007.json, written once and never again.

Each names the SHA-256 of the one before, and its number can be taken only once (if_generation_match=0), so that two
promotions at the same time make two events in a row: what is changed or taken out shows.
"""

from __future__ import annotations

import hashlib
import json
import random
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from himari_rl.errors import ConflictError, StorageError
from himari_rl.storage import gcs, join, parent

FOLDER = "audit"
START = "0" * 64
_READERS = 16


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
        return [json.loads(text) for text in self._texts()]

    def append(self, event: Mapping[str, Any]) -> None:
        """Adds an event behind the last one, whoever writes at the same time.

        Raises:
            StorageError: it cannot be written, or the log was changed.
        """
        nonce, until = secrets.token_hex(8), time.monotonic() + gcs.CONTEST_S
        while True:
            texts = self._texts()
            before = hashlib.sha256(texts[-1]).hexdigest() if texts else START
            text = json.dumps({**event, "before": before, "nonce": nonce}, sort_keys=True).encode()
            try:
                gcs.create(self._named(len(texts) + 1), text)
                return
            except ConflictError:
                if time.monotonic() > until:
                    raise
                time.sleep(random.uniform(0, 0.1))

    def _texts(self) -> list[bytes]:
        found: list[bytes] = []
        expected, count = START, len([n for n in gcs.names(self._place + "/") if n.endswith(".json")])
        new = [number for number in range(1, count + 1) if number not in self._known]
        with ThreadPoolExecutor(_READERS) as pool:
            self._known |= dict(zip(new, pool.map(lambda n: gcs.read_bytes(self._named(n)), new), strict=True))
        for number in range(1, count + 1):
            text = self._known[number]
            if _before(text) != expected:
                found_at = f"{self._named(number)} or the event before it"
                raise StorageError(f"{found_at} was changed", "events as written", "restore them")
            expected = hashlib.sha256(text).hexdigest()
            found.append(text)
        return found

    def _named(self, number: int) -> str:
        return f"{self._place}/{number:06d}.json"


def _before(text: bytes) -> Any:
    try:
        return json.loads(text)["before"]
    except (ValueError, KeyError, TypeError):
        return None
