"""What a request costs in Python calls: a number that hardly varies, where seconds do."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from helpers.bundle import make_bundle
from himari_rl.schema import HOUR_MS
from himari_rl.serving.http.app import create_app
from himari_rl.serving.messages import EXAMPLE_TIME, DecideRequest
from himari_rl.serving.slot import ordinary_state


def python_calls(app: Any, body: bytes) -> tuple[int, bytes]:
    """Python functions called between the server's hand-over and the last byte, and that answer."""
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "query_string": b""}
    sent: list[dict[str, Any]] = []
    calls = 0
    harness = 3  # receive once and send twice

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    async def request() -> None:
        await app(scope, receive, send)
        sent.clear()
        gc.disable()  # hypothesis times every collection by two callbacks: a collection here would be counted as ours
        try:
            sys.setprofile(count)
            await app(scope, receive, send)
            sys.setprofile(None)
        finally:
            gc.enable()

    asyncio.run(request())
    return calls - harness, sent[-1]["body"]


@pytest.mark.parametrize(("kind", "assets", "most"), [("base", 1, 25), ("multi", 3, 30), ("lstm", 1, 35)])
def test_a_request_costs_few_python_calls(tmp_path: Path, kind: str, assets: int, most: int) -> None:
    app = create_app(make_bundle(tmp_path, kind))
    app.state.service.load()
    request: dict[str, Any] = {"state": ordinary_state(assets)}
    calls, body = python_calls(app, json.dumps(request).encode())
    answer = json.loads(body)
    assert "confidence" in answer
    assert 10 < calls <= most
    if "memory" in answer:
        calls, body = python_calls(app, json.dumps(request | {"memory": answer["memory"]}).encode())
        assert json.loads(body)["memory_started"] is False
        assert 10 < calls <= most


def test_a_collection_in_the_middle_is_not_counted(tmp_path: Path) -> None:
    app = create_app(make_bundle(tmp_path))
    app.state.service.load()
    body = json.dumps({"state": ordinary_state(1)}).encode()
    quiet, _ = python_calls(app, body)

    def callback(phase: str, info: dict[str, int]) -> None: ...

    threshold = gc.get_threshold()
    gc.callbacks.append(callback)
    gc.set_threshold(1)
    try:
        busy, _ = python_calls(app, body)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(callback)
    assert busy == quiet


def test_the_long_way_costs_many_times_more(tmp_path: Path) -> None:
    """The control: were the short way never taken, the test above would see it."""
    app = create_app(make_bundle(tmp_path))
    app.state.service.load()
    calls, body = python_calls(app, json.dumps({"state": [0.0]}).encode())
    assert "detail" in json.loads(body)
    assert calls > 100


def calls_of_decide(app: Any, session: str, hours: int) -> int:
    """Python functions called for the newest of so many bars of a session."""
    (example,) = DecideRequest.model_config["json_schema_extra"]["examples"]  # type: ignore[index,call-overload]
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    for hour in range(hours):
        sent = example | {"session_id": session, "bar": {"timestamp": EXAMPLE_TIME + hour * HOUR_MS, "close": 87_000.0}}
        if hour:
            del sent["history"]
        body = json.dumps(sent).encode()
        calls = 0
        sys.setprofile(count)
        answer = app.fast_path.by_url[b"/v1/decide"](body, "")
        sys.setprofile(None)
        assert answer is not None, "it did not take the short way"
    return calls


def test_a_decision_on_raw_numbers_costs_few_python_calls(tmp_path: Path) -> None:
    """As many for the hundredth bar as for the second: nothing is made anew. The control is the history's first bar."""
    app = create_app(make_bundle(tmp_path))
    app.state.service.load()
    gc.disable()
    try:
        found = [calls_of_decide(app, f"s{hours}", hours) for hours in (1, 2, 90)]
    finally:
        gc.enable()
    assert 30 < found[1] <= 90
    assert found[1] <= found[2] <= found[1] + 1 < found[0]  # one call more where old closes are dropped


def test_a_batch_costs_a_few_python_calls_more_whatever_its_length(tmp_path: Path) -> None:
    """Its states are decided in columns. The control: a batch with another member is not, and pays for each."""
    app = create_app(make_bundle(tmp_path))
    app.state.service.load()
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    def calls_of(instances: list[Any], ask: Any) -> int:
        nonlocal calls
        body = json.dumps({"instances": instances}).encode()
        assert ask(body, "") is not None
        gc.disable()
        calls = 0
        sys.setprofile(count)
        ask(body, "")
        sys.setprofile(None)
        gc.enable()
        return calls

    short = app.fast_path.by_url[b"/v1/batch"]
    state = ordinary_state(1)
    found = [calls_of([state] * length, short) for length in (2, 256)]
    assert found[0] == found[1] < 100
    service = app.state.service
    loop = calls_of([state] * 256, lambda body, _: service.batch([{"state": s} for s in json.loads(body)["instances"]]))
    assert loop > 256
