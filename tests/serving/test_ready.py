"""What the server says about itself, and what it does without a valid policy."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi.openapi.utils import get_openapi
from prometheus_client.parser import text_string_to_metric_families

from helpers.bundle import make_bundle
from helpers.serving import DEADLINE_S, cloud_run_server, running, wait_for
from himari_rl import __version__
from himari_rl.monitoring import metrics as names
from himari_rl.policy.bundle import MANIFEST, WEIGHTS
from himari_rl.policy.runtime import load_policy
from himari_rl.serving.http.app import ENDPOINTS, create_app
from himari_rl.serving.http.run import GRACE_S
from himari_rl.serving.messages import EXAMPLE_STATE
from himari_rl.serving.settings import ServeSettings
from himari_rl.serving.slot import ordinary_state


def test_root_and_health_and_ready_say_what_answers(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, seeds=(0, 1), hidden=(4,))
    manifest = load_policy(folder).manifest
    with running(create_app(folder)) as client:
        root = client.get("/").json()
        assert list(root) == ["name", "version", "status", "endpoints"]
        assert (root["version"], root["status"]) == (__version__, "ready")
        assert client.get("/health").json() == {"status": "alive"}
        ready = client.get("/ready").json()
        assert ready["model_version"] == manifest.version
        assert (ready["kind"], ready["symbols"], ready["state_dim"], ready["members"]) == ("base", ["BTC-USDT"], 16, 2)
        assert ready["synthetic"] is True


def test_every_endpoint_that_root_names_exists(tmp_path: Path) -> None:
    with running(create_app(make_bundle(tmp_path, hidden=(4,)))) as client:
        for endpoint in ENDPOINTS:
            method, path = endpoint.split()
            assert client.request(method, path).status_code != 404
        assert client.get("/nothing").status_code == 404
        wrong = client.get("/predict")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("damage", ["missing", "flipped", "encoder"])
def test_without_a_valid_policy_everything_that_needs_one_is_503_with_the_reason(tmp_path: Path, damage: str) -> None:
    if damage == "encoder":
        folder = make_bundle(tmp_path, hidden=(4,), encoder_hash="0123456789ab")
    else:
        folder = make_bundle(tmp_path, hidden=(4,))
        weights = bytearray((folder / WEIGHTS).read_bytes())
        weights[-1] ^= 1
        (folder / WEIGHTS).write_bytes(weights)
    if damage == "missing":
        shutil.rmtree(folder)
    reason = {
        "missing": "there is no policy bundle at",
        "flipped": "is damaged: sha256",
        "encoder": "encoder 0123456789ab",
    }
    with running(create_app(folder)) as client:
        for response in (client.get("/ready"), client.post("/predict", json={"state": EXAMPLE_STATE})):
            assert response.status_code == 503
            assert reason[damage] in response.json()["detail"]
            assert "multiplier" not in response.text
        assert client.get("/health").status_code == 200
        assert client.get("/").json()["status"] == "not ready"


def test_a_bad_state_without_a_policy_is_503_too_and_a_broken_body_422(tmp_path: Path) -> None:
    with running(create_app(tmp_path / "nothing")) as client:
        assert client.post("/predict", json={"state": [1]}).status_code == 503
        assert client.post("/predict", content=b"{").status_code == 422


def test_the_server_recovers_when_the_cause_goes(tmp_path: Path) -> None:
    with running(create_app(tmp_path / "bundle", ServeSettings(reload_s=0.05))) as client:
        assert client.get("/ready").status_code == 503
        make_bundle(tmp_path, hidden=(4,))
        wait_for(lambda: client.get("/ready").status_code == 200)
        assert client.post("/predict", json={"state": EXAMPLE_STATE}).status_code == 200


def test_a_job_of_the_server_that_fails_by_a_bug_is_said_in_three_places_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(make_bundle(tmp_path), ServeSettings(reload_s=0.05))
    service, lines = app.state.service, []
    service.journal._write = lambda line: lines.append(json.loads(line))
    service.jobs._pause_s = 0.05
    monkeypatch.setattr(service, "load", lambda: 1 / 0)
    with running(app) as client:
        refused = client.get("/ready")
        assert refused.status_code == 503
        assert "ZeroDivisionError" in refused.json()["detail"]
        assert 'himari_job_failures_total{job="follow"}' in client.get("/metrics").text
        assert [(line["event"], line["job"]) for line in lines] == [("job_failed", "follow")]
        monkeypatch.undo()
        wait_for(lambda: client.get("/ready").status_code == 200)
        wait_for(lambda: client.get("/ready").json()["failing"] == {})  # the policy is there before its look has ended


def test_the_process_that_a_container_starts_lives_on_and_ends_in_time(tmp_path: Path) -> None:
    with cloud_run_server(tmp_path / "nothing") as (process, client):
        assert client.get("/ready").status_code == 503
        make_bundle(tmp_path, hidden=(4,), name="nothing")
        wait_for(lambda: client.get("/ready").status_code == 200)
        process.terminate()
        process.wait(DEADLINE_S)
    assert GRACE_S < 10  # requests that go on are cut off before Cloud Run kills


@pytest.mark.parametrize(
    ("name", "value"), [("MODEL_PATH", ""), ("PORT", "http"), ("PORT", "70000"), ("HOST", "256.1.1.1")]
)
def test_a_container_with_wrong_settings_stops_with_one_line(tmp_path: Path, name: str, value: str) -> None:
    with cloud_run_server(tmp_path, **{name: value}) as (process, _):
        _, stderr = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 2
        assert re.fullmatch(r"api_server: [^\n]+\n", stderr)
        assert (value or name) in stderr


@pytest.mark.parametrize("assets", [1, 3])
def test_the_state_that_warms_up_is_a_valid_one(tmp_path: Path, assets: int) -> None:
    with running(create_app(make_bundle(tmp_path, "base" if assets == 1 else "multi", hidden=(4,)))) as client:
        assert client.post("/predict", json={"state": ordinary_state(assets)}).status_code == 200


def test_the_metrics_count_what_happened(tmp_path: Path) -> None:
    with running(create_app(make_bundle(tmp_path, head="centre", hidden=(4,)))) as client:
        answers = [client.post("/predict", json={"state": EXAMPLE_STATE}).json() for _ in range(3)]
        client.post("/predict", json={"state": []})
        client.get("/nothing")
        response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert samples[f"{names.REQUESTS}_total",] == 3
    assert samples[f"{names.ERRORS}_total", "422", "state"] == 1
    assert samples[f"{names.ERRORS}_total", "404", "not_found"] == 1
    assert samples[names.READY,] == 1
    assert samples[names.POLICY, *sorted(["base", answers[0]["model_version"]])] == 1
    assert samples[f"{names.LATENCY}_count",] == 3
    assert samples[f"{names.LATENCY}_sum",] == pytest.approx(sum(answer["latency_ms"] for answer in answers) / 1e3)
    assert samples[f"{names.MULTIPLIER}_sum",] == pytest.approx(3 * answers[0]["position_multiplier"])
    assert samples[f"{names.MULTIPLIER}_bucket", "+Inf"] == 3


def test_every_metric_has_a_help_line_and_is_emitted(tmp_path: Path) -> None:
    with running(create_app(make_bundle(tmp_path, hidden=(4,)))) as client:
        emitted = {family.name for family in text_string_to_metric_families(client.get("/metrics").text)}
    assert emitted == set(names.HELP)


def test_a_refused_policy_and_a_swap_are_written_down_once_though_no_answer_is(tmp_path: Path) -> None:
    """Somebody who reads the log at night must find why there is no policy, and once, though it is tried for hours."""
    app = create_app(tmp_path / "bundle", ServeSettings(reload_s=0.01))
    lines: list[dict[str, Any]] = []
    app.state.service.journal._write = lambda line: lines.append(json.loads(line))
    with running(app) as client:
        wait_for(lambda: app.state.service.metrics.reload_failures > 3)
        whole = make_bundle(tmp_path, hidden=(4,), name="whole")
        version = load_policy(whole).manifest.version
        whole.rename(tmp_path / "bundle")  # at once: half a bundle would be refused for another reason
        wait_for(lambda: client.get("/ready").status_code == 200)
        client.post("/predict", json={"state": EXAMPLE_STATE})
        (tmp_path / "broken").write_text("{}")
        (tmp_path / "broken").rename(tmp_path / "bundle" / MANIFEST)
        wait_for(lambda: len(lines) == 3)
    assert [line["event"] for line in lines] == ["refused", "swap", "refused"]
    assert [line.get("serving") for line in lines] == [None, None, version]
    assert "there is no policy bundle" in lines[0]["reason"]
    assert lines[1]["model_version"] == version


def test_a_value_on_a_bucket_bound_belongs_to_that_bucket() -> None:
    """Prometheus: a bucket counts the values less than or equal to its bound."""
    histogram = names.Histogram((0.5, 1.0))
    for value in (0.5, 0.6, 1.0, 1.1):
        histogram.add(value)
    assert histogram.counts == [1, 2, 1]


def test_the_openapi_document_names_every_route_and_every_refusal(tmp_path: Path) -> None:
    app = create_app(make_bundle(tmp_path, hidden=(4,)))
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    documented = {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}
    assert documented == set(ENDPOINTS) - {"GET /docs"}
    for path in ("/predict", "/v1/batch", "/v1/decide"):
        post = document["paths"][path]["post"]
        assert set(post["responses"]) == {"200", "401", "403", "408", "413", "415", "422", "429", "503"}
        schema = post["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert document["components"]["schemas"][schema]["examples"]
    assert set(document["paths"]["/ready"]["get"]["responses"]) == {"200", "503"}
