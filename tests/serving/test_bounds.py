"""What one client may hold: sessions of its own, a few KB each, of times that are there."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest

from helpers.bundle import SYMBOLS, make_bundle, valid_state
from helpers.serving import running
from himari_rl.policy.runtime import load_policy
from himari_rl.schema import HOUR_MS
from himari_rl.serving.http.app import create_app
from himari_rl.serving.messages import EXAMPLE_TIME, DecideRequest
from himari_rl.serving.service import Service
from himari_rl.serving.settings import ServeSettings

KEYS = ServeSettings(api_keys=("first-key", "second-key"), max_sessions=10, max_sessions_each=3)


def bar(client: httpx.Client, key: str, session: str, time: int = EXAMPLE_TIME, seed: int = 0) -> httpx.Response:
    body = {"state": valid_state(), "session_id": session, "timestamp": time}
    return client.post("/predict", json=body, headers={"x-api-key": key})


def raw(kind: str, session: str, rows: int) -> dict[str, Any]:
    """A request of POST /v1/decide with so many earlier bars."""
    part = {
        "bar": {"timestamp": EXAMPLE_TIME, "close": 100.0},
        "signal": {"action": "BUY", "confidence": 0.8, "tier": "T2", "cascade_risk": 0.05},
        "account": {"exposure": 0.1, "unrealised_pnl": 0.0, "win_rate": 0.5},
        "history": [[EXAMPLE_TIME - k * HOUR_MS, 100.0 + k % 7] for k in range(rows, 0, -1)],
    }
    assets = part if kind != "multi" else {"assets": dict.fromkeys(SYMBOLS["multi"], part)}
    return {"session_id": session, **assets}


def test_one_client_cannot_take_the_sessions_of_all_and_the_same_name_is_another_session(tmp_path: Path) -> None:
    with running(create_app(make_bundle(tmp_path, "lstm", hidden=(4,)), KEYS)) as client:
        for session in "abc":
            assert bar(client, "first-key", session).status_code == 200
        full = bar(client, "first-key", "d")
        assert full.status_code == 429
        assert "3 sessions of this client are open" in full.text
        assert bar(client, "first-key", "a", EXAMPLE_TIME + HOUR_MS).json()["memory_started"] is False
        assert bar(client, "second-key", "a", EXAMPLE_TIME + HOUR_MS).json()["memory_started"] is True
        example = raw("lstm", "e", 20)
        assert client.post("/v1/decide", json=example, headers={"x-api-key": "second-key"}).status_code == 200


def test_a_time_beyond_now_and_one_bar_is_refused_and_the_session_goes_on(tmp_path: Path) -> None:
    app = create_app(make_bundle(tmp_path, "lstm", hidden=(4,)))
    now = EXAMPLE_TIME
    app.state.service.clock = lambda: now / 1000.0
    with running(app) as client:
        assert bar(client, "", "s", now - HOUR_MS).status_code == 200
        for ahead in (HOUR_MS + 1, 2 * HOUR_MS, 100_000 * HOUR_MS):
            refused = bar(client, "", "s", now + ahead)
            assert refused.status_code == 422, ahead
            assert refused.json()["detail"][0]["loc"] == ["body", "timestamp"]
        assert bar(client, "", "s", now).json()["memory_started"] is False
        assert bar(client, "", "s", now + HOUR_MS).status_code == 200


@pytest.mark.parametrize("rows", [20, 1_000])
@pytest.mark.parametrize("kind", ["base", "lstm", "multi"])
def test_a_session_costs_less_than_16_kb_whatever_its_history(tmp_path: Path, kind: str, rows: int) -> None:
    service = Service(load_policy(make_bundle(tmp_path, kind)), ServeSettings())
    service.load()
    count = 40
    requests = [DecideRequest.model_validate(raw(kind, f"s{i}", rows)) for i in range(count + 1)]
    service.decide(requests[count])
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for request in requests[:count]:
        service.decide(request)
    gc.collect()
    each = (tracemalloc.get_traced_memory()[0] - before) / count
    tracemalloc.stop()
    assert 200 < each < 16_000


@pytest.mark.parametrize("kind", ["base", "multi"])
def test_a_history_of_a_thousand_bars_runs_in_numpy_and_not_in_python(tmp_path: Path, kind: str) -> None:
    """Python calls, which a busy machine does not change: fifty times the bars cost no call more for each of them."""
    service = Service(load_policy(make_bundle(tmp_path, kind)), ServeSettings())
    service.load()
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    found = []
    for rows in (20, 1_000):
        request = DecideRequest.model_validate(raw(kind, f"s{rows}", rows))
        service.decide(request)
        calls = 0
        sys.setprofile(count)
        service.decide(request)
        sys.setprofile(None)
        found.append(calls)
    assert found[1] < found[0] + 100
