"""The shortcut of serving/http/protocol.py: the same bytes as the ordinary path, whatever a client does to its wire."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from helpers.bundle import make_bundle
from helpers.serving import running, wait_for
from helpers.wire import BAD, GOOD, HEALTH, Served, Wire, post
from helpers.wires import Wires, documents, until
from himari_rl.serving.http.app import create_app
from himari_rl.serving.http.protocol import PredictProtocol
from himari_rl.serving.settings import ServeSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    app = create_app(folder, ServeSettings(max_body_bytes=2_000))
    with running(app) as client:
        yield Served(app, client.base_url.port)


@pytest.fixture
def wire(served: Served) -> Iterator[Wire]:
    served.ordinary = 0
    wire = Wire(served.port)
    with wire.socket:
        yield wire


@pytest.fixture(scope="module")
def expected(folder: Path) -> tuple[int, bytes, bytes]:
    """The ordinary way's answer: a server that never takes the short one."""
    app = create_app(folder)
    app.fast_path.direct = False
    with running(app) as client:
        served = Served(app, client.base_url.port)
        wire = Wire(served.port)
        with wire.socket:
            wire.socket.sendall(post())
            answer = wire.answer()
        assert served.ordinary == 1
    return answer


def test_the_short_way_answers_the_same_bytes_and_makes_no_asgi_request(
    served: Served, wire: Wire, expected: tuple[int, bytes, bytes]
) -> None:
    for _ in range(3):
        wire.socket.sendall(post())
        assert wire.answer() == expected
    assert served.ordinary == 0
    assert expected[0] == 200
    assert b"server: uvicorn\r\ncontent-type: application/json\r\ncontent-length: " in expected[1]


def test_a_request_in_two_pieces_is_answered_alike_wherever_it_is_cut(
    served: Served, expected: tuple[int, bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, pieces, hear = post(), [], PredictProtocol.data_received
    monkeypatch.setattr(
        PredictProtocol, "data_received", lambda self, data: (hear(self, data), pieces.append(len(data)))
    )
    served.ordinary, wire = 0, Wire(served.port)
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for cut in (
        1,
        5,
        13,
        22,
        30,
        whole.index(b"\r\n\r\n") + 2,
        len(whole) - len(GOOD),
        len(whole) - 60,
        len(whole) - 1,
    ):
        wire.socket.sendall(whole[:cut])
        wait_for(lambda cut=cut: pieces == [cut])
        wire.socket.sendall(whole[cut:])
        assert wire.answer() == expected
        wait_for(lambda: sum(pieces) == len(whole))
        pieces.clear()
    wire.socket.close()
    assert served.ordinary == 3  # those that were cut after their head was whole


def test_requests_in_one_piece_are_answered_in_their_order(wire: Wire, expected: tuple[int, bytes, bytes]) -> None:
    wire.socket.sendall(post() + post() + HEALTH + post(BAD) + post() + HEALTH)
    answers = [wire.answer() for _ in range(6)]
    assert [status for status, _, _ in answers] == [200, 200, 200, 422, 200, 200]
    assert answers[0] == answers[1] == answers[4] == expected
    assert b"alive" in answers[2][2]
    assert b"signal_confidence is 7" in answers[3][2]


def test_a_request_behind_another_one_waits_for_its_answer(wire: Wire, expected: tuple[int, bytes, bytes]) -> None:
    first = post(b'{"instances": []}', path="/v1/batch")
    wire.socket.sendall(first[:-3])
    time.sleep(0.05)
    wire.socket.sendall(first[-3:] + post())
    assert wire.answer()[0] == 422
    assert wire.answer() == expected


@pytest.mark.parametrize("body", [BAD, b"{", b"", b'{"state": []}', b" " * 3_000, GOOD + b" " * 2_000])
def test_what_is_declined_is_answered_by_the_route_and_the_connection_goes_on(wire: Wire, body: bytes) -> None:
    wire.socket.sendall(post(body))
    status, _, answer = wire.answer()
    assert status == (413 if len(body) > 2_000 else 422)
    assert json.loads(answer)["detail"]
    if status == 422:
        wire.socket.sendall(post())
        assert wire.answer()[0] == 200


def test_a_client_that_says_close_or_speaks_http_1_0_is_answered_and_closed(served: Served) -> None:
    for request in (post(GOOD, "Connection: close"), post(version="1.0")):
        wire = Wire(served.port)
        with wire.socket:
            wire.socket.sendall(request)
            status, head, _ = wire.answer()
            assert status == 200
            assert b"connection: close" in head
            assert wire.closed()


def test_a_client_that_waits_for_100_gets_it(wire: Wire) -> None:
    wire.socket.sendall(post(GOOD, "Expect: 100-continue")[: -len(GOOD)])
    assert wire.socket.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    wire.socket.sendall(GOOD)
    assert wire.answer()[0] == 200


def test_nonsense_is_400_and_a_query_or_another_method_is_not_the_short_way(served: Served, wire: Wire) -> None:
    for request, status in ((post(path="/predict?x=1"), 200), (b"GET /predict HTTP/1.1\r\nHost: t\r\n\r\n", 405)):
        wire.socket.sendall(request)
        assert wire.answer()[0] == status
    assert served.ordinary == 2
    wire.socket.sendall(b"\x00\x01 nonsense\r\n\r\n")
    assert wire.socket.recv(100).startswith(b"HTTP/1.1 400 Bad Request")


def test_where_more_than_the_body_decides_nothing_takes_the_short_way(folder: Path) -> None:
    for settings in (
        ServeSettings(api_keys=("key",)),
        ServeSettings(cors_origins=("https://a.example",)),
        ServeSettings(challenger=str(folder), challenger_share=0.5),
    ):
        assert not create_app(folder, settings).fast_path.direct
    app = create_app(folder, ServeSettings(api_keys=("key",)))
    with running(app) as client:
        served = Served(app, client.base_url.port)
        assert client.post("/predict", content=GOOD).status_code == 401
        assert client.post("/predict", content=GOOD, headers={"x-api-key": "key"}).status_code == 200
        assert served.ordinary == 2


def test_an_idle_connection_is_closed_after_the_keep_alive_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = PredictProtocol.connection_made

    def hurried(self: PredictProtocol, transport: Any) -> None:
        self.timeout_keep_alive = 1
        began(self, transport)

    monkeypatch.setattr(PredictProtocol, "connection_made", hurried)
    with running(create_app(folder)) as client:
        wire = Wire(client.base_url.port)
        with wire.socket:
            start = time.monotonic()
            wire.socket.sendall(post())
            assert wire.answer()[0] == 200
            assert wire.closed()
            assert time.monotonic() - start > 0.9  # not before its time; that it comes is what the wire waits for


class Clock:
    """An event loop whose time is ours: `go` moves it, and calls what was due."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._now, self.made = loop, 0.0, 0
        self._due: list[tuple[float, Any]] = []

    def time(self) -> float:
        return self._now

    def call_later(self, seconds: float, call: Any) -> Any:
        self.made += 1
        self._due.append(timer := (self._now + seconds, call))
        return SimpleNamespace(cancel=lambda: self._due.remove(timer))

    def go(self, to: float) -> None:
        while due := [timer for timer in self._due if timer[0] <= to]:
            self._due.remove(first := min(due, key=lambda timer: timer[0]))
            self._now = first[0]
            first[1]()
        self._now = to

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


def clocked(folder: Path) -> tuple[PredictProtocol, Any, Clock]:
    """A connection without a network that is idle for five seconds of a clock at most."""
    app = create_app(folder)
    app.state.service.load()
    connection, transport = Wires(app).connect()
    connection.loop = clock = Clock(connection.loop)  # type: ignore[assignment]
    assert connection.timeout_keep_alive == 5
    return connection, transport, clock


@pytest.mark.parametrize("bodies", [(GOOD,), (BAD,), (GOOD, GOOD), (GOOD, BAD), (BAD, GOOD), (GOOD, BAD, GOOD)])
def test_the_keep_alive_time_begins_with_the_last_answer_whichever_way_it_went(
    folder: Path, bodies: tuple[bytes, ...]
) -> None:
    async def run() -> None:
        connection, transport, clock = clocked(folder)
        for index, body in enumerate(bodies):
            clock.go(3.0 * index)
            connection.data_received(post(body))
            await until(lambda count=index + 1: len(documents(transport)) == count)
        clock.go(3.0 * index + 4.9)
        assert not transport.closed
        clock.go(3.0 * index + 5.0)
        assert transport.closed

    asyncio.run(run())


def test_a_connection_on_which_a_request_has_begun_is_not_idle(folder: Path) -> None:
    async def run() -> None:
        connection, transport, clock = clocked(folder)
        connection.data_received(post())
        for index, part in enumerate((post()[:30], post()[30:-5])):  # half a head, then all but the end of the body
            clock.go(20.0 * index + 4.0)
            connection.data_received(part)
            clock.go(20.0 * index + 20.0)
            assert not transport.closed
        connection.data_received(post()[-5:])
        await until(lambda: len(documents(transport)) == 2)
        clock.go(44.9)
        assert not transport.closed
        clock.go(45.0)
        assert transport.closed

    asyncio.run(run())


@pytest.mark.parametrize(("kind", "expected"), [(PredictProtocol, 1), (HttpToolsProtocol, 1_000)])
def test_a_thousand_answers_make_one_timer(folder: Path, kind: type[HttpToolsProtocol], expected: int) -> None:
    """The control is uvicorn's own end of an answer."""

    async def run() -> int:
        connection, transport, clock = clocked(folder)
        for _ in range(1_000):
            kind.on_response_complete(connection)
        assert not transport.closed
        connection.connection_lost(None)
        return clock.made

    assert asyncio.run(run()) == expected


def test_requests_are_counted_whichever_way_they_went(folder: Path) -> None:
    app = create_app(folder)
    with running(app) as client:
        wire = Wire(client.base_url.port)
        with wire.socket:
            wire.socket.sendall(post() + post(BAD) + post(GOOD))
            assert [wire.answer()[0] for _ in range(3)] == [200, 422, 200]
            wait_for(lambda: app.state.service.metrics.requests == 2)
        assert app.state.service.metrics.errors == {(422, "state"): 1}
