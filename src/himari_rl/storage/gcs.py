"""gs://bucket/name, for storage/local.py: google-cloud-storage is imported when the first such path is used.

Whole downloads only, held to the object's size and MD5: the client verifies no range read. Every write names the
generation that it replaces (0: none), so that nobody is written over unawares, and a write whose answer was lost is
recognised by reading again. What fails is one StorageError within DEADLINE_S, all requests of the call together; what
is read is never half an object.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from himari_rl.errors import ConflictError, StorageError

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from Python 3.12 on

TIMEOUT_S = 10.0
"""One silence of the server."""
DEADLINE_S = 30.0
"""One call with all its requests and their repetitions."""
CONTEST_S = 120.0
"""One `exchange`, which others may win again and again."""
NO_BUCKET_REQUEST = "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"
_CORRUPT_READS = 3  # so often in a row that it is no accident of the wire
_PAUSE_S = 0.02  # after a lost race, doubled each time, up to a second
_CURE = "check the bucket, the network and the service account's role (storage.objectUser)"
_LISTING = {"kind", "items", "prefixes", "nextPageToken"}
_WRITING = 0.6  # of the deadline; the rest is for finding out whether a write that failed was written
_UNTIL: ContextVar[float] = ContextVar("_UNTIL", default=float("inf"))  # when the call at hand must have ended


class StoredObject(NamedTuple):
    """One object as a listing tells it."""

    name: str
    """Below the folder that was listed."""
    generation: int
    size: int


class _Conflict(Exception):
    """The object has another generation than the write named."""


class _Bounded(io.BytesIO):
    """Takes up to so many bytes: what arrives, not what the server says of it."""

    def __init__(self, path: str, most: float) -> None:
        super().__init__()
        self._path, self._most = path, most

    def write(self, data: Buffer) -> int:
        """As BytesIO's.

        Raises:
            StorageError: it would be more.
        """
        written = super().write(data)
        if self.tell() > self._most:
            found, expected = f"{self._path} has more than {self._most:,.0f} bytes", f"at most {self._most:,.0f}"
            raise StorageError(found, expected, "it is not what it is called: write it again")
        return written


def read_bytes(path: str, most: float = inf) -> bytes:
    """The whole object, verified.

    Args:
        most: bytes that it can sensibly have; of a larger one no more is read.

    Raises:
        StorageError: it is missing, too large, or does not arrive whole.
    """
    found = read(path, most)
    if found is None:
        raise StorageError(f"cannot read {path}: there is no such object", cure="check the path")
    return found[0]


def read(path: str, most: float = inf) -> tuple[bytes, int] | None:
    """The whole object with its generation; None where there is none.

    Raises:
        StorageError: it cannot be had, is larger than `most` bytes, or arrives damaged every time.
    """
    bucket, name = split(path)
    not_found, data_corruption = _errors("read", path)[1:]
    with _within(DEADLINE_S):
        for attempt in range(1, _CORRUPT_READS + 1):
            with _calling("read", path):
                blob = _client().bucket(bucket).blob(name)
                arrived = _Bounded(path, most)
                try:
                    blob.download_to_file(arrived, **_patience())
                except not_found:
                    return None
                except data_corruption:
                    if attempt == _CORRUPT_READS:
                        raise
                    continue
                data = arrived.getvalue()
                if _has_digest(blob, data):  # of the answer's own headers: of this generation and no other
                    return data, int(blob.generation)
    raise StorageError(f"cannot read {path}: its checksum does not match what arrived", cure=_CURE)


def put(path: str, data: bytes, generation: int) -> int:
    """Writes a whole object where it still has that generation (0: where there is none). Returns the new one.

    Raises:
        ConflictError: somebody else has written it.
        StorageError: it cannot be written.
    """
    with _within(DEADLINE_S):
        try:
            return _put(path, data, generation)
        except _Conflict as error:
            found = read(path)
            if found is not None and found[0] == data:  # ours: the server wrote it and the answer was lost
                return found[1]
            if not generation:
                raise ConflictError(f"{path} exists already", "a name that is free", "choose another one") from error
            raise ConflictError(f"{path} was changed by somebody else meanwhile", "", "run one at a time") from error


def create(path: str, data: bytes) -> int:
    """Writes an object that nobody has written yet, and that nobody will write over. Returns its generation.

    Raises:
        ConflictError: there is one of other content.
        StorageError: it cannot be written.
    """
    return put(path, data, 0)


def exchange(path: str, change: Callable[[bytes | None], bytes], mine: Callable[[bytes], bool] | None = None) -> bytes:
    """Read, change, write where the generation is still the one that was read; again until it is.

    Args:
        mine: whether a content already has this very change in it: somebody may have built upon a write of ours whose
            answer was lost. Without it only the content itself tells.

    Raises:
        StorageError: it cannot be read or written, or others always win.
    """
    pause, written = _PAUSE_S, b""
    with _within(CONTEST_S):
        while True:
            found = read(path)
            before, generation = (None, 0) if found is None else found
            if written and before is not None and (before == written or (mine is not None and mine(before))):
                return written
            written = change(before)
            try:
                _put(path, written, generation)
                return written
            except _Conflict:
                if time.monotonic() + pause > _UNTIL.get():
                    raise StorageError(f"cannot write {path}: it always changes meanwhile", cure="try again") from None
                time.sleep(random.uniform(0, pause))  # nosec B311 - no secret: it spreads retries
                pause = min(2 * pause, 1.0)


def stamp(path: str) -> str | None:
    """The object's generation; None where there is no object."""
    bucket, name = split(path)
    with _within(DEADLINE_S), _calling("read", path):
        blob = _client().bucket(bucket).get_blob(name, **_patience())
        if blob is not None and not str(blob.id).startswith(f"{bucket}/{name}"):
            raise ValueError(f"a damaged answer names {blob.id!r}")
        return None if blob is None else str(int(blob.generation))


def names(folder: str) -> list[str]:
    """Names of the objects whose path begins with `folder`, without that part."""
    return [each.name for each in listing(folder)]


def listing(folder: str) -> list[StoredObject]:
    """The objects whose path begins with `folder`.

    Raises:
        StorageError: they cannot be listed, or what arrives is no listing.
    """
    bucket, _, prefix = folder.removeprefix("gs://").partition("/")
    found = []
    with _within(DEADLINE_S), _calling("list", folder):
        pages = _client().list_blobs(bucket, prefix=prefix, **_patience())
        pages._page_start = _whole_page
        for blob in pages:
            if not blob.name.startswith(prefix) or not str(blob.id).startswith(f"{bucket}/{blob.name}"):
                raise ValueError(f"a damaged listing names {blob.name!r}")
            found.append(StoredObject(blob.name.removeprefix(prefix), int(blob.generation), int(blob.size)))
    return found


def delete(path: str) -> None:
    """Removes an object that nothing names any more; one that is gone already is no error."""
    bucket, name = split(path)
    with _within(DEADLINE_S), _calling("delete", path), suppress(_errors("delete", path)[1]):
        _client().bucket(bucket).blob(name).delete(**_patience())


def split(path: str) -> tuple[str, str]:
    """Bucket and object of gs://bucket/name.

    Raises:
        StorageError: one of them is missing, or a part of the name is a dot or two.
    """
    bucket, _, name = path.removeprefix("gs://").partition("/")
    if not bucket or not name or any(part in (".", "..") for part in name.split("/")):
        raise StorageError(f"{path} names no object", "gs://bucket/name", "check the path")
    return bucket, name


def _put(path: str, data: bytes, generation: int) -> int:
    bucket, name = split(path)
    precondition_failed, damaged = _errors("write", path)[0], False
    kind = "application/json" if name.endswith(".json") else "application/octet-stream"
    with _within(DEADLINE_S):
        try:
            with _within(_WRITING * DEADLINE_S), _calling("write", path, but=precondition_failed):
                blob = _client().bucket(bucket).blob(name)
                blob.upload_from_string(data, content_type=kind, if_generation_match=generation, **_patience())
                damaged = int(blob.size or 0) != len(data) or not _has_digest(blob, data)
                if damaged:
                    raise OSError("what the server has is not what was sent")
        except precondition_failed as error:
            raise _Conflict from error
        except StorageError:
            landed = _landed(path, data)  # the answer may be what was damaged: nothing is taken back on its word
            if landed is None:
                if damaged and not generation:
                    with suppress(StorageError):
                        _undo(blob)
                raise
            return landed
    return int(blob.generation)


def _landed(path: str, data: bytes) -> int | None:
    """The generation of a write that failed and was written all the same: answer and repetitions were lost."""
    try:
        found = read(path)
    except StorageError:
        return None
    return found[1] if found is not None and found[0] == data else None


def _undo(blob: Any) -> None:
    """Takes back a write that arrived damaged, so that the name is free for another try."""
    with _calling("delete", blob.name):
        blob.delete(if_generation_match=blob.generation, **_patience())


def _has_digest(blob: Any, data: bytes) -> bool:
    """Whether the server's MD5 is these bytes'; an object that was composed has only a crc32c."""
    if blob.md5_hash:
        return bool(blob.md5_hash == base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode())
    return bool(blob.crc32c)  # held to the bytes by the client itself


def _whole_page(_: Any, __: Any, response: dict[str, Any]) -> None:
    if unknown := response.keys() - _LISTING:
        raise ValueError(f"a damaged listing has {min(unknown)!r}")


@cache
def _client() -> Any:
    from google.cloud import storage  # type: ignore[import-untyped]

    # For traces that we do not write, the client asks for the bucket itself, in a thread that goes on for two minutes
    # where it cannot be reached, and with a right that storage.objectViewer does not have.
    os.environ.setdefault(NO_BUCKET_REQUEST, "true")
    return storage.Client()


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Gives a call, and every call that it makes, so long in all."""
    before = _UNTIL.set(min(_UNTIL.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _UNTIL.reset(before)


def _patience() -> dict[str, Any]:
    """How long a request of the client may be silent, and how it is repeated."""
    wait = max(0.1, min(TIMEOUT_S, (_UNTIL.get() - time.monotonic()) / 2))
    return {"timeout": wait, "retry": _Repeated(_UNTIL.get() - wait)}


class _Repeated:
    """The client's own repetitions, up to a moment: a call of several requests would begin anew with each."""

    def __init__(self, until: float) -> None:
        self._until = until

    def __call__(self, request: Callable[[], Any]) -> Any:
        from google.cloud.storage.retry import DEFAULT_RETRY  # type: ignore[import-untyped]

        left = max(0.01, self._until - time.monotonic())
        repeated = DEFAULT_RETRY.with_timeout(left).with_delay(initial=0.2, maximum=4.0, multiplier=2.0)
        return repeated(request)


def _errors(verb: str, path: str) -> tuple[type[Exception], type[Exception], type[Exception]]:
    """PreconditionFailed, NotFound and DataCorruption of the client's packages.

    Raises:
        StorageError: they are not installed.
    """
    try:
        from google.api_core.exceptions import NotFound, PreconditionFailed
        from google.cloud.storage.exceptions import DataCorruption  # type: ignore[import-untyped]
    except ImportError as error:
        raise StorageError(
            f"cannot {verb} {path}: {error}", "google-cloud-storage", "pip install 'himari-rl[gcs]'"
        ) from error
    return PreconditionFailed, NotFound, DataCorruption


@contextmanager
def _calling(verb: str, path: str, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Turns what the client raises into one line."""
    _errors(verb, path)
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError

    wire = (GoogleAPIError, GoogleAuthError, DataCorruption, InvalidResponse, RequestException, HTTPError, OSError)
    try:
        yield
    except (*wire, ValueError, KeyError, AttributeError, TypeError) as error:  # from ValueError on: no JSON, or another
        if but and isinstance(error, but):
            raise
        reason = " ".join(str(error).split())
        raise StorageError(f"cannot {verb} {path}: {reason[:200]}", cure=_CURE) from error
