"""The launcher, with Google's own client unpatched, against a job service over TLS: one launch is one job."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import ROOT, load_script
from helpers.vertex_api import JobService, job_service
from himari_rl.cli.launch import planned
from himari_rl.cli.options import CLOUD_FILE
from himari_rl.cli.settings import resolved
from himari_rl.cloud.launch import launch

pytestmark = pytest.mark.filterwarnings("ignore")  # of the client's own imports
QUICK = ("--set", "launch.pause_s=0.001", "--set", "launch.poll_s=0.001", "--set", "cloud.project=test-project")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobService]:
    with job_service(tmp_path_factory.mktemp("tls")) as service:
        yield service


@pytest.fixture
def service(running: JobService) -> JobService:
    fresh = JobService(address=running.address)
    for name, value in vars(fresh).items():
        setattr(running, name, value)
    return running


def launched(service: JobService | None, *words: str) -> int:
    """The card's command in this process."""
    where = ("--set", f"cloud.vertex_endpoint={service.address}") if service else ()
    code = load_script("vertex_training/launch_training.py").main([*QUICK, *words, *where])
    assert isinstance(code, int)
    return code


@pytest.mark.parametrize("profile", ["t4", "l4", "cpu"])
def test_the_job_is_what_the_profile_says(
    service: JobService, profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", "base", "--profile", profile, "--max-cost", "1", "--num-episodes", "10", "--json")
    assert launched(service, *words) == 0
    [job] = service.jobs.values()
    [pool] = job.job_spec.worker_pool_specs
    card = {"t4": ("n1-standard-4", 1, 0.621), "l4": ("g2-standard-4", 1, 0.813), "cpu": ("e2-standard-4", 0, 0.154)}
    machine, gpus, price = card[profile]
    assert (pool.machine_spec.machine_type, pool.machine_spec.accelerator_count) == (machine, gpus)
    assert job.job_spec.scheduling.timeout.seconds == int(3600 / price), "max-cost over price"
    assert job.job_spec.service_account == "himari-trainer@test-project.iam.gserviceaccount.com"
    assert pool.container_spec.image_uri.endswith("/test-project/himari/himari-train:latest")
    assert list(pool.container_spec.command)[:4] == ["python", "vertex_training/trainer.py", "--num-episodes", "10"]
    assert job.job_spec.base_output_directory.output_uri_prefix == "gs://himari-rl-models/models/himari-rl"
    assert job.labels["himari_model"] == "base"
    out, said = capsys.readouterr()
    assert json.loads(out)["state"] == "JOB_STATE_SUCCEEDED"
    assert all(word in said for word in ("pending", "running", "succeeded"))


def test_a_hundred_lost_answers_are_a_hundred_jobs(service: JobService) -> None:
    count = int(os.environ.get("HIMARI_LOST_ANSWERS", "100"))
    place = f"cloud.vertex_endpoint={service.address}", "machines.t4.places=us-central1/n1-standard-4"
    settings = resolved("launch", "base", str(ROOT / CLOUD_FILE), [*QUICK[1::2], *place])
    job = planned("base", [], settings, [], None, "blank")
    for number in range(count):
        service.lost_answers = 1
        launch(
            replace(job, launch=f"launch-{number}"),
            settings["machines"].t4,
            settings["cloud"],
            settings["launch"],
            follow=False,
        )
        assert service.lost_answers == 0, "the control: an answer was lost"
    assert len(service.jobs) == count
    labels = {job.labels["himari_launch"] for job in service.jobs.values()}
    assert len(labels) == count


def test_without_looking_first_a_lost_answer_makes_two_jobs(
    service: JobService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the service does lose answers, and it is the look that saves the second job."""
    from himari_rl.cloud.vertex_jobs import VertexJobs

    monkeypatch.setattr(VertexJobs, "find", lambda self, region, job: None)
    service.lost_answers = 1
    assert launched(service, "--model", "base", "--detach") == 0
    assert len(service.jobs) == 2


def test_a_launch_that_was_cut_off_goes_on_with_its_own_job(service: JobService) -> None:
    for _ in range(3):
        assert launched(service, "--model", "base", "--launch-id", "mine", "--detach") == 0
    assert len(service.jobs) == 1
    assert launched(service, "--model", "base", "--launch-id", "other", "--detach") == 0
    assert len(service.jobs) == 2


def test_calls_that_the_library_does_not_repeat_are_repeated(service: JobService) -> None:
    service.list_errors, service.lost_answers = 4, 3
    assert launched(service, "--model", "lstm", "--detach") == 0
    assert len(service.jobs) == 1


@pytest.mark.parametrize("how", ["quota", "no machine", "waits for ever"])
def test_where_a_region_is_sold_out_the_job_is_in_the_next_one(
    service: JobService, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if how == "quota":
        service.refused["us-central1"] = "RESOURCE_EXHAUSTED"
    elif how == "no machine":
        service.fails["us-central1"] = "Resources are insufficient in region: us-central1."
    else:
        service.stuck.add("us-central1")
        service.states = ("RUNNING", "SUCCEEDED")
    wait = "0" if how == "waits for ever" else "900"
    words = ("--model", "base", "--json", "--set", f"launch.pending_s={wait}", "--set", "launch.attempts=3")
    assert launched(service, *words) == 0
    out, said = capsys.readouterr()
    assert json.loads(out)["place"] == "us-east1/n1-standard-4"
    assert "us-central1/n1-standard-4 is sold out" in said
    ended = {name.split("/")[3]: job.state.name for name, job in service.jobs.items()}
    assert ended["us-east1"] == "JOB_STATE_SUCCEEDED"
    assert ended.get("us-central1", "none") in ("none", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED")


def test_a_second_machine_of_the_same_region_is_tried_while_the_first_job_is_still_ending(
    service: JobService, capsys: pytest.CaptureFixture[str]
) -> None:
    service.stuck.add("us-central1")
    service.cancelled = "CANCELLING"
    words = ("--model", "base", "--set", "machines.t4.places=us-central1/n1-standard-4,us-central1/n1-standard-8")
    assert launched(service, *words, "--set", "launch.pending_s=0") == 1
    assert "no machine in us-central1/n1-standard-4, us-central1/n1-standard-8" in capsys.readouterr().err
    machines = [job.job_spec.worker_pool_specs[0].machine_spec.machine_type for job in service.jobs.values()]
    assert machines == ["n1-standard-4", "n1-standard-8"], "and not the first one once more"


def test_a_job_stops_by_itself_before_the_platform_does() -> None:
    """Vertex AI counts from the container's start: 180 s of it are paid for before training begins."""
    settings = resolved("launch", "base", str(ROOT / CLOUD_FILE), ["launch.max_cost=1"])
    said = [word for word in planned("base", [], settings, [], None, "x").command if word.startswith("--max-cost=")]
    assert [float(word.partition("=")[2]) for word in said] == [pytest.approx(1 - 0.621 * 180 / 3600, abs=1e-4)]
    here = planned("base", [], settings, [], None, "x", local=True).command
    assert "--max-cost=1" in here
    tiny = resolved("launch", "base", str(ROOT / CLOUD_FILE), ["launch.max_cost=0.01"])
    assert "--max-cost=0.005" in planned("base", [], tiny, [], None, "x").command


def test_where_every_place_is_sold_out_that_is_a_refusal(
    service: JobService, capsys: pytest.CaptureFixture[str]
) -> None:
    service.refused = dict.fromkeys(("us-central1", "us-east1", "europe-west4"), "RESOURCE_EXHAUSTED")
    assert launched(service, "--model", "base", "--set", "launch.attempts=2") == 1
    assert "no machine in us-central1/n1-standard-4, us-east1/n1-standard-4" in capsys.readouterr().err
    assert not service.jobs


def test_a_call_that_is_refused_is_not_repeated_and_a_job_that_fails_is_a_refusal(
    service: JobService, capsys: pytest.CaptureFixture[str]
) -> None:
    service.refused["us-central1"] = "PERMISSION_DENIED"
    assert launched(service, "--model", "base") == 2
    assert service.calls.count("CreateCustomJob") == 1
    service.refused, service.states = {}, ("PENDING", "RUNNING", "FAILED")
    assert launched(service, "--model", "base") == 1
    assert "ended as failed" in capsys.readouterr().err


def test_a_spot_job_is_restarted_and_its_time_out_is_of_the_spot_price(service: JobService) -> None:
    assert launched(service, "--model", "base", "--spot", "--max-cost", "1", "--detach") == 0
    [job] = service.jobs.values()
    scheduling = job.job_spec.scheduling
    assert (scheduling.strategy.name, scheduling.restart_job_on_worker_restart) == ("SPOT", True)
    assert scheduling.timeout.seconds == int(3600 / 0.25)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "base", "--num-episode", "10"), "unrecognized arguments"),
        (("--model", "lstm", "--symbols", "BTC-USD"), "unrecognized arguments"),
        (("--model", "multi", "--symbol", "BTC-USD"), "unrecognized arguments"),
        (("--model", "base", "stray"), "unrecognized arguments"),
        (("--model", "base", "--num-episodes", "ten"), "invalid int value"),
        (("--model", "base", "--num-episodes", "0"), "num_episodes 0"),
        (("--model", "walk-forward", "base", "--foldz", "3"), "No such option '--foldz'"),
        (("--model", "walk-forward", "bass"), "kind 'bass'"),
        (("--model", "certify", "--num-episode", "3"), "No such option '--num-episode'"),
        (("--model", "base", "--set", "train.sseds=1"), "no setting 'train.sseds'"),
        (("--model", "base", "--set", "launch.sspot=1"), "no setting 'launch.sspot'"),
        (("--model", "base", "--profile", "t5"), "t5"),
        (("--model", "bass"), "--model bass"),
        (("--model", "base", "--max-cost", "0"), "max_cost 0"),
        (("--model", "base", "--max-cost", "nan"), "max_cost nan"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_before_anything_is_asked(
    service: JobService, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launched(service, *words) == 2
    assert said in capsys.readouterr().err
    assert service.calls == []


def test_no_project_is_no_launch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("google.cloud.aiplatform")
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    assert launched(None, "--model", "base", "--set", "cloud.project=") == 2
    assert "GOOGLE_CLOUD_PROJECT" in capsys.readouterr().err


def test_the_service_is_asked_over_tls_and_nobody_patched_the_client(service: JobService, tmp_path: Path) -> None:
    from google.cloud.aiplatform import CustomJob

    assert CustomJob.submit.__module__.startswith("google.cloud.aiplatform")
    assert launched(service, "--model", "base", "--detach") == 0
    assert service.calls[-2:] == ["CreateCustomJob", "GetCustomJob"]
