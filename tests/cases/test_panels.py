"""Judging elsewhere, runs in the way of runs, budgets: each is said in one line, nothing is replaced in silence."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers import PATIENCE_S
from helpers.verdict import run_small, small_bars
from himari_rl.agents.config import PPOConfig
from himari_rl.cli import main
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.data.table import write_bars
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.errors import StorageError
from himari_rl.experiments.evaluate import evaluate
from himari_rl.experiments.recipe import budget_line
from himari_rl.experiments.train import train
from himari_rl.policy.bundle import read_bundle, read_manifest
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.schema import DAY_MS, Bars
from himari_rl.storage.lock import LOCK, writer
from himari_rl.trials.ledger import Trials

SMALL = PPOConfig(num_envs=10, num_steps=10, hidden_dim=4, minibatch=100)
SHORT = TradingEnvConfig(episode_bars=20)
TINY = ["--set", "agent.num_envs=10", "--set", "agent.num_steps=10", "--set", "agent.minibatch=100",
        "--hidden-dim", "4", "--set", "environment.episode_bars=20", "--seeds", "1"]  # fmt: skip


@pytest.fixture(autouse=True)
def own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIMARI_TRIALS", str(tmp_path / "trials.sqlite"))


def recorded(days: int, symbol: str, seed: int = 0, start_day: int = 0) -> Bars:
    """Bars that pass for recorded ones."""
    made = synthetic_bars(24 * days, seed)
    return replace(made, symbol=symbol, synthetic=False, timestamp=made.timestamp + start_day * DAY_MS)


def tiny(bars: Bars, out: Path, **changes: Any) -> Policy:
    return train(bars, out=out, agent=SMALL, environment=SHORT, **({"num_episodes": 20, "seeds": 1} | changes))


# --- a bundle judged elsewhere -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_btc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("btc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIMARI_TRIALS", str(folder / "trials.sqlite"))
        tiny(recorded(60, "BTC-USDT", start_day=400), folder / "run")
    return folder / "run" / "bundle"


def notes_of(bundle: Path, bars: Bars) -> list[str]:
    """Judged without its recipe, which spares the twins: measurements and the same notes."""
    manifest, tensors = read_bundle(bundle)
    bare = Policy(manifest.model_copy(update={"config": {}}), tensors)
    found = evaluate(bare, bars)
    assert list(found.notes) == found.document["notes"]
    assert all(note in " ".join(str(found).split()) for note in found.notes)
    return beside_the_ledger(found.notes)


def beside_the_ledger(notes: Iterable[str]) -> list[str]:
    """The notes that are not about the trial ledger."""
    return [note for note in notes if not note.startswith(("Look ", "A new trial ledger"))]


@pytest.mark.parametrize(
    ("symbol", "start", "said"),
    [
        ("BTC-USDT", 460, []),
        ("btc/usdt", 460, []),  # the same market in another file's spelling
        ("ETH-USDT", 460, ["trained on BTC-USDT and is judged on ETH-USDT"]),
        ("BTC-USDT", 100, ["lie before the training span"]),
        ("SOL-USDT", 100, ["judged on SOL-USDT", "lie before the training span"]),
    ],
)
def test_another_symbol_and_bars_before_the_training_span_are_said(
    of_btc: Path, symbol: str, start: int, said: list[str]
) -> None:
    notes = notes_of(of_btc, recorded(50, symbol, 3, start))
    assert len(notes) == len(said)
    for note, part in zip(notes, said, strict=True):
        assert part in note
        assert "\n" not in note


def test_a_policy_of_recorded_bars_on_a_synthetic_market_is_said(of_btc: Path) -> None:
    notes = notes_of(of_btc, replace(recorded(50, "BTC-USDT", 3, 100), synthetic=True))
    assert "trained on recorded bars and is judged on a synthetic market" in notes[-1]


def test_the_command_prints_and_writes_both_lines(
    of_btc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bars(recorded(60, "ETH-USDT", 2, 100), tmp_path / "ETH-USDT_1h.parquet")
    assert main(["evaluate", str(of_btc), "--data", str(tmp_path / "ETH-USDT_1h.parquet")]) in (0, 1)
    page = " ".join(capsys.readouterr().out.split())
    document = json.loads((of_btc / "evaluation.json").read_text())
    told = beside_the_ledger(document["notes"])
    assert len(told) == 2
    assert all(note in page for note in told)


def test_the_run_card_shows_where_the_shipped_policy_was_judged_since(tmp_path: Path) -> None:
    from himari_rl.release.gate import gate
    from himari_rl.release.report import report_page

    pytest.importorskip("jinja2")
    run_small(tmp_path / "run", folds=1, seeds=(0,))
    bundle = tmp_path / "run" / "bundle"
    assert "The shipped policy on" not in report_page(tmp_path / "run", gate(bundle))
    found = {"verdict": {"sentence": "Worse."}, "notes": ["judged on <ETH>"], "data": {"symbol": "ETH-USDT"}}
    (bundle / "evaluation.json").write_text(json.dumps(found))
    page = report_page(tmp_path / "run", gate(bundle))
    assert "The shipped policy on ETH-USDT" in page
    assert "judged on &lt;ETH&gt;" in page
    assert "20 episodes asked = 400 bars, all trained" in page


# --- one run in one folder -----------------------------------------------------------------------------------------


def test_training_another_run_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = tiny(small_bars(), out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    others: list[Callable[[], Any]] = [
        lambda: tiny(small_bars(), out, num_episodes=40),
        lambda: tiny(small_bars(), out, seeds=2),
        lambda: tiny(small_bars(seed=1), out),
        lambda: tiny(replace(small_bars(), symbol="OTHER"), out),
        lambda: run_small(out),  # a walk-forward would replace its bundle
    ]
    for other in others:
        with pytest.raises(StorageError, match=r"holds a .*choose another --out, or give --overwrite"):
            other()
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert load_policy(out / "bundle").manifest.version == first.manifest.version


def test_the_same_run_again_trains_nothing_and_gives_the_policy(tmp_path: Path) -> None:
    out = tmp_path / "run"
    made = tiny(small_bars(), out).manifest
    assert tiny(small_bars(), out).manifest == made  # created_at too


def test_a_run_that_was_cut_off_asks_for_resume(tmp_path: Path) -> None:
    out = tmp_path / "run"

    def die(trainer: object, seed: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny(small_bars(), out, watch=die)
    with pytest.raises(StorageError, match=r"has not ended.*--resume continues it"):
        tiny(small_bars(), out)
    assert tiny(small_bars(), out, resume=True).manifest.seeds == (0,)


def test_overwrite_sets_the_old_run_aside_whole_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bars(small_bars(), tmp_path / "bars.parquet")
    words = ["--data", str(tmp_path / "bars.parquet"), "--out", str(tmp_path / "run"), *TINY]
    assert main(["train", "base", *words, "--num-episodes", "20"]) == 0
    before = {p.relative_to(tmp_path / "run"): p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    capsys.readouterr()
    assert main(["train", "base", *words, "--num-episodes", "40"]) == 2
    said = capsys.readouterr().err
    assert sum("choose another --out, or give --overwrite" in line for line in said.splitlines()) == 1
    assert "Traceback" not in said
    assert main(["train", "base", *words, "--num-episodes", "40", "--overwrite"]) == 0
    lines = capsys.readouterr().err.splitlines()
    (aside,) = tmp_path.glob("run.2*")
    assert sum(f"was set aside: {aside}" in line for line in lines) == 1
    assert {p.relative_to(aside): p.read_bytes() for p in aside.rglob("*") if p.is_file()} == before
    assert read_manifest(tmp_path / "run" / "bundle").config["run"]["bars_asked"] == 800  # type: ignore[index, call-overload]
    assert main(["train", "base", *words, "--num-episodes", "40"]) == 0
    assert "already trained" in capsys.readouterr().err
    assert main(["train", "base", *words, "--overwrite", "--resume"]) == 2
    assert len(list(tmp_path.glob("run.2*"))) == 1
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_walk_forward_sets_another_run_aside_and_continues_its_own(tmp_path: Path) -> None:
    from helpers.verdict import small_settings
    from himari_rl.experiments.run import run_walk_forward

    out = tmp_path / "walk"
    one = {"folds": 1, "seeds": (0,)}
    first = run_small(out, **one)
    folds = {path: path.stat().st_mtime_ns for path in out.rglob("*.fold")}
    assert run_small(out, **one) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.fold")} == folds
    lines: list[str] = []
    changed = small_settings(**one | {"num_episodes": 25})
    with pytest.raises(StorageError, match="a walk-forward of other settings"):
        run_walk_forward(small_bars(), changed, out, None)
    document = run_walk_forward(small_bars(), changed, out, None, overwrite=True, tell=lines.append)
    (aside,) = tmp_path.glob("walk.2*")
    assert lines == [f"the walk-forward in {out} was set aside: {aside}", document["budget"]]
    assert json.loads((aside / "walk_forward.json").read_text()) == first
    with pytest.raises(StorageError, match="holds a walk-forward"):
        tiny(small_bars(), out)


def test_a_folder_of_other_things_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    tiny(small_bars(), tmp_path / "run")
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


# --- one writer at a time ------------------------------------------------------------------------------------------


HOLD = """
import signal, sys
from himari_rl.storage.lock import writer
with writer(sys.argv[1]):
    print("held", flush=True)
    signal.pause()
"""


def test_a_second_training_in_the_folder_is_refused_until_the_first_has_died(tmp_path: Path) -> None:
    out = tmp_path / "run"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "held\n"
        for overwrite in (False, True):
            with pytest.raises(StorageError, match=f"another run is writing in .*process {other.pid}"):
                tiny(small_bars(), out, overwrite=overwrite)
    finally:
        other.kill()  # it leaves its file and not its lock
        other.wait()
        other.stdout.close()
    assert (out / LOCK).exists()
    tiny(small_bars(), out)
    assert not (out / LOCK).exists()


def test_two_in_one_process_are_two(tmp_path: Path) -> None:
    with writer(tmp_path), pytest.raises(StorageError, match="another run"), writer(tmp_path):
        pass
    with writer(tmp_path):
        pass


# --- found out before the training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [lambda out: tiny(small_bars(), out), lambda out: run_small(out, folds=1)])
def test_a_ledger_that_cannot_be_written_stops_the_run_before_it_trains(
    run: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HIMARI_TRIALS", str(tmp_path / "file" / "trials.sqlite"))
    with pytest.raises(StorageError, match="trial ledger"):
        run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("as_url", [False, True])
def test_a_ledger_that_only_reads_is_found_out(as_url: bool, tmp_path: Path) -> None:
    place = tmp_path / "only.sqlite"
    with Trials(place):
        pass
    address = f"file:{place}?mode=ro"
    if as_url:
        pytest.importorskip("sqlalchemy")
        ledger = Trials(f"sqlite:///{address}&uri=true")
    else:
        ledger = Trials(place)
        connect = sqlite3.connect
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite3, "connect", lambda name, **more: connect(address, uri=True, **more))
            with pytest.raises(StorageError, match="readonly"):
                ledger.require_writable()
        ledger.require_writable()  # and the file itself can be written
        return
    with ledger, pytest.raises(StorageError, match="readonly"):
        ledger.require_writable()


def test_a_folder_that_is_a_file_stops_the_run_before_it_trains(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    for run in (lambda: tiny(small_bars(), tmp_path / "run"), lambda: run_small(tmp_path / "run", folds=1)):
        with pytest.raises(StorageError, match="cannot write"):
            run()


# --- what a budget becomes -----------------------------------------------------------------------------------------


def test_the_rounding_of_a_budget_is_said() -> None:
    """20 episodes of 500 bars are 10,000; one rollout of 500 accounts x 50 bars is 25,000."""
    line = budget_line(PPOConfig(num_envs=500, num_steps=50), 20, 500)
    assert "20 episodes asked = 10,000 bars; 25,000 bars trained" in line
    assert "1,000 episodes asked = 500,000 bars, all trained" in budget_line(PPOConfig(beliefs=False), 1000, 500)
    assert "\n" not in line


def test_the_rounding_is_in_the_line_the_document_and_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bars(small_bars(), tmp_path / "bars.parquet")
    words = ["--data", str(tmp_path / "bars.parquet"), "--out", str(tmp_path / "run"), *TINY]
    assert main(["train", "base", *words, "--num-episodes", "12", "--json"]) == 0
    said = capsys.readouterr()
    assert "12 episodes asked = 240 bars; 300 bars trained" in said.err
    found = json.loads(said.out)
    assert (found["bars_asked"], found["bars"]) == (240, 300)
    run: Any = read_manifest(tmp_path / "run" / "bundle").config["run"]
    assert (run["bars_asked"], run["bars"]) == (240, 300)


def test_a_walk_forward_counts_the_bars_it_trained(tmp_path: Path) -> None:
    document = run_small(tmp_path, folds=1, seeds=(0,), num_episodes=12)
    assert "12 episodes asked = 240 bars; 300 bars trained" in document["budget"]
    cost = json.loads((tmp_path / "cost.json").read_text())
    assert cost["bars_trained"] == 4 * 300  # a fold, the shipped window, two twins


def test_the_demo_walks_twice_into_the_same_folder(tmp_path: Path) -> None:
    """What the second one finds is set aside before anything is written."""
    from rich.console import Console

    from himari_rl.cli.options import told_on
    from himari_rl.experiments.run_folder import put_aside

    tiny(small_bars(), tmp_path / "demo")
    (tmp_path / "demo" / "BTC-SYNTHETIC_1h.parquet").write_bytes(b"bars")
    put_aside(tmp_path / "demo", told_on(Console(stderr=True)))
    (aside,) = tmp_path.glob("demo.2*")
    assert (aside / "BTC-SYNTHETIC_1h.parquet").exists()
    assert not (tmp_path / "demo").exists()
    put_aside(tmp_path / "demo", told_on(Console(stderr=True)))  # nothing there, nothing to do
    assert len(list(tmp_path.glob("demo*"))) == 1


def test_the_working_folder_is_never_renamed(tmp_path: Path) -> None:
    tiny(small_bars(), tmp_path / "run")
    code = (
        "from pathlib import Path\nfrom himari_rl.experiments.run_folder import put_aside\nput_aside(Path('.'), print)"
    )
    command = [sys.executable, "-c", code]
    place = tmp_path / "run"
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode != 0
    assert "is the working folder" in done.stderr
    assert (place / "bundle" / "manifest.json").exists()
