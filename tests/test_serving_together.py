"""Requests that meet in one turn of the event loop: decided together, each answered as if it had come alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from uvicorn.server import ServerState

from bundle_helpers import make_bundle, valid_states
from himari_rl.errors import BundleError, StateError
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.serving import protocol as protocols
from himari_rl.serving.app import Api, create_app
from himari_rl.serving.fast_path import TOGETHER
from himari_rl.serving.memory import pack, unpack
from himari_rl.serving.protocol import MOST, PredictProtocol
from himari_rl.serving.run import make_server
from himari_rl.serving.service import Service
from himari_rl.serving.settings import ServeSettings
from serving_helpers import Connection, running
from test_serving_protocol import HEALTH, Served, post

KEY = b"k" * 32
NEAR = 1e-6
HOUR = 3_600_000
COUNT = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"), "lstm", hidden=(16,), scale=2.0)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("other"), "lstm", hidden=(16,), scale=2.0, weights_seed=9)


def loaded(folder: Path, **settings: Any) -> Service:
    service: Service = create_app(folder, ServeSettings(memory_key=KEY, **settings)).state.service
    assert service.load()
    return service


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def bodies_of(service: Service, count: int = COUNT, seed: int = 3) -> list[bytes]:
    """Requests of different states; each but every third one brings the memory of a bar before."""
    before, now = valid_states(count, seed=seed).tolist(), valid_states(count, seed=seed + 1).tolist()
    texts = [service.predict_bytes(body(state=state))["memory"] for state in before]
    return [body(state=now[i]) if i % 3 == 0 else body(state=now[i], memory=texts[i]) for i in range(count)]


def numbers(service: Service, answer: dict[str, Any]) -> np.ndarray:
    """Multiplier, confidence and memory, for comparing."""
    assert service.slot
    memory = unpack(answer["memory"], service.slot.digest, KEY, service.slot.policy.memory_size)
    return np.concatenate([[answer["position_multiplier"], answer["confidence"]], memory])


def kind_of(answer: dict[str, Any]) -> dict[str, Any]:
    """What of an answer is not a number of the network."""
    said = {name: answer.get(name) for name in ("memory_started", "out_of_distribution", "model_version")}
    return said | {"limits": list(answer.get("risk", ()))}


# ---- the policy


@pytest.mark.parametrize(("kind", "seeds"), [("lstm", (0,)), ("lstm", (0, 1, 2)), ("base", (0, 1)), ("multi", (0, 1))])
def test_steps_are_the_step_of_every_state(tmp_path: Path, kind: str, seeds: tuple[int, ...]) -> None:
    policy = load_policy(make_bundle(tmp_path, kind, seeds=seeds, hidden=(16,), scale=2.0))
    states = valid_states(9, policy.manifest.action_dim, seed=1).tolist()
    states[4][-1], states[4][13] = 1.0, 1.0  # one that is rarer
    memories = [None if i % 3 == 0 else policy.step(states[i - 1]).memory for i in range(9)]
    found = policy.steps(states, memories)
    alone = [policy.step(state, memory) for state, memory in zip(states, memories, strict=True)]
    for together, one in zip(found, alone, strict=True):
        np.testing.assert_allclose(together.multipliers, one.multipliers, atol=NEAR)
        np.testing.assert_allclose(together.memory, one.memory, atol=NEAR)
        np.testing.assert_allclose(together[1::2][:1] + together[4:], one[1::2][:1] + one[4:], atol=NEAR)
        assert together.out_of_distribution == one.out_of_distribution
    assert len({round(step.multipliers[0], 4) for step in alone}) > 5  # the control: one for another would be seen
    assert policy.steps([], []) == []


def test_steps_refuse_what_step_refuses(folder: Path) -> None:
    policy = load_policy(folder)
    states = valid_states(3).tolist()
    memory = policy.step(states[0]).memory
    endless = memory.copy()
    endless[200] = np.inf
    for wrong in ([None, memory[:-1], None], [memory, memory, endless], [memory[:1], None, None]):
        with pytest.raises(StateError, match="memory has shape"):
            policy.steps(states, wrong)
    with pytest.raises(StateError, match="the state has 15 numbers"):
        policy.steps([states[0], states[1][:15], states[2]], [None] * 3)
    with pytest.raises(StateError, match="NaN or infinity"):
        policy.steps([states[0], [np.nan, *states[1][1:]], states[2]], [None] * 3)


# ---- the service


def test_answers_to_many_are_those_to_each_in_their_order(folder: Path) -> None:
    service, alone = loaded(folder), loaded(folder)
    bodies = bodies_of(alone)
    alone.metrics.__init__()  # type: ignore[misc]
    found = service.predict_many(bodies)
    expected = [alone.predict_bytes(one) for one in bodies]
    rows = [numbers(service, answer) for answer in expected]
    for i, answer in enumerate(found):
        assert answer is not None
        assert list(answer) == list(expected[i])  # the same fields in the same order
        assert kind_of(answer) == kind_of(expected[i])
        assert answer["memory_started"] == (i % 3 == 0)
        distances = [np.abs(numbers(service, answer) - row).max() for row in rows]
        assert distances[i] < NEAR
        assert min(distances[:i] + distances[i + 1 :]) > 1e-3  # the control: a neighbour's answer is far away
    for name in ("requests", "out_of_distribution", "risk_limited"):
        assert getattr(service.metrics, name) == getattr(alone.metrics, name), name
    for name in ("multiplier", "confidence", "familiarity"):
        assert getattr(service.metrics, name).counts == getattr(alone.metrics, name).counts, name
    assert sum(service.metrics.latency.counts) == COUNT
    assert sum(answer["latency_ms"] for answer in found if answer) < 50 * expected[0]["latency_ms"] + 50


def test_one_that_is_refused_leaves_its_neighbours_as_they_are(folder: Path, other: Path) -> None:
    service = loaded(folder)
    bodies = bodies_of(service)
    fields = [json.loads(one) for one in bodies]
    text = fields[10]["memory"]
    bad = {
        4: b"{",
        7: body(state=fields[7]["state"], memory=text[:80] + ("A" if text[80] != "A" else "B") + text[81:]),
        8: body(state=fields[8]["state"], memory=loaded(other).predict_bytes(bodies[0])["memory"]),
        11: body(state=[7, *fields[11]["state"][1:]]),
        13: body(state=fields[13]["state"][:15]),
        14: bodies[14].replace(b'"state": [', b'"state": [NaN, ', 1),
        16: body(state=[0.5, 1, 1, 0, *fields[16]["state"][4:]]),
        17: body(state=fields[17]["state"], memory=text, session_id="a", timestamp=HOUR),
    }
    found = service.predict_many([bad.get(i, one) for i, one in enumerate(bodies)])
    assert {i for i, answer in enumerate(found) if answer is None} == set(bad)
    for i, answer in enumerate(found):
        if answer is not None:
            expected = service.predict_bytes(bodies[i])
            assert np.abs(numbers(service, answer) - numbers(service, expected)).max() < NEAR


def test_sessions_and_sequences_are_answered_alone_among_them(folder: Path) -> None:
    service, alone = loaded(folder), loaded(folder)
    bodies = bodies_of(alone)
    states = [json.loads(one)["state"] for one in bodies]
    bodies[2] = body(state=states[2], session_id="a", timestamp=HOUR)
    bodies[5] = body(sequence=states[:3])
    bodies[9] = body(state=states[9], session_id="a", timestamp=2 * HOUR)
    bodies[11] = body(state=states[11], memory=None)
    found = service.predict_many(bodies)
    expected = [alone.predict_bytes(one) for one in bodies]
    for i in (2, 5, 9, 11):
        assert found[i] is not None
        assert {**found[i], "latency_ms": 0} == {**expected[i], "latency_ms": 0}  # to the last bit
    assert found[9]["memory_started"] is False  # type: ignore[index]


def test_one_that_the_network_cannot_answer_sends_its_batch_to_be_asked_alone(folder: Path) -> None:
    service = loaded(folder)
    bodies = bodies_of(service)
    state = json.loads(bodies[6])["state"]
    endless = np.full(256, np.inf, np.float32)
    assert service.slot
    bodies[6] = body(state=state, memory=pack(endless, service.slot.digest, KEY))
    bodies[9] = body(state=state, session_id="a", timestamp=HOUR)
    before = service.metrics.requests
    found = service.predict_many(bodies)
    assert [i for i, answer in enumerate(found) if answer is not None] == [9]
    assert service.metrics.requests == before + 1  # none is counted twice
    with pytest.raises(StateError):
        service.predict_bytes(bodies[6])
    assert service.predict_bytes(bodies[7])["memory_started"] is False


def test_a_policy_without_memory_answers_many_too(tmp_path: Path) -> None:
    service = loaded(make_bundle(tmp_path, hidden=(4,)))
    states = valid_states(9).tolist()
    found = service.predict_many([*(body(state=state) for state in states), body(state=states[0], memory="AAAA")])
    assert found.pop() is None
    for state, answer in zip(states, found, strict=True):
        assert answer
        assert answer["position_multiplier"] == service.predict_bytes(body(state=state))["position_multiplier"]


def test_the_shadow_and_the_journal_see_every_answer(folder: Path) -> None:
    app = create_app(folder, ServeSettings(challenger=str(folder), log_every=1, memory_key=KEY))
    service, lines = app.state.service, []
    service.load()
    service.journal._write = lines.append
    bodies = bodies_of(service)
    offered = len(service.challenger._queue)
    answers = app.fast_path.answers([*bodies, b"{"])
    assert answers.pop() is None
    assert len(lines) == COUNT
    added = list(service.challenger._queue)[offered:]
    assert [list(states[0]) for states, _ in added] == [json.loads(one)["state"] for one in bodies]


def test_few_requests_are_answered_one_by_one(folder: Path) -> None:
    app = create_app(folder, ServeSettings(memory_key=KEY))
    app.state.service.load()
    bodies = bodies_of(app.state.service)[: TOGETHER - 1]
    together = [json.loads(answer or b"") | {"latency_ms": 0} for answer in app.fast_path.answers(bodies)]
    assert together == [json.loads(app.fast_path.answer(one) or b"") | {"latency_ms": 0} for one in bodies]


# ---- connections, without a network


class Wires:
    """Connections of one app on this loop, whose transports only remember."""

    def __init__(self, app: Api) -> None:
        self.config = make_server(app).config
        self.config.load()
        self.state = ServerState()
        self.state.default_headers = [(b"server", b"t")]
        self.batches: list[int] = []
        self.app = app
        app.fast_path.pending = self.state.tasks
        answers = app.fast_path.answers

        def counted(bodies: Any) -> Any:
            self.batches.append(len(bodies))
            return answers(bodies)

        app.fast_path.answers = counted  # type: ignore[method-assign]

    def connect(self) -> tuple[PredictProtocol, Any]:
        sent: list[bytes] = []
        transport = SimpleNamespace(sent=sent, closed=False, write=sent.append, get_extra_info=lambda name: None)
        transport.is_closing = lambda: transport.closed
        transport.close = lambda: setattr(transport, "closed", True)
        transport.pause_reading = transport.resume_reading = lambda: None
        connection = PredictProtocol(self.config, self.state, {})
        connection.connection_made(transport)  # type: ignore[arg-type]
        return connection, transport


def documents(transport: Any) -> list[Any]:
    """The bodies of what was sent, in order."""
    parts = b"".join(transport.sent).split(b"HTTP/1.1 ")[1:]
    return [json.loads(part.partition(b"\r\n\r\n")[2]) for part in parts]


async def until(condition: Callable[[], object]) -> None:
    for _ in range(2_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not happen")


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
        wires.app.fast_path.limit = 2_000
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
        wires.app.fast_path.most = 5
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

    def counted(bodies: Any) -> Any:
        sizes.append(len(bodies))
        return many(bodies)

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
