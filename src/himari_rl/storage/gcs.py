"""gs://bucket/name, for storage/local.py: google-cloud-storage is imported when the first such path is used.

Whole downloads only: the client verifies those and not range reads. Writes are small, by compare-and-set on the
object's generation; a lost answer is told from a lost race by reading again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from himari_rl.errors import StorageError

TIMEOUT_S = 10.0
"""One call; repeated calls stop after twice that."""
NO_BUCKET_REQUEST = "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"
_ATTEMPTS = 20
_CURE = "check the bucket, the network and the service account's role (storage.objectViewer)"


def read_bytes(path: str) -> bytes:
    """The whole object, its checksum verified."""
    with _calling("read", path):
        data: bytes = _blob(path).download_as_bytes(timeout=TIMEOUT_S, retry=_retry())
    return data


def stamp(path: str) -> str | None:
    """The object's generation; None where there is no object."""
    blob = _existing(path)
    return None if blob is None else str(blob.generation)


def exchange(path: str, change: Callable[[bytes | None], bytes]) -> bytes:
    """Read, change, write where the generation is still the one that was read; again until it is."""
    from google.api_core.exceptions import PreconditionFailed

    for _ in range(_ATTEMPTS):
        blob = _existing(path)
        generation = 0 if blob is None else blob.generation
        data = change(None if blob is None else read_bytes(path))
        try:
            with _calling("write", path, but=PreconditionFailed):
                _blob(path).upload_from_string(
                    data,
                    content_type="application/json",
                    if_generation_match=generation,
                    timeout=TIMEOUT_S,
                    retry=_retry(),
                )
        except PreconditionFailed:
            if read_bytes(path) == data:  # it was ours: the server wrote it and the answer was lost
                return data
            continue
        return data
    raise StorageError(f"cannot write {path}: it changed {_ATTEMPTS} times meanwhile", cure="try again")


def create(path: str, data: bytes) -> None:
    """Writes an object that nobody has written yet, and that nobody will write over.

    Raises:
        StorageError: there is one of other content, or it cannot be written.
    """
    from google.api_core.exceptions import PreconditionFailed

    try:
        with _calling("write", path, but=PreconditionFailed):
            _blob(path).upload_from_string(
                data, content_type="application/json", if_generation_match=0, timeout=TIMEOUT_S, retry=_retry()
            )
    except PreconditionFailed as error:
        if read_bytes(path) != data:  # else it was ours: the server wrote it and the answer was lost
            raise StorageError(f"{path} exists already", "a name that is free", "choose another one") from error


def names(folder: str) -> list[str]:
    """Names of the objects whose path begins with `folder`, without that part."""
    with _calling("list", folder):
        bucket, _, prefix = folder.removeprefix("gs://").partition("/")
        found = _client().list_blobs(bucket, prefix=prefix, timeout=TIMEOUT_S, retry=_retry())
        return [blob.name.removeprefix(prefix) for blob in found]


def _existing(path: str) -> Any:
    with _calling("read", path):
        bucket, _, name = path.removeprefix("gs://").partition("/")
        return _client().bucket(bucket).get_blob(name, timeout=TIMEOUT_S, retry=_retry())


def _blob(path: str) -> Any:
    bucket, _, name = path.removeprefix("gs://").partition("/")
    return _client().bucket(bucket).blob(name)


@cache
def _client() -> Any:
    from google.cloud import storage  # type: ignore[import-untyped]

    # For traces that we do not write, the client asks for the bucket itself, in a thread that goes on for two minutes
    # where it cannot be reached, and with a right that storage.objectViewer does not have.
    os.environ.setdefault(NO_BUCKET_REQUEST, "true")
    return storage.Client()


def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY  # type: ignore[import-untyped]

    return DEFAULT_RETRY.with_timeout(2 * TIMEOUT_S)


@contextmanager
def _calling(verb: str, path: str, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Turns what the client raises into one line."""
    try:
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.storage.exceptions import DataCorruption, InvalidResponse  # type: ignore[import-untyped]
        from requests.exceptions import RequestException
    except ImportError as error:
        raise StorageError(
            f"cannot {verb} {path}: {error}", "google-cloud-storage", "pip install google-cloud-storage"
        ) from error
    try:
        yield
    except (GoogleAPIError, GoogleAuthError, DataCorruption, InvalidResponse, RequestException, OSError) as error:
        if but and isinstance(error, but):
            raise
        reason = " ".join(str(error).split())
        raise StorageError(f"cannot {verb} {path}: {reason[:200]}", cure=_CURE) from error
