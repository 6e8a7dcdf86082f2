"""A row that was edited, added by hand or taken out is named; old ledgers go on; writers at once keep the chain."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from helpers.bucket import QUIET, Bucket, bucket_server
from himari_rl.errors import StorageError
from himari_rl.trials.ledger import Trials, has_ledger

SCHEMES = ("", "sqlite:///")
OLD = (
    "CREATE TABLE trials (id INTEGER NOT NULL, at VARCHAR NOT NULL, purpose VARCHAR NOT NULL, market VARCHAR NOT NULL, "
    "first_ms BIGINT NOT NULL, last_ms BIGINT NOT NULL, what VARCHAR NOT NULL, detail VARCHAR NOT NULL, "
    "PRIMARY KEY (id))"
)


def execute(place: Path, *statements: str) -> None:
    with closing(sqlite3.connect(place, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def five_looks(place: str) -> None:
    with Trials(place) as trials:
        for i in range(5):
            trials.look("evaluate", "BTC", 0, 1, f"{i}")
        trials.verify()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE trials SET what = '1' WHERE id = 3", "row 3 was changed"),
        ("UPDATE trials SET purpose = 'train' WHERE id = 1", "1 was changed"),
        ("UPDATE trials SET paths = '[\"\"]' WHERE id = 5", "row 5 was changed"),
        ("DELETE FROM trials WHERE id = 2", "row 2 is gone"),
        ("DELETE FROM trials WHERE id = 5", "what came after row 4 is gone"),
        ("DELETE FROM trials", "what came after row 0 is gone"),
        ("INSERT INTO trials VALUES (6, '', 'evaluate', 'BTC', 0, 1, 'x', '{}', '[]', NULL)", "row 6 has no hash"),
        ("DELETE FROM trials_head", "."),
    ],
)
def test_what_was_changed_by_hand_is_named(tmp_path: Path, scheme: str, change: str, named: str) -> None:
    place = tmp_path / "t.sqlite"
    five_looks(f"{scheme}{place}")
    execute(place, change)
    with Trials(f"{scheme}{place}") as trials, pytest.raises(StorageError, match=named):
        trials.verify()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rows_from_before_there_were_chains_are_counted_by_their_names_and_guarded_too(
    tmp_path: Path, scheme: str
) -> None:
    place = tmp_path / "t.sqlite"
    insert = "INSERT INTO trials (at, purpose, market, first_ms, last_ms, what, detail) VALUES "
    execute(place, OLD, *(f"{insert} ('2026', 'evaluate', 'BTC-USDT', 0, 9, '{i}', '{{}}')" for i in range(3)))
    with Trials(f"{scheme}{place}") as trials:
        trials.verify()
        assert trials.count("BTC-USDT", 0, 9, ("1:3600000:0:",)) == 3
        assert trials.look("evaluate", "btcusdt", 5, 9, "new") == 4
        trials.verify()
    execute(place, "UPDATE trials SET what = '0' WHERE id = 2")
    with Trials(f"{scheme}{place}") as trials, pytest.raises(StorageError, match="one of the rows 1 to 4"):
        trials.verify()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_processes_that_write_at_once_make_one_chain(tmp_path: Path, scheme: str) -> None:
    place = f"{scheme}{tmp_path / 't.sqlite'}"
    text = "import sys; from himari_rl.trials.ledger import Trials; trials = Trials(sys.argv[1])\n"
    text += "for j in range(5): trials.look('evaluate', 'BTC', 0, 1, f'{sys.argv[2]}-{j}')"
    writers = [subprocess.Popen([sys.executable, "-c", text, place, str(i)]) for i in range(4)]
    assert [writer.wait(120) for writer in writers] == [0] * 4
    with Trials(place) as trials:
        trials.verify()
        assert trials.count("BTC", 0, 1) == 20


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with bucket_server() as server:
        yield server


@pytest.mark.filterwarnings(*QUIET)
def test_two_containers_share_a_ledger_in_a_bucket(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIMARI_TRIALS", "gs://b/team/trials")
    assert not has_ledger()
    with Trials() as mine, Trials() as yours:
        assert mine.look("evaluate", "BTC-USDT", 0, 10, "a") == 1
        assert yours.look("evaluate", "BTC-USDT", 5, 20, "b") == 2
        assert mine.look("evaluate", "BTC-USDT", 0, 10, "a") == 2
        assert mine.look("evaluate", "ETH-USDT", 0, 10, "c") == 1
        mine.verify()
    assert has_ledger()
    assert len(bucket.objects) == 4
    assert {generation for generation, _ in bucket.objects.values()} == {1}  # written once


@pytest.mark.filterwarnings(*QUIET)
def test_an_object_that_was_changed_or_taken_out_is_named(bucket: Bucket) -> None:
    with Trials("gs://b/t") as trials:
        for i in range(3):
            trials.look("evaluate", "BTC", 0, 1, f"{i}")
    by_what = {json.loads(data)["row"]["what"]: name for name, (_, data) in bucket.objects.items()}
    whole = dict(bucket.objects)
    bucket.objects[by_what["1"]] = (1, whole[by_what["1"]][1].replace(b'"evaluate"', b'"train"'))
    with Trials("gs://b/t") as trials, pytest.raises(StorageError, match=r"was changed by hand: object .* was changed"):
        trials.verify()
    bucket.objects = {name: value for name, value in whole.items() if name != by_what["1"]}
    with Trials("gs://b/t") as trials, pytest.raises(StorageError, match="is gone"):
        trials.verify()


@pytest.mark.filterwarnings(*QUIET)
def test_a_written_object_is_never_written_over(bucket: Bucket) -> None:
    from himari_rl.storage import gcs

    gcs.create("gs://b/x", b"one")
    gcs.create("gs://b/x", b"one")  # its own, where the answer was lost
    with pytest.raises(StorageError, match="exists already"):
        gcs.create("gs://b/x", b"two")
    bucket.lose_answer = True
    gcs.create("gs://b/y", b"one")
    assert gcs.names("gs://b/") == ["x", "y"]


def test_a_bucket_without_a_name_is_one_line() -> None:
    with pytest.raises(StorageError, match="names no bucket"):
        Trials("gs://")
