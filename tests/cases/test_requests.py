"""Requests that people really send: what is wrong is named with its cure, and nothing of a refused request is kept.

The lines of the list of cases, each beside others of its kind, through the real application. The shared files of the
list run where they are; the others are made here.
"""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import shared_case
from helpers.asgi import AsgiClient
from helpers.bundle import SYMBOLS, make_bundle
from helpers.serving import cloud_run_server, running
from helpers.wire import GOOD, HEALTH, Wire, post
from himari_rl.features.encoder import StateEncoder
from himari_rl.schema import HOUR_MS, MINUTE_MS, Bars
from himari_rl.serving.http.app import Api, create_app
from himari_rl.serving.messages import EXAMPLE_STATE
from himari_rl.serving.settings import ServeSettings

TIME = 1_767_225_600_000  # 2026-01-01T00:00Z
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")


def closes(count: int, seed: int = 0) -> list[float]:
    return (87_000.0 * np.exp(np.random.default_rng(seed).normal(0, 0.005, count).cumsum())).round(2).tolist()


PRICES = closes(80)


def request(hour: int = 0, *, history: int = 20, **changes: Any) -> dict[str, Any]:
    """What a client sends at the close of the bar of TIME + hour; `changes` by "part.field", or a whole field."""
    body: dict[str, Any] = {
        "bar": {"timestamp": TIME + hour * HOUR_MS, "close": PRICES[30 + hour]},
        "signal": {"action": "BUY", "confidence": 0.82, "tier": "T2", "cascade_risk": 0.05},
        "account": {"exposure": 0.25, "unrealised_pnl": 0.02, "win_rate": 0.6},
    }
    if history:
        body["history"] = [[TIME + (hour - k) * HOUR_MS, PRICES[30 + hour - k]] for k in range(history, 0, -1)]
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = body
        for parent in parents:
            place = place[parent]
        place[last] = value
    return body


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"), hidden=(8,))


@pytest.fixture
def app(folder: Path) -> Api:
    return create_app(folder)


@pytest.fixture
def client(app: Api) -> Iterator[AsgiClient]:
    with AsgiClient(app) as client:
        yield client


def decide(client: Any, body: dict[str, Any], status: int = 200, **headers: str) -> Any:
    text = json.dumps(body)  # NaN and Infinity too, as many clients write them
    response = client.post("/v1/decide", content=text, headers=headers)
    assert response.status_code == status, response.text
    return response.json()


def refusal(client: Any, body: dict[str, Any], *said: str) -> dict[str, Any]:
    """The first problem of a refused request, which names all of `said` and a cure."""
    first: dict[str, Any] = decide(client, body, 422)["detail"][0]
    assert all(text in first["msg"] for text in said), first
    assert first["cure"]
    return first


# ---- the shared files of the list


def shared_request(name: str) -> Any:
    path = shared_case("requests", name)
    return json.loads(path.read_bytes())


@pytest.mark.parametrize(
    ("name", "path", "status", "said"),
    [
        ("decide_ok.json", "/v1/decide", 200, []),
        ("decide_seconds.json", "/v1/decide", 422, ["timestamp is in seconds", "send ms"]),
        ("decide_1m_history.json", "/v1/decide", 422, ["history is 60 s apart", "this policy was trained on 1 h bars"]),
        (
            "decide_exposure_percent.json",
            "/v1/decide",
            422,
            ["exposure 25 is beyond the ledger's largest 1.0", "fraction of equity"],
        ),
        ("decide_gap_40d.json", "/v1/decide", 200, []),
        ("predict_nested.json", "/predict", 422, ["one list too many"]),
        ("predict_instances.json", "/v1/batch", 200, []),
    ],
)
def test_the_shared_requests(client: AsgiClient, name: str, path: str, status: int, said: list[str]) -> None:
    response = client.post(path, json=shared_request(name))
    assert response.status_code == status, response.text
    if status == 422:
        assert all(text in response.json()["detail"][0]["msg"] for text in said), response.text
    if "gap" in name:
        assert response.json()["gap"]["missing_bars"] == 40 * 24
    if "ok" in name:
        assert "gap" not in response.json()


# ---- held: what is right stays right


def test_an_ordinary_request_is_answered_with_the_state_of_the_batch_encoder(client: AsgiClient) -> None:
    answer = decide(client, request())
    close = np.array(PRICES[10:31])
    bars = Bars(
        symbol="BTC-USDT",
        timestamp=TIME + HOUR_MS * np.arange(-20, 1),
        **dict.fromkeys(("open", "high", "low", "close"), close),  # type: ignore[arg-type]
        volume=np.ones(21),
        interval_ms=HOUR_MS,
        source="by hand",
    )
    np.testing.assert_allclose(answer["state"][11:14], StateEncoder().market_rows(bars)[-1, 11:14], atol=1e-12)
    assert not {"gap", "corrected", "repeated", "flat"} & set(answer)


# ---- time units


@pytest.mark.parametrize(("unit", "per_s"), [("seconds", 1), ("microseconds", 10**6), ("nanoseconds", 10**9)])
@pytest.mark.parametrize("where", ["bar", "history", "both"])
def test_a_time_in_another_unit_is_named_wherever_it_stands(
    client: AsgiClient, unit: str, per_s: int, where: str
) -> None:
    body = request()
    if where != "history":
        body["bar"]["timestamp"] = body["bar"]["timestamp"] * per_s // 1000
    if where != "bar":
        body["history"] = [[time * per_s // 1000, close] for time, close in body["history"]]
    first = refusal(client, body, f"timestamp is in {unit}", "send ms")
    assert first["loc"][1] == ("history" if where == "history" else "bar")


@pytest.mark.parametrize(
    "when",
    [TIME / 1000, TIME / 1000 + 0.25, str(TIME), "2026-01-01T00:00:00Z", -TIME, 0, 10**30, TIME + 0.5, True, None],
)
def test_what_is_no_time_in_ms_is_refused_in_bar_history_and_predict(client: AsgiClient, when: Any) -> None:
    assert refusal(client, request(bar__timestamp=when), "timestamp is", "ms")["loc"] == ["body", "bar", "timestamp"]
    body = request()
    body["history"][3][0] = when
    assert refusal(client, body, "timestamp is", "ms")["loc"] == ["body", "history", 3, 0]
    response = client.post("/predict", json={"state": EXAMPLE_STATE, "session_id": "x", "timestamp": when})
    assert response.status_code == 422


def test_sessions_of_recurrent_policies_name_the_unit_too(tmp_path: Path) -> None:
    with AsgiClient(create_app(make_bundle(tmp_path, "lstm", hidden=(4,)))) as client:
        for time, unit in ((TIME // 1000, "seconds"), (TIME * 1000, "microseconds")):
            response = client.post("/predict", json={"state": EXAMPLE_STATE, "session_id": "x", "timestamp": time})
            assert f"timestamp is in {unit}" in response.json()["detail"][0]["msg"]


# ---- interval, grid, distinct bars


@pytest.mark.parametrize(
    ("step", "said"), [(MINUTE_MS, "60 s"), (5 * MINUTE_MS, "300 s"), (4 * HOUR_MS, "4 h"), (24 * HOUR_MS, "1 d")]
)
def test_a_history_of_other_bars_is_refused(client: AsgiClient, step: int, said: str) -> None:
    rows = [[TIME - k * step, PRICES[30 - k]] for k in range(20, 0, -1)]
    refusal(client, request() | {"history": rows}, f"history is {said} apart", "1 h bars")


@pytest.mark.parametrize("late", [1, MINUTE_MS, 30 * MINUTE_MS, HOUR_MS - 1])
def test_bars_off_the_training_grid_are_refused(client: AsgiClient, late: int) -> None:
    body = request()
    body["bar"]["timestamp"] += late
    body["history"] = [[time + late, close] for time, close in body["history"]]
    assert refusal(client, body, "after the opening of a 1 h bar")["loc"] == ["body", "bar", "timestamp"]


@pytest.mark.parametrize("moving", [False, True], ids=["the last bar twenty times", "an open bar polled"])
@pytest.mark.parametrize("known", [False, True])
def test_one_bar_many_times_is_one_bar(client: AsgiClient, moving: bool, known: bool) -> None:
    if known:
        decide(client, request(-1, session_id="s"))
    rows = [[TIME - HOUR_MS, PRICES[29] + k * moving] for k in range(20)]
    body = request(session_id="s") | {"history": rows}
    refusal(client, body, "1 distinct bar, 20 needed")


def test_an_open_bar_polled_each_minute_is_one_bar_corrected(client: AsgiClient) -> None:
    """The same opening time with a moving close: the windows hold it once, with its last close."""
    decide(client, request(0, session_id="polled"))
    for k in range(30):
        said = decide(client, request(1, history=0, session_id="polled", bar__close=PRICES[31] + k))
        assert said.get("corrected", False) is (k > 0)
    final = decide(client, request(1, history=0, session_id="polled"))
    assert final["state"] == decide(client, request(1, history=21))["state"]


def test_history_in_any_order_and_with_rows_twice_is_the_same_history(client: AsgiClient) -> None:
    body = request()
    expected = decide(client, body)["state"]
    rows = body["history"] + body["history"][:7]
    random.Random(0).shuffle(rows)
    assert decide(client, body | {"history": rows})["state"] == expected
    refusal(client, body | {"history": [*rows, [rows[0][0], rows[0][1] + 1]]}, "twice")


def test_a_bar_older_than_its_history_is_refused(client: AsgiClient) -> None:
    for older in (TIME - HOUR_MS, TIME - 5 * HOUR_MS, TIME - 100 * HOUR_MS):
        refusal(client, request(bar__timestamp=older), "history reaches the bar itself")


def test_a_feed_that_stands_still_is_said(client: AsgiClient) -> None:
    body = request(bar__close=100.0)
    assert "flat" not in decide(
        client, body | {"history": [[t, 101.0 + k % 2] for k, (t, _) in enumerate(body["history"])]}
    )
    said = decide(client, body | {"history": [[time, 100.0] for time, _ in body["history"]]})
    assert said["flat"] == ["BTC-USDT"]
    assert said["state"][13] == 0.0


# ---- the account


@pytest.mark.parametrize("exposure", [25, 25.0, 50, -25, 1.2, 100, 1e308, -1.5])
def test_an_exposure_in_per_cent_is_refused(client: AsgiClient, exposure: float) -> None:
    body = request(account__exposure=exposure)
    first = refusal(client, body, f"exposure {exposure:.10g} is beyond the ledger's largest 1.0", "fraction of equity")
    assert first["loc"] == ["body", "account", "exposure"]


@pytest.mark.parametrize("exposure", [0, 0.25, 0.5, 0.999, 1.0, 1])
def test_an_exposure_that_the_ledger_can_have_ordered_is_answered(client: AsgiClient, exposure: float) -> None:
    assert decide(client, request(account__exposure=exposure, account__unrealised_pnl=0.0))["state"][8] == exposure


@pytest.mark.parametrize("pnl", [2.0, -5, 100, 0.8])
def test_a_profit_in_per_cent_is_refused(client: AsgiClient, pnl: float) -> None:
    refusal(client, request(account__unrealised_pnl=pnl), "unrealised_pnl", "fraction of equity")


@pytest.mark.parametrize("field", ["signal__confidence", "signal__cascade_risk", "account__win_rate"])
@pytest.mark.parametrize("value", [82, 60.0, 1.5, -0.1])
def test_a_share_in_per_cent_is_refused(client: AsgiClient, field: str, value: float) -> None:
    first = refusal(client, request(**{field: value}), "expected a share in [0, 1]", "per cent")
    assert first["loc"] == ["body", *field.split("__")]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400, "0.5", None, [1], True])
@pytest.mark.parametrize(
    "field", ["bar__close", "account__exposure", "account__unrealised_pnl", "account__win_rate", "signal__confidence"]
)
def test_what_is_no_finite_number_is_refused_by_name(client: AsgiClient, field: str, value: Any) -> None:
    assert refusal(client, request(**{field: value}))["loc"] == ["body", *field.split("__")]


def test_several_assets_name_the_one_that_is_wrong(tmp_path: Path) -> None:
    symbols = SYMBOLS["multi"]
    with AsgiClient(create_app(make_bundle(tmp_path, "multi", hidden=(4,)))) as client:
        body: dict[str, Any] = {"assets": {symbol: request(account__exposure=0.3) for symbol in symbols}}
        decide(client, body)
        for place, value, said in (
            (("account", "exposure"), 30, "beyond the ledger's largest"),
            (("bar", "close"), 1e308, "within a factor of 10"),
            (("bar", "timestamp"), TIME // 1000, "in seconds"),
        ):
            wrong = deepcopy(body)
            wrong["assets"][symbols[1]][place[0]][place[1]] = value
            assert refusal(client, wrong, said)["loc"] == ["body", "assets", symbols[1], *place]
        for asset in body["assets"].values():
            asset["account"]["exposure"] = 0.9
        refusal(client, body, "the exposures sum to 2.7")


# ---- the clock


def at(app: Api, now_ms: float) -> None:
    app.state.service.clock = lambda: now_ms / 1000.0


def test_a_bar_that_has_not_closed_is_refused_unless_the_setting_takes_it(app: Api, folder: Path) -> None:
    with AsgiClient(app) as client:
        at(app, TIME + HOUR_MS)
        assert "bar_age_s" not in decide(client, request())
        at(app, TIME + HOUR_MS / 2)
        refusal(client, request(), "has not closed")
        at(app, TIME - HOUR_MS / 2)
        refusal(client, request(), "has not closed")
    taking = create_app(folder, ServeSettings(open_bars=True))
    with AsgiClient(taking) as client:
        at(taking, TIME + HOUR_MS / 2)
        decide(client, request())
        at(taking, TIME - HOUR_MS / 2)
        refusal(client, request(), "has not closed")


def test_a_stale_bar_is_refused_where_the_setting_says_so_and_else_its_age_is_said(app: Api, folder: Path) -> None:
    with AsgiClient(app) as client:
        at(app, TIME + 5 * HOUR_MS)
        assert decide(client, request())["bar_age_s"] == 4 * 3600
    strict = create_app(folder, ServeSettings(max_bar_age_s=7200))
    with AsgiClient(strict) as client:
        at(strict, TIME + 3 * HOUR_MS)
        decide(client, request())
        at(strict, TIME + 5 * HOUR_MS)
        refusal(client, request(), "is stale", "at most 2 h")


# ---- closes, corrections, gaps, streams


@pytest.mark.parametrize("close", [1e308, 1e300, 1e9, 87e4 * 10, 8.7, 1e-300, 5e-324, 0, -87_000])
def test_an_absurd_close_is_refused_and_nothing_is_kept(client: AsgiClient, close: float) -> None:
    decide(client, request(0, session_id="a"))
    for hour in (0, 1, 5):  # a correction, the next bar, one after a gap
        decide(client, request(hour, history=0, session_id="a", bar__close=close), 422)
    for hour in range(1, 25):
        found = decide(client, request(hour, history=0, session_id="a"))
        assert found["state"] == decide(client, request(hour, history=20 + hour))["state"]
    poisoned = request()
    poisoned["history"][5][1] = close
    decide(client, poisoned, 422)


def test_the_present_bar_may_be_corrected_and_an_older_one_not(client: AsgiClient) -> None:
    for hour in range(3):
        decide(client, request(hour, history=20 * (hour == 0), session_id="c"))
    wrong = decide(client, request(3, history=0, session_id="c", bar__close=PRICES[33] * 1.05))
    right = decide(client, request(3, history=0, session_id="c"))
    assert right["corrected"] is True
    assert right["state"] != wrong["state"]
    assert right["state"] == decide(client, request(3, history=23))["state"]
    assert decide(client, request(3, history=0, session_id="c"))["repeated"] is True
    refusal(client, request(2, history=0, session_id="c"), "in the order of time")


def test_a_gap_is_said_with_its_bars(client: AsgiClient) -> None:
    decide(client, request(0, session_id="g"))
    assert decide(client, request(4, history=0, session_id="g"))["gap"] == {"rule": "one_return", "missing_bars": 3}
    assert "gap" not in decide(client, request(5, history=0, session_id="g"))
    holes = request()
    holes["history"] = [[time - 5 * HOUR_MS * (k < 10), close] for k, (time, close) in enumerate(holes["history"])]
    assert decide(client, holes)["gap"]["missing_bars"] == 5


def test_without_a_session_nothing_is_kept_and_the_history_comes_along(client: AsgiClient) -> None:
    decide(client, request(0))
    first = refusal(client, request(1, history=0), "no session_id", "0 distinct bars, 20 needed")
    assert first["loc"] == ["body", "history"]
    other = request(1, bar__close=1000.0)
    other["history"] = [[time, 1000.0 + k % 3] for k, (time, _) in enumerate(other["history"])]
    decide(client, other)  # another client, another market: nobody's stream is touched
    assert decide(client, request(1))["state"] == decide(client, request(1))["state"]


def test_one_name_of_two_clients_is_two_streams(folder: Path) -> None:
    app = create_app(folder, ServeSettings(api_keys=("one", "two")))
    with AsgiClient(app) as client:
        decide(client, request(0, session_id="s"), **{"x-api-key": "one"})
        unknown = decide(client, request(1, history=0, session_id="s"), 422, **{"x-api-key": "two"})
        assert "is new here" in unknown["detail"][0]["msg"]
        other = request(0, session_id="s")
        other["history"] = [[time, close * 0.97] for time, close in other["history"]]
        decide(client, other, **{"x-api-key": "two"})
        states = {
            key: decide(client, request(1, history=0, session_id="s"), **{"x-api-key": key})["state"]
            for key in ("one", "two")
        }
        assert states["one"] == decide(client, request(1, history=21), **{"x-api-key": "one"})["state"]
        assert states["one"] != states["two"]


def test_without_keys_the_address_tells_clients_apart(folder: Path) -> None:
    app = create_app(folder)
    with AsgiClient(app, "10.0.0.1") as one:
        two = AsgiClient(app, "10.0.0.2")
        decide(one, request(0, session_id="s"))
        decide(one, request(1, history=0, session_id="s"))
        refusal(two, request(1, history=0, session_id="s"), "is new here")


def test_a_recurrent_policys_session_belongs_to_its_client_on_every_path(tmp_path: Path) -> None:
    place = make_bundle(tmp_path, "lstm", hidden=(4,))
    app = create_app(place, ServeSettings(api_keys=("one", "two")))
    with AsgiClient(app) as client:
        started = []
        for hour, key in ((0, "one"), (1, "one"), (2, "two"), (2, "one")):
            body = {"state": EXAMPLE_STATE, "session_id": "s", "timestamp": TIME + hour * HOUR_MS}
            started.append(client.post("/predict", json=body, headers={"x-api-key": key}).json()["memory_started"])
        assert started == [True, False, True, False]
    with running(create_app(place)) as client:  # the shortcut, the fast path's middleware and the route: one client
        for hour, path in enumerate(("/predict", "/predict?a=1", "/predict")):
            extra = {"memory": None} if hour == 1 else {}
            body = {"state": EXAMPLE_STATE, "session_id": "s", "timestamp": TIME + hour * HOUR_MS, **extra}
            assert client.post(path, json=body).json()["memory_started"] is (hour == 0)


def test_a_stream_outlives_a_swap_of_the_policy_and_the_memory_says_that_it_does_not(tmp_path: Path) -> None:
    make_bundle(tmp_path, "lstm", hidden=(4,))
    with running(create_app(tmp_path / "bundle", ServeSettings(reload_s=60))) as client:
        decide(client, request(0, session_id="s"))
        make_bundle(tmp_path, "lstm", hidden=(4,), weights_seed=3)
        assert client.post("/admin/reload").json()["swapped"] is True
        answer = decide(client, request(1, history=0, session_id="s"))
        assert answer["gap"]["reason"] == "another policy answers now"
        assert answer["state"] == decide(client, request(1, history=21))["state"]


BAD: list[dict[str, Any]] = [
    {"bar__close": 1e308},
    {"bar__close": 1e-9},
    {"bar__close": float("nan")},
    {"bar__timestamp": TIME // 1000},
    {"bar__timestamp": TIME + 1},
    {"bar__timestamp": TIME - 500 * HOUR_MS},
    {"account__exposure": 25},
    {"account__unrealised_pnl": 40},
    {"signal__confidence": 82},
    {"history": [[TIME - HOUR_MS, 87_000.0]] * 20},
    {"history": [[TIME - k * MINUTE_MS, 87_000.0 + k] for k in range(20, 0, -1)]},
    {"symbol": "ETH-USDT"},
]


@settings(max_examples=15, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["base", "lstm"]))
def test_good_requests_are_answered_as_if_the_refused_ones_between_them_had_not_been(
    data: st.DataObject, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("fuzz")
    apps = [create_app(make_bundle(place, kind, hidden=(4,))) for _ in range(2)]
    with AsgiClient(apps[0]) as disturbed, AsgiClient(apps[1]) as quiet:
        hour = 0
        for step in range(data.draw(st.integers(3, 12))):
            for _ in range(data.draw(st.integers(0, 3))):
                bad = request(hour + data.draw(st.integers(0, 2)), history=0, session_id="s")
                for name, value in data.draw(st.sampled_from(BAD)).items():
                    *parents, last = name.split("__")
                    (bad[parents[0]] if parents else bad)[last] = value
                decide(disturbed, bad, 422)
            corrected = {"bar__close": PRICES[30 + hour] * data.draw(st.sampled_from([1.0, 1.01]))}
            good = request(hour, history=20 * (step == 0), session_id="s", **corrected)
            answers = [decide(client, good) for client in (disturbed, quiet)]
            for answer in answers:
                answer.pop("latency_ms"), answer.pop("bar_age_s", None)
            assert answers[0] == answers[1]
            hour += data.draw(st.integers(0, 2))


@pytest.mark.parametrize("kind", ["base", "lstm"])
def test_a_policy_that_has_no_answer_leaves_the_stream_as_it_was(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused after the encoder took the bar: it is taken back, and the bar before it can still be corrected."""
    app = create_app(make_bundle(tmp_path, kind, hidden=(4,)))
    with AsgiClient(app) as client:
        decide(client, request(0, session_id="s"))
        decide(client, request(1, history=0, session_id="s"))
        policy = app.state.service.slot.policy
        for hour in (1, 2):
            with monkeypatch.context() as patched:
                patched.setattr(policy, "step", lambda *_: 1 / 0)
                body = request(hour, history=0, session_id="s", bar__close=PRICES[31] * 1.02)
                assert client.post("/v1/decide", json=body).status_code == 500
        expected = decide(client, request(1, history=21))["state"]
        again = decide(client, request(1, history=0, session_id="s"))
        assert (again["state"], again["repeated"]) == (expected, True)
        decide(client, request(1, history=0, session_id="s", bar__close=PRICES[31] * 1.02))
        assert decide(client, request(2, history=0, session_id="s", bar__close=PRICES[32]))["state"][13] > 0.0


# ---- the wire


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"state": [EXAMPLE_STATE]}),
        ("/predict", {"state": [[EXAMPLE_STATE]]}),
        ("/predict", {"state": [EXAMPLE_STATE, EXAMPLE_STATE]}),
        ("/v1/batch", {"instances": [[EXAMPLE_STATE]]}),
        ("/v1/batch", {"instances": [{"state": [EXAMPLE_STATE]}]}),
    ],
)
def test_one_list_too_many_is_named(client: AsgiClient, path: str, body: Any) -> None:
    response = client.post(path, json=body)
    assert response.status_code == 422
    assert "one list too many" in response.json()["detail"][0]["msg"]


def test_instances_go_to_the_batch_and_predict_says_so(client: AsgiClient) -> None:
    assert client.post("/v1/batch", json={"instances": [EXAMPLE_STATE]}).status_code == 200
    assert "POST /v1/batch" in client.post("/predict", json={"instances": [EXAMPLE_STATE]}).json()["detail"][0]["cure"]


@pytest.mark.parametrize("path", ["/predict", "/v1/decide", "/v1/batch"])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", ""])
def test_a_compressed_body_is_named(client: AsgiClient, path: str, coding: str) -> None:
    headers = {"content-encoding": coding} if coding else {}
    response = client.post(path, content=gzip.compress(GOOD), headers=headers)
    assert response.status_code == 415
    assert "content-encoding is " + (coding or "gzip") in response.json()["detail"]


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/metrics"])
def test_head_is_answered_as_get_without_its_body(client: AsgiClient, path: str) -> None:
    head, got = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert client.head("/nothing").status_code == 404
    assert client.head("/predict").status_code == 405


def pieces(name: str) -> list[bytes]:
    """A conversation whose requests offer h2c, in the pieces in which it arrives."""
    whole = post(GOOD, *H2C)
    head = "\r\n".join(["POST /predict HTTP/1.1", "Host: t", "Transfer-Encoding: chunked", *H2C, "", ""]).encode()
    health = HEALTH.replace(b"Host: t\r\n", "\r\n".join(["Host: t", *H2C, ""]).encode())
    return {
        "one": [whole],
        "kept alive": [whole, whole, post(), whole],
        "pipelined": [whole + post() + whole],
        "cut in the head": [whole[:60], whole[60:], post()],
        "cut in the body": [whole[:-30], whole[-30:], post()],
        "chunked": [head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD), post()],
        "get": [health, post(), health + post()],
        "keep-alive too": [post(GOOD, "Connection: keep-alive, Upgrade, HTTP2-Settings", *H2C[1:]), post()],
        "websocket": [post(GOOD, "Connection: Upgrade", "Upgrade: websocket"), post()],
    }[name]


@pytest.mark.parametrize("turbo", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "one",
        "kept alive",
        "pipelined",
        "cut in the head",
        "cut in the body",
        "chunked",
        "get",
        "keep-alive too",
        "websocket",
    ],
)
def test_an_offer_of_another_protocol_is_ignored(upgrading: dict[bool, int], turbo: bool, name: str) -> None:
    wire = Wire(upgrading[turbo])
    with wire.socket:
        for piece in pieces(name):
            wire.socket.sendall(piece)
            time.sleep(0.05 * ("cut" in name))  # so that it arrives alone
            if "cut" not in name:
                assert all(wire.answer()[0] == 200 for _ in range(piece.count(b" HTTP/1.1\r\n")))
        if "cut" in name:
            assert [wire.answer()[0] for _ in range(2)] == [200, 200]


@pytest.fixture(scope="module")
def upgrading(folder: Path) -> Iterator[dict[bool, int]]:
    """Ports of a server with the shortcut and one without."""
    with running(create_app(folder)) as on, running(create_app(folder, ServeSettings(turbo=False))) as off:
        yield {True: on.base_url.port, False: off.base_url.port}  # type: ignore[dict-item]


def test_the_server_of_the_container_answers_h2c_offers_and_head(folder: Path) -> None:
    with cloud_run_server(folder) as (_, client):
        headers = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQ"}
        for _ in range(2):
            assert client.post("/predict", content=GOOD, headers=headers).status_code == 200
        assert client.head("/health").status_code == 200
        assert client.post("/v1/decide", json=request(), headers=headers).status_code == 200


def test_connect_is_refused(upgrading: dict[bool, int]) -> None:
    """It has no body and no other protocol to go on with: reading its head again would never end."""
    for port in upgrading.values():
        wire = Wire(port)
        with wire.socket:
            wire.socket.sendall(b"CONNECT t:80 HTTP/1.1\r\nHost: t\r\n\r\n")
            assert wire.socket.recv(100).startswith(b"HTTP/1.1 400")
