"""A file that is written again and again, in a bucket: an immutable object each time, and a pointer to the last one.

PLACE/checkpoint-0/000012-9f0c3a....safetensors     if_generation_match=0, a name that nobody else can have
PLACE/checkpoint-0.json                             object, sha256, size, generation, step, transaction

The pointer moves by compare-and-set on the generation that was read: of two processes that write the same file the
second is stopped, and one that was killed between object and pointer has changed nothing. Object and pointer before
the last one stay for whoever reads them now; older ones go.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from typing import Any, NamedTuple

from himari_rl.errors import ConflictError, StorageError
from himari_rl.storage import gcs
from himari_rl.storage.sealed import digest_of


class _Pointer(NamedTuple):
    generation: int  # of the pointer's own object
    said: dict[str, Any]


class Snapshots:
    """Files under one place, by name."""

    def __init__(self, place: str) -> None:
        self._place = place.rstrip("/")
        self._at: dict[str, _Pointer] = {}
        self._old: dict[str, list[str]] = {}  # objects that no pointer names

    def fetch(self) -> dict[str, bytes]:
        """The last content of each file, verified.

        Raises:
            StorageError: one is gone or damaged.
        """
        names = gcs.names(self._place + "/")
        found = {}
        for name in names:
            if "/" in name or not name.endswith(".json"):
                continue
            answer = gcs.read(f"{self._place}/{name}")
            if answer is None:
                continue
            said = _parsed(answer[0], f"{self._place}/{name}")
            file, stem = str(said["file"]), name.removesuffix(".json")
            if "/" in file or _stem(file) != stem or not str(said["object"]).startswith(f"{stem}/"):
                found_there = f"{self._place}/{name} names {file} and {said['object']}"
                raise StorageError(found_there, f"a file called {stem}", "begin anew with --fresh")
            found[file] = self._content(said)
            self._at[file] = _Pointer(answer[1], said)
            keep = (said["object"], said["before"])
            self._old[file] = [n for n in names if n.startswith(f"{_stem(file)}/") and n not in keep]
        return found

    def put(self, name: str, data: bytes) -> None:
        """Writes a file's new content; the same content again is written no second time.

        Raises:
            StorageError: it cannot be written, or another process has written it since.
        """
        last = self._at.get(name, _Pointer(0, {"step": 0, "object": "", "before": "", "sha256": ""}))
        digest, transaction = digest_of(data), secrets.token_hex(8)
        if digest == last.said["sha256"]:
            self._tidy(name)
            return
        stem, _, ending = name.rpartition(".")
        step = int(last.said["step"]) + 1
        target = f"{stem}/{step:06d}-{transaction}.{ending}"
        generation = gcs.create(f"{self._place}/{target}", data)
        said = {"file": name, "object": target, "sha256": digest, "size": len(data), "generation": generation}
        said |= {"step": step, "transaction": transaction, "before": last.said["object"]}
        pointer = f"{self._place}/{stem}.json"
        try:
            moved = gcs.put(pointer, (json.dumps(said, indent=1) + "\n").encode(), last.generation)
        except ConflictError as error:
            raise ConflictError(
                f"{pointer} was moved by somebody else",
                "one process that trains here",
                "the same command again goes on from what is there",
            ) from error
        self._at[name] = _Pointer(moved, said)
        self._tidy(name, str(last.said["before"]))

    def _tidy(self, name: str, *more: str) -> None:
        """Deletes what no pointer names, also what a process that was killed before its own deletion left."""
        for old in [*self._old.pop(name, []), *more]:
            if old:
                with contextlib.suppress(StorageError):  # it costs a cent, and the next one tries no more
                    gcs.delete(f"{self._place}/{old}")

    def _content(self, said: dict[str, Any]) -> bytes:
        place = f"{self._place}/{said['object']}"
        data = gcs.read_bytes(place)
        if (len(data), digest_of(data)) != (said["size"], said["sha256"]):
            raise StorageError(f"{place} is damaged", "the SHA-256 that its pointer names", "begin anew with --fresh")
        return data


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _parsed(text: bytes, place: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
        return {key: said[key] for key in ("file", "object", "sha256", "size", "generation", "step", "before")}
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{place} is damaged", "a pointer as written", "begin anew with --fresh") from error
