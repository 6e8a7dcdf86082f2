"""Memory between requests: sessions with a bound, an expiry and a gap rule; sequences; the one answer for all ways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers.bundle import DRIFT, make_bundle, valid_states
from helpers.drift_nets import bundle_of
from helpers.serving import running
from himari_rl.errors import BundleError, ConfigError
from himari_rl.policy.runtime import load_policy
from himari_rl.schema import HOUR_MS
from himari_rl.serving.errors import TooManyError
from himari_rl.serving.http.app import create_app
from himari_rl.serving.sessions import Sessions
from himari_rl.serving.settings import ServeSettings
from himari_rl.serving.slot import Slot

START = 1_767_225_600_000
STATES = valid_states(8, seed=11)
STATES[:, 13], STATES[:, 15] = 0.05, 0.1  # a calm market: no risk limit binds
STATES = STATES.tolist()


@pytest.fixture(scope="module", params=["lstm", DRIFT])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both memories that a policy of this kind may have, with the gap rule reset."""
    place = tmp_path_factory.mktemp("bundles")
    return bundle_of(place, request.param, hidden=(16,), config={"gap_rule": "reset"})


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    with running(create_app(folder)) as client:
        yield client


def ask(client: httpx.Client, status: int = 200, **body: Any) -> Any:
    response = client.post("/predict", json=body)
    assert response.status_code == status, response.text
    return response.json()


def bar(client: httpx.Client, session: str, hour: float, state: int, status: int = 200) -> Any:
    return ask(client, status, session_id=session, timestamp=int(START + hour * HOUR_MS), state=STATES[state])


def chain(folder: Path, states: list[int]) -> float:
    """What the runtime answers to the last of these states, from no memory."""
    policy, memory = load_policy(folder), None
    for index in states:
        decision = policy.decide(STATES[index], memory)
        memory = decision.memory
    return float(decision.multipliers[0])


def test_session_sequence_and_signed_memory_give_one_answer(client: httpx.Client, folder: Path) -> None:
    text = None
    for index in range(5):
        session = bar(client, "one", index, index)
        sequence = ask(client, sequence=STATES[: index + 1])
        carried = ask(client, state=STATES[index], **({"memory": text} if text else {}))
        text = carried["memory"]
        assert "memory" not in session
        assert sequence["memory"] == text
        assert session["memory_started"] is carried["memory_started"] is (index == 0)
        expected = chain(folder, list(range(index + 1)))
        assert [a["position_multiplier"] for a in (session, sequence, carried)] == [expected] * 3
    assert chain(folder, [4]) != expected  # the control: memory matters


def test_a_missing_bar_resets_the_memory_and_the_answer_says_so(client: httpx.Client, folder: Path) -> None:
    bar(client, "gap", 0, 0)
    answer = bar(client, "gap", 4, 1)
    assert answer["gap"] == {"rule": "reset", "missing_bars": 3}
    assert answer["memory_started"] is True
    assert answer["position_multiplier"] == chain(folder, [1])
    assert "gap" not in bar(client, "gap", 5, 2)  # the control


def test_a_missing_bar_advances_the_memory_where_the_setting_says_so(folder: Path) -> None:
    """The last state once more for each missing bar."""
    with running(create_app(folder, ServeSettings(gap_rule="advance"))) as client:
        bar(client, "gap", 0, 0)
        answer = bar(client, "gap", 3, 1)
        assert answer["gap"] == {"rule": "advance", "missing_bars": 2}
        assert answer["memory_started"] is False
        assert answer["position_multiplier"] == chain(folder, [0, 0, 0, 1])
        assert bar(client, "gap", 3 + 66, 2)["gap"] == {"rule": "reset", "missing_bars": 65}


def test_the_manifest_names_the_gap_rule_and_a_setting_overrules_it(tmp_path: Path) -> None:
    policy = load_policy(make_bundle(tmp_path, "lstm", hidden=(4,), config={"gap_rule": "advance"}))
    assert Slot(policy).gap_rule == "advance"
    assert Slot(policy, "reset").gap_rule == "reset"
    with pytest.raises(BundleError, match="has gap_rule 'skip'"):
        Slot(load_policy(make_bundle(tmp_path, "lstm", hidden=(4,), config={"gap_rule": "skip"})))
    with pytest.raises(ConfigError, match="gap_rule is 'skip'"):
        ServeSettings(gap_rule="skip")


def test_a_bar_sent_twice_is_decided_from_the_same_memory(client: httpx.Client, folder: Path) -> None:
    bar(client, "twice", 0, 0)
    first, again = bar(client, "twice", 1, 1), bar(client, "twice", 1, 1)
    assert again["repeated"] is True
    assert "repeated" not in first
    assert first["position_multiplier"] == again["position_multiplier"] == chain(folder, [0, 1])
    assert bar(client, "twice", 2, 2)["position_multiplier"] == chain(folder, [0, 1, 2])


@pytest.mark.parametrize("hour", [0, 0.5, 1.5])
def test_a_bar_out_of_order_or_off_the_grid_is_refused_and_changes_nothing(
    client: httpx.Client, folder: Path, hour: float
) -> None:
    name = f"order {hour}"
    bar(client, name, 1, 0)
    (problem,) = bar(client, name, hour, 1, status=422)["detail"]
    assert problem["loc"] == ["body", "timestamp"]
    assert bar(client, name, 2, 1)["position_multiplier"] == chain(folder, [0, 1])


def test_a_bad_state_in_a_session_changes_nothing(client: httpx.Client, folder: Path) -> None:
    bar(client, "bad", 0, 0)
    ask(client, 422, session_id="bad", timestamp=START + HOUR_MS, state=STATES[0][:15])
    assert bar(client, "bad", 1, 1)["position_multiplier"] == chain(folder, [0, 1])


def test_a_swap_starts_the_memory_anew_and_says_why(tmp_path: Path) -> None:
    place = make_bundle(tmp_path, "lstm", hidden=(4,))
    with running(create_app(place, ServeSettings(reload_s=60))) as client:
        bar(client, "s", 0, 0)
        make_bundle(tmp_path, "lstm", hidden=(4,), weights_seed=3)
        assert client.post("/admin/reload").json()["swapped"] is True
        answer = bar(client, "s", 1, 1)
        assert answer["gap"] == {"rule": "reset", "reason": "another policy answers now"}
        assert answer["position_multiplier"] == chain(place, [1])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"session_id": "x"}, "timestamp"),
        ({"timestamp": START}, "timestamp"),
        ({"session_id": "x", "timestamp": START, "memory": "AAAA"}, "session_id"),
        ({"sequence": [STATES[0]]}, "sequence"),
        ({"sequence": []}, "sequence"),
        ({"session_id": "", "timestamp": START}, "session_id"),
        ({"session_id": "x", "timestamp": -1}, "timestamp"),
        ({"session_id": "x", "timestamp": 0.5}, "timestamp"),
    ],
)
def test_two_ways_at_once_or_half_a_way_are_refused(client: httpx.Client, body: dict[str, Any], field: str) -> None:
    (problem,) = ask(client, 422, state=STATES[0], **body)["detail"]
    assert problem["loc"] == ["body", field]
    assert problem["cure"]


def test_a_sequence_is_bounded_and_names_the_state_that_is_wrong(client: httpx.Client) -> None:
    assert ask(client, sequence=STATES[:1] * 64)["memory"]
    assert ask(client, 422, sequence=STATES[:1] * 65)["detail"][0]["loc"] == ["body", "sequence"]
    (problem,) = ask(client, 422, sequence=[STATES[0], STATES[0][:3]])["detail"]
    assert problem["loc"] == ["body", "sequence[1]"]
    assert "bundle expects 16 features, the request has 3" in problem["msg"]


def test_a_policy_without_memory_refuses_what_it_would_ignore(tmp_path: Path) -> None:
    with running(create_app(make_bundle(tmp_path, hidden=(4,)))) as client:
        for body in ({"session_id": "x", "timestamp": START, "state": STATES[0]}, {"sequence": STATES[:2]}):
            (problem,) = ask(client, 422, **body)["detail"]
            assert "this policy has no memory" in problem["msg"]
        assert ask(client, state=STATES[0], memory=None)  # null is nothing


def test_sessions_are_bounded_and_forgotten() -> None:
    now = 0.0
    sessions: Sessions[int] = Sessions(2, 10.0, lambda: now)
    for name in "ab":
        sessions.admit(name)
        sessions.put(name, ord(name))
    sessions.admit("a")  # a known one is always welcome
    with pytest.raises(TooManyError, match="2 sessions are open; expected at most 2"):
        sessions.admit("c")
    now = 9.0
    sessions.put("a", 1)
    now = 10.5  # b was silent for more than ten seconds, a was not
    sessions.admit("c")
    assert (sessions.get("a"), sessions.get("b"), len(sessions)) == (1, None, 1)
