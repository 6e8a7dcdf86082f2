"""A folder of a bucket to work in, as a folder of this machine.

    with workplace("gs://bucket/runs/mine") as folder:     a Path; a local place is that place itself
    fetched("gs://bucket/data")                            the files of a folder, for reading alone
    shown(text)                                            a text that names the bucket and no temporary folder

What is there is fetched and verified. From then on every file that storage writes in the folder is in the bucket before
the call returns: new objects with if_generation_match=0, a changed one against the generation that was read. A folder
that is written as one (a bundle) follows at the end, its marker last, and not at all where the work has failed. Very
last comes objects.json with SHA-256, size and generation of each object. Nothing is mounted and nothing is renamed.
"""

from __future__ import annotations

import atexit
import fnmatch
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from himari_rl.errors import HimariError, StorageError
from himari_rl.storage import gcs, local, paths
from himari_rl.storage.sealed import digest_of
from himari_rl.storage.snapshots import Snapshots

INDEX = "objects.json"
SNAPSHOTS, SNAPSHOT_FOLDER = "checkpoint-*.safetensors", "checkpoints"
_UNREAD = (f"{SNAPSHOT_FOLDER}/*", "tensorboard/*", f"*/{INDEX}", INDEX)
_READERS = 16
_SHOWN: dict[str, str] = {}
"""Temporary folders of this process, and what they stand for."""


@contextmanager
def workplace(place: str | Path, *, only: Sequence[str] = (), snapshots: str = "") -> Iterator[Path]:
    """A folder to work in for a place; for one in a bucket a copy that follows.

    Args:
        only: names and folders to fetch; all of them if not given.
        snapshots: where checkpoints go, PLACE/checkpoints if not given.

    Raises:
        StorageError: the bucket cannot be read or written, an object is gone or changed, or somebody else writes there.
    """
    if not paths.is_remote(place):
        yield local.place_to_write(place)
        return
    remote = str(place).rstrip("/")
    if not only:
        gcs.split(remote)  # not a whole bucket
    folder = _temporary(remote)
    mirror = _Mirror(folder, remote, only, snapshots or f"{remote}/{SNAPSHOT_FOLDER}")
    try:
        mirror.fetch()
        local.FOLLOWERS[str(folder)] = mirror
        yield folder
        mirror.finish()
    except HimariError as error:
        raise type(error)(shown(error.found), shown(error.expected), shown(error.cure)) from error
    finally:
        local.FOLLOWERS.pop(str(folder), None)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def inside(path: str | Path, *beside: str) -> Iterator[Path]:
    """A folder by its own path, together with files or folders of these names beside it: a bundle and its run."""
    if not paths.is_remote(path):
        yield local.local_path(path)
        return
    name = paths.name_of(path)
    with workplace(paths.parent(path), only=(name, *beside)) as folder:
        yield folder / name


def open_bucket() -> str:
    """gs://bucket of the folder that is being worked in; empty where it is of this machine."""
    places = [_SHOWN[folder] for folder in local.FOLLOWERS]
    return "gs://" + places[-1].removeprefix("gs://").partition("/")[0] if places else ""


def fetched(place: str, wanted: Callable[[str], bool] = lambda name: True) -> Path:
    """An object as a file of this machine, or the objects of a folder (not of its sub-folders) as a folder.

    Raises:
        StorageError: there is nothing, or it does not arrive whole.
    """
    remote = place.rstrip("/")
    _, _, name = remote.removeprefix("gs://").partition("/")
    folder = _temporary(remote)
    if name and (found := gcs.read(remote)) is not None:
        folder.rmdir()
        single = _temporary(remote.rpartition("/")[0])
        _keep(single / name.rpartition("/")[2], found[0], remote)
        return single / name.rpartition("/")[2]
    inside = [each.name for each in gcs.listing(remote + "/") if "/" not in each.name and each.name]
    if not inside:
        raise StorageError(f"there is nothing at {place}", "an object or a folder of objects", "check the path")
    _fetch_all(remote, [each for each in inside if wanted(each)], folder)
    return folder


def shown(text: str | Path) -> str:
    """A text with the bucket's names for this process's temporary folders."""
    said = str(text)
    for folder, place in _SHOWN.items():
        said = said.replace(folder, place)
    return said


class _Mirror:
    """One folder that follows: what is known of the bucket, and what is still to be written."""

    def __init__(self, folder: Path, place: str, only: Sequence[str], snapshots: str) -> None:
        self._folder, self._place, self._only = folder, place, only
        self._snapshots = Snapshots(snapshots)
        self._known: dict[str, tuple[int, str]] = {}  # generation and digest of each object
        self._new: dict[str, dict[str, Any]] = {}  # entries of the index
        self._late: dict[Path, str] = {}  # folders written as one, each with its marker

    def fetch(self) -> None:
        """Brings what is there, held to the index where the index knows it."""
        there = {each.name: each for each in gcs.listing(self._place + "/")}
        wanted = [name for name in there if name and not name.endswith("/") and self._is_wanted(name)]
        index = _index(gcs.read(f"{self._place}/{INDEX}"), self._place) if INDEX in there else {}
        if gone := sorted(name for name in index.keys() - there.keys() if self._is_wanted(name)):
            raise StorageError(f"{self._place}/{gone[0]} is gone", f"what {INDEX} names", "bring it back")
        for name, (data, generation) in _fetch_all(self._place, wanted, self._folder).items():
            digest, said = digest_of(data), index.get(name, {})
            if said.get("generation") == generation and said.get("sha256") != digest:
                raise StorageError(f"{self._place}/{name} is damaged", f"the SHA-256 in {INDEX}", "bring it back")
            self._known[name] = generation, digest
        for name, data in self._snapshots.fetch().items():
            _keep(self._folder / name, data, f"{self._place}/{name}")

    def written(self, target: Path) -> None:
        """A file was written whole."""
        if not any(folder in target.parents for folder in self._late):
            self._push(target)

    def folder_written(self, target: Path, marker: str) -> None:
        """A folder was written whole; it follows at the end."""
        self._late[target] = marker

    def finish(self) -> None:
        """Writes what has waited, markers last, and the index behind them."""
        for folder, marker in self._late.items():
            files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / marker)
            for path in [*files, folder / marker]:
                self._push(path)
        for path in sorted(self._folder.rglob("*tfevents*")):  # written by tensorboard itself
            self._push(path)
        if self._new:
            gcs.exchange(f"{self._place}/{INDEX}", self._indexed)

    def _indexed(self, before: bytes | None) -> bytes:
        entries = _index(None if before is None else (before, 0), self._place) | self._new
        document = {"transaction": secrets.token_hex(8), "objects": dict(sorted(entries.items()))}
        return (json.dumps(document, indent=1) + "\n").encode()

    def _push(self, target: Path) -> None:
        name, data = target.relative_to(self._folder).as_posix(), target.read_bytes()
        if fnmatch.fnmatch(name, SNAPSHOTS):
            self._snapshots.put(name, data)
            return
        generation, digest = self._known.get(name, (0, ""))
        now = digest_of(data)
        if now != digest:
            generation = gcs.put(f"{self._place}/{name}", data, generation)
            self._known[name] = generation, now
        self._new[name] = {"sha256": now, "size": len(data), "generation": generation}

    def _is_wanted(self, name: str) -> bool:
        if any(fnmatch.fnmatch(name, pattern) for pattern in _UNREAD):
            return False
        return not self._only or any(name == one or name.startswith(one + "/") for one in self._only)


def _fetch_all(place: str, names: Sequence[str], folder: Path) -> dict[str, tuple[bytes, int]]:
    """The objects as files of `folder`.

    Raises:
        StorageError: one does not arrive, cannot be a file here, or would lie outside the folder.
    """
    for name in names:  # a bucket takes names that lead out of any folder: //etc/x, a/../../x
        if any(part in ("", ".", "..") for part in name.split("/")):
            wrong = f"{place}/{name} cannot be a file in a folder"
            raise StorageError(wrong, "names without //, . and ..", "remove it")

    def one(name: str) -> tuple[bytes, int] | None:
        return gcs.read(f"{place}/{name}")

    found = {}
    with ThreadPoolExecutor(_READERS) as pool:
        for name, answer in zip(names, pool.map(one, names), strict=True):
            if answer is None:
                continue  # gone since it was listed
            _keep(folder / name, answer[0], f"{place}/{name}")
            found[name] = answer
    return found


def _keep(target: Path, data: bytes, what: str) -> None:
    """Writes what was fetched: a full disk, a name that is too long or a folder of that name is one line."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    except OSError as error:
        raise local.refusal("keep a copy of", what, error) from error


def _index(found: tuple[bytes, int] | None, place: str) -> dict[str, dict[str, Any]]:
    if found is None:
        return {}
    try:
        objects: dict[str, dict[str, Any]] = dict(json.loads(found[0])["objects"])
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{place}/{INDEX} is damaged", "the file as written", "delete it") from error
    return objects


def _temporary(place: str) -> Path:
    folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="himari-")))
    _SHOWN[str(folder)] = place
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
