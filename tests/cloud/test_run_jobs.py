"""A walk-forward as a Cloud Run job: one task for each fold and seed, run once; and the same tasks on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import load_script
from helpers.bucket import QUIET
from helpers.cloud import cloud_server
from helpers.rest_api import GoogleApi, google_api
from helpers.vertex import put_market
from himari_rl.cloud.config import CloudConfig
from himari_rl.cloud.jobs import CloudJob, WorkSize
from himari_rl.cloud.machines import RunJobConfig
from himari_rl.cloud.run_jobs import job_document
from himari_rl.storage import read_bytes

pytestmark = pytest.mark.filterwarnings(*QUIET)
BUCKET = "himari-rl-models"
WALK = ("--model", "walk-forward", "--profile", "run-job")
FOLDS = ("--train", "30d", "--test", "10d", "--step", "10d", "--folds", "1", "--seeds", "2", "--num-episodes", "2")
SMALL = ("--hidden-dim", "8", "--set", "agent.num_envs=20", "--set", "agent.minibatch=500")


@pytest.fixture
def google() -> Iterator[GoogleApi]:
    with google_api() as server:
        yield server


def launched(google: GoogleApi, *words: str) -> int:
    quick = ("cloud.project=p", f"cloud.rest_endpoint={google.url}", "launch.pause_s=0.001", "launch.poll_s=0.001")
    sets = [part for each in quick for part in ("--set", each)]
    code = load_script("vertex_training/launch_training.py").main([*WALK, *sets, *words])
    assert isinstance(code, int)
    return code


def jobs(google: GoogleApi) -> list[str]:
    return [name for name in google.resources if name.split("/")[-2] == "jobs"]


def runs(google: GoogleApi) -> list[str]:
    return [name for name in google.resources if "/executions/" in name]


def test_a_task_is_a_fold_and_a_seed_and_the_job_runs_once(
    google: GoogleApi, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launched(google, "--max-cost", "4", "--json", "base", "--folds", "4", "--seeds", "5") == 0
    [name], [run] = jobs(google), runs(google)
    job = google.resources[name]
    inside = job["template"]["template"]
    assert (job["template"]["taskCount"], google.resources[run]["taskCount"]) == (20, 20)
    assert inside["timeout"] == f"{int(4 / (20 * 4 * (1e-6 * (18 + 2 * 2))))}s"
    assert inside["serviceAccount"] == "himari-trainer@p.iam.gserviceaccount.com"
    assert json.loads(capsys.readouterr().out)["state"] == "20 succeeded of 20 tasks"


def test_lost_answers_run_nothing_twice(google: GoogleApi) -> None:
    for number in range(20):
        google.lost_answers = 1 + number % 2  # of two writes: the job, and its run
        assert launched(google, "--detach", "base", "--folds", "1", "--seeds", "1") == 0
        assert google.lost_answers == 0
    assert (len(jobs(google)), len(runs(google))) == (20, 20)


def test_the_next_region_is_tried_and_a_refusal_is_one_line(
    google: GoogleApi, capsys: pytest.CaptureFixture[str]
) -> None:
    google.refused["us-central1"] = 429
    assert launched(google, "--set", "launch.attempts=2", "base", "--folds", "1") == 0
    assert "/locations/us-east1/" in jobs(google)[0]
    google.refused = {"locations": 403}
    assert launched(google, "base", "--folds", "1") == 2
    assert "HTTP 403" in capsys.readouterr().err


def test_a_launch_that_goes_on_finds_its_job_in_a_later_region(google: GoogleApi) -> None:
    """The first region had no room when the job began, and has it now: a second run would be paid for twice."""
    google.refused["us-central1"] = 429
    words = ("--launch-id", "mine", "--set", "launch.attempts=2", "base", "--folds", "1", "--seeds", "1")
    assert launched(google, *words) == 0
    google.refused = {}
    assert launched(google, *words) == 0
    assert ["/us-east1/" in name for name in runs(google)] == [True]


def test_googles_own_message_takes_the_job() -> None:
    run = pytest.importorskip("google.cloud.run_v2", reason="no google-cloud-run")
    from google.protobuf import json_format

    job = CloudJob(
        model="walk-forward", kind="base", command=("python",), output="", size=WorkSize(), launch="x", environment={}
    )
    document = job_document(job, RunJobConfig(), CloudConfig(project="p"), tasks=3, time_out_s=60)
    message = run.Job.pb()()
    json_format.ParseDict(document, message)
    assert message.template.template.max_retries == 3
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict({**document, "taskCount": 3}, run.Job.pb()())


@pytest.mark.skipif("HIMARI_KILLS" not in os.environ, reason="walk-forwards for half a minute: make cloud")
def test_run_job_local_is_the_pools_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks as processes with nothing between them but the bucket, and one process with the whole of it."""
    from helpers import run_himari

    with cloud_server(BUCKET):
        put_market(BUCKET, tmp_path)
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path / "empty")
        for name in [name for name in os.environ if name.startswith("HIMARI_")]:
            monkeypatch.delenv(name)
        words = ["base", *FOLDS, *SMALL, "--out", f"gs://{BUCKET}/tasks"]
        assert load_script("vertex_training/launch_training.py").main([*WALK, "--local", *words]) == 0
        market = ("--data", f"gs://{BUCKET}/data", "--symbol", "BTC-USD", "--jobs", "1")
        one = ("walk-forward", "base", *market, *FOLDS, *SMALL, "--out", f"gs://{BUCKET}/one")
        done = run_himari(*one, cwd=tmp_path / "empty", HIMARI_TRIALS=f"gs://{BUCKET}/own")
        assert done.returncode == 0, done.stderr
        for name in ("walk_forward.json", "curves.safetensors", "bundle/weights.safetensors"):
            first, second = (read_bytes(f"gs://{BUCKET}/{run}/{name}") for run in ("tasks", "one"))
            assert first == second, name
        assert list((tmp_path / "empty").iterdir()) == []
