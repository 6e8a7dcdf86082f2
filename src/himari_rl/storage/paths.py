"""What a path is: a place on this machine, gs://bucket/name, or nothing that files could be kept in.

A gs:// string never goes through Path(), which makes gs:/bucket/name of it, a folder of that name on this disk.
"""

from __future__ import annotations

import re
from pathlib import Path

from himari_rl.errors import StorageError

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/")  # one letter alone is a drive
_NEARLY = re.compile(r"^\s*gs:", re.IGNORECASE)  # gs:bucket, GS://, a blank before it: no folder


def is_remote(path: str | Path) -> bool:
    """Whether a path is in a bucket.

    Raises:
        StorageError: it is neither local nor gs://.
    """
    text = str(path)
    if _SCHEME.match(text) is None and _NEARLY.match(text) is None:
        return False
    if text.startswith("gs://") and text[5:].partition("/")[0]:
        return True
    raise StorageError(f"{text} is neither a local path nor gs://bucket/name", "one of the two", _cure(text))


def _cure(text: str) -> str:
    if _NEARLY.match(text):
        return "write it as gs://bucket/name"
    return f"copy it here or to a bucket first ({text.partition(':')[0]} is not read)"


def join(folder: str | Path, name: str) -> str:
    """The path of `name` in `folder`, local or remote."""
    text = str(folder)
    return f"{text.rstrip('/')}/{name}" if is_remote(folder) else str(Path(text) / name)


def parent(path: str | Path) -> str:
    """The folder that a path is in, local or remote."""
    text = str(path).rstrip("/")
    return text.rpartition("/")[0] if is_remote(path) else str(Path(text or "/").parent)


def name_of(path: str | Path) -> str:
    """The last part of a path, local or remote."""
    return str(path).rstrip("/").rpartition("/")[2] if is_remote(path) else Path(path).name
