"""Batches and Vertex AI's routes, the limits on one state, and the earlier API's clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.bundle import make_bundle, make_manifest, random_tensors, valid_states
from helpers.serving import cloud_run_server, running
from himari_rl.policy.bundle import write_bundle
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.risk import RiskLimits, limited_exposure, multiplier_cap
from himari_rl.policy.runtime import load_policy
from himari_rl.serving.http.app import create_app
from himari_rl.serving.limits import Limiter
from himari_rl.serving.messages import EXAMPLE_STATE, EXAMPLE_TIME
from himari_rl.serving.settings import ServeSettings, from_environment

FIXTURE = Path(__file__).parents[1] / "fixtures" / "earlier_api.json"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles"), hidden=(16,))


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    with running(create_app(folder)) as client:
        yield client


def batch(client: httpx.Client, body: Any, status: int = 200, path: str = "/v1/batch") -> Any:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


def flat(answer: dict[str, Any], path: str = "") -> dict[str, float]:
    """Every number of an answer by its path."""
    found: dict[str, float] = {}
    for name, value in answer.items():
        found |= flat(value, f"{path}{name}.") if isinstance(value, dict) else {path + name: value}
    return found


@pytest.mark.parametrize("count", [1, 100, 256])
def test_a_batch_is_answered_in_order_and_as_one_by_one(client: httpx.Client, count: int) -> None:
    states = valid_states(count, seed=count).tolist()
    answer = batch(client, {"instances": states})
    assert list(answer) == ["predictions", "latency_ms", "model_version"]
    assert len(answer["predictions"]) == count
    for state, prediction in list(zip(states, answer["predictions"], strict=True))[:: max(1, count // 20)]:
        single = client.post("/predict", json={"state": state}).json()
        own = {k: v for k, v in single.items() if k not in ("latency_ms", "model_version")}
        assert flat(prediction) == pytest.approx(flat(own), abs=1e-6)  # one pass sums in another order
    if count > 1:
        assert len({p["position_multiplier"] for p in answer["predictions"]}) > count / 4  # the control


@pytest.mark.parametrize("kind", ["base", "lstm", "multi"])
def test_a_batch_is_one_pass_of_the_network_shadowed_and_counted(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By either way in: no instance is decided alone, and each is a decision and a request of the challenger's."""
    folder = make_bundle(tmp_path, kind, hidden=(4,))
    app = create_app(folder, ServeSettings(challenger=str(make_bundle(tmp_path, kind, name="other", hidden=(4,)))))
    service = app.state.service
    service.load()
    service.challenger.load(service.slot)
    passes = []
    columns = service.policy.columns
    monkeypatch.setattr(service.policy, "columns", lambda *of: passes.append(len(of[0])) or columns(*of))
    monkeypatch.setattr(service.policy, "step", lambda *_: pytest.fail("an instance was decided alone"))
    states = valid_states(40, 3 if kind == "multi" else 1).tolist()
    whole = service.batch([{"state": state} for state in states])
    plain = service.batch_bytes(json.dumps({"instances": states}).encode())
    assert whole["predictions"] == plain["predictions"]
    assert passes == [40, 40]
    assert service.metrics.requests == 2
    assert sum(service.metrics.confidence.counts) == 80
    assert len(service.challenger._queue) == 80
    for _ in range(80):
        service.challenger.compare(*service.challenger._queue.popleft())
    counted = "skipped" if kind == "lstm" else "decided"  # a memory of the champion's is none of the challenger's
    assert service.metrics.shadow[counted] == 80


def test_an_instance_may_be_a_whole_request(client: httpx.Client, tmp_path: Path) -> None:
    plain = batch(client, {"instances": [EXAMPLE_STATE, {"state": EXAMPLE_STATE}], "parameters": {}})["predictions"]
    assert plain[0] == plain[1]
    with running(create_app(make_bundle(tmp_path, "lstm", hidden=(4,)))) as lstm:
        (first,) = batch(lstm, {"instances": [EXAMPLE_STATE]})["predictions"]
        (second,) = batch(lstm, {"instances": [{"state": EXAMPLE_STATE, "memory": first["memory"]}]})["predictions"]
        assert (first["memory_started"], second["memory_started"]) == (True, False)
        session = {"state": EXAMPLE_STATE, "session_id": "x", "timestamp": EXAMPLE_TIME}
        assert "use POST /predict" in batch(lstm, {"instances": [session]}, 422)["detail"][0]["msg"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"instances": []}, "at least 1 item"),
        ({"instances": [EXAMPLE_STATE] * 257}, "at most 256 items"),
        ({"instances": [EXAMPLE_STATE, EXAMPLE_STATE[:3]]}, "instances[1]: bundle expects 16 features"),
        ({"instances": [EXAMPLE_STATE, {"state": [*EXAMPLE_STATE[:14], True, 0]}]}, "instances[1]: state[14] is true"),
        ({"instances": [{"state": None}]}, "the request has no state"),
        ({"instances": [{}]}, "the request has no state"),
        ({"instances": [3]}, "valid list"),
        ({"instances": [EXAMPLE_STATE], "parameters": {"x": 1}}, "at most 0 items"),
        ({}, "Field required"),
    ],
)
def test_one_wrong_instance_refuses_the_batch_by_name(client: httpx.Client, body: Any, said: str) -> None:
    problems = batch(client, body, 422)["detail"]
    assert any(said in problem["msg"] for problem in problems), problems
    assert all(problem["cure"] for problem in problems)


@pytest.mark.parametrize("route", ["/predict", "/v1/models/m:predict"])
def test_vertex_names_the_routes_and_health_waits_for_a_policy(tmp_path: Path, folder: Path, route: str) -> None:
    given = from_environment({"AIP_HEALTH_ROUTE": "/health", "AIP_PREDICT_ROUTE": route})
    with running(create_app(tmp_path / "nothing", ServeSettings(**given))) as client:
        assert client.get("/health").status_code == 503
        assert batch(client, {"instances": [EXAMPLE_STATE]}, 503, route)["detail"].startswith("no valid policy")
    with running(create_app(folder, ServeSettings(**given))) as client:
        assert client.get("/health").status_code == 200
        states = valid_states(100, seed=5).tolist()
        predictions = batch(client, {"instances": states}, path=route)["predictions"]
        singles = [client.post("/predict", json={"state": state}).json() for state in states[:5]]
        expected = [single["position_multiplier"] for single in singles]
        assert [p["position_multiplier"] for p in predictions[:5]] == pytest.approx(expected, abs=1e-6)
        assert batch(client, {"instances": [[1]]}, 422, route)["detail"][0]["msg"].startswith("instances[0]")
        assert batch(client, {"state": [1]}, 422, "/predict")["detail"][0]["msg"].startswith("bundle expects 16")


def test_the_container_listens_where_vertex_says(folder: Path) -> None:
    vertex = {"AIP_PREDICT_ROUTE": "/p", "AIP_HEALTH_ROUTE": "/h", "PORT": "1"}
    with cloud_run_server(folder, "AIP_HTTP_PORT", **vertex) as (_, client):
        assert len(batch(client, {"instances": [EXAMPLE_STATE]}, path="/p")["predictions"]) == 1
        assert client.get("/h").status_code == 200


def calm_bundle(place: Path) -> Path:
    """Zero weights and a bias of 0.25: 1.25 for every state. One feature counts for the confidence, win_rate, whose
    square is uniform over the training states: a state with win_rate .6 is as unusual as 1 - .36 of them."""
    keep = [0] * 16
    keep[14] = 1
    manifest = make_manifest(
        network={"head": "centre", "hidden": (4,)},
        normaliser={"mean": [0.0] * 16, "std": [1.0] * 16, "keep": keep, "clip": 5.0},
        confidence={"probabilities": [0.0, 1.0], "distance_quantiles": [0.0, 1.0], "spread_half": 0.1},
    )
    tensors = {name: np.zeros_like(array) for name, array in random_tensors(manifest).items()}
    tensors["0.out.bias"][:] = 0.25
    write_bundle(place, manifest, tensors)
    return place


def test_recorded_clients_of_the_earlier_api_get_the_very_bytes(tmp_path: Path) -> None:
    """Requests as those clients write them, and the answer's bytes but for the two fields that are never the same."""
    folder = calm_bundle(tmp_path / "calm")
    version = load_policy(folder).manifest.version
    with running(create_app(folder)) as client:
        records = json.loads(FIXTURE.read_text())
        assert len(records) >= 10
        for record in records:
            response = client.request(
                record["method"], record["path"], content=record["body"].encode(), headers=record["headers"]
            )
            assert response.status_code == record["status"], record["name"]
            if record["answer"] is not None:
                text = response.text
                if '"latency_ms":' in text:
                    latency = text.partition('"latency_ms":')[2].partition(",")[0]
                    float(latency)
                    text = text.replace(latency, "<latency>").replace(version, "<version>")
                assert text == record["answer"], record["name"]


states = st.integers(1, 4).flatmap(
    lambda assets: st.tuples(
        st.just(assets), st.integers(0, 2**32 - 1), st.lists(st.floats(0, 2), min_size=assets, max_size=assets)
    )
)


@given(states, st.booleans(), st.sampled_from([0.3, 0.5, 1.0, 2.0]), st.sampled_from([0.3, 0.5]))
def test_the_limits_are_those_of_the_ledger(
    drawn: tuple[int, int, list[float]], short: bool, leverage: float, unit: float
) -> None:
    """Differential: the scalar code against policy/risk.py's arrays, on the exposures that they allow."""
    assets, seed, wanted = drawn
    rng = np.random.default_rng(seed)
    blocks = rng.uniform(size=(assets, 16))
    blocks[:, 13] = rng.choice([0.05, 0.15, 0.2, 0.3, 0.5], assets)  # on both sides of, and on, the thresholds
    blocks[:, 15] = rng.choice([0.1, 0.6, 0.7, 0.8, 0.9], assets)
    blocks[:, 1:4] = np.eye(3)[rng.integers(0, 3, assets)]
    blocks[:, 9] = rng.choice([-1.0, 0.0, 1.0] if short else [0.0, 1.0], assets)
    limits = RiskLimits(max_leverage=leverage, normal_cap=float(rng.choice([2.0, 1.8])))
    ledger = LedgerSpec(
        max_position_pct=unit,
        commission_rate=0.0,
        slippage_bps=0.0,
        allow_short=short,
        interval_ms=1,
        limits=vars(limits),
    )
    got = list(wanted)
    said = Limiter(ledger, [f"s{i}" for i in range(assets)])(blocks.ravel().tolist(), got)
    sell, hold, buy = blocks[:, 1:4].T
    # HOLD while flat: the direction before it is unknown and counts as one
    direction = buy - sell * short + hold * np.where(blocks[:, 9] == 0, 1.0, blocks[:, 9])
    cap = multiplier_cap(blocks[:, 13] * 0.1, blocks[:, 15], limits)
    expected = limited_exposure(np.array(wanted), cap, unit * direction, np.array(False), leverage)
    np.testing.assert_allclose(np.array(got) * unit * direction, expected, atol=1e-12)
    assert (said is not None) == (got != wanted)
    assert all(0.0 <= after <= before for after, before in zip(got, wanted, strict=True))


def test_a_limit_that_binds_is_reported_and_else_nothing_is(tmp_path: Path) -> None:
    with running(create_app(calm_bundle(tmp_path / "calm"))) as client:
        for volatility, risk, cap in ((0.29, 0.05, None), (0.3, 0.05, 1.0), (0.05, 0.6, 1.0), (0.05, 0.8, 0.0)):
            state = [*EXAMPLE_STATE[:13], volatility, 0.6, risk]
            answer = client.post("/predict", json={"state": state}).json()
            if cap is None:
                assert (answer["position_multiplier"], "risk" in answer) == (1.25, False)
            else:
                assert answer["position_multiplier"] == cap
                capped = {"BTC-USDT": {"wanted": 1.25, "cap": cap}}
                assert answer["risk"] == {"wanted": {"BTC-USDT": 1.25}, "regime_cap": capped}
