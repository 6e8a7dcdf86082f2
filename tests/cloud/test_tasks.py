"""A walk-forward as tasks of a job: each trains its share in an empty folder, the bucket is all that they have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import PATIENCE_S, ROOT, himari_here
from helpers.bucket import QUIET
from helpers.cloud import Cloud, cloud_server
from helpers.vertex import put_market
from himari_rl.data.sources import load_bars
from himari_rl.experiments.train_all import share_of
from himari_rl.experiments.walk_forward import Settings, plan
from himari_rl.storage import gcs, read_bytes
from himari_rl.trials.ledger import Trials

pytestmark = pytest.mark.filterwarnings(*QUIET)
BUCKET, COUNT = "himari-rl-models", int(os.environ.get("HIMARI_TASKS", "3"))  # `make cloud` asks for eight
WALK = (
    "walk-forward",
    "base",
    "--data",
    f"gs://{BUCKET}/data",
    "--symbol",
    "BTC-USD",
    "--train",
    "30d",
    "--test",
    "10d",
)
SMALL = ("--step", "10d", "--folds", "1", "--num-episodes", "2", "--seeds", "3", "--hidden-dim", "8")
MORE = ("--set", "agent.num_envs=20", "--set", "agent.minibatch=500", "--set", "walk_forward.purge_bars=24")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with cloud_server(BUCKET) as server:
        put_market(BUCKET, tmp_path_factory.mktemp("bars"))
        yield server


def begin(cwd: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    cwd.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HIMARI_")}
    command = [sys.executable, "-m", "himari_rl", *WALK, *SMALL, *MORE, *words]
    env = {**kept, "PYTHONPATH": str(ROOT / "src"), **environment}
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def weights(fold: bytes) -> bytes:
    """The tensors of a fold's file, without digest and header."""
    body = fold[64:]
    return body[8 + int.from_bytes(body[:8], "little") :]


def looks(place: str) -> list[tuple[str, str, int, int]]:
    with Trials(place) as ledger:
        ledger.verify()
        return [(t.purpose, t.market, t.first_ms, t.last_ms) for t in ledger.history()]


def test_tasks_in_empty_folders_say_what_one_machine_says(cloud: Cloud, tmp_path: Path) -> None:
    one = f"gs://{BUCKET}/one"
    own = {"HIMARI_TRIALS": f"gs://{BUCKET}/own"}
    (tmp_path / "alone").mkdir()
    alone = himari_here(*WALK, *SMALL, *MORE, "--jobs", "1", "--out", one, cwd=tmp_path / "alone", **own)
    assert alone.returncode == 0, alone.stderr
    tasks = [
        begin(
            tmp_path / str(i),
            *("--out", f"gs://{BUCKET}/eight"),
            CLOUD_RUN_TASK_INDEX=str(i),
            CLOUD_RUN_TASK_COUNT=str(COUNT),
        )
        for i in range(COUNT)
    ]
    ends = [task.communicate(timeout=4 * PATIENCE_S)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0] * COUNT, ends
    assert sum("gate:" in end for end in ends) == 1, "one judges"
    folds = [name for name in gcs.names(f"{one}/folds/") if name]
    assert len(folds) >= COUNT
    eight = f"gs://{BUCKET}/eight"
    for name in ("walk_forward.json", "curves.safetensors", "bundle/weights.safetensors"):
        assert read_bytes(f"{one}/{name}") == read_bytes(f"{eight}/{name}"), name
    for name in folds:  # their headers say when they were made
        first, second = (weights(read_bytes(f"{place}/folds/{name}")) for place in (one, eight))
        assert first == second, name
    assert looks(f"gs://{BUCKET}/trials") == looks(f"gs://{BUCKET}/own") != []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    gated = himari_here("gate", f"{one}/bundle", "--json", cwd=tmp_path, **own)
    assert json.loads(gated.stdout)["bundle"] == f"{one}/bundle"
    report = himari_here("report", one, cwd=tmp_path, **own)
    assert report.returncode == 0, report.stderr
    assert read_bytes(f"{one}/report.html").startswith(b"<!doctype html>")


@pytest.mark.parametrize(
    "more", [{}, {"warm_start": True}, {"tune_trials": 2}], ids=["plain", "warm start", "searched"]
)
def test_the_shares_are_all_pieces_each_once_and_what_belongs_together_stays_together(
    cloud: Cloud, more: dict[str, object]
) -> None:
    bars = load_bars(f"gs://{BUCKET}/data", "BTC-USD")
    settings = Settings(train="20d", test="10d", step="10d", folds=3, purge_bars=24, seeds=(0, 1), **more)  # type: ignore[arg-type]
    work = plan(bars, settings, controls=False)
    shares = [share_of(work, i, 3) for i in range(3)]
    assert sorted(key for share in shares for key in share) == sorted(work.pieces())
    together = {"warm_start": lambda k: (k[0], k[2]), "tune_trials": lambda k: k[:2]}
    for name in more:
        units = [{together[name](key) for key in share} for share in shares]
        assert sum(map(len, units)) == len(set().union(*units))


@pytest.mark.parametrize("task", ["8/8", "a/b", "3", "-1/8"])
def test_a_task_that_cannot_be_is_refused(cloud: Cloud, tmp_path: Path, task: str) -> None:
    done = himari_here(*WALK, "--out", f"gs://{BUCKET}/no", f"--task={task}", cwd=tmp_path)
    assert (done.returncode, "INDEX/COUNT" in done.stderr) == (2, True), done.stderr
