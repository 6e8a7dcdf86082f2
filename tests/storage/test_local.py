"""Files are whole or absent, whatever the disk does."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from himari_rl.errors import StorageError
from himari_rl.storage import read_bytes, write_atomic, write_folder

FILES = {"manifest.json": b"{}", "weights": b"\x00" * 100}


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under `folder`, hidden ones included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def full_disk(monkeypatch: pytest.MonkeyPatch, call: str, after: int = 0) -> None:
    """Makes os.write or os.fsync fail with ENOSPC after `after` good calls."""
    real, count = getattr(os, call), [0]

    def failing(*args: object) -> object:
        count[0] += 1
        if count[0] > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    monkeypatch.setattr(os, call, failing)


def test_a_file_is_written_with_its_parents_and_read_back(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "file", b"hello")
    assert read_bytes(tmp_path / "a" / "b" / "file") == b"hello"
    assert list((tmp_path / "a" / "b").iterdir()) == [tmp_path / "a" / "b" / "file"]


def test_short_writes_of_the_kernel_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    write_atomic(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write_atomic(tmp_path / "file", b"old")
    full_disk(monkeypatch, call)
    with pytest.raises(StorageError, match=r"cannot write .*file: No space left on device; free space"):
        write_atomic(tmp_path / "file", b"new")
    assert tree(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize(("call", "after"), [("write", 0), ("write", 1), ("fsync", 0), ("fsync", 1), ("fsync", 2)])
def test_a_full_disk_leaves_the_old_folder_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: int
) -> None:
    write_folder(tmp_path / "b", FILES, marker="manifest.json")
    before = tree(tmp_path)
    full_disk(monkeypatch, call, after)
    with pytest.raises(StorageError, match="No space left"):
        write_folder(tmp_path / "b", FILES | {"weights": b"new"}, marker="manifest.json")
    assert tree(tmp_path) == before


def test_a_first_folder_that_fails_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch, "write", 1)
    with pytest.raises(StorageError):
        write_folder(tmp_path / "b", FILES, marker="manifest.json")
    assert list(tmp_path.iterdir()) == []


def test_a_rename_that_fails_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "b", FILES, marker="manifest.json")
    before = tree(tmp_path)
    real, count = Path.rename, [0]

    def second_fails(self: Path, target: Path) -> Path:
        count[0] += 1
        if count[0] == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(StorageError, match="Input/output error"):
        write_folder(tmp_path / "b", {"manifest.json": b"new"}, marker="manifest.json")
    assert tree(tmp_path) == before


def test_the_kernels_own_file_size_limit_is_reported(tmp_path: Path) -> None:
    """Not a monkeypatch: a process that may write no file above 1000 bytes."""
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from himari_rl.storage import write_atomic\n"
        f"write_atomic({str(tmp_path / 'file')!r}, bytes(5000))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "StorageError: cannot write" in done.stderr
    assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_folder(tmp_path / "b", FILES | {"extra": b"1"}, marker="manifest.json")
    write_folder(tmp_path / "b", FILES, marker="manifest.json")
    assert tree(tmp_path) == {f"b/{name}": data for name, data in FILES.items()}


def test_somebody_elses_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_bytes(b"three years")
    with pytest.raises(StorageError, match=r"exists and has no manifest\.json; .*choose another path"):
        write_folder(tmp_path / "b", FILES, marker="manifest.json")
    assert tree(tmp_path) == {"b/thesis.tex": b"three years"}


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for write in (lambda p: write_atomic(p, b"y"), lambda p: write_folder(p, FILES, marker="manifest.json")):
        with pytest.raises(StorageError, match=r"Not a directory|File exists"):
            write(tmp_path / "file" / "below")
    assert tree(tmp_path) == {"file": b"x"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(StorageError, match="Permission denied; choose a folder you may write to"):
            write_atomic(tmp_path / "file", b"x")
    finally:
        tmp_path.chmod(0o755)


def test_a_missing_file_a_folder_and_a_bucket_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot read .*: No such file or directory; check the path"):
        read_bytes(tmp_path / "nothing")
    with pytest.raises(StorageError, match="Is a directory; give the path of a file"):
        read_bytes(tmp_path)
    with pytest.raises(StorageError, match=r"gs://bucket/x is not on this machine"):
        write_folder("gs://bucket/x", {"a": b""}, marker="a")
    with pytest.raises(StorageError, match=r"s3://bucket/x is neither a local path nor gs://bucket/name"):
        read_bytes("s3://bucket/x")


@pytest.mark.parametrize("before", [False, True])
def test_a_folder_is_written_where_folders_cannot_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """gcsfuse on an ordinary bucket answers EMFILE."""
    target, rename = tmp_path / "bundle", os.rename
    if before:
        write_folder(target, {"manifest.json": b"old", "more": b"old"}, marker="manifest.json")

    def refuse(source: Path, to: Path) -> None:
        if os.path.isdir(source):
            raise OSError(errno.EMFILE, "Too many open files")
        rename(source, to)

    monkeypatch.setattr(os, "rename", refuse)
    write_folder(target, {"manifest.json": b"new", "weights": b"new"}, marker="manifest.json")
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {"manifest.json": b"new", "weights": b"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
