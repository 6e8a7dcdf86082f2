"""Requests that meet in one turn of the event loop: decided together, each answered as if it had come alone."""

from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from helpers.bundle import make_bundle, valid_states
from helpers.together import COUNT, HOUR, KEY, NEAR, bodies_of, body, kind_of, loaded, numbers
from himari_rl.errors import StateError
from himari_rl.policy.runtime import load_policy
from himari_rl.serving.http.app import create_app
from himari_rl.serving.http.fast_path import TOGETHER
from himari_rl.serving.memory import pack
from himari_rl.serving.messages import EXAMPLE_TIME
from himari_rl.serving.settings import ServeSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"), "lstm", hidden=(16,), scale=2.0)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("other"), "lstm", hidden=(16,), scale=2.0, weights_seed=9)


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
    started = perf_counter()
    found = service.predict_many(bodies)
    took_ms = 1000 * (perf_counter() - started)
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
    assert all(0.0 < answer["latency_ms"] <= took_ms for answer in found if answer)  # the time of all of them


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
        17: body(state=fields[17]["state"], memory=text, session_id="a", timestamp=EXAMPLE_TIME),
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
    bodies[2] = body(state=states[2], session_id="a", timestamp=EXAMPLE_TIME)
    bodies[5] = body(sequence=states[:3])
    bodies[9] = body(state=states[9], session_id="a", timestamp=EXAMPLE_TIME + HOUR)
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
    bodies[9] = body(state=state, session_id="a", timestamp=EXAMPLE_TIME)
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
