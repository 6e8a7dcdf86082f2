"""Files that are either whole or not there.

    write_atomic(path, data)      one file:    temporary name, fsync, rename
    write_folder(path, files)     one folder:  the same for a set of files that belong together
    exchange(path, change)        one file:    read, change, write, with nobody in between
    set_aside(path)               one folder:  renamed out of the way, with the date
    announce(path)                one file:    another library has written it
    require_writable(path)        one folder:  can files be made in it, before hours of work
    read_bytes(path)  is_file(path)  stamp(path)

The last three, write_atomic and exchange also take gs://bucket/name (storage/gcs.py, imported only then); whole folders
of a bucket are worked in with mirror.py. What is neither local nor gs:// is refused (paths.py).

A reader never sees half a file, and a full disk, a forbidden folder or a killed process leaves what was
there before. Every failure is a StorageError with one line that says what to do.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from types import ModuleType
from typing import Protocol

from himari_rl.errors import StorageError
from himari_rl.storage.paths import is_remote

_CURES = {
    errno.ENOSPC: "free space on that disk and run the command again",
    errno.EDQUOT: "free space in your quota and run the command again",
    errno.EFBIG: "raise the file size limit (ulimit -f) or choose another disk",
    errno.EACCES: "choose a folder you may write to, or change its permissions",
    errno.EPERM: "choose a folder you may write to, or change its permissions",
    errno.EROFS: "choose a folder on a writable disk",
    errno.ENOTDIR: "choose a path whose parents are folders",
    errno.EEXIST: "choose a path whose parents are folders",
    errno.EISDIR: "give the path of a file",
    errno.ENOENT: "check the path",
}

MOUNT = Path("/gcs")
_NO_FOLDER_RENAME = (errno.EMFILE, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV)


def read_bytes(path: str | Path, most: float = inf) -> bytes:
    """The whole file.

    Args:
        most: bytes that it can sensibly have; a larger one is not read, since a file of holes costs its maker nothing.

    Raises:
        StorageError: it is missing, unreadable, too large, a folder, or no file but a pipe, a socket or a device.
    """
    if remote := _remote(path):
        found: bytes = remote.read_bytes(str(path), most)
        return found
    try:
        descriptor = os.open(local_path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would hang here
        with os.fdopen(descriptor, "rb") as file:
            there = os.fstat(descriptor)
            if not stat.S_ISREG(there.st_mode):
                kind = "a named pipe" if stat.S_ISFIFO(there.st_mode) else "a device"
                raise StorageError(f"{path} is {kind}", "a file", "give the path of a file")
            if there.st_size > most:
                found_size, largest = f"{path} has {there.st_size:,} bytes", f"at most {most:,.0f}"
                raise StorageError(found_size, largest, "it is not what it is called: write it again")
            return file.read()
    except OSError as error:
        raise refusal("read", path, error) from error


def is_file(path: str | Path) -> bool:
    """Whether there is a file.

    Raises:
        StorageError: the bucket cannot be asked.
    """
    remote = _remote(path)
    return remote.stamp(str(path)) is not None if remote else local_path(path).is_file()


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder on this machine; a bucket has none, only names that begin alike."""
    return not is_remote(path) and local_path(path).is_dir()


def stamp(path: str | Path) -> str:
    """A cheap text that changes whenever the file does: its generation, or its inode, time and size.

    Raises:
        StorageError: it is missing or cannot be asked for.
    """
    if remote := _remote(path):
        found: str | None = remote.stamp(str(path))
        if found is None:
            raise StorageError(f"there is no {path}", cure="check the path")
        return found
    try:
        status = local_path(path).stat()
    except OSError as error:
        raise refusal("read", path, error) from error
    return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"


def exchange(
    path: str | Path, change: Callable[[bytes | None], bytes], mine: Callable[[bytes], bool] | None = None
) -> bytes:
    """Replaces a file by `change` of its content (None where there is no file), with nobody in between.

    In a bucket no two writers may ever make the same content: put a transaction id in it. A write whose answer was
    lost is recognised by what it wrote, or by `mine` where others have built upon it since.

    Returns:
        what is written now.

    Raises:
        StorageError: it cannot be read or written, or somebody else always gets in between.
    """
    if remote := _remote(path):
        written: bytes = remote.exchange(str(path), change, mine)
        return written
    target = place_to_write(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise refusal("write", path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        data = change(read_bytes(target) if target.exists() else None)
        write_atomic(target, data)
    finally:
        os.close(lock)
    return data


def write_atomic(path: str | Path, data: bytes) -> None:
    """Writes one file so that it appears whole or not at all; parent folders are made.

    Raises:
        StorageError: the disk is full or the place cannot be written; what was at `path` is unchanged.
    """
    if remote := _remote(path):
        remote.exchange(str(path), lambda before: data)
        return
    target = place_to_write(path)
    temporary = _sibling(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_new(temporary, data)
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise refusal("write", path, error) from error
    finally:
        _forget(temporary)
    announce(target)


def announce(path: Path) -> None:
    """Tells whoever follows its folder (mirror.py) that a file was written, whoever wrote it."""
    if FOLLOWERS and (follower := _follower(path)):
        follower.written(_absolute(path))


def write_folder(path: str | Path, files: Mapping[str, bytes], *, marker: str) -> None:
    """Writes a folder of files that belong together, so that it appears whole or not at all.

    Replacing takes two renames: a process killed between them leaves no folder at `path`, never a mixed one. Where
    folders cannot be renamed (gcsfuse answers EMFILE) the files are written one by one, the marker last.

    Args:
        path: the folder; an earlier version of the same kind there is replaced.
        files: content by file name.
        marker: the file name that tells an earlier version from somebody's other folder.

    Raises:
        StorageError: `path` holds something else, or it cannot be written; what was there is unchanged.
    """
    target = place_to_write(path)
    temporary, retired = _sibling(target), _sibling(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not _replaceable(target, marker):
            raise StorageError(
                f"{target} exists and has no {marker}", "a new or an empty folder", "choose another path"
            )
        temporary.mkdir()
        for name, data in files.items():
            _write_new(temporary / name, data)
        _sync_folder(temporary)
        if target.exists():
            target.rename(retired)  # a folder cannot be renamed over a full one: two steps, undone below
        try:
            temporary.rename(target)
        except OSError:
            if retired.exists():
                retired.rename(target)
            raise
        _sync_folder(target.parent)
    except OSError as error:
        if error.errno not in _NO_FOLDER_RENAME:
            raise refusal("write", path, error) from error
        _write_one_by_one(target, files, marker)
    finally:
        _forget(temporary)
        if target.exists():
            _forget(retired)
    if FOLLOWERS and (follower := _follower(target)):
        follower.folder_written(_absolute(target), marker)


def _write_one_by_one(target: Path, files: Mapping[str, bytes], marker: str) -> None:
    """Without its marker a folder is none: it goes first and comes last."""
    try:
        target.mkdir(exist_ok=True)
        (target / marker).unlink(missing_ok=True)
        for old in target.iterdir():
            _forget(old)
        for name in [*(name for name in files if name != marker), marker]:
            _write_new(target / name, files[name])
        _sync_folder(target)
    except OSError as error:
        raise refusal("write", target, error) from error


def set_aside(path: str | Path) -> Path:
    """Renames a folder out of the way: NAME becomes NAME.YYYYMMDD-HHMMSS beside it. Returns the new path.

    Raises:
        StorageError: it is the working folder or holds it, or it cannot be renamed.
    """
    target = Path(os.path.abspath(local_path(path)))  # "." has no name, and a link is moved, not what it points to
    if str(target) in FOLLOWERS:
        raise StorageError(f"{target} is not set aside", "a new folder: objects stay what they are", "choose another")
    if target in (Path.cwd(), *Path.cwd().parents):
        raise StorageError(f"{target} is the working folder", "a folder that can be renamed", "choose another folder")
    first = retired = target.with_name(f"{target.name}.{datetime.now(UTC):%Y%m%d-%H%M%S}")
    count = 1
    while retired.exists():
        count += 1
        retired = first.with_name(f"{first.name}-{count}")
    try:
        target.rename(retired)
        _sync_folder(target.parent)
    except OSError as error:
        raise refusal("rename", path, error) from error
    return Path(path).with_name(retired.name) if Path(path).name not in ("", "..") else retired


def require_writable(folder: str | Path) -> None:
    """Finds out whether files can be made in a folder, which is made where it is missing.

    Raises:
        StorageError: they cannot.
    """
    probe = _sibling(place_to_write(folder) / "probe")
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        _write_new(probe, b"")
    except OSError as error:
        raise refusal("write", folder, error) from error
    finally:
        _forget(probe)


def local_path(path: str | Path) -> Path:
    """The path on this machine.

    Raises:
        StorageError: the path names a bucket, or no place at all.
    """
    text = str(path)
    if is_remote(path):
        raise StorageError(f"{text} is not on this machine", "a local path", "copy it here first and give that path")
    return Path(text)


def place_to_write(path: str | Path) -> Path:
    """The path on this machine, where it is no mount of a bucket.

    Vertex AI mounts buckets under /gcs with gcsfuse: no folder is renamed there, nothing is exchanged, and where the
    mount is missing all that is written is lost with the container.

    Raises:
        StorageError: as `local_path`, or it is under /gcs.
    """
    target = local_path(path)
    if target.is_relative_to(MOUNT):
        bucket = target.relative_to(MOUNT).as_posix()
        raise StorageError(f"{target} is a mount, which only bars are read from", "", f"write it as gs://{bucket}")
    return target


def _remote(path: str | Path) -> ModuleType | None:
    """The module that speaks to buckets, for a path in one; None for a local path."""
    if not is_remote(path):
        return None
    from himari_rl.storage import gcs

    return gcs


class FolderCopy(Protocol):
    """What is told of every file that is written in a folder (mirror.py)."""

    def written(self, target: Path) -> None: ...

    def folder_written(self, target: Path, marker: str) -> None: ...


FOLLOWERS: dict[str, FolderCopy] = {}
"""Folders that something follows, by absolute path."""


def _follower(target: Path) -> FolderCopy | None:
    return next((FOLLOWERS[str(p)] for p in _absolute(target).parents if str(p) in FOLLOWERS), None)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _sibling(target: Path) -> Path:
    """A fresh hidden name beside `target`: the same disk, so that a rename is atomic."""
    return target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def _replaceable(target: Path, marker: str) -> bool:
    return target.is_dir() and ((target / marker).is_file() or not any(target.iterdir()))


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forget(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def refusal(verb: str, path: str | Path, error: OSError) -> StorageError:
    """What an operating system's error means for whoever reads it."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return StorageError(
        f"cannot {verb} {path}: {reason}", cure=_CURES.get(error.errno or 0, "check the path and the disk")
    )
