"""ServeSettings.turbo off: the shortcut of http/protocol.py is not there, and every answer has the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import run_python
from helpers.bundle import make_bundle
from helpers.serving import running
from helpers.wire import BAD, GOOD, HEALTH, Served, Wire, post
from himari_rl.serving.http.app import create_app
from himari_rl.serving.http.protocol import PredictProtocol
from himari_rl.serving.http.run import make_server
from himari_rl.serving.http.upgrade import Http1Protocol
from himari_rl.serving.messages import EXAMPLE_STATE, DecideRequest
from himari_rl.serving.settings import ServeSettings

KEY = b"k" * 32
(_EXAMPLE,) = DecideRequest.model_config["json_schema_extra"]["examples"]  # type: ignore[index,call-overload]
DECIDE = json.dumps(_EXAMPLE | {"session_id": "own"}).encode()
BATCH = json.dumps({"instances": [EXAMPLE_STATE] * 3}).encode()
CONVERSATIONS: dict[str, bytes] = {
    "one": post(),
    "several in one piece": post() + post() + HEALTH + post(BAD) + post() + HEALTH,
    "refused": post(BAD) + post(b"{") + post(b"") + post(b'{"state": []}') + post(b" " * 3_000),
    "a batch": post(BATCH, path="/v1/batch") + post(),
    "another method": b"GET /predict HTTP/1.1\r\nHost: t\r\n\r\n" + post(path="/predict?x=1"),
    "close": post(GOOD, "Connection: close"),
    "http 1.0": post(version="1.0"),
    "null": post(json.dumps({"state": EXAMPLE_STATE, "memory": None}).encode()),
    "nothing there": post(path="/nothing"),
    "decide": post(DECIDE, path="/v1/decide") * 2 + post(DECIDE[:-3] + b"}", path="/v1/decide") + post(),
    "batch": post(BATCH, path="/v1/batch") + post(BATCH.replace(b"0.82", b"8.2"), path="/v1/batch") + post(),
}


@pytest.fixture(scope="module", params=["base", "lstm"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Served]]:
    """The same policy served with turbo and without."""
    folder = make_bundle(tmp_path_factory.mktemp("bundle"), request.param, hidden=(8,))
    apps = [
        create_app(folder, ServeSettings(memory_key=KEY, max_body_bytes=2_000, turbo=turbo)) for turbo in (True, False)
    ]
    for app in apps:
        app.state.service.clock = lambda: 2e9  # the age of a bar is part of an answer
    with running(apps[0]) as on, running(apps[1]) as off:
        yield Served(apps[0], on.base_url.port), Served(apps[1], off.base_url.port)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_with_turbo_and_without_every_answer_has_the_same_bytes(pair: tuple[Served, Served], name: str) -> None:
    sent = CONVERSATIONS[name]
    count = sent.count(b" HTTP/1.")
    found = []
    for served in pair:
        wire = Wire(served.port)
        with wire.socket:
            wire.socket.sendall(sent)
            answers = []
            while len(answers) < count and 413 not in [status for status, _, _ in answers]:  # that one closes
                answers.append(wire.answer())
        found.append(answers)
    assert found[0] == found[1]
    assert found[0]


def test_without_turbo_every_request_is_an_asgi_request_and_with_it_a_plain_one_is_none(
    pair: tuple[Served, Served],
) -> None:
    for served, expected in zip(pair, (0, 3), strict=True):
        served.ordinary = 0
        wire = Wire(served.port)
        with wire.socket:
            for request in (post(), post(DECIDE, path="/v1/decide"), post(BATCH, path="/v1/batch")):
                wire.socket.sendall(request)
                assert wire.answer()[0] == 200
        assert served.ordinary == expected


def test_memory_goes_on_from_one_to_the_other(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, "lstm", hidden=(8,))
    apps = [create_app(folder, ServeSettings(memory_key=KEY, turbo=turbo)) for turbo in (True, False)]
    with running(apps[0]) as on, running(apps[1]) as off:
        memory = on.post("/predict", json={"state": EXAMPLE_STATE}).json()["memory"]
        again = {"state": EXAMPLE_STATE, "memory": memory}
        answers = [client.post("/predict", json=again).json() | {"latency_ms": 0} for client in (on, off)]
    assert answers[0] == answers[1]
    assert answers[0]["memory_started"] is False


def test_turbo_is_one_setting_and_on_unless_it_is_said(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, hidden=(4,))
    assert make_server(create_app(folder)).config.http is PredictProtocol
    assert make_server(create_app(folder, ServeSettings(turbo=False))).config.http is Http1Protocol


def test_without_turbo_the_protocol_is_not_even_imported(tmp_path: Path) -> None:
    code = f"""
import sys
from himari_rl.serving.http.app import create_app
from himari_rl.serving.http.run import make_server
from himari_rl.serving.settings import ServeSettings
found = []
for turbo in (False, True):
    make_server(create_app({str(make_bundle(tmp_path, hidden=(4,)))!r}, ServeSettings(turbo=turbo)))
    found.append("himari_rl.serving.http.protocol" in sys.modules)
print(found)
"""
    done = run_python(code)
    assert done.stdout.strip() == "[False, True]", done.stderr  # the second is the control
