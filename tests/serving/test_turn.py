"""A turn of the event loop: what waits for its end, on which connection it is answered, and under real load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from helpers.bundle import make_bundle, valid_states
from helpers.serving import Connection, running
from helpers.together import COUNT, KEY, NEAR, bodies_of, body, numbers
from helpers.wire import HEALTH, Served, post
from helpers.wires import Wires, documents, until
from himari_rl.errors import BundleError
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.serving.http import protocol as protocols
from himari_rl.serving.http.app import Api, create_app
from himari_rl.serving.http.fast_path import TOGETHER
from himari_rl.serving.http.protocol import MOST, PredictProtocol
from himari_rl.serving.settings import ServeSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"), "lstm", hidden=(16,), scale=2.0)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("other"), "lstm", hidden=(16,), scale=2.0, weights_seed=9)


# ---- connections, without a network


@pytest.fixture
def wires(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wires]:
    monkeypatch.setattr(protocols, "FEW", 1)
    app = create_app(folder, ServeSettings(memory_key=KEY))
    app.state.service.load()
    yield Wires(app)
    assert app.fast_path.turn == {}


def test_what_meets_in_a_turn_is_answered_at_its_end_each_on_its_own_connection(wires: Wires) -> None:
    async def run() -> None:
        bodies = bodies_of(wires.app.state.service)
        pairs = [wires.connect() for _ in bodies]
        for (connection, transport), one in zip(pairs, bodies, strict=True):
            connection.data_received(post(one))
            assert transport.sent == []
        await asyncio.sleep(0)
        for (_, transport), one in zip(pairs, bodies, strict=True):
            (answer,) = documents(transport)
            expected = wires.app.state.service.predict_bytes(one)
            assert abs(answer["position_multiplier"] - expected["position_multiplier"]) < NEAR
        assert wires.batches == [COUNT]
        assert wires.state.total_requests == COUNT
        assert not wires.state.tasks

    asyncio.run(run())


def test_a_body_over_the_limit_does_not_wait(wires: Wires) -> None:
    async def run() -> None:
        wires.app.body_limit.limit = 2_000
        one = bodies_of(wires.app.state.service, 1)[0]
        (connection, transport), (neighbour, beside) = wires.connect(), wires.connect()
        connection.data_received(post(one + b" " * 2_000))
        neighbour.data_received(post(one))
        await until(lambda: transport.sent and beside.sent)
        assert "more than 2000 bytes" in documents(transport)[0]["detail"]
        assert "confidence" in documents(beside)[0]
        assert wires.batches == [1]

    asyncio.run(run())


def test_a_full_turn_does_not_wait(wires: Wires) -> None:
    async def run() -> None:
        bodies = bodies_of(wires.app.state.service, MOST + 3)
        pairs = [wires.connect() for _ in bodies]
        for (connection, _), one in zip(pairs, bodies, strict=True):
            connection.data_received(post(one))
        assert wires.batches == [MOST]
        await asyncio.sleep(0)
        assert [size for size in wires.batches if size] == [MOST, 3]
        assert all(len(documents(transport)) == 1 for _, transport in pairs)

    asyncio.run(run())


def test_what_waits_takes_room_under_the_limit_of_requests(wires: Wires) -> None:
    async def run() -> None:
        wires.app.concurrency.most = 5
        bodies = bodies_of(wires.app.state.service, 12)
        pairs = [wires.connect() for _ in bodies]
        for (connection, _), one in zip(pairs, bodies, strict=True):
            connection.data_received(post(one))
            assert len(wires.app.fast_path.turn) < 5
        await asyncio.sleep(0)
        assert wires.batches[:2] == [5, 5]
        assert all("position_multiplier" in documents(transport)[0] for _, transport in pairs)

    asyncio.run(run())


def test_a_request_behind_a_waiting_one_sends_both_the_ordinary_way_in_order(wires: Wires) -> None:
    async def run() -> None:
        one, two = bodies_of(wires.app.state.service, 2)
        (connection, transport), (neighbour, beside) = wires.connect(), wires.connect()
        connection.data_received(post(one))
        neighbour.data_received(post(one))
        connection.data_received(post(two) + HEALTH)
        await until(lambda: len(documents(transport)) == 3)
        first, second, third = documents(transport)
        expected = [wires.app.state.service.predict_bytes(each)["position_multiplier"] for each in (one, two)]
        assert [first["position_multiplier"], second["position_multiplier"]] == expected
        assert "alive" in third["status"]
        assert wires.batches == [1]
        assert len(documents(beside)) == 1

    asyncio.run(run())


@pytest.mark.parametrize("end", [PredictProtocol.eof_received, PredictProtocol.shutdown])
def test_an_end_of_the_connection_or_the_server_does_not_lose_what_waits(
    wires: Wires, end: Callable[[PredictProtocol], None]
) -> None:
    async def run() -> None:
        one, two = bodies_of(wires.app.state.service, 2)
        (connection, transport), (neighbour, beside) = wires.connect(), wires.connect()
        connection.data_received(post(one))
        neighbour.data_received(post(two))
        end(connection)
        assert len(documents(transport)) == len(documents(beside)) == 1
        assert transport.closed == (end is PredictProtocol.shutdown)
        await asyncio.sleep(0)
        assert len(documents(transport)) == 1

    asyncio.run(run())


def test_a_client_that_left_is_decided_but_not_answered_and_nobody_else_notices(wires: Wires) -> None:
    async def run() -> None:
        bodies = bodies_of(wires.app.state.service)
        pairs = [wires.connect() for _ in bodies]
        for (connection, _), one in zip(pairs, bodies, strict=True):
            connection.data_received(post(one))
        pairs[5][1].closed = True
        pairs[5][0].connection_lost(None)
        before = wires.app.state.service.metrics.requests
        await asyncio.sleep(0)
        assert [len(transport.sent) for _, transport in pairs] == [int(i != 5) for i in range(COUNT)]
        assert wires.app.state.service.metrics.requests == before + COUNT
        assert not wires.state.tasks

    asyncio.run(run())


def test_a_swap_before_the_end_of_the_turn_answers_all_of_it_with_the_new_policy(wires: Wires, other: Path) -> None:
    async def run() -> None:
        service = wires.app.state.service
        bodies = bodies_of(service)
        pairs = [wires.connect() for _ in bodies]
        for (connection, _), one in zip(pairs, bodies, strict=True):
            connection.data_received(post(one))
        service.follower._source, service.follower.place = str(other), str(other)
        assert service.load()
        await until(lambda: all(transport.sent for _, transport in pairs))
        for i, (_, transport) in enumerate(pairs):
            (answer,) = documents(transport)
            if i % 3 == 0:
                assert answer["model_version"] == service.slot.version
                alone = service.predict_bytes(bodies[i])["position_multiplier"]
                assert abs(answer["position_multiplier"] - alone) < NEAR
            else:
                assert "another policy" in answer["detail"][0]["msg"]

    asyncio.run(run())


def test_a_batch_that_breaks_is_answered_the_ordinary_way(wires: Wires, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(failure: Exception) -> None:
        monkeypatch.setattr(Policy, "steps", Mock(side_effect=failure))
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["exception"]))
        bodies = bodies_of(wires.app.state.service)
        pairs = [wires.connect() for _ in bodies]
        for (connection, _), one in zip(pairs, bodies, strict=True):
            connection.data_received(post(one))
        await until(lambda: all(transport.sent for _, transport in pairs))
        for (_, transport), one in zip(pairs, bodies, strict=True):
            expected = wires.app.state.service.predict_bytes(one)["position_multiplier"]
            assert documents(transport)[0]["position_multiplier"] == expected

    said: list[BaseException] = []
    for failure in (BundleError("no answer"), RuntimeError("a bug")):
        asyncio.run(run(failure))
    assert [str(error) for error in said] == ["a bug"]  # a bug is heard, and nobody waits for ever


def test_few_connections_and_policies_without_memory_do_not_wait(folder: Path, tmp_path: Path) -> None:
    async def run(app: Api, connections: int, waits: bool) -> None:
        app.state.service.load()
        wires = Wires(app)
        pairs = [wires.connect() for _ in range(connections)]
        pairs[0][0].data_received(post(body(state=valid_states(1)[0].tolist())))
        assert bool(pairs[0][1].sent) != waits
        await asyncio.sleep(0)
        assert len(documents(pairs[0][1])) == 1

    asyncio.run(run(create_app(folder), protocols.FEW - 1, False))
    asyncio.run(run(create_app(folder), protocols.FEW, True))
    asyncio.run(run(create_app(make_bundle(tmp_path, hidden=(4,))), 2 * protocols.FEW, False))


# ---- the real thing


def test_under_load_every_connection_gets_its_own_answers(folder: Path) -> None:
    """Sixty clients carry their own memories through their own bars, and every seventh sends nonsense between."""
    clients, bars = 60, 12
    policy = load_policy(folder)
    app = create_app(folder, ServeSettings(memory_key=KEY))
    sizes: list[int] = []
    many = app.state.service.predict_many

    def counted(bodies: Any, clients: Any) -> Any:
        sizes.append(len(bodies))
        return many(bodies, clients)

    app.state.service.predict_many = counted

    async def client(port: int, number: int, gate: asyncio.Barrier) -> float:
        connection, text, memory, worst = await Connection.to(port), None, None, 0.0
        for state in valid_states(bars, seed=number).tolist():
            await gate.wait()
            if number % 7 == 0:
                wrong = (text or "AAAA")[:-4] + "AAAA"
                status, said = await connection.post("/predict", {"state": state, "memory": wrong})
                assert (status, said["detail"][0]["loc"]) == (422, ["body", "memory"])
            status, said = await connection.post("/predict", {"state": state} | ({"memory": text} if text else {}))
            assert (status, said["memory_started"]) == (200, text is None), said
            decision = policy.step(state, memory)
            memory, text = decision.memory, said["memory"]
            worst = max(worst, abs(numbers(app.state.service, said)[2:] - memory).max())
            if "risk" not in said:
                worst = max(worst, abs(said["position_multiplier"] - decision.multipliers[0]))
        connection.close()
        return worst

    async def run(port: int) -> list[float]:
        gate = asyncio.Barrier(clients)
        return await asyncio.gather(*(client(port, number, gate) for number in range(clients)))

    with running(app) as http:
        served = Served(app, http.base_url.port)
        worst = asyncio.run(run(served.port))
    assert max(worst) < 1e-5  # twelve bars of rounding
    assert max(sizes) > TOGETHER  # the control: they did meet
    assert served.ordinary == bars * len(range(0, clients, 7))
