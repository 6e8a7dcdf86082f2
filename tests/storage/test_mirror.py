"""A folder of a bucket to work in: what storage writes there is in the bucket, whole, verified, and nothing renamed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.bucket import QUIET
from helpers.cloud import Cloud, cloud_server
from himari_rl.errors import ConflictError, StorageError
from himari_rl.storage import exchange, gcs, read_bytes, set_aside, write_atomic, write_folder
from himari_rl.storage.mirror import INDEX, fetched, shown, workplace
from himari_rl.storage.snapshots import Snapshots

pytestmark = pytest.mark.filterwarnings(*QUIET)
BUNDLE = {"manifest.json": b"{}", "weights.safetensors": b"w" * 1000}


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with cloud_server("models") as server:
        yield server


@pytest.fixture
def place(cloud: Cloud, request: pytest.FixtureRequest) -> str:
    cloud.asked.clear()
    return f"gs://models/{hashlib.md5(request.node.name.encode()).hexdigest()}"


def written(cloud: Cloud) -> list[tuple[str, str]]:
    """(object, generation it replaces) of every upload so far, in order."""
    return [path for method, path in cloud.asked if method == "POST" and "upload" in path]  # type: ignore[misc]


def test_a_local_place_is_itself(tmp_path: Path) -> None:
    with workplace(tmp_path / "x") as folder:
        assert folder == tmp_path / "x"


def test_a_file_is_in_the_bucket_when_it_is_written_and_a_folder_at_the_end_its_marker_last(
    cloud: Cloud, place: str
) -> None:
    with workplace(place) as folder:
        write_atomic(folder / "folds" / "a.fold", b"one")
        assert read_bytes(f"{place}/folds/a.fold") == b"one"
        write_folder(folder / "bundle", BUNDLE, marker="manifest.json")
        write_atomic(folder / "bundle" / "evaluation.json", b"{}")
        assert gcs.names(f"{place}/bundle/") == []
        cloud.asked.clear()
    assert all("ifGenerationMatch=0" in path for path in written(cloud))
    assert gcs.names(f"{place}/bundle/") == ["evaluation.json", "manifest.json", "weights.safetensors"]
    generations = {each.name: each.generation for each in gcs.listing(f"{place}/bundle/")}
    assert max(generations, key=lambda name: generations[name]) == "manifest.json"
    index = json.loads(read_bytes(f"{place}/{INDEX}"))["objects"]
    assert index["bundle/weights.safetensors"] == {
        "sha256": hashlib.sha256(BUNDLE["weights.safetensors"]).hexdigest(),
        "size": 1000,
        "generation": generations["weights.safetensors"],
    }
    assert not folder.exists()


def test_work_that_failed_leaves_no_bundle(place: str) -> None:
    def work() -> None:
        with workplace(place) as folder:
            write_folder(folder / "bundle", BUNDLE, marker="manifest.json")
            raise StorageError(f"no such thing in {folder}/x")

    with pytest.raises(StorageError, match=f"no such thing in {place}/x"):
        work()
    assert gcs.names(f"{place}/") == []


def test_the_next_one_finds_what_is_there_and_writes_only_what_changed(cloud: Cloud, place: str) -> None:
    with workplace(place) as folder:
        write_atomic(folder / "a.json", b"1")
        write_atomic(folder / "b.json", b"1")
    with workplace(place) as folder:
        assert sorted(path.name for path in folder.iterdir()) == ["a.json", "b.json"]
        cloud.asked.clear()
        write_atomic(folder / "a.json", b"1")
        assert written(cloud) == []
        exchange(folder / "b.json", lambda before: (before or b"") + b"2")
        assert "ifGenerationMatch=0" not in written(cloud)[0]
        assert "ifGenerationMatch=" in written(cloud)[0]
    assert read_bytes(f"{place}/b.json") == b"12"


def test_only_what_is_asked_for_is_fetched(place: str) -> None:
    with workplace(place) as folder:
        for name in ("bundle/x", "bundles/x", "other"):
            write_atomic(folder / name, b"1")
    with workplace(place, only=("bundle",)) as folder:
        assert sorted(path.name for path in folder.iterdir()) == ["bundle"]


def test_two_writers_of_other_content_are_told_apart_and_of_the_same_content_are_one(place: str) -> None:
    with workplace(place) as one, workplace(place) as other:
        write_atomic(one / "settings.json", b"same")
        write_atomic(other / "settings.json", b"same")
        write_atomic(one / "x", b"one")
        with pytest.raises(ConflictError, match="exists already"):
            write_atomic(other / "x", b"two")
    assert read_bytes(f"{place}/x") == b"one"


def test_a_checkpoint_is_a_new_object_each_time_and_two_are_kept(cloud: Cloud, place: str) -> None:
    with workplace(place) as folder:
        for step in range(4):
            write_atomic(folder / "checkpoint-0.safetensors", b"step %d" % step)
    names = gcs.names(f"{place}/checkpoints/")
    assert [name.partition("-")[2][:8] for name in names] == ["0.json", "0/000003", "0/000004"]
    pointer = json.loads(read_bytes(f"{place}/checkpoints/checkpoint-0.json"))
    assert {"object", "sha256", "size", "generation", "step", "transaction"} <= set(pointer)
    assert pointer["sha256"] == hashlib.sha256(b"step 3").hexdigest()
    with workplace(place) as folder:
        assert (folder / "checkpoint-0.safetensors").read_bytes() == b"step 3"


def test_a_process_killed_between_object_and_pointer_has_changed_nothing(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with workplace(place) as folder:
        write_atomic(folder / "checkpoint-0.safetensors", b"first")
        with monkeypatch.context() as patch:
            patch.setattr(gcs, "put", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
            patch.setattr(gcs, "create", lambda path, data: gcs._put(path, data, 0))
            with pytest.raises(KeyboardInterrupt):
                write_atomic(folder / "checkpoint-0.safetensors", b"second")
    with workplace(place) as folder:
        assert (folder / "checkpoint-0.safetensors").read_bytes() == b"first"
        write_atomic(folder / "checkpoint-0.safetensors", b"third")
    assert len(gcs.names(f"{place}/checkpoints/checkpoint-0/")) == 2  # what nobody named has gone


def test_the_second_of_two_processes_that_train_the_same_run_is_stopped(place: str) -> None:
    with workplace(place) as one, workplace(place) as other:
        write_atomic(one / "checkpoint-0.safetensors", b"one")
        with pytest.raises(ConflictError, match="one process that trains here"):
            write_atomic(other / "checkpoint-0.safetensors", b"other")


def test_an_object_that_is_gone_or_damaged_is_refused(place: str) -> None:
    with workplace(place) as folder:
        write_atomic(folder / "x", b"content")
        write_atomic(folder / "y", b"content")
    index = json.loads(read_bytes(f"{place}/{INDEX}"))
    index["objects"]["y"]["sha256"] = "0" * 64
    write_atomic(f"{place}/{INDEX}", json.dumps(index).encode())
    with pytest.raises(StorageError, match="y is damaged"), workplace(place):
        pass
    gcs.delete(f"{place}/x")
    with pytest.raises(StorageError, match="x is gone"), workplace(place):
        pass


def test_nothing_is_renamed_in_a_bucket_and_a_whole_bucket_is_no_folder(place: str) -> None:
    with workplace(place) as folder:
        write_atomic(folder / "x", b"")
        with pytest.raises(StorageError, match="objects stay what they are"):
            set_aside(folder)
    with pytest.raises(StorageError, match="names no object"), workplace("gs://models"):
        pass


def test_files_for_reading_alone(place: str, tmp_path: Path) -> None:
    for name in ("BTC-USD_1h.csv", "notes.txt", "deep/ETH-USD_1h.csv"):
        gcs.create(f"{place}/{name}", name.encode())
    folder = fetched(place + "/", lambda name: name.endswith(".csv"))
    assert [path.name for path in folder.iterdir()] == ["BTC-USD_1h.csv"]
    single = fetched(f"{place}/BTC-USD_1h.csv")
    assert (single.name, single.read_bytes()) == ("BTC-USD_1h.csv", b"BTC-USD_1h.csv")
    assert shown(f"{single} is wrong") == f"{place}/BTC-USD_1h.csv is wrong"
    with pytest.raises(StorageError, match="there is nothing at"):
        fetched(f"{place}/nothing")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["/etc/passwd", "a//b", "a/../../b", "../b", "./b"])
def test_a_name_that_leads_out_of_the_folder_is_refused_and_written_nowhere(
    place: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket takes any name; whoever may write there must not write on the machine that reads it."""
    write_atomic(f"{place}/x", b"1")
    real = gcs.listing
    monkeypatch.setattr(gcs, "listing", lambda folder: [*real(folder), gcs.StoredObject(name, 1, 1)])
    monkeypatch.setattr(gcs, "read", lambda path: (b"foreign", 1))
    with pytest.raises(StorageError, match="cannot be a file in a folder"), workplace(place):
        pass
    assert not Path("/etc/passwd").read_bytes().startswith(b"foreign")


@pytest.mark.parametrize("name", ["umlaut-\u00e4\u00f6.json", "a b#c?d%25e&f+g=h.json", "[x]*.json", 'it\'s "so".json'])
def test_a_name_with_odd_characters_is_a_name(place: str, name: str) -> None:
    place = f"{place}/an odd #folder?/50%"
    with workplace(place) as folder:
        write_atomic(folder / name, b"content")
        write_folder(folder / "bundle", BUNDLE, marker="manifest.json")
        write_atomic(folder / "checkpoint-0.safetensors", b"step")
    assert read_bytes(f"{place}/{name}") == b"content"
    with workplace(place) as folder:
        assert (folder / name).read_bytes() == b"content"
        assert (folder / "checkpoint-0.safetensors").read_bytes() == b"step"
        assert len(list((folder / "bundle").iterdir())) == len(BUNDLE)


def test_an_object_where_a_folder_must_be_is_one_line(place: str) -> None:
    gcs.create(f"{place}/bundle", b"a file")
    gcs.create(f"{place}/bundle/manifest.json", b"{}")
    with pytest.raises(StorageError, match=r"cannot keep a copy of gs://.*/bundle"), workplace(place):
        pass


@pytest.mark.parametrize("field", [{"file": "../../x.safetensors"}, {"file": "other.safetensors"}, {"object": "y/1"}])
def test_a_checkpoint_s_pointer_names_its_own_file_alone(place: str, field: dict[str, str]) -> None:
    with workplace(place) as folder:
        write_atomic(folder / "checkpoint-0.safetensors", b"step")
    pointer = f"{place}/checkpoints/checkpoint-0.json"
    write_atomic(pointer, json.dumps(json.loads(read_bytes(pointer)) | field).encode())
    with pytest.raises(StorageError, match="a file called checkpoint-0"), workplace(place):
        pass


def test_what_a_killed_process_left_behind_goes_also_when_the_next_one_has_nothing_new(
    cloud: Cloud, place: str
) -> None:
    """It moved the pointer and was killed before it deleted: three objects, of which the pointer names two."""
    first = Snapshots(place)
    for content in (b"one", b"two", b"three"):
        first.put("checkpoint-0.bin", content)
    left = f"{place}/checkpoint-0/000001-left.bin"
    gcs.create(left, b"one")
    second = Snapshots(place)
    assert second.fetch() == {"checkpoint-0.bin": b"three"}
    assert f"checkpoint-0/{left.rpartition('/')[2]}" in gcs.names(place + "/"), (
        "the control: reading takes nothing away"
    )
    second.put("checkpoint-0.bin", b"three")
    kept = [name for name in gcs.names(place + "/") if name.endswith(".bin")]
    assert len(kept) == 2
    assert all("left" not in name for name in kept)
    assert Snapshots(place).fetch() == {"checkpoint-0.bin": b"three"}
