"""One writer at a time in a folder.

    with writer(folder):      a second one, in any process of this machine, is refused while this one works

The lock is the operating system's (flock) and ends with the process that holds it, however that ends. Its file goes
when the lock does, so that a finished folder holds nothing but its run. Where a file system has no locks the folder is
used without one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from himari_rl.errors import StorageError
from himari_rl.storage.local import local_path, refusal

LOCK = ".lock"
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def writer(folder: str | Path) -> Iterator[None]:
    """Holds a folder, which is made where it is missing, for one writer.

    Raises:
        StorageError: somebody else writes in it, or it cannot be written.
    """
    path = local_path(folder) / LOCK
    descriptor = _taken(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # moved aside with its folder, or on a disk that is gone
            if _is_at(descriptor, path):
                path.unlink()
        os.close(descriptor)


def _taken(path: Path) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise refusal("write", path.parent, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return descriptor
            said = os.pread(descriptor, 200, 0).decode(errors="replace")
            os.close(descriptor)
            if error.errno not in _HELD:
                raise refusal("lock", path.parent, error) from error
            raise StorageError(
                f"another run is writing in {path.parent} ({said or 'it has just begun'})",
                "one at a time",
                "wait for it, or choose another --out",
            ) from error
        if not _is_at(
            descriptor, path
        ):  # the folder was moved, or the holder before removed its file: take the new one
            os.close(descriptor)
            continue
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC".encode(), 0)
        return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
