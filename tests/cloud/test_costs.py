"""Cost: the ledger, the meter, its stop with a checkpoint that resumes, and `himari cost`."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import ROOT, hearing_ctrl_c, himari_here, load_script, run_himari
from helpers.vertex import SMALL, SYMBOLS
from himari_rl.cloud.costs import ENDED, RUNNING, STOPPED_BY_COST, CostLedger, JobAttempt, measured, spent
from himari_rl.cloud.jobs import WorkSize, estimated, tasks_of, time_out_s
from himari_rl.cloud.machines import BudgetConfig, CpuConfig, EstimateConfig, MachinesConfig, RunJobConfig
from himari_rl.cloud.meter import CostLimitError, metered
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.data.table import write_bars
from himari_rl.errors import StorageError


def attempt(name: str, model: str, run: str, usd: float, state: str = ENDED, launch: str = "a") -> JobAttempt:
    return JobAttempt(
        name=name,
        model=model,
        run=run,
        launch=launch,
        usd_per_hour=1.0,
        started=name,
        seconds=1.0,
        usd=usd,
        state=state,
    )


def test_the_ledger_is_one_file_an_attempt_and_sums_by_model_and_by_run(tmp_path: Path) -> None:
    ledger = CostLedger(str(tmp_path))
    rows = [
        attempt("1", "base", "r1", 1.0),
        attempt("2", "base", "r2", 0.25, RUNNING),
        attempt("3", "base", "r2", 0.5),
        attempt("4", "lstm", "r3", 4.0, STOPPED_BY_COST),
    ]
    for row in rows:
        ledger.write(row)
        ledger.write(row)
    assert ledger.attempts() == rows
    assert (spent(rows), spent(rows, "base"), measured(rows, "base"), measured(rows, "lstm")) == (
        5.75,
        1.75,
        0.75,
        None,
    )
    (tmp_path / "5.json").write_text("{}")
    with pytest.raises(StorageError, match="no line of a cost ledger"):
        ledger.attempts()
    assert CostLedger("").attempts() == []


def test_a_run_is_metered_and_stopped_at_its_cost_and_the_stop_is_ctrl_c(tmp_path: Path) -> None:
    said: list[str] = []
    budget = BudgetConfig(max_cost=0.001, usd_per_hour=3.6)  # a second
    with (
        pytest.raises(CostLimitError, match="a larger --max-cost goes on"),
        metered(budget, "base", "r", ledger=CostLedger(str(tmp_path)), tell=said.append, environment={}),
    ):
        time.sleep(300)
    [row] = CostLedger(str(tmp_path)).attempts()
    assert row.state == STOPPED_BY_COST
    assert row.usd == pytest.approx(row.seconds * 3.6 / 3600, rel=1e-3)
    assert 0.001 <= row.usd < 0.3
    assert "stopping with a checkpoint" in "".join(said)


def test_attempts_of_one_launch_share_its_cost_and_another_launch_begins_anew(tmp_path: Path) -> None:
    ledger = CostLedger(str(tmp_path))
    ledger.write(attempt("1", "base", "r", 2.0, launch="one"))
    budget = BudgetConfig(max_cost=1.0, usd_per_hour=1.0)
    for name in ("HIMARI_LAUNCH", "CLOUD_ML_JOB_ID", "CLOUD_RUN_EXECUTION"):
        with (
            pytest.raises(CostLimitError),
            metered(budget, "base", "r", ledger=ledger, tell=lambda line: None, environment={name: "one"}),
        ):
            pytest.fail("it had no money left")
        with metered(budget, "base", "r", ledger=ledger, tell=lambda line: None, environment={name: "two"}):
            pass


def test_only_the_attempts_of_this_task_are_read_and_a_long_name_is_no_other_s(tmp_path: Path) -> None:
    ledger, budget = CostLedger(str(tmp_path)), BudgetConfig(usd_per_hour=1.0)
    run = "gs://b/models/" + "a-very-long-name-" * 6
    for _ in range(3):
        with metered(budget, "base", run, ledger=ledger, tell=lambda line: None, environment={"HIMARI_LAUNCH": "one"}):
            pass
    assert len(ledger.attempts()) == len(ledger.attempts_of("one", run, "")) == 3, "none was written over"
    (tmp_path / "zz.json").write_text("damaged, of another launch")
    assert len(ledger.attempts_of("one", run, "")) == 3
    assert ledger.attempts_of("one", run, "0 of 2") == ledger.attempts_of("two", run, "") == []


def test_each_task_of_a_launch_has_a_cost_of_its_own(tmp_path: Path) -> None:
    ledger, budget = CostLedger(str(tmp_path)), BudgetConfig(max_cost=1.0, usd_per_hour=1.0)
    ledger.write(replace(attempt("1", "walk-forward", "r", 2.0, launch="one"), task="0 of 2"))
    told = {"ledger": ledger, "tell": lambda line: None, "environment": {"HIMARI_LAUNCH": "one"}}
    with metered(budget, "walk-forward", "r", task="1 of 2", **told):
        pass
    with pytest.raises(CostLimitError), metered(budget, "walk-forward", "r", task="0 of 2", **told):
        pytest.fail("it had no money left")


def test_a_machine_that_costs_nothing_is_not_metered_and_ctrl_c_stays_ctrl_c(tmp_path: Path) -> None:
    with metered(BudgetConfig(), "base", "r", ledger=CostLedger(str(tmp_path)), tell=pytest.fail):
        pass
    assert list(tmp_path.iterdir()) == []
    budget, ledger = BudgetConfig(usd_per_hour=1.0), CostLedger(str(tmp_path))

    def work() -> None:
        with metered(budget, "base", "r", ledger=ledger, tell=lambda line: None):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(300)

    with hearing_ctrl_c(), pytest.raises(KeyboardInterrupt):
        work()


@pytest.mark.skipif("HIMARI_KILLS" not in os.environ, reason="trainers for most of a minute: make cloud")
def test_a_training_that_stops_at_its_cost_leaves_a_checkpoint_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """By the card's launcher, as a process: the bundle is that of a run that nobody stopped, bit for bit."""
    bars = tmp_path / f"{SYMBOLS[0]}_1h.csv"
    write_bars(synthetic_bars(1600, 0), bars)
    words = ["--model", "base", "--local", "--data", str(bars), "--num-episodes", "100", "--save-interval", "2", *SMALL]

    def launched(place: str, *more: str) -> int:
        run = ["--model-dir", str(tmp_path / place)]
        code = load_script("vertex_training/launch_training.py").main([*words, *run, *more])
        assert isinstance(code, int)
        return code

    expensive = ("--set", "machines.t4.usd_per_hour=3.6")  # a cent is ten seconds
    assert launched("stopped", *expensive, "--max-cost", "0.0001") == 1
    limit, stops = 0.004, 0
    while not (tmp_path / "stopped" / "bundle").exists():
        code = launched("stopped", *expensive, "--max-cost", str(limit))
        stops += code == 1
        assert code in (0, 1)
        limit *= 1.5
    assert stops, "the control: it was stopped with work done"
    assert launched("whole", "--max-cost", "100") == 0
    one, other = ((tmp_path / run / "bundle" / "weights.safetensors").read_bytes() for run in ("whole", "stopped"))
    assert one == other


def test_train_stopped_at_its_cost_names_the_option_without_which_it_does_not_go_on(tmp_path: Path) -> None:
    """The cure cures: whatever the moment of the stop, also before there is a checkpoint."""
    write_bars(synthetic_bars(1600, 0), tmp_path / "bars.csv")
    words = ("train", "base", "--data", "bars.csv", "--out", "run", "--seeds", "1", "--num-episodes", "1000")
    price = ("--set", "budget.usd_per_hour=3.6")  # a cent is ten seconds
    stopped = run_himari(*words, *price, "--max-cost", "0.0001", cwd=tmp_path)
    assert stopped.returncode == 1
    assert "the same command with --resume and a larger --max-cost goes on" in stopped.stderr
    assert himari_here(*words, *price, "--max-cost", "100", cwd=tmp_path).returncode == 2, "the control: without it"
    done = himari_here(*words, *price, "--max-cost", "100", "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "bundle" / "manifest.json").exists()


def test_a_certification_stops_at_its_cost_and_says_that_it_begins_anew(tmp_path: Path) -> None:
    words = ("certify", "base", "--market", "M1", "--seeds", "1", "--jobs", "1")
    stopped = run_himari(*words, "--max-cost", "0.0001", "--set", "budget.usd_per_hour=3.6", HIMARI_COSTS=str(tmp_path))
    assert stopped.returncode == 1
    assert "a larger --max-cost begins anew" in stopped.stderr
    [row] = CostLedger(str(tmp_path)).attempts()
    assert (row.model, row.run, row.state) == ("certify", "base", STOPPED_BY_COST)


def test_estimates_scale_with_the_work_and_time_outs_are_cost_over_price() -> None:
    known, machine = EstimateConfig(base_s=100.0, fold_s=10.0), CpuConfig(usd_per_hour=3.6, start_s=0.0, speed=2.0)
    one = estimated("base", WorkSize(episodes=500, seeds=10), "cpu", machine, known, False)
    assert (one.minutes * 60, one.usd) == pytest.approx((100 * 0.5 * 2 / 2, 0.05))
    job = RunJobConfig(cpu=1, memory="2Gi", usd_per_vcpu_s=1e-3, usd_per_gib_s=0.0, start_s=5.0, parallelism=4)
    walk = estimated("walk-forward", WorkSize(folds=3, seeds=4), "run-job", job, known, False)
    assert (walk.tasks, walk.minutes * 60, walk.usd) == pytest.approx((12, 3 * 15, 12 * 15e-3))
    assert time_out_s(0.12, job, 12, False) == int(0.12 / (1e-3 * 12 * 4)), "each task and each of its four attempts"
    assert time_out_s(7.2, machine, 1, False) == 7200
    assert tasks_of("base", WorkSize(), job) == 1


def test_himari_cost_shows_plan_estimate_measured_spent_and_what_is_left(tmp_path: Path) -> None:
    ledger = CostLedger(str(tmp_path / "costs"))
    ledger.write(attempt("1", "base", "r1", 1.5))
    ledger.write(attempt("2", "multi", "r2", 2.0, RUNNING))
    words = ("cost", "--costs", str(tmp_path / "costs"), "--config", str(ROOT / "config" / "gcp_deployment.yaml"))
    done = run_himari(*words, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    rows = {row["model"]: row for row in said["rows"]}
    assert {model: row["planned_usd"] for model, row in rows.items()} == {
        "base": 30.0,
        "lstm": 40.0,
        "multi": 60.0,
        "walk-forward": None,
        "certify": None,
    }
    assert (rows["base"]["measured_usd"], rows["multi"]["measured_usd"], rows["multi"]["spent_usd"]) == (1.5, None, 2.0)
    assert (said["spent_usd"], said["total_usd"], said["left_usd"]) == (3.5, 400.0, 396.5)
    assert MachinesConfig().price_date in said["prices"]
    ledger.write(attempt("3", "base", "r3", 400.0))
    over = himari_here(*words)
    assert (over.returncode, "spent $403.5000 of $400" in over.stdout) == (1, True), over.stdout
    assert himari_here("cost", "--offline").returncode == 0
