"""Monitoring that can light: every query is PromQL, every metric in it is emitted, and twice is as good as once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from helpers import ROOT, load_script
from helpers.asgi import AsgiClient
from helpers.bundle import make_bundle, valid_states
from helpers.rest_api import GoogleApi, google_api, parsed_by_google
from himari_rl.cli.settings import resolved
from himari_rl.cloud.dashboard import COLUMNS, alerts, dashboard, query_of
from himari_rl.cloud.meter import metered
from himari_rl.cloud.monitor import differences
from himari_rl.cloud.signals import CARD, SIGNALS, MonitorConfig, log_metrics
from himari_rl.monitoring.metrics import Metrics
from himari_rl.serving.http.app import create_app
from himari_rl.serving.messages import EXAMPLE_STATE
from himari_rl.serving.settings import ServeSettings

SERVICE = "himari-rl-api"
PROFILES = ("cheap", "steady")
CLOUD_RUN = {"request_count", "request_latencies_bucket"}
"""Of cloud.google.com/monitoring/api/metrics_gcp, run.googleapis.com/."""
NAME = re.compile(r"\b([a-z_]+(?::[a-z_]+)?)\{|\b(himari_[a-z_]+)|\b([a-z_]+:[a-z_]+)")


def queries(profile: str) -> list[str]:
    config = MonitorConfig(profile=profile)  # type: ignore[arg-type]
    board, told = dashboard(config, SERVICE), alerts(config, SERVICE)
    found = [
        each["timeSeriesQuery"]["prometheusQuery"]
        for tile in board["mosaicLayout"]["tiles"]
        for each in tile["widget"]["xyChart"]["dataSets"]
    ]
    return found + [p["conditions"][0]["conditionPrometheusQueryLanguage"]["query"] for p in told]


def names_in(query: str) -> set[str]:
    return {next(filter(None, found)) for found in NAME.findall(query)}


def emitted() -> set[str]:
    """What GET /metrics has when something happened, as Prometheus stores it."""
    metrics = Metrics()
    metrics.decided([1.0], 0.5, 0.5, True, True)
    metrics.answered(0.001)
    metrics.errors[(503, "not_ready")] += 1
    metrics.job_failures["follow"] += 1
    lines = [line for line in metrics.text().decode().splitlines() if not line.startswith("#")]
    return {re.split(r"[{ ]", line)[0] for line in lines}


def strangers(asked: set[str]) -> set[str]:
    """The names that nothing emits."""
    logged = {f"logging_googleapis_com:user_{name.replace('/', '_')}" for name in log_metrics(SERVICE)}
    logged |= {f"{name}_bucket" for name in logged}
    known = emitted() | logged | {f"run_googleapis_com:{name}" for name in CLOUD_RUN}
    return asked - known


@pytest.mark.parametrize("profile", PROFILES)
def test_every_metric_that_is_asked_for_is_emitted_or_cloud_runs_own(profile: str) -> None:
    asked = set().union(*map(names_in, queries(profile)))
    assert len(asked) >= 5
    assert strangers(asked) == set()
    own = {name for name in asked if name.startswith("himari_")}
    assert bool(own) == (profile == "steady"), "a server that is throttled is scraped by nobody"


WATCHED = {"MULTIPLIER": "_bucket", "ERRORS": "_total", "REQUESTS": "_total", "DRIFT": ""}


@pytest.mark.parametrize("constant", WATCHED)
def test_a_metric_that_is_renamed_in_the_code_is_noticed(constant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import himari_rl.monitoring.metrics as code

    asked = set().union(*map(names_in, queries("steady")))
    before = getattr(code, constant)
    monkeypatch.setattr(code, constant, "himari_size")
    monkeypatch.setitem(code.HELP, "himari_size", "renamed")
    assert strangers(asked) == {before + WATCHED[constant]}


def test_every_metric_of_ours_that_is_watched_has_its_control_above() -> None:
    import himari_rl.monitoring.metrics as code

    asked = set().union(*map(names_in, queries("steady")))
    watched = {getattr(code, constant) + end for constant, end in WATCHED.items()}
    assert {name for name in asked if name.startswith("himari_")} == watched


@pytest.mark.parametrize("profile", PROFILES)
def test_every_query_is_promql(profile: str) -> None:
    parser = pytest.importorskip("promql_parser", reason="no promql-parser; pip install promql-parser")
    for query in queries(profile):
        parser.parse(query)
    with pytest.raises(ValueError):
        parser.parse("sum(rate(himari_requests_total[5m])")


def test_the_log_based_metrics_read_fields_and_texts_that_are_written(tmp_path: Path) -> None:
    """Of an answer that the server itself gives: a field that is renamed there is missed here."""
    lines: list[str] = []
    app = create_app(make_bundle(tmp_path), ServeSettings(api_keys=("k",), log_every=1))
    app.state.service.journal._write = lines.append
    strange = [*EXAMPLE_STATE[:10], -1.0, -1.0, -1.0, 1.0, 0.0, 1.0]
    with AsgiClient(app) as client:
        assert client.post("/predict", json={"state": strange}, headers={"x-api-key": "k"}).status_code == 200
    [line] = [line for line in map(json.loads, lines) if line["event"] == "answer"]
    made = log_metrics(SERVICE)
    fields = set(re.findall(r"jsonPayload\.(\w+)", json.dumps(made)))
    assert fields == {"event", "latency_ms", "position_multiplier", "out_of_distribution"}
    assert fields <= set(line)
    assert line["event"] == "answer"
    from himari_rl.cloud.costs import CostLedger
    from himari_rl.cloud.machines import BudgetConfig

    said: list[str] = []
    with metered(BudgetConfig(usd_per_hour=1.0), "base", "r", ledger=CostLedger(""), tell=said.append, environment={}):
        pass
    pattern = re.search(r'"(cost .*)"', made["himari/rl/cost_usd"]["valueExtractor"])
    assert pattern is not None
    assert re.search(pattern[1].replace("\\\\", "\\"), said[-1]) is not None, said


def test_a_portfolio_s_answer_has_its_mean_multiplier_where_the_tile_looks(tmp_path: Path) -> None:
    lines: list[str] = []
    app = create_app(make_bundle(tmp_path, "multi"), ServeSettings(api_keys=("k",), log_every=1))
    app.state.service.journal._write = lines.append
    with AsgiClient(app) as client:
        answer = client.post(
            "/predict", json={"state": valid_states(1, 3, seed=4)[0].tolist()}, headers={"x-api-key": "k"}
        )
    assert answer.status_code == 200
    assert "position_multiplier" not in answer.json(), "the control: an answer names each asset's own"
    [line] = [line for line in map(json.loads, lines) if line["event"] == "answer"]
    assert line["position_multiplier"] == pytest.approx(fmean(answer.json()["position_multipliers"].values()))


@pytest.mark.parametrize("profile", PROFILES)
def test_the_four_names_of_the_card_stay_and_every_tile_fits_the_grid(profile: str) -> None:
    board = dashboard(MonitorConfig(profile=profile), SERVICE)  # type: ignore[arg-type]
    tiles = board["mosaicLayout"]["tiles"]
    titles = [tile["widget"]["title"] for tile in tiles]
    for name in ("prediction_latency", "position_multiplier", "api_errors", "fallback_count"):
        assert any(title.startswith(f"{CARD}{name}") for title in titles)
        assert f"himari/rl/{name}" in log_metrics(SERVICE)
    taken: set[tuple[int, int]] = set()
    for tile in tiles:
        assert tile["xPos"] >= 0
        assert tile["xPos"] + tile["width"] <= COLUMNS == board["mosaicLayout"]["columns"] <= 48
        cells = {
            (x, y)
            for x in range(tile["xPos"], tile["xPos"] + tile["width"])
            for y in range(tile["yPos"], tile["yPos"] + tile["height"])
        }
        assert not cells & taken
        taken |= cells


@pytest.mark.parametrize("profile", PROFILES)
def test_googles_own_messages_take_dashboard_and_alerts(profile: str) -> None:
    pytest.importorskip("google.cloud.monitoring_dashboard_v1", reason="pip install google-cloud-monitoring-dashboards")
    pytest.importorskip("google.cloud.monitoring_v3", reason="pip install google-cloud-monitoring")
    config = MonitorConfig(profile=profile)  # type: ignore[arg-type]
    assert parsed_by_google("dashboards", dashboard(config, SERVICE)) == ""
    assert [parsed_by_google("alertPolicies", policy) for policy in alerts(config, SERVICE)] == [""] * 6
    assert "no field" in parsed_by_google("dashboards", {"displaName": "x"})


def test_what_alarms_and_at_which_threshold() -> None:
    found = {p["userLabels"]["signal"]: p["conditions"][0] for p in alerts(MonitorConfig(), SERVICE)}
    ends = {
        signal: condition["conditionPrometheusQueryLanguage"]["query"].rpartition(")")[2]
        for signal, condition in found.items()
    }
    assert ends == {
        "prediction_latency": " > 150",
        "api_errors": " > 0.05",
        "fallback_count": " > 0.05",
        "drift": " > 0.05",
        "traffic": " < 1",
        "cost": " > 20",
    }
    for signal in ("api_errors", "fallback_count"):  # a share, and no number of requests a second
        query = found[signal]["conditionPrometheusQueryLanguage"]["query"]
        assert query.count("rate(") >= 2
        assert ") / " in query


def test_dashboard_json_is_the_dashboard_of_the_config() -> None:
    settings = resolved("monitoring", "base", str(ROOT / "config" / "gcp_deployment.yaml"))
    made = dashboard(settings["monitoring"], settings["deploy"].service)
    assert json.loads((ROOT / "monitoring" / "dashboard.json").read_text()) == made


@pytest.fixture
def google() -> Iterator[GoogleApi]:
    with google_api() as server:
        yield server


def set_up(google: GoogleApi, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    more = ("cloud.project=p", f"cloud.rest_endpoint={google.url}", "deploy.pause_s=0.001")
    sets = [part for each in more for part in ("--set", each)]
    code = load_script("monitoring/setup_monitoring.py").main([*sets, "--json", *words])
    out = capsys.readouterr()
    assert code == 0, out.err
    found = json.loads(out.out)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("profile", PROFILES)
def test_the_second_time_there_is_nothing_to_change(
    google: GoogleApi, profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--profile", profile, "--email", "you@example.com")
    planned = set_up(google, capsys, *words, "--dry-run")
    assert google.writes() == []
    first = set_up(google, capsys, *words)
    assert {change["verb"] for change in first["changes"]} == {"create"}
    assert {c["what"] for c in planned["changes"]} == {c["what"] for c in first["changes"]}
    assert len(first["changes"]) == len(log_metrics(SERVICE)) + 1 + 6 + 1
    written = len(google.writes())
    assert set_up(google, capsys, *words)["changes"] == []
    assert len(google.writes()) == written
    [channel] = [name for name in google.resources if "/notificationChannels/" in name]
    policies = [r for name, r in google.resources.items() if "/alertPolicies/" in name]
    assert all(policy["notificationChannels"] == [channel] for policy in policies)


def test_a_changed_threshold_is_shown_by_the_dry_run_and_written_once(
    google: GoogleApi, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up(google, capsys)
    size = len(google.resources)
    shown = set_up(google, capsys, "--dry-run", "--set", "monitoring.latency_ms=100")["changes"]
    assert [(c["what"].partition(" ")[0], c["verb"]) for c in shown] == [("alert", "update"), ("dashboard", "update")]
    assert "mosaicLayout.tiles[0].widget.xyChart.thresholds[0].value: 150.0 -> 100.0" in shown[1]["differences"]
    assert set_up(google, capsys, "--set", "monitoring.latency_ms=100")["changes"] == shown
    assert set_up(google, capsys, "--set", "monitoring.latency_ms=100")["changes"] == []
    assert len(google.resources) == size


def test_lost_answers_make_nothing_twice(google: GoogleApi, capsys: pytest.CaptureFixture[str]) -> None:
    google.lost_answers = 3
    set_up(google, capsys, "--email", "you@example.com")
    assert google.lost_answers == 0
    assert len(google.resources) == len(log_metrics(SERVICE)) + 1 + 6 + 1
    assert set_up(google, capsys, "--email", "you@example.com")["changes"] == []


def test_what_a_person_added_is_a_difference_and_what_the_server_adds_is_none() -> None:
    there = {"a": 1, "name": "x", "etag": "1", "conditions": [{"name": "c", "b": 2}]}
    assert differences({"a": 1, "zero": 0, "conditions": [{"b": 2}]}, there) == []
    assert differences({"a": 1, "conditions": [{"b": 2}]}, there | {"disabled": True}) == ["disabled: True -> None"]
    assert differences({"tiles": [1]}, {"tiles": [1, 2]}) == ["tiles: [1, 2] -> [1]"]


def test_a_service_whose_name_is_part_of_another_s_has_alerts_of_its_own(
    google: GoogleApi, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up(google, capsys)
    alerts_before = {name for name in google.resources if "/alertPolicies/" in name}
    found = set_up(google, capsys, "--set", "deploy.service=himari-rl")["changes"]
    assert [change["verb"] for change in found if change["what"].startswith("alert")] == ["create"] * 6
    assert len([name for name in google.resources if "/alertPolicies/" in name]) == 2 * len(alerts_before)


def test_a_refusal_is_one_line_and_exit_code_2(google: GoogleApi, capsys: pytest.CaptureFixture[str]) -> None:
    google.refused["alertPolicies"] = 403
    sets = ("--set", "cloud.project=p", "--set", f"cloud.rest_endpoint={google.url}")
    assert load_script("monitoring/setup_monitoring.py").main(sets) == 2
    assert "HTTP 403 made by the test" in capsys.readouterr().err


def test_every_signal_has_a_query_for_both_profiles_without_a_blank_left() -> None:
    for profile in PROFILES:
        for signal in SIGNALS:
            query = query_of(signal, MonitorConfig(profile=profile), SERVICE)  # type: ignore[arg-type]
            assert query
            assert "@" not in query
