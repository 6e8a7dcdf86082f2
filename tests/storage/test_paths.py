"""A path is local or gs://; anything else is refused, and a gs:// string that went through Path() is found out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from helpers import ROOT
from himari_rl.errors import StorageError
from himari_rl.storage import exchange, is_file, is_remote, join, local_path, name_of, parent, read_bytes, write_atomic
from himari_rl.storage.local import place_to_write, require_writable, write_folder
from himari_rl.storage.mirror import workplace

STRANGE = ["s3://b/x", "http://h/x", "file:///tmp/x", "GS://b/x", "gs:/b/x", "gs://", "gs:///x", "az://c/x", "hdfs:/x"]
STRANGE += ["gs:b/x", "gs:", "Gs:b", " gs://b/x", "\tgs://b/x"]


@pytest.mark.parametrize("path", STRANGE)
def test_a_path_that_is_neither_local_nor_in_a_bucket_is_refused_everywhere(path: str) -> None:
    for use in (is_remote, local_path, read_bytes, is_file, parent, lambda p: write_atomic(p, b"")):
        with pytest.raises(StorageError, match=r"is neither a local path nor gs://bucket/name"):
            use(path)
    with pytest.raises(StorageError, match="is neither a local path"):
        exchange(path, lambda before: b"")
    with pytest.raises(StorageError, match="is neither a local path"), workplace(path):
        pass


@pytest.mark.parametrize("path", ["runs/mine", "/tmp/x", "a:b", "C:/bars.csv", "2024:01/x", "", "."])
def test_a_local_path_is_one_with_whatever_colon(path: str) -> None:
    assert not is_remote(path)
    assert local_path(path) == Path(path)


def test_a_bucket_s_string_that_went_through_path_is_found_out() -> None:
    with pytest.raises(StorageError, match=r"gs:/b/x is neither .* write it as gs://bucket/name"):
        local_path(Path("gs://b/x"))


def test_nothing_is_written_through_a_mount_of_a_bucket() -> None:
    place = "/gcs/models/run"
    for use in (
        lambda: write_atomic(f"{place}/x", b""),
        lambda: write_folder(place, {"x": b""}, marker="x"),
        lambda: exchange(f"{place}/x", lambda before: b""),
        lambda: require_writable(place),
        lambda: workplace(place).__enter__(),
    ):
        with pytest.raises(StorageError, match=r"is a mount, which only bars are read from; write it as gs://models/r"):
            use()
    assert local_path(place) == Path(place)  # bars are read from there
    assert place_to_write("/gcsfuse/x") == Path("/gcsfuse/x")


@pytest.mark.parametrize(
    ("path", "folder", "name"),
    [
        ("gs://b/a/c.json", "gs://b/a", "c.json"),
        ("a/c.json", "a", "c.json"),
        ("gs://b/a/", "gs://b", "a"),
        ("x", ".", "x"),
    ],
)
def test_the_parts_of_a_path(path: str, folder: str, name: str) -> None:
    assert (parent(path), name_of(path)) == (folder, name)
    assert join(folder, name) == path.rstrip("/")


def typed_as_path(text: str) -> list[str]:
    """Options of a command that would be made a Path of: gs:// would be broken before anybody sees it."""
    found = []
    for node in ast.walk(ast.parse(text)):
        said = getattr(node, "annotation", None) or (node.value if isinstance(node, ast.Assign) else None)
        if said is not None and re.match(r"Annotated\[[^,]*\bPath\b.*\b(Option|Argument)\(", ast.unparse(said)):
            found.append(ast.unparse(said).partition(",")[0].removeprefix("Annotated["))
    return found


@pytest.mark.parametrize("file", sorted((ROOT / "src/himari_rl/cli").glob("*.py")), ids=lambda f: f.name)
def test_no_command_makes_a_path_of_an_option(file: Path) -> None:
    assert typed_as_path(file.read_text()) == []


def test_such_an_option_is_noticed() -> None:
    assert typed_as_path("def f(out: Annotated[Path, Option()]): ...") == ["Path"]
