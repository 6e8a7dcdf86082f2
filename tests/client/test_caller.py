"""Whatever a server does, the caller has a checked answer or a cause, in time; a breaker spares what is down."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from helpers import PATIENCE_S, run_python
from helpers.faulty import READY, Faulty, faulty_server, until
from himari_rl.client import ClientConfig, PolicyCaller, tokens
from himari_rl.client.answers import CAUSES
from himari_rl.client.breaker import Breaker
from himari_rl.client.tokens import Credentials, expiry
from himari_rl.client.wire import CallError, Margin, Wire
from himari_rl.errors import ConfigError
from himari_rl.schema import HOUR_MS

STATE = [0.5, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0.1, 0.5, 0]
NEVER = ClientConfig(timeout_ms=3_000.0, breaker_failures=1_000_000)  # opens; slow machines are no failure


@pytest.fixture
def server() -> Iterator[Faulty]:
    with faulty_server() as made:
        yield made


def caller_of(server: Faulty, config: ClientConfig = NEVER) -> PolicyCaller:
    caller = PolicyCaller(server.url, ("BTC-USDT",), HOUR_MS, config)
    assert caller.connect() == ""
    return caller


def test_a_good_answer_comes_through(server: Faulty) -> None:
    with caller_of(server) as caller:
        answer = caller.ask(STATE)
    assert (answer.multipliers, answer.cause, answer.version, answer.confidence) == ((0.75,), "", "base-1", 0.5)


@pytest.mark.parametrize(
    ("mode", "cause", "said"),
    [
        ("stall", "timeout", "3000 ms"),
        ("dribble", "timeout", "3000 ms"),
        ("cut", "connection", ""),
        ("close", "connection", ""),
        ("500", "5xx", "status 500"),
        ("404", "4xx", "status 404"),
        ("garbage", "invalid_answer", ""),
        ("302", "invalid_answer", "status 302: it is at http://127.0.0.1:1/predict"),
        ("204", "invalid_answer", "status 204"),
        ("slow headers", "timeout", "3000 ms"),
        ("long headers", "invalid_answer", ""),
        ("hints", "timeout", "3000 ms"),
        ("half closed", "connection", ""),
        ("reset", "connection", ""),
        ("too long", "timeout", "3000 ms"),
        ("too short", "invalid_answer", "no JSON"),
        ("two lengths", "invalid_answer", ""),
        ("bomb", "invalid_answer", "packed (gzip)"),
        ("endless chunks", "invalid_answer", "longer"),
        ("text", "invalid_answer", "no JSON"),
        ("endless", "invalid_answer", "longer"),
        ("nan", "invalid_answer", "NaN"),
        ('{"position_multiplier": 2.1}', "invalid_answer", "2.1"),
        ('{"position_multiplier": -0.1}', "invalid_answer", "-0.1"),
        ('{"position_multiplier": 1e999}', "invalid_answer", "no number"),
        ('{"position_multiplier": "1"}', "invalid_answer", "'1'"),
        ('{"position_multiplier": true}', "invalid_answer", "True"),
        ('{"position_multiplier": null}', "invalid_answer", "no multiplier"),
        ('{"position_multiplier": null, "position_multipliers": {"DOGE": 1.0}}', "invalid_answer", "about DOGE"),
        ('{"position_multipliers": {"BTC-USDT": 1.0, "DOGE": 1.0}}', "invalid_answer", "DOGE"),
        ('{"symbol": "DOGE"}', "invalid_answer", "DOGE"),
        ('{"model_version": "base-2"}', "invalid_answer", "base-2 answered"),
        ('{"model_version": null}', "invalid_answer", "model_version"),
        ('{"confidence": 7}', "invalid_answer", "confidence"),
        ('{"memory": 7}', "invalid_answer", "memory"),
    ],
)
def test_a_failing_server_gives_a_cause_and_never_a_number(server: Faulty, mode: str, cause: str, said: str) -> None:
    with caller_of(server) as caller:
        server.mode = mode
        answer = caller.ask(STATE)
        assert (answer.multipliers, answer.cause) == (None, cause), answer
        assert said in answer.detail
        assert caller.failures == {cause: 1}
        assert cause in CAUSES
        server.mode = "good"
        assert caller.ask(STATE).multipliers == (0.75,)


def test_an_interim_answer_is_no_answer(server: Faulty) -> None:
    with caller_of(server) as caller:
        server.mode = "continue"
        assert caller.ask(STATE).multipliers == (0.75,)


def test_the_rest_of_an_answer_before_answers_nothing(server: Faulty) -> None:
    """A server that answers one question twice would be one answer behind for ever."""
    with caller_of(server) as caller:
        server.mode = "twice"
        assert caller.ask(STATE).multipliers == (0.75,)
        server.mode = '{"position_multiplier": 0.25}'
        late = caller.ask(STATE)
        assert (late.multipliers, late.cause) == (None, "invalid_answer")
        assert "the answer is to question" in late.detail
        assert caller.ask(STATE).multipliers == (0.25,)


def test_what_a_server_says_at_length_is_cut(server: Faulty) -> None:
    with caller_of(server) as caller:
        server.mode = json.dumps({"model_version": "v" * 100_000})
        assert len(caller.ask(STATE).detail) == 500


def test_the_first_question_of_all_has_nothing_to_load(server: Faulty) -> None:
    """Certificates and the network backend are loaded with the caller, not within the first deadline."""
    code = (
        "import sys\nfrom himari_rl.client import ClientConfig, PolicyCaller\n"
        "config = ClientConfig(timeout_ms=3_000.0)\n"
        f"with PolicyCaller({server.url!r}, ('BTC-USDT',), 3_600_000, config) as caller:\n"
        "    before = set(sys.modules)\n    assert caller.ask([0.0] * 16).cause == 'invalid_answer'\n"  # no /ready yet
        "    print(sorted(m for m in set(sys.modules) - before if m.partition('.')[0] in ('anyio', 'ssl', 'certifi')))"
    )
    found = run_python(code)
    assert (found.returncode, found.stdout.strip()) == (0, "[]"), found.stderr


def test_a_server_that_is_down_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with PolicyCaller(url, ("BTC-USDT",), HOUR_MS, NEVER) as caller:
        assert "fall back until it does" in caller.connect()
        assert caller.ask(STATE).cause == "refused"


def test_a_connection_that_breaks_off_is_tried_again_within_the_deadline(server: Faulty) -> None:
    with caller_of(server) as caller:
        server.mode = "close"
        caller.ask(STATE)
    assert server.calls == 1 + NEVER.retries
    server.calls = 0
    with caller_of(server, ClientConfig(timeout_ms=3_000.0, retries=0)) as caller:
        caller.ask(STATE)
    assert server.calls == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"symbols": ["ETH-USDT"]}, "has a policy for ETH-USDT"),
        ({"interval_ms": 60_000}, "60000 ms"),
        ({"model_version": None}, "is none of a policy server"),
    ],
)
def test_a_policy_of_another_symbol_or_interval_never_answers(
    server: Faulty, changed: dict[str, object], said: str
) -> None:
    server.ready = READY | changed
    with PolicyCaller(server.url, ("BTC-USDT",), HOUR_MS, NEVER) as caller:
        trouble = caller.connect()
        answer = caller.ask(STATE)
    assert answer.cause == "invalid_answer"
    assert said in trouble or said in answer.detail


def test_a_promoted_policy_is_known_once_ready_names_it(server: Faulty) -> None:
    with caller_of(server) as caller:
        server.mode = json.dumps({"model_version": "base-2"})
        assert caller.ask(STATE).cause == "invalid_answer"
        server.ready = READY | {"model_version": "base-2"}

        def known() -> bool:
            caller.ask(STATE)
            return "base-2" in caller.versions

        until(known, PATIENCE_S)
        assert caller.ask(STATE).version == "base-2"


def test_versions_that_were_given_are_the_only_ones(server: Faulty) -> None:
    config = ClientConfig(timeout_ms=3_000.0, versions=("base-9",), breaker_failures=1_000)
    with PolicyCaller(server.url, ("BTC-USDT",), HOUR_MS, config) as caller:
        assert "not base-9" in caller.connect()
        assert caller.ask(STATE).cause == "invalid_answer"


def test_the_breaker_opens_probes_and_closes() -> None:
    now = [0.0]
    breaker = Breaker(3, 5.0, lambda: now[0])
    for _ in range(2):
        assert breaker.allows()
        breaker.failed()
    assert breaker.state == "closed"
    breaker.succeeded()  # in a row: a success begins the count anew
    for _ in range(3):
        assert breaker.allows()
        breaker.failed()
    assert (breaker.state, breaker.allows()) == ("open", False)
    now[0] = 5.0
    assert breaker.state == "half_open"
    assert (breaker.allows(), breaker.allows()) == (True, False)  # one probe at a time
    breaker.failed()
    assert (breaker.state, breaker.allows()) == ("open", False)
    now[0] = 10.0
    assert breaker.allows()
    breaker.succeeded()
    assert (breaker.state, breaker.allows(), breaker.allows()) == ("closed", True, True)


def test_an_open_breaker_asks_nothing_and_closes_after_recovery(server: Faulty) -> None:
    with caller_of(server, ClientConfig(timeout_ms=3_000.0, breaker_failures=2, breaker_open_s=0.3)) as caller:
        server.mode = "500"
        assert [caller.ask(STATE).cause for _ in range(2)] == ["5xx", "5xx"]
        until(lambda: caller.ask(STATE).cause == "breaker_open", PATIENCE_S)  # a probe may come between
        server.mode = "good"
        until(lambda: caller.ask(STATE).multipliers == (0.75,), PATIENCE_S)
        assert caller.breaker.state == "closed"
        assert caller.failures["5xx"] >= 2


def test_a_key_and_a_token_are_shown() -> None:
    assert Credentials("k", "").headers() == {"x-api-key": "k"}
    assert Credentials("", "").headers() == {}
    held = Credentials("", "aud", lambda audience: f"h.eyJleHAiOiA5OTk5OTk5OTk5fQ.{audience}")  # exp 9999999999
    held.begin()
    assert held.headers() == {"authorization": "Bearer h.eyJleHAiOiA5OTk5OTk5OTk5fQ.aud"}
    assert (expiry(held._token), expiry("none")) == (9_999_999_999.0, 0.0)


def test_a_token_is_renewed_however_the_clock_on_the_wall_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was issued for an hour; an hour passes, and the wall clock is set back by a day meanwhile."""
    wall, steady, fetched = [1_000_000.0], [50.0], []
    monkeypatch.setattr(tokens, "time", lambda: wall[0])
    monkeypatch.setattr(tokens, "monotonic", lambda: steady[0])

    def fetch(audience: str) -> str:
        claims = {"iat": wall[0], "exp": wall[0] + 3_600.0}
        fetched.append(claims)
        return f"h.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()}.s"

    held = Credentials("", "aud", fetch)
    held.begin()
    held.headers()
    assert len(fetched) == 1
    wall[0], steady[0] = wall[0] - 86_400.0, steady[0] + 3_400.0
    held.headers()
    until(lambda: len(fetched) == 2, PATIENCE_S)
    wall[0] += 3_400.0
    held.headers()
    until(lambda: len(fetched) == 3, PATIENCE_S)


def test_no_token_where_one_must_be_shown_is_an_error() -> None:
    def nothing(audience: str) -> str:
        raise ConfigError(f"no ID token for {audience}")

    with pytest.raises(ConfigError, match="no ID token for aud"):
        Credentials("", "aud", nothing).begin()


def test_the_client_needs_httpx_and_the_core_only() -> None:
    heavy = (
        "torch",
        "gymnasium",
        "pandas",
        "fastapi",
        "uvicorn",
        "pyarrow",
        "sqlalchemy",
        "scipy",
        "prometheus_client",
    )
    found = run_python(f"import himari_rl.client, sys; print([m for m in {heavy!r} if m in sys.modules])")
    assert (found.returncode, found.stdout.strip()) == (0, "[]"), found.stderr


def test_what_is_kept_of_a_deadline_grows_with_how_late_waits_come_back_and_is_forgotten() -> None:
    """Of 150 ms: 15 at first; 1.5 times the largest lateness, a hundredth of it forgotten a call; 50 at most."""
    margin = Margin()
    assert margin.of(0.150) == pytest.approx(0.015)
    assert margin.of(0.050) == pytest.approx(0.005)
    margin.woke(-0.1)  # an answer before the end teaches nothing
    assert margin.of(0.150) == pytest.approx(0.015)
    margin.woke(0.020)
    assert margin.of(0.150) == pytest.approx(0.030)
    margin.woke(0.010)
    assert margin.of(0.150) == pytest.approx(0.030 * 0.99)
    margin.woke(0.200)
    assert margin.of(0.150) == pytest.approx(0.050)
    for _ in range(400):
        margin.woke(-0.1)
    assert margin.of(0.150) == pytest.approx(0.015)


def test_a_late_wake_shortens_the_next_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that come back 30 ms after their end, as on a busy machine: more is kept the next time."""
    real = Future.result

    def late(future: Future[bytes], timeout: float | None = None) -> bytes:
        try:
            return real(future, timeout)
        finally:
            time.sleep(0.03)

    monkeypatch.setattr(Future, "result", late)
    with faulty_server() as server:
        server.mode = "stall"
        wire = Wire(server.url, dict, 0)
        with pytest.raises(CallError, match="timeout"):
            wire.call("POST", "/predict", b"{}", 0.150)
        monkeypatch.undo()
        assert wire.margin.of(0.150) >= 0.045  # 1.5 times 30
        wire.close()
