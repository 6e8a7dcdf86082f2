"""gs:// wherever a command takes a path; what is neither local nor gs:// is refused, and nothing is made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.bucket import QUIET
from helpers.bundle import make_bundle
from helpers.cloud import Cloud, cloud_server
from helpers.stream import lines, market
from helpers.vertex import put_market
from himari_rl.cli import main
from himari_rl.data.sources import load_bars
from himari_rl.data.table import write_bars
from himari_rl.policy.alias import point
from himari_rl.storage import gcs, read_bytes

pytestmark = pytest.mark.filterwarnings(*QUIET)
S3, GS = "s3://b/x", "gs://models"
BARS = ("--data", f"{GS}/data", "--symbol", "BTC-USD")
SMALL = ("--set", "agent.num_envs=20", "--set", "agent.hidden_dim=8", "--set", "agent.minibatch=500")
BUNDLE = f"{GS}/bundle"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with cloud_server("models") as server:
        put_market("models", tmp_path_factory.mktemp("bars"))
        server.upload(BUNDLE, *make_bundle(tmp_path_factory.mktemp("bundle"), hidden=(4,)).iterdir())
        server.upload(f"{GS}/usdt", *make_bundle(tmp_path_factory.mktemp("usdt"), hidden=(8,)).iterdir())
        yield server


@pytest.fixture(autouse=True)
def _an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that a command was told to write to a bucket, or refused to write at all, is on this disk."""
    monkeypatch.chdir(tmp_path)
    yield
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "words",
    [
        ("train", "base", "--data", S3),
        ("train", "base", *BARS, "--out", S3),
        ("train", "multi", "--data", f"{GS}/data", "--symbols", "BTC-USD", "ETH-USD", "--funding", S3),
        ("evaluate", S3, *BARS),
        ("evaluate", BUNDLE, "--data", S3),
        ("walk-forward", "base", *BARS, "--train", "30d", "--test", "10d", "--folds", "1", "--out", S3),
        ("walk-forward", "base", *BARS, "--key", S3),
        ("tune", "base", *BARS, "--out", S3),
        ("gate", S3),
        ("gate", BUNDLE, "--champion", S3),
        ("gate", BUNDLE, "--run", S3),
        ("promote", S3, BUNDLE),
        ("promote", "champion", BUNDLE, "--folder", S3, "--override", "x"),
        ("rollback", S3),
        ("report", S3),
        ("serve", S3),
        ("run", "--bundle", S3, "--journal", "journal.sqlite"),
        ("run", "--bundle", BUNDLE, "--journal", S3),
        ("replay", S3, "--bundle", BUNDLE),
        ("certify", "base", "--market", "M1", "--html", S3),
        ("demo", "--out", S3),
        ("export", BUNDLE, "--out", S3),
        ("sign", S3, "--key", "none.pem"),
        ("sign", BUNDLE, "--key", S3),
        ("data", "audit", S3),
        ("data", "join", f"{GS}/data/BTC-USD_1h_0.csv", S3),
        ("data", "fetch", "BTC-USD", "--since", "2024-01-01", "--out", S3),
        ("register", "--span", "2024-07-01..2024-12-31", "--data", S3),
        ("config", "show", "train", "--config", S3),
        ("features", "check", "json:dumps", "--data", S3),
    ],
    ids=" ".join,
)
def test_what_is_neither_local_nor_in_a_bucket_is_refused_by_name(
    cloud: Cloud, words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(words)
    said = " ".join(capsys.readouterr().err.splitlines()[-1:])
    (tmp_path / "journal.sqlite").unlink(missing_ok=True)
    for rest in tmp_path.glob("journal.sqlite-*"):
        rest.unlink()
    assert (code, "s3://" in said) == (2, True), said


@pytest.mark.parametrize("words", [("demo", "--out", f"{GS}/d"), ("run", "--bundle", BUNDLE, "--journal", f"{GS}/j")])
def test_what_stays_on_this_machine_refuses_a_bucket_by_name(
    cloud: Cloud, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert "local" in capsys.readouterr().err.splitlines()[-1]


def test_a_ledger_that_is_nowhere_is_refused(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HIMARI_TRIALS", S3)
    assert main(["train", "base", *BARS, "--out", f"{GS}/nowhere", *SMALL, "--num-episodes", "2", "--seeds", "1"]) == 2
    assert "s3" in capsys.readouterr().err.splitlines()[-1]
    assert gcs.names(f"{GS}/nowhere/bundle/") == []


def test_a_study_in_a_bucket_goes_on_where_it_stopped(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    from himari_rl.experiments import tune as tuning

    real = tuning.purged_splits
    monkeypatch.setattr(tuning, "purged_splits", lambda rows, recipe: real(rows, recipe)[:1])
    monkeypatch.setenv("HIMARI_TRIALS", f"{GS}/trials")
    place = f"{GS}/tune"
    words = ("tune", "base", *BARS, "--out", place, "--num-episodes", "2", "--set", "tune.purge_bars=24", *SMALL)
    words += ("--set", "environment.episode_bars=250")
    assert main([*words, "--trials", "1"]) == 0
    first = read_bytes(f"{place}/rows-0.npy")
    assert main([*words, "--trials", "2"]) == 0
    assert {"rows-0.npy", "rows-1.npy", "study.sqlite", "best.json"} <= set(gcs.names(f"{place}/"))
    assert read_bytes(f"{place}/rows-0.npy") == first
    assert json.loads(read_bytes(f"{place}/best.json"))["trials"] == 2


def test_the_runner_takes_alias_signals_and_history_from_a_bucket(
    cloud: Cloud, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path_factory.mktemp("runner")
    bars = market("BTC-USDT", 4, 40)
    write_bars(bars[:30], f"{GS}/history/BTC-USDT_1h.csv")
    gcs.create(f"{GS}/signals.jsonl", "\n".join(lines([bars], range(30, 40))).encode())
    point(f"{GS}/aliases/champion.json", f"{GS}/usdt")
    words = ("run", "--bundle", f"{GS}/aliases/champion.json", "--signals", f"{GS}/signals.jsonl", "--clock", "bar")
    words += ("--history", f"{GS}/history", "--journal", str(folder / "journal.sqlite"))
    assert main([*words, "--set", "halt.volatility=inf"]) == 0
    decided = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(decided) == 10
    assert {each["source"] for each in decided} == {"local_model"}


def test_bars_are_joined_into_a_bucket(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    place = f"{GS}/data/ETH-USD_1h_0.csv"
    first = load_bars(place)
    moments = (str(first.timestamp[i].astype("datetime64[ms]")) for i in (10, 20))
    signals = "timestamp,signal_action\n" + "".join(
        f"{at}Z,{what}\n" for at, what in zip(moments, ("BUY", "SELL"), strict=True)
    )
    gcs.create(f"{GS}/signals/eth.csv", signals.encode())
    assert main(["data", "join", place, f"{GS}/signals/eth.csv", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["path"]
    assert made == f"{GS}/signals/ETH-USD_1h_signals.parquet"
    assert load_bars(made).signals is not None
    assert main(["data", "join", place, f"{GS}/signals/eth.csv", "--out", place]) == 2
    assert "is one of the files that are read" in capsys.readouterr().err
