"""Who waits for whom: long requests take turns of the event loop, and a connection's own requests wait outside."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from helpers.bundle import make_bundle, valid_states
from helpers.serving import Connection, running
from helpers.wire import GOOD, HEALTH, Wire, post
from helpers.wires import Wires, documents, until
from himari_rl.serving.http import fast_path, protocol, turns, upgrade
from himari_rl.serving.http.app import create_app
from himari_rl.serving.http.turns import LONG, Turns
from himari_rl.serving.settings import ServeSettings

COUNT = 24
KEY = "a-key-of-some-length"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"), hidden=(4,))


def batch(seed: int, states: int = 3) -> bytes:
    return json.dumps({"instances": valid_states(states, seed=seed).tolist()}).encode()


def wires_of(folder: Path, **settings: Any) -> Wires:
    app = create_app(folder, ServeSettings(**settings))
    app.state.service.load()
    return Wires(app)


# ---- long requests


def answered_by_turn(folder: Path, settings: dict[str, Any], count: int) -> list[list[int]]:
    """Which of COUNT connections, each with a batch that has come, were answered after `count` turns of the loop.

    Each asks again at once.
    """
    order: list[int] = []
    seen: list[list[int]] = []

    async def run() -> None:
        wires = wires_of(folder, **settings)
        headers = [f"x-api-key: {KEY}"] if "api_keys" in settings else []
        pairs = [wires.connect() for _ in range(COUNT)]

        def ask(index: int) -> None:
            pairs[index][0].data_received(post(batch(index), *headers, path="/v1/batch"))

        def answered(index: int) -> None:
            order.append(index)
            if len(seen) < count:
                asyncio.get_running_loop().call_soon(ask, index)

        for index, (connection, _) in enumerate(pairs):
            complete = connection.on_response_complete

            def done(index: int = index, complete: Any = complete) -> None:
                complete()
                answered(index)

            connection.on_response_complete = done  # type: ignore[method-assign]
        for index in range(COUNT):
            ask(index)
        for _ in range(count):
            seen.append(list(order))
            await asyncio.sleep(0)
        await until(lambda: not wires.state.tasks and not len(wires.app.fast_path.line))

    asyncio.run(run())
    return seen


@pytest.mark.parametrize("settings", [{}, {"api_keys": (KEY,)}], ids=["turbo", "asgi"])
def test_batches_are_answered_one_a_turn_in_the_order_in_which_they_came(
    folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all else takes no time."""
    monkeypatch.setattr(turns, "MOST_S", 0.0)
    seen = answered_by_turn(folder, settings, 5 * COUNT)
    steps = [len(after) - len(before) for before, after in itertools.pairwise(seen)]
    assert max(steps) == 1
    rounds = [seen[-1][at : at + COUNT] for at in range(0, len(seen[-1]) - COUNT, COUNT)]
    assert len(rounds) >= 2
    assert all(one == list(range(COUNT)) for one in rounds)  # nobody is asked twice before everybody was once


@pytest.mark.parametrize("settings", [{}, {"api_keys": (KEY,)}], ids=["turbo", "asgi"])
def test_without_turns_all_that_have_come_are_decided_in_one(
    folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a connection that comes meanwhile waits for all of them."""
    for module, name in ((fast_path, "BATCH"), (protocol, "_BATCH")):
        monkeypatch.setattr(module, name, "none")
    seen = answered_by_turn(folder, settings, 20)
    assert max(len(after) - len(before) for before, after in zip([[], *seen], seen, strict=False)) >= COUNT


@pytest.mark.parametrize(
    ("others_s", "most_s", "expected"),
    [(0.0, 20.0, 1), (3.5, 20.0, 4), (1000.0, 20.0, 20), (1000.0, 0.0, 1)],
    ids=["nothing else", "as long as 3.5 batches", "very long", "the control: no share"],
)
def test_a_turn_gives_long_requests_as_long_as_all_else_in_it_took(
    monkeypatch: pytest.MonkeyPatch, others_s: float, most_s: float, expected: int
) -> None:
    """A batch takes one second of a clock that nothing else moves."""
    now = 0.0
    monkeypatch.setattr(turns, "perf_counter", lambda: now)
    monkeypatch.setattr(turns, "MOST_S", most_s)
    done = [0]

    async def run() -> None:
        nonlocal now

        def work() -> None:
            nonlocal now
            now += 1.0
            done[-1] += 1

        line = Turns()
        for index in range(100):
            line.join(index, work)
        while len(line):
            now += others_s
            await asyncio.sleep(0)
            done.append(0)

    asyncio.run(run())
    assert set(done[:-2]) == {expected}
    assert sum(done) == 100


def test_a_short_request_waits_for_one_batch_at_most(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all else takes no time."""
    monkeypatch.setattr(turns, "MOST_S", 0.0)

    async def run() -> None:
        wires = wires_of(folder)
        pairs = [wires.connect() for _ in range(COUNT)]
        for index, (connection, _) in enumerate(pairs):
            connection.data_received(post(batch(index), path="/v1/batch"))
        connection, transport = wires.connect()
        connection.data_received(post(GOOD))
        assert len(documents(transport)) == 1
        assert sum(bool(other.sent) for _, other in pairs) == 0
        long = GOOD[:-1] + b" " * LONG + b"}"
        connection.data_received(post(long))  # the control: by its length it takes its place behind the batches
        for _ in range(COUNT):
            assert len(documents(transport)) == 1
            await asyncio.sleep(0)
        await until(lambda: len(documents(transport)) == 2)
        assert all(other.sent for _, other in pairs)

    asyncio.run(run())


def test_who_has_gone_is_not_decided_and_what_waits_is_not_lost_at_the_end(folder: Path) -> None:
    async def run() -> None:
        wires = wires_of(folder)
        pairs = [wires.connect() for _ in range(4)]
        for index, (connection, _) in enumerate(pairs):
            connection.data_received(post(batch(index), path="/v1/batch"))
            assert not connection.waits()
        pairs[0][1].closed = True
        pairs[0][0].connection_lost(None)
        pairs[1][0].eof_received()
        pairs[2][0].shutdown()
        assert [len(transport.sent) for _, transport in pairs] == [0, 1, 1, 0]
        assert pairs[2][1].closed
        await until(lambda: pairs[3][1].sent)
        assert wires.app.state.service.metrics.requests == 3
        assert len(wires.app.fast_path.line) == 0

    asyncio.run(run())


def test_a_request_behind_a_batch_sends_both_the_ordinary_way_in_order(folder: Path) -> None:
    async def run() -> None:
        wires = wires_of(folder)
        connection, transport = wires.connect()
        connection.data_received(post(batch(1), path="/v1/batch"))
        connection.data_received(HEALTH + post(batch(2), path="/v1/batch"))
        await until(lambda: len(documents(transport)) == 3)
        first, second, third = documents(transport)
        assert (len(first["predictions"]), second["status"]) == (3, "alive")
        assert first["predictions"] != third["predictions"]

    asyncio.run(run())


def test_what_finds_no_place_is_refused_with_the_same_bytes_and_makes_no_task(folder: Path) -> None:
    async def run(direct: bool) -> tuple[list[bytes], int, int]:
        wires = wires_of(folder, max_concurrency=3)
        wires.app.fast_path.direct = direct
        pairs = [wires.connect() for _ in range(12)]
        most = 0
        for index, (connection, _) in enumerate(pairs):
            connection.data_received(post(batch(index), path="/v1/batch"))
            most = max(most, len(wires.state.tasks))
        await until(lambda: all(transport.sent for _, transport in pairs))
        sent = [b"".join(transport.sent) for _, transport in pairs]
        return [each for each in sent if b" 503 " in each], wires.app.state.service.metrics.errors[503, "busy"], most

    refused, counted, tasks = asyncio.run(run(direct=True))
    expected, _, control = asyncio.run(run(direct=False))
    assert len(refused) == counted > 0
    assert set(refused) == set(expected)
    assert len(set(expected)) == 1
    assert b"retry-after: 1" in expected[0]
    assert tasks <= 4 < control  # the control: on the ordinary path each refused one has begun


def test_a_burst_that_is_about_to_be_refused_takes_nobody_s_place(folder: Path) -> None:
    """Forty requests of one address in a turn, with eight places: another address finds one."""

    async def run(burst: int, address: str) -> bytes:
        wires = wires_of(folder, max_concurrency=8)

        def connect(host: str) -> tuple[protocol.PredictProtocol, Any]:
            connection, transport = wires.connect()
            connection.client = (host, 1)
            return connection, transport

        unfinished = b"POST /predict HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\n"
        for number in (8, burst):
            for _ in range(number):
                connect("10.0.0.1")[0].data_received(unfinished)
            if number == 8:
                await until(lambda: wires.app.concurrency.begun == 8)
        connection, transport = connect(address)
        connection.data_received(post(GOOD))
        await until(lambda: transport.sent)
        for one in list(wires.state.connections):
            one.connection_lost(None)
        await until(lambda: not wires.state.tasks)
        assert wires.app.concurrency.begun == 0
        return b"".join(transport.sent)

    assert b" 200 OK" in asyncio.run(run(40, "10.0.0.2"))
    assert b" 503 " in asyncio.run(run(40, "10.0.0.1"))  # the control: its own next request finds none


def test_a_bug_in_a_batch_is_that_request_s_and_the_line_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["exception"]))
        wires = wires_of(folder)
        ask = wires.app.fast_path.by_url[b"/v1/batch"]

        def broken(body: bytes, client: str) -> bytes | None:
            if b"0.125" in body:
                raise RuntimeError("a bug")
            return ask(body, client)

        wires.app.fast_path.by_url[b"/v1/batch"] = broken
        pairs = [wires.connect() for _ in range(3)]
        for index, (connection, _) in enumerate(pairs):
            body = json.dumps({"instances": [[0.125 if index == 1 else 0.5, *json.loads(GOOD)["state"][1:]]]})
            connection.data_received(post(body.encode(), path="/v1/batch"))
        await until(lambda: all(transport.sent for _, transport in pairs))
        assert all("predictions" in documents(transport)[0] for _, transport in pairs)

    said: list[BaseException] = []
    asyncio.run(run())
    assert [str(error) for error in said] == ["a bug"]


def test_more_batches_than_there_are_places_do_not_wait_in_the_line(folder: Path) -> None:
    async def run() -> None:
        wires = wires_of(folder, max_concurrency=5)
        pairs = [wires.connect() for _ in range(12)]
        for index, (connection, _) in enumerate(pairs):
            connection.data_received(post(batch(index), path="/v1/batch"))
            assert len(wires.app.fast_path.line) <= 5
        await until(lambda: all(transport.sent for _, transport in pairs))
        heads = [b"".join(transport.sent)[:12] for _, transport in pairs]
        assert heads[:5] == [b"HTTP/1.1 200"] * 5
        assert set(heads) <= {b"HTTP/1.1 200", b"HTTP/1.1 503"}

    asyncio.run(run())


def test_a_line_that_everybody_leaves_is_empty_and_takes_the_next_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MOST_S", 0.0)

    async def run() -> None:
        line, done = Turns(), []
        line.join("a", lambda: done.append("a"))
        line.leave("a")
        line.join("b", lambda: done.append("b"))
        line.join("c", lambda: done.append("c"))
        await asyncio.sleep(0)
        assert done == ["b"]
        given_up = asyncio.create_task(line.turn())
        await asyncio.sleep(0)
        given_up.cancel()  # after its turn was called, and before
        also = asyncio.create_task(line.turn())
        await asyncio.sleep(0)
        also.cancel()
        line.join("d", lambda: done.append("d"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert done == ["b", "c", "d"]
        assert len(line) == 0

    asyncio.run(run())


def test_every_new_connection_is_answered_before_the_first_ones_have_had_many(folder: Path) -> None:
    """On a real socket: uvloop takes in one connection a turn."""
    first: dict[int, int] = {}
    answers = 0

    async def client(port: int, number: int, body: Any) -> None:
        nonlocal answers
        connection = await Connection.to(port)
        while len(first) < COUNT:
            status, said = await connection.post("/v1/batch", body)
            assert (status, len(said["predictions"])) == (200, 200)
            answers += 1
            first.setdefault(number, answers)
        connection.close()

    async def run(port: int) -> None:
        body = {"instances": valid_states(200).tolist()}
        await asyncio.gather(*(client(port, number, body) for number in range(COUNT)))

    with running(create_app(folder)) as http:
        asyncio.run(run(http.base_url.port))
    assert max(first.values()) <= 4 * COUNT  # were all decided in every turn: up to COUNT * COUNT / 2


# ---- many requests on one connection

MANY = 3_000


@pytest.mark.parametrize("settings", [{}, {"turbo": False}], ids=["turbo", "asgi"])
def test_a_connection_s_own_requests_wait_outside(folder: Path, settings: dict[str, Any]) -> None:
    """All are answered in order; but few of them are objects here, and nothing more is read meanwhile."""

    async def run() -> None:
        wires = wires_of(folder, **settings)
        connection, transport = wires.connect()
        sent = HEALTH * MANY + post(GOOD) * 5 + post(batch(1), path="/v1/batch")
        most = 0
        for at in range(0, len(sent), 50_000):
            await until(lambda: transport.reading)
            connection.data_received(sent[at : at + 50_000])
            assert transport.reading == (not connection.pipeline and not connection._later)
            assert at or not transport.reading
            most = max(most, len(connection.pipeline))

        def behind() -> int:
            nonlocal most
            most = max(most, len(connection.pipeline))
            return most

        await until(lambda: behind() and len(transport.sent) and b"predictions" in transport.sent[-1])
        found = documents(transport)
        assert [found.count(each) for each in found[:1]] == [MANY]
        assert ["position_multiplier" in each for each in found[MANY:]] == [True] * 5 + [False]
        assert upgrade.MOST_BEHIND <= most <= upgrade.MOST_BEHIND + upgrade.PIECE // 18
        assert transport.reading
        assert not connection._later

    asyncio.run(run())


def test_without_the_bound_they_all_wait_inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(upgrade, "MOST_BEHIND", 10**9)

    async def run() -> None:
        wires = wires_of(folder)
        connection, transport = wires.connect()
        connection.data_received(HEALTH * MANY)
        assert len(connection.pipeline) == MANY - 1
        await until(lambda: len(transport.sent) == 2 * MANY)  # head and body

    asyncio.run(run())


@pytest.mark.parametrize("settings", [{}, {"turbo": False}], ids=["turbo", "asgi"])
def test_many_requests_and_large_bodies_on_one_connection_of_a_real_server(
    folder: Path, settings: dict[str, Any]
) -> None:
    """Bodies that the bound cuts in two, an offer of an upgrade among them, and heads near their own bound."""
    large = GOOD[:-1] + b" " * 100_000 + b"}"
    long_head = "x-long: " + "y" * 50_000
    offer = post(GOOD, "Upgrade: h2c", "Connection: Upgrade")
    one = post(GOOD) + HEALTH * 40 + post(large) + offer + post(GOOD, long_head)
    app = create_app(folder, ServeSettings(**settings))
    with running(app) as http:
        wire = Wire(http.base_url.port or 0)
        thread = threading.Thread(target=wire.socket.sendall, args=(one * 20,))
        thread.start()
        for _ in range(20):
            statuses = [wire.answer()[0] for _ in range(44)]
            assert statuses == [200] * 44
        thread.join()
        wire.socket.close()
