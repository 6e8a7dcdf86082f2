"""The walk-forward: resumable to the bit, the same in any pool and order, one account through all folds."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from helpers import PATIENCE_S
from helpers.cluster import cluster
from helpers.evaluation import Rule, bars_from, ledger, walk
from helpers.verdict import run_small, small_bars, small_settings
from helpers.warm import Warm
from himari_rl.cli import main
from himari_rl.data.table import write_bars
from himari_rl.errors import ConfigError, RefusedError, StorageError
from himari_rl.evaluation.backtest import BASE, backtest, stage
from himari_rl.evaluation.control import Judgement
from himari_rl.evaluation.one_liners import OneLiners
from himari_rl.evaluation.record import BUNDLE, CURVES, DOCUMENT, read_curves, read_run
from himari_rl.experiments.fold_files import ensemble, unpacked
from himari_rl.experiments.fold_policies import FoldPolicies
from himari_rl.experiments.folds import train_fold
from himari_rl.experiments.train_all import train_all
from himari_rl.experiments.walk_forward import REAL, plan
from himari_rl.policy.bundle import read_manifest
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.release.gate import gate
from himari_rl.release.rules import GateRules
from himari_rl.training.dask_cluster import dask_pool
from himari_rl.training.fan_out import local_pool

KILLS = int(os.environ.get("HIMARI_KILLS", "3"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("walk")
    os.environ["HIMARI_TRIALS"] = str(folder / "trials.sqlite")
    run_small(folder / "run")
    return folder / "run"


def test_the_document_holds_folds_seeds_controls_and_trials(finished: Path) -> None:
    document = read_run(finished)
    assert len(document["folds"]) == 2
    assert set(document["judgement"]["seeds"]) == {"seed 0", "seed 1"}
    assert [c["name"] for c in document["judgement"]["controls"]] == [
        "driftless",
        "planted",
        "shuffled",
        "lag",
        "costs",
    ]
    assert document["judgement"]["verdict"]["trials"] == 1
    assert load_policy(finished / BUNDLE).manifest.weights_sha256 == document["bundle"]["weights_sha256"]


def test_each_fold_names_its_one_liner_and_the_gate_finds_every_figure_again(finished: Path) -> None:
    document, curves = read_run(finished), read_curves(finished)
    rivals = OneLiners.of_curves(curves)
    assert [fold["one_liner"] for fold in document["folds"]] == list(rivals.chosen)
    assert document["judgement"]["verdict"]["one_liner"] == rivals.in_words()
    assert len(rivals.useful) == rivals.rows[-1, 1]  # all training rows, and no judged one
    starts = [fold.test.start for fold in plan(small_bars(), small_settings()).folds]
    assert rivals.rows[:, 2].tolist() == [start - starts[0] for start in starts]
    lines = {line.rule: line for line in gate(finished / BUNDLE, GateRules()).lines}
    assert lines["evidence"].passed, lines["evidence"].why
    best = document["judgement"]["verdict"]["less"]["best one-liner"]["utility"]
    error = best["standard_error"]
    assert lines["not below the best one-liner"].number == pytest.approx(best["upper"], abs=0.5 * error)


def test_a_run_killed_at_random_ends_in_the_same_bytes(warm: Warm, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code = f"from pathlib import Path; from helpers import verdict; verdict.run_small(Path({str(run)!r}))"
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "HIMARI_TRIALS": str(tmp_path / "t.sqlite")}
    rng, killed, ended = random.Random(0), 0, 0

    def same() -> None:
        for name in (DOCUMENT, CURVES):
            assert (run / name).read_bytes() == (finished / name).read_bytes(), name

    while killed < KILLS:
        process = warm.python(code, **environment)
        count = len(list((run / "folds").rglob("*.fold")))
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and len(list((run / "folds").rglob("*.fold"))) == count:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            killed += 1
            continue
        same()  # it came to its end before the signal: the next kill needs a run begun anew
        shutil.rmtree(run)
        ended += 1
        assert ended <= KILLS
    run_small(run)
    same()
    print(f"killed {killed} times; {ended + 1} runs came to their end, all with the same bytes")  # noqa: T201 - for -s


def test_a_process_pool_gives_the_same_weights_as_this_process(finished: Path, tmp_path: Path) -> None:
    work = plan(small_bars(), small_settings())
    seen: list[tuple[int, int]] = []
    here = train_all(work, finished, None)
    there = train_all(work, tmp_path, local_pool(2), lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(work.pieces()), len(work.pieces()))
    for key in work.pieces():
        for name, values in here[key].tensors.items():
            np.testing.assert_array_equal(values, there[key].tensors[name])


def test_a_cluster_that_loses_a_worker_gives_the_same_weights(finished: Path, tmp_path: Path) -> None:
    killed: list[int] = []
    with cluster(tmp_path) as (address, workers):

        def kill_one(done: int, total: int) -> None:
            if done >= 1 and not killed:
                workers[0].kill()
                killed.append(done)

        work = plan(small_bars(), small_settings())
        there = train_all(work, tmp_path / "run", dask_pool(address), kill_one)
    assert killed
    here = train_all(work, finished, None)
    for key in work.pieces():
        for name, values in here[key].tensors.items():
            np.testing.assert_array_equal(values, there[key].tensors[name])


def test_a_folder_of_another_run_is_refused(finished: Path) -> None:
    with pytest.raises(StorageError, match="--out"):
        run_small(finished, train="15d")


@pytest.mark.parametrize("byte", [70, -5])
def test_a_damaged_fold_file_is_refused(finished: Path, byte: int) -> None:
    work = plan(small_bars(), small_settings())
    task = work.task((REAL, 0, 0))
    data = bytearray((finished / "folds" / task.name).read_bytes())
    unpacked(bytes(data), task.key, "fold")
    data[byte] ^= 1
    with pytest.raises(StorageError, match="damaged"):
        unpacked(bytes(data), task.key, "fold")


def test_an_ensemble_answers_the_mean_of_its_seeds(finished: Path) -> None:
    work = plan(small_bars(), small_settings())
    members = [train_all(work, finished, None)[REAL, 0, seed] for seed in (0, 1)]
    states = np.random.default_rng(0).uniform(0, 1, (7, 16))
    alone = [member.policy.decide_batch(states)[0] for member in members]
    together = Policy(*ensemble(members)).decide_batch(states)[0]
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-7)
    assert np.abs(alone[0] - alone[1]).max() > 1e-6  # two seeds differ


def test_a_warm_start_begins_at_the_weights_of_the_fold_before(tmp_path: Path) -> None:
    work = plan(small_bars(), small_settings(warm_start=True, seeds=(0,)), controls=False)
    found = train_all(work, tmp_path, None)
    assert set(found) == set(work.pieces())
    cold = work.task((REAL, 1, 0))
    warm = work.task((REAL, 1, 0), found[REAL, 0, 0])
    assert cold.key != warm.key
    again = unpacked(train_fold(warm), warm.key, "memory")
    for name, values in again.tensors.items():
        np.testing.assert_array_equal(values, found[REAL, 1, 0].tensors[name])


def test_the_command_leaves_its_verdict_and_its_gate_in_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With memory and a warm start, which every kind of agent has."""
    monkeypatch.setenv("HIMARI_TRIALS", str(tmp_path / "trials.sqlite"))
    write_bars(small_bars(64), tmp_path / "bars.parquet")
    words = "--train 30d --test 10d --step 10d --seeds 1 --jobs 1 --folds 2 --num-episodes 13 --warm-start"
    place = ["--data", str(tmp_path / "bars.parquet"), "--out", str(tmp_path / "run")]
    assert main(["walk-forward", "lstm", *place, *words.split(), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    manifest = read_manifest(tmp_path / "run" / BUNDLE)
    verdict = document["judgement"]["verdict"]
    assert manifest.evaluation is not None
    assert manifest.evaluation["walk_forward"] == document["settings_hash"]
    assert manifest.evaluation["utility"] == [verdict["utility"][part] for part in ("estimate", "lower", "upper")]
    assert manifest.evaluation["sentence"] == verdict["sentence"]
    assert manifest.weights_sha256 == document["bundle"]["weights_sha256"]
    assert manifest.gate is not None
    assert manifest.gate["passed"] is False
    assert {"recorded data", "LSTM over base"} <= set(manifest.gate["reason"].removeprefix("refused by ").split(", "))


def test_the_newest_folds_policy_takes_over_at_each_fold_and_the_account_is_carried_on() -> None:
    bars = bars_from(walk(400, 3))
    on = stage(bars, ledger())
    steps: list[int] = []
    first = Rule(lambda states, step: np.full(len(states), 2.0))
    second = Rule(lambda states, step: steps.append(step) or np.full(len(states), 0.0))
    result = backtest(
        {"policy": FoldPolicies([first, second], [0, 200])},
        on,
        ledger(),
        variants=(BASE,),
        rng=np.random.default_rng(0),
    )
    run = result.run("policy")
    assert (run.multiplier[:200] == 2.0).all()
    assert (run.multiplier[200:] == 0.0).all()
    assert run.traded[200] == pytest.approx(1.0, abs=0.2)  # the second fold inherits the position and sells it
    assert steps[0] == 0  # with a fresh memory


@pytest.mark.parametrize("changes", [{"seeds": ()}, {"seeds": (1, 1)}, {"control_seeds": ()}])
def test_seeds_that_make_no_ensemble_are_refused(changes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ConfigError, match="seeds"):
        small_settings(**changes)


def test_a_verdict_without_its_controls_cannot_be_made(finished: Path) -> None:
    with pytest.raises(RefusedError, match="planted"):
        Judgement(
            verdict=None, own_deflated_sharpe=0.0, controls=(), detectable=0.0, seeds={},
            training_gain=0.0,
        )  # fmt: skip
