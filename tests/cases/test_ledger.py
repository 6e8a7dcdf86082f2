"""The trial ledger as people meet it: other folders, other file names, other exchanges, none at all, one edited."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from helpers.bucket import QUIET, bucket_server
from helpers.bundle import make_bundle
from helpers.data import shared
from helpers.verdict import good_document, run_of
from himari_rl.cli import main
from himari_rl.data.sources import load_bars
from himari_rl.data.table import write_bars
from himari_rl.schema import DAY_MS, HOUR_MS, Bars
from himari_rl.trials.ledger import Trials, has_ledger

Judge = Callable[..., dict[str, Any]]
START = 1_704_067_200_000  # 2024-01-01T00:00Z
TRAINED = {"sha256": "0" * 64, "source": "a test", "start": "2001-01-01T00:00:00Z", "end": "2001-02-01T00:00:00Z"}
TRAINED |= {"rows": 100, "interval_ms": HOUR_MS, "synthetic": False}


def recorded(symbol: str, seed: int = 0, own: float = 0.0, days: int = 50) -> Bars:
    """Hourly bars of a market; `own` is by how much this exchange's quotes differ from the others'."""
    rng = np.random.default_rng(seed)
    price = 100.0 * np.exp(np.cumsum(0.006 * rng.standard_t(4, 24 * days) / np.sqrt(2.0)))
    close = price * np.exp(own * np.random.default_rng(99).standard_normal(len(price)))
    opened = np.append(close[0], close[:-1])
    return Bars(
        symbol=symbol, timestamp=START + HOUR_MS * np.arange(len(close)), open=opened, high=np.maximum(opened, close),
        low=np.minimum(opened, close), close=close, volume=np.ones(len(close)), interval_ms=HOUR_MS, source="by hand",
    )  # fmt: skip


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Judge:
    """`himari evaluate` in an empty folder of its own, of a bundle that is made there; one ledger for all."""
    monkeypatch.setenv("HIMARI_TRIALS", str(tmp_path / "team" / "trials.sqlite"))

    def ask(folder: str, data: Path, *words: str, seed: int = 0) -> dict[str, Any]:
        place = tmp_path / folder
        if not place.exists():
            place.mkdir()
            make_bundle(place, hidden=(4,), training_data=TRAINED, weights_seed=seed)
        monkeypatch.chdir(place)
        capsys.readouterr()
        assert main(["evaluate", "bundle", "--data", str(data), "--json", *words]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return ask


def test_two_empty_folders_one_ledger_the_second_look_says_2(judge: Judge, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("BTC-USDT_1h.parquet", "mydata.csv", "BTC-USD_1h.parquet", "x.parquet")]
    write_bars(recorded("BTC-USDT"), files[0])
    write_bars(recorded("mydata"), files[1])  # the same under another name
    write_bars(recorded("BTC-USD", own=3e-4), files[2])  # another exchange's quotes
    write_bars(recorded("BTC-USDT", seed=1), files[3])  # another asset, whatever it is called
    assert [judge(f"folder {i}", file)["verdict"]["trials"] for i, file in enumerate(files)] == [1, 2, 3, 1]
    assert judge("folder 1", files[1])["verdict"]["trials"] == 3  # the same again shows nothing new


@pytest.mark.filterwarnings(*QUIET)
def test_two_containers_with_a_ledger_in_a_bucket(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bars(recorded("BTC-USDT"), tmp_path / "a.parquet")
    write_bars(recorded("BTC-USD", own=3e-4), tmp_path / "b.parquet")
    with bucket_server():
        monkeypatch.setenv("HIMARI_TRIALS", "gs://b/team/trials")
        assert not has_ledger()
        assert [judge(name, tmp_path / f"{name}.parquet")["verdict"]["trials"] for name in "ab"] == [1, 2]
        with Trials() as trials:
            trials.verify()


def test_the_same_on_recorded_bars(judge: Judge, tmp_path: Path) -> None:
    """Binance, the same file under another name, Coinbase of the same span, day candles of it; then ETH."""
    begin = int(np.datetime64("2024-05-01", "ms").astype(np.int64))
    counted = []
    for i, name in enumerate(("binance-spot/BTC-USDT_1h", "binance-spot/BTC-USDT_1h", "coinbase/BTC-USD_1h",
                              "binance-spot/ETH-USDT_1h")):  # fmt: skip
        bars = load_bars([shared(f"{name}.parquet")], None)
        start, stop = np.searchsorted(bars.timestamp, [begin, begin + 100 * DAY_MS])
        write_bars(bars[int(start) : int(stop)], tmp_path / f"file{i}.parquet")
        counted.append(judge(f"folder {i}", tmp_path / f"file{i}.parquet")["verdict"]["trials"])
    assert counted == [1, 2, 3, 1]


def test_evaluate_says_which_look_it_is_and_that_a_ledger_begins(
    judge: Judge, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bars(recorded("BTC-USDT"), tmp_path / "a.parquet")
    monkeypatch.setenv("COLUMNS", "300")
    make_bundle(tmp_path, hidden=(4,), training_data=TRAINED)
    said = []
    for _ in range(2):
        assert main(["evaluate", str(tmp_path / "bundle"), "--data", str(tmp_path / "a.parquet")]) == 0
        said.append(capsys.readouterr().out)
    place = tmp_path / "team" / "trials.sqlite"
    assert f"A new trial ledger begins at {place}: looks made elsewhere are not counted." in said[0]
    assert "Look 1 at this span (not registered)." in said[0]
    assert "new trial ledger" not in said[1]


def test_a_number_of_trials_given_by_hand_leaves_a_mark(judge: Judge, tmp_path: Path) -> None:
    write_bars(recorded("BTC-USDT"), tmp_path / "a.parquet")
    judge("a", tmp_path / "a.parquet", seed=1)
    found = judge("b", tmp_path / "a.parquet", "--trials", "1", seed=2)
    assert found["trials"] == {"used": 1, "ledger": 2, "given": 1}
    assert "trials given by hand: 1; the ledger says 2" in " ".join(found["notes"])
    assert "by hand" not in " ".join(judge("c", tmp_path / "a.parquet", seed=3)["notes"])


def gated(bundle: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """The exit code, the whole answer, and its line about the ledger."""
    capsys.readouterr()
    code = main(["gate", str(bundle), "--set", "gate.max_latency_ms=1000", "--json", *words])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, answer, next(line for line in answer["lines"] if line["rule"] == "trial ledger")


def test_the_gate_asks_for_a_new_ledger_where_it_finds_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = run_of(tmp_path / "run", good_document() | {"look": "h on f"})
    place = tmp_path / "elsewhere" / "trials.sqlite"
    monkeypatch.setenv("HIMARI_TRIALS", str(place))
    code, answer, line = gated(bundle, capsys)
    assert (code, answer["reason"]) == (1, "refused by trial ledger")
    assert "--new-ledger" in line["why"]
    assert str(place) in line["why"]
    assert not place.exists()
    code, answer, line = gated(bundle, capsys, "--new-ledger")
    assert code == 0
    assert any("a new trial ledger begins" in said for said in answer["exceptions"])
    assert gated(bundle, capsys)[0] == 0  # it is there now, with this run's own look
    assert "1 look at these returns; not registered" in line["why"]


def test_the_gate_refuses_an_edited_ledger_and_names_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "t.sqlite"
    monkeypatch.setenv("HIMARI_TRIALS", str(place))
    bundle = run_of(tmp_path / "run", good_document())
    with Trials() as trials:
        for i in range(3):
            trials.look("evaluate", "ETH-USDT", 0, 1, f"{i}")
    assert gated(bundle, capsys)[0] == 0
    with closing(sqlite3.connect(place, isolation_level=None)) as connection:
        connection.execute("DELETE FROM trials WHERE id = 2")
    code, answer, line = gated(bundle, capsys)
    assert (code, answer["reason"]) == (1, "refused by trial ledger")
    assert "row 2 is gone" in line["why"]


def test_a_registered_walk_forward_is_judged_once_and_later_ones_are_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HIMARI_TRIALS", str(tmp_path / "t.sqlite"))
    monkeypatch.chdir(tmp_path)
    write_bars(recorded("BTC-USDT", days=42), tmp_path / "bars.parquet")
    settings = {
        "agent": {"num_envs": 10, "num_steps": 10, "hidden_dim": 4, "minibatch": 100},
        "environment": {"episode_bars": 20},
        "walk_forward": {"train": "20d", "test": "10d", "step": "10d", "purge_bars": 24, "seeds": [0],
                         "num_episodes": 10},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    given = ["--config", "run.yaml", "--data", "bars.parquet", "--json"]

    def walk(out: str, *words: str) -> dict[str, Any]:
        assert main(["walk-forward", "base", *given, "--jobs", "1", "--out", out, *words]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)["registration"]
        return found

    assert main(["register", *given, "--span", "2024-01-21..2024-02-11"]) == 0
    registered = json.loads(capsys.readouterr().out)
    first = walk("runs/a")
    assert (first["hash"], first["judged"], first["differs"]) == (registered["hash"], 1, [])
    second = walk("runs/b", "--set", "agent.hidden_dim=5")
    assert second["differs"] == ["agent.hidden_dim"]
    assert "judged 2 times; registered once" in second["line"]
    why = gated(tmp_path / "runs" / "a" / "bundle", capsys)[2]["why"]
    assert "as registered" in why
    assert "rules not as registered: gate.max_latency_ms" in why
    assert walk("runs/a") == first  # a run that is continued stays what it was


def test_a_cheaper_copy_of_a_ledger_is_no_ledger_of_this_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ledger that was begun elsewhere has no look of this run: it counts one more than it knows, and says so."""
    monkeypatch.setenv("HIMARI_TRIALS", str(tmp_path / "t.sqlite"))
    bundle = run_of(tmp_path / "run", good_document() | {"look": "h on f"})
    with Trials() as trials:
        trials.look("evaluate", "BTC-USDT", 0, 1, "another")
    why = gated(bundle, capsys)[2]["why"]
    assert "2 looks" in why
    assert "judged beside another ledger" in why
