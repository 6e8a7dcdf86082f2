"""The trial ledger: looking twice costs, a continued run counts once, other markets and spans do not count."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from himari_rl.data.synthetic import synthetic_bars
from himari_rl.errors import ConfigError, StorageError
from himari_rl.evaluation.statistics import Moments, deflated_sharpe
from himari_rl.features.signals import reference_signals
from himari_rl.trials.ledger import Trials, has_ledger, look_of
from himari_rl.trials.row import Row
from himari_rl.trials.store import BUSY_S


@pytest.fixture(params=["", "sqlite:///"], ids=["sqlite3", "sqlalchemy"])
def ledger(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Trials]:
    """The ledger through the standard library, and through SQLAlchemy as a database's URL asks for it."""
    with Trials(f"{request.param}{tmp_path / 'trials.sqlite'}") as trials:
        yield trials


def test_each_different_look_at_an_overlapping_span_adds_one(ledger: Trials) -> None:
    assert ledger.look("evaluate", "BTC", 100, 200, "a") == 1
    assert ledger.look("evaluate", "BTC", 100, 200, "b") == 2
    assert ledger.look("evaluate", "BTC", 200, 300, "b") == 3  # the bar at 200 is in all three
    assert ledger.look("evaluate", "BTC", 301, 400, "b") == 1
    assert ledger.look("evaluate", "ETH", 100, 200, "b") == 1


def test_training_is_recorded_and_is_no_look(ledger: Trials) -> None:
    ledger.trained("BTC", 0, 500, "config")
    assert ledger.look("evaluate", "BTC", 100, 200, "a") == 1
    assert [trial.purpose for trial in ledger.history("BTC")] == ["train", "evaluate"]


def test_the_same_look_again_is_recorded_and_counts_once(ledger: Trials) -> None:
    for _ in range(3):
        assert ledger.look("walk-forward", "BTC", 0, 10, "c") == 1
    assert ledger.look("walk-forward", "BTC", 0, 10, "d") == 2
    assert len(ledger.history("BTC")) == 4


def test_looks_count_for_every_market_with_an_asset_in_common(ledger: Trials) -> None:
    assert ledger.look("evaluate", "BTC-USDT", 0, 10, "a") == 1
    assert ledger.look("evaluate", "btcusdt", 0, 10, "b") == 2  # a file's name is no other market
    assert ledger.look("evaluate", "BTC-USDT+ETH-USDT", 0, 10, "c") == 3
    assert ledger.look("evaluate", "ETH-USDT", 0, 10, "d") == 2
    assert ledger.look("evaluate", "BTC-USDT from a generator", 0, 10, "e") == 1


def test_the_same_bars_with_other_signals_are_another_look() -> None:
    """Five versions of a signal, each judged once, were five first looks."""
    bars = synthetic_bars(300, 0)
    signals = reference_signals(bars)
    louder = replace(signals, confidence=np.minimum(1.0, signals.confidence + 0.1))
    looks = [look_of("c", b) for b in (bars, bars[:], replace(bars, signals=signals), replace(bars, signals=louder))]
    assert looks[0] == looks[1]
    assert len(set(looks)) == 3


def test_asking_whether_there_is_a_ledger_writes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("", "sqlite:///"):
        monkeypatch.setenv("HIMARI_TRIALS", f"{scheme}{tmp_path / 't.sqlite'}")
        assert not has_ledger()
        assert not (tmp_path / "t.sqlite").exists()
    with Trials() as there:
        there.look("evaluate", "BTC", 0, 10, "a")
    assert has_ledger()


def test_more_looks_deflate_the_same_record_more(ledger: Trials) -> None:
    record = Moments(count=10_000, sharpe=0.02)
    chances = [deflated_sharpe(record, ledger.look("evaluate", "BTC", 0, 1, f"{i}")) for i in range(4)]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] > 0.95 > chances[3]


@pytest.mark.parametrize("scheme", ["", "sqlite:///"])
def test_eight_writers_lose_nothing(tmp_path: Path, scheme: str) -> None:
    def write(i: int) -> None:
        with Trials(f"{scheme}{tmp_path / 'shared.sqlite'}") as trials:
            for j in range(5):
                trials.look("evaluate", "BTC", 0, 1, f"{i}-{j}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    with Trials(tmp_path / "shared.sqlite") as trials:
        assert trials.count("BTC", 0, 1) == 40


def test_four_processes_make_one_ledger_and_lose_nothing(tmp_path: Path) -> None:
    place = str(tmp_path / "new" / "shared.sqlite")
    text = "import sys; from himari_rl.trials.ledger import Trials; trials = Trials(sys.argv[1])\n"
    text += "for j in range(5): trials.look('evaluate', 'BTC', 0, 1, f'{sys.argv[2]}-{j}')"
    writers = [subprocess.Popen([sys.executable, "-c", text, place, str(i)]) for i in range(4)]
    assert [writer.wait(120) for writer in writers] == [0] * 4
    with Trials(place) as trials:
        assert trials.count("BTC", 0, 1) == 20


def test_either_way_reads_what_the_other_wrote(tmp_path: Path) -> None:
    place = str(tmp_path / "trials.sqlite")
    for number, spelled in enumerate((f"sqlite:///{place}", place, f"sqlite:///{place}", place), 1):
        with Trials(spelled) as trials:
            assert trials.look("evaluate", "BTC", 0, 10, f"{number}", {"n": number}) == number
            assert [trial.detail for trial in trials.history()] == [{"n": n} for n in range(1, number + 1)]


def test_the_table_is_the_one_that_sqlalchemy_makes(tmp_path: Path) -> None:
    """Columns by the database's own account: name, type, not null, default, key."""
    described = []
    for name, scheme in (("a", ""), ("b", "sqlite:///")):
        with Trials(f"{scheme}{tmp_path / name}"):
            pass
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            described.append(connection.execute("PRAGMA table_info(trials)").fetchall())
    assert described[0] == described[1]
    assert [column[1] for column in described[0]] == ["id", *Row._fields, "chain"]


@pytest.mark.parametrize("scheme", ["", "sqlite:///"])
def test_a_file_that_is_no_ledger_is_one_line_with_the_cure(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "notes.txt").write_text("these are notes, not a database" * 50)
    with pytest.raises(StorageError, match=r"file is not a database.*HIMARI_TRIALS"):
        Trials(f"{scheme}{tmp_path / 'notes.txt'}")


@pytest.mark.parametrize("scheme", ["", "sqlite:///"])
def test_a_place_that_cannot_be_written_is_one_line_too(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="HIMARI_TRIALS"):
        Trials(f"{scheme}{tmp_path / 'file' / 'trials.sqlite'}")


def test_a_url_of_no_database_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="HIMARI_TRIALS"):
        Trials("nosuch://host/name")


def test_a_url_without_sqlalchemy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ConfigError, match="pip install") as caught:
        Trials("postgresql://user:secret@host/name")
    assert "secret" not in str(caught.value)


def test_a_locked_ledger_is_waited_for(tmp_path: Path) -> None:
    place = tmp_path / "trials.sqlite"
    with Trials(place) as trials, closing(sqlite3.connect(place, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(trials.look, "evaluate", "BTC", 0, 1, "a")
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
            other.execute("COMMIT")
            assert waiting.result(timeout=BUSY_S) == 1


def test_evaluate_counts_its_own_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers import himari_here, run_himari
    from helpers.bundle import make_bundle
    from himari_rl.data.table import write_bars

    write_bars(synthetic_bars(1200, 0), tmp_path / "bars.parquet")
    training = {"sha256": "0" * 64, "source": "a test", "start": "2001-01-01T00:00:00Z", "end": "2001-02-01T00:00:00Z"}
    training |= {"rows": 100, "interval_ms": 3_600_000, "synthetic": True}
    counted = []
    for seed, himari in ((0, run_himari), (1, himari_here), (1, himari_here)):  # the first from another process
        bundle = make_bundle(tmp_path / str(seed), hidden=(4,), training_data=training, weights_seed=seed)
        found = himari(
            "evaluate", str(bundle), "--data", str(tmp_path / "bars.parquet"), "--json",
            HIMARI_TRIALS=str(tmp_path / "t.sqlite"),
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        counted.append(json.loads(found.stdout)["verdict"]["trials"])
    assert counted == [1, 2, 2]
