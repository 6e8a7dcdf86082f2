"""POST /predict over real HTTP: the answer's shape, the refusals, and that both ways through the server agree."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from helpers.bundle import DRIFT, make_bundle, valid_state, valid_states
from helpers.drift_nets import bundle_of
from helpers.serving import running
from himari_rl.policy.risk import RiskLimits, limited_exposure, multiplier_cap
from himari_rl.policy.runtime import load_policy
from himari_rl.serving.http.app import create_app
from himari_rl.serving.messages import EXAMPLE_STATE
from himari_rl.serving.settings import ServeSettings

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("bundles")
    return {kind: bundle_of(place, kind, seeds=(0, 1), name=kind) for kind in ("base", "multi", "lstm", DRIFT)}


@pytest.fixture(scope="module")
def base(folders: dict[str, Path]) -> Iterator[httpx.Client]:
    with running(create_app(folders["base"])) as client:
        yield client


@pytest.fixture(scope="module", params=["lstm", DRIFT])
def recurrent(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    """Both memories that a policy of the kind lstm may have."""
    return folders[request.param]


@pytest.fixture(scope="module")
def lstm(recurrent: Path) -> Iterator[httpx.Client]:
    with running(create_app(recurrent, ServeSettings(memory_key=b"k" * 32))) as client:
        yield client


def predict(client: httpx.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/predict", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refusal(client: httpx.Client, content: str | bytes, status: int = 422) -> list[dict[str, Any]]:
    response = client.post("/predict", content=content, headers=JSON)
    assert response.status_code == status, response.text
    return response.json()["detail"]


def test_an_answer_has_the_four_fields_of_the_contract_in_their_order(base: httpx.Client) -> None:
    response = base.post("/predict", json={"state": valid_state()})
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert list(answer) == ["position_multiplier", "confidence", "latency_ms", "model_version"]
    assert 0.0 <= answer["position_multiplier"] <= 2.0
    assert 0.0 <= answer["confidence"] <= 1.0
    assert 0.0 < answer["latency_ms"] < 1000.0
    assert answer["model_version"].startswith("base-")
    assert len(answer["model_version"]) == len("base-") + 12


def test_the_server_answers_what_the_runtime_decides(base: httpx.Client, folders: dict[str, Path]) -> None:
    policy = load_policy(folders["base"])
    multipliers = []
    for state in valid_states(20, seed=8).tolist():
        answer, decision = predict(base, state=state), policy.decide(state)
        assert answer["position_multiplier"] == limited(decision.multipliers.tolist(), state)[0]
        assert ("risk" in answer) == (answer["position_multiplier"] != decision.multipliers[0])
        assert answer["confidence"] == decision.confidence
        assert answer.get("out_of_distribution", False) == decision.out_of_distribution
        multipliers.append(answer["position_multiplier"])
    assert len(set(multipliers)) > 10  # the control: not one constant for every state


def test_several_assets_are_answered_by_symbol(folders: dict[str, Path]) -> None:
    policy = load_policy(folders["multi"])
    with running(create_app(policy)) as client:
        state = valid_state(3)
        answer = predict(client, state=state)
        assert list(answer)[:2] == ["position_multipliers", "confidence"]
        expected = limited(policy.decide(state).multipliers.tolist(), state)
        assert answer["position_multipliers"] == pytest.approx(
            dict(zip(policy.manifest.symbols, expected, strict=True)), rel=1e-12
        )
        assert (
            "BTC-USDT.volatility is 7"
            in refusal(client, json.dumps({"state": [*state[:13], 7, *state[14:]]}))[0]["msg"]
        )
        assert "expects 52 features, the request has 16" in refusal(client, json.dumps({"state": state[:16]}))[0]["msg"]


def limited(multipliers: list[float], state: list[float]) -> list[float]:
    """What policy/risk.py, with arrays, leaves of multipliers (A,); every action BUY or with a side counts."""
    limits, assets = RiskLimits(), len(multipliers)
    blocks = np.array(state[: 16 * assets]).reshape(assets, 16)
    cap = multiplier_cap(blocks[:, 13] * 0.1, blocks[:, 15], limits)
    direction = np.where(blocks[:, 3] == 1, 1, np.where(blocks[:, 2] == 1, blocks[:, 9].clip(0), 0))
    exposure = limited_exposure(np.array(multipliers), cap, 0.5 * direction, np.array(False), limits.max_leverage)
    held = np.minimum(multipliers, cap)
    return np.divide(exposure, 0.5 * direction, out=held, where=direction != 0).tolist()


def changed(index: int, value: Any) -> list[Any]:
    return [*EXAMPLE_STATE[:index], value, *EXAMPLE_STATE[index + 1 :]]


@pytest.mark.parametrize(
    ("state", "field"),
    [
        (EXAMPLE_STATE[:15], "the request has 15 (missing: cascade_risk)"),
        ([*EXAMPLE_STATE, 0.0], "1 too many after cascade_risk"),
        ([], "the request has 0"),
        (changed(13, math.nan), "volatility is nan"),
        (changed(11, math.inf), "momentum_1h is inf"),
        (changed(11, -math.inf), "momentum_1h is -inf"),
        (changed(0, 1.5), "signal_confidence is 1.5"),
        (changed(15, -0.1), "cascade_risk is -0.1"),
        (changed(1, 1), "action one-hot is [1, 0, 1]"),
        (changed(3, 0), "action one-hot is [0, 0, 0]"),
        (changed(5, 0.5), "tier one-hot is [0, 0.5, 0, 0]"),
        (changed(9, 0.3), "position_side is 0.3"),
        (changed(14, "0.5"), "win_rate is '0.5'"),
        (changed(14, None), "win_rate is None"),
        (changed(14, [0.5]), "win_rate is [0.5]"),
        (changed(14, True), "state[14] is true"),
        (changed(13, 10**400), "volatility is 1000"),
    ],
)
def test_a_state_that_cannot_be_is_refused_with_field_and_cure(
    base: httpx.Client, state: list[Any], field: str
) -> None:
    body = json.dumps({"state": state})  # Python writes NaN and Infinity as such tokens
    (problem,) = refusal(base, body)
    assert problem["type"] == "state_error"
    assert problem["loc"] == ["body", "state"]
    assert field in problem["msg"]
    assert problem["cure"]
    predict(base, state=EXAMPLE_STATE)  # the control, and the server goes on


NO_REQUESTS = (
    *(b"", b"{", b"[]", b"null", b"\xff\xfe{}", b"[" * 30_000),
    *(b'{"state": 3}', b'{"states": []}', b'{"state": [1e999]}', b'{"state": [1], "state": []}'),
    json.dumps({"state": EXAMPLE_STATE, "memroy": "x"}).encode(),
    json.dumps({"state": EXAMPLE_STATE, "memory": 3}).encode(),
)


@pytest.mark.parametrize("body", NO_REQUESTS)
def test_a_body_that_is_no_request_is_refused_in_json(base: httpx.Client, body: bytes) -> None:
    problems = refusal(base, body)
    assert all(problem["msg"] and problem["cure"] and problem["loc"][0] == "body" for problem in problems)


def test_the_body_decides_and_not_its_content_type(base: httpx.Client) -> None:
    good, bad = json.dumps({"state": EXAMPLE_STATE}), json.dumps({"state": changed(0, 3)})
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/json; charset=utf-8"}):
        assert base.post("/predict", content=good, headers=headers).status_code == 200
        answer = base.post("/predict", content=bad, headers=headers)
        assert "signal_confidence is 3" in answer.json()["detail"][0]["msg"]


def test_the_short_way_and_the_fastapi_route_give_the_same_answer(folders: dict[str, Path]) -> None:
    """The route alone: the short way leaves every request to it, and a negative control shows that it does."""
    app, slow = create_app(folders["base"]), create_app(folders["base"])
    left: list[bytes] = []
    # None: not answered; the protocol asks the method, the middleware what it knows by its path
    slow.fast_path.answer = lambda body, *_: left.append(body)  # type: ignore[method-assign]
    slow.fast_path._answers["/predict"] = slow.fast_path.by_url[b"/predict"] = slow.fast_path.answer
    with running(app) as one, running(slow) as two:
        for state in valid_states(5, seed=4).tolist():
            first, second = (one.post("/predict", json={"state": state}), two.post("/predict", json={"state": state}))
            answers = [first.json() | {"latency_ms": 0}, second.json() | {"latency_ms": 0}]
            assert json.dumps(answers[0]) == json.dumps(answers[1])  # the order of the fields too
            assert first.headers["content-type"] == second.headers["content-type"]
    assert len(set(left)) == 5  # each was left to the route


def test_a_body_above_the_limit_is_413_and_the_server_goes_on(folders: dict[str, Path]) -> None:
    with running(create_app(folders["base"], ServeSettings(max_body_bytes=1000))) as client:
        padded = json.dumps({"state": EXAMPLE_STATE}).ljust(1000)
        assert client.post("/predict", content=padded).status_code == 200
        assert client.post("/predict", content=padded + " ").status_code == 413
        chunks = client.post("/predict", content=(b" " * 400 for _ in range(50)))  # no content-length
        assert chunks.status_code == 413
        assert "more than 1000 bytes" in chunks.json()["detail"]
        assert predict(client, state=EXAMPLE_STATE)


def test_memory_is_carried_by_the_client(lstm: httpx.Client, recurrent: Path) -> None:
    policy = load_policy(recurrent)
    memory, text = None, None
    for step, state in enumerate(valid_states(5, seed=2).tolist()):
        answer = predict(lstm, state=state) if text is None else predict(lstm, state=state, memory=text)
        decision = policy.decide(state, memory)
        assert answer["position_multiplier"] == limited(decision.multipliers.tolist(), state)[0]
        assert answer["memory_started"] is (step == 0)  # zeros are never used in silence
        memory, text = decision.memory, answer["memory"]
    assert predict(lstm, state=state, memory=None)["memory_started"] is True


def test_a_memory_that_was_touched_is_refused(lstm: httpx.Client, base: httpx.Client, tmp_path: Path) -> None:
    text = predict(lstm, state=EXAMPLE_STATE)["memory"]
    rng = np.random.default_rng(0)
    for position in [0, 1, len(text) - 2, len(text) - 1, *rng.integers(0, len(text), 20)]:
        other = "A" if text[position] != "A" else "B"
        broken = text[:position] + other + text[position + 1 :]
        (problem,) = refusal(lstm, json.dumps({"state": EXAMPLE_STATE, "memory": broken}))
        assert problem["loc"] == ["body", "memory"]
    for nonsense in ("", "!", "AAAA", text[:-4], text + "AAAA", "ü"):
        refusal(lstm, json.dumps({"state": EXAMPLE_STATE, "memory": nonsense}))
    (problem,) = refusal(base, json.dumps({"state": EXAMPLE_STATE, "memory": text}))
    assert "this policy has no memory" in problem["msg"]
    other_policy = create_app(make_bundle(tmp_path, "lstm", weights_seed=5), ServeSettings(memory_key=b"k" * 32))
    with running(other_policy) as client:
        (problem,) = refusal(client, json.dumps({"state": EXAMPLE_STATE, "memory": text}))
        assert "memory belongs to another policy" in problem["msg"]
    assert predict(lstm, state=EXAMPLE_STATE, memory=text)  # the control


def test_another_instance_with_the_same_key_goes_on_and_one_with_another_key_refuses(recurrent: Path) -> None:
    same, other = ServeSettings(memory_key=b"k" * 32), ServeSettings(memory_key=b"z" * 32)
    apps = [create_app(recurrent, settings) for settings in (same, same, other)]
    with running(apps[0]) as one, running(apps[1]) as two, running(apps[2]) as three:
        text = predict(one, state=EXAMPLE_STATE)["memory"]
        assert predict(two, state=EXAMPLE_STATE, memory=text)["memory_started"] is False
        (problem,) = refusal(three, json.dumps({"state": EXAMPLE_STATE, "memory": text}))
        assert "another key" in problem["msg"]
