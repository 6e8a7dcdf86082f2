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
from himari_rl.serving.http.app import create_app
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
