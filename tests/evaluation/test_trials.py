"""The trial ledger: looking twice costs, a continued run counts once, other markets and spans do not count."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from himari_rl.data.synthetic import synthetic_bars
from himari_rl.errors import StorageError
from himari_rl.evaluation.statistics import Moments, deflated_sharpe
from himari_rl.evaluation.trials import Trials, look_of, looks_so_far
from himari_rl.features.signals import reference_signals


@pytest.fixture
def ledger(tmp_path: Path) -> Trials:
    with Trials(tmp_path / "trials.sqlite") as trials:
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


def test_asking_how_often_writes_no_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIMARI_TRIALS", str(tmp_path / "t.sqlite"))
    assert looks_so_far("BTC", 0, 10) == 1
    assert not (tmp_path / "t.sqlite").exists()
    with Trials() as there:
        there.look("evaluate", "BTC", 0, 10, "a")
        there.look("evaluate", "BTC", 0, 10, "b")
    assert looks_so_far("BTC", 5, 20) == 2


def test_more_looks_deflate_the_same_record_more(ledger: Trials) -> None:
    record = Moments(count=10_000, sharpe=0.02)
    chances = [deflated_sharpe(record, ledger.look("evaluate", "BTC", 0, 1, f"{i}")) for i in range(4)]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] > 0.95 > chances[3]


def test_eight_writers_lose_nothing(tmp_path: Path) -> None:
    def write(i: int) -> None:
        with Trials(tmp_path / "shared.sqlite") as trials:
            for j in range(5):
                trials.look("evaluate", "BTC", 0, 1, f"{i}-{j}")

    Trials(tmp_path / "shared.sqlite").engine.dispose()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    with Trials(tmp_path / "shared.sqlite") as trials:
        assert trials.count("BTC", 0, 1) == 40


def test_a_file_that_is_no_ledger_is_one_line_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("these are notes, not a database" * 50)
    with pytest.raises(StorageError, match="HIMARI_TRIALS"):
        Trials(tmp_path / "notes.txt")


def test_evaluate_counts_its_own_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers import run_himari
    from helpers.bundle import make_bundle
    from himari_rl.data.table import write_bars

    write_bars(synthetic_bars(1200, 0), tmp_path / "bars.parquet")
    training = {"sha256": "0" * 64, "source": "a test", "start": "2001-01-01T00:00:00Z", "end": "2001-02-01T00:00:00Z"}
    training |= {"rows": 100, "interval_ms": 3_600_000, "synthetic": True}
    counted = []
    for seed in (0, 1, 1):
        bundle = make_bundle(tmp_path / str(seed), hidden=(4,), training_data=training, weights_seed=seed)
        found = run_himari(
            "evaluate", str(bundle), "--data", str(tmp_path / "bars.parquet"), "--json",
            HIMARI_TRIALS=str(tmp_path / "t.sqlite"),
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        counted.append(json.loads(found.stdout)["verdict"]["trials"])
    assert counted == [1, 2, 2]
