"""POST /v1/decide: the server's state is the training encoder's, bar by bar, and a stream never starts half blind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.bundle import SYMBOLS, make_bundle
from helpers.serving import running
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.features.contract import WIDTH
from himari_rl.features.encoder import StateEncoder, write_account
from himari_rl.features.validation import validate_state
from himari_rl.policy.runtime import load_policy
from himari_rl.schema import HOUR_MS, Bars, Layer2
from himari_rl.serving.http.app import create_app
from himari_rl.serving.messages import EXAMPLE_TIME, DecideRequest
from himari_rl.serving.service import Service
from himari_rl.serving.settings import ServeSettings

ACTIONS = ("SELL", "HOLD", "BUY")
ROWS = 60
WARM = 30


def market(symbol: str, seed: int) -> Bars:
    """Synthetic bars with made-up Layer 2 columns."""
    from dataclasses import replace

    rng = np.random.default_rng(seed)
    bars = synthetic_bars(ROWS, seed)
    said = Layer2(
        action=rng.integers(-1, 2, ROWS),
        confidence=rng.uniform(size=ROWS),
        tier=rng.integers(1, 5, ROWS),
        cascade_risk=rng.uniform(0, 0.5, ROWS),
        supplied=True,
    )
    return replace(bars, symbol=symbol, signals=said)


def asset(bars: Bars, row: int, *, history: int = 0) -> dict[str, Any]:
    """What a client sends about one asset at one close."""
    said = bars.signals
    assert said is not None
    sent: dict[str, Any] = {
        "bar": {"timestamp": int(bars.timestamp[row]), "close": float(bars.close[row])},
        "signal": {
            "action": ACTIONS[said.action[row] + 1],
            "confidence": float(said.confidence[row]),
            "tier": f"T{said.tier[row]}",
            "cascade_risk": float(said.cascade_risk[row]),
        },
        "account": {"exposure": 0.2, "unrealised_pnl": -0.01, "win_rate": 0.6},
    }
    if history:
        past = range(row - history, row)
        sent["history"] = [[int(bars.timestamp[i]), float(bars.close[i])] for i in past]
    return sent


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("bundles")
    return {kind: make_bundle(place, kind, name=kind, hidden=(8,)) for kind in ("base", "multi", "lstm")}


@pytest.fixture
def base(folders: dict[str, Path]) -> Iterator[httpx.Client]:
    with running(create_app(folders["base"])) as client:
        yield client


def decide(client: httpx.Client, status: int = 200, **body: Any) -> Any:
    """The answer to a request of the session "own", unless `body` names another."""
    response = client.post("/v1/decide", json={"session_id": "own"} | body)
    assert response.status_code == status, response.text
    return response.json()


def test_the_state_is_the_one_that_training_saw(base: httpx.Client) -> None:
    """The batch encoder over the whole history, the account columns from the ledger's own function."""
    bars = market("BTC-USDT", 3)
    expected = StateEncoder(("BTC-USDT",)).market_rows(bars)
    write_account(expected, *(np.full((ROWS, 1), value) for value in (0.2, -0.01, 0.6)), max_position_pct=0.5)
    for row in range(WARM, ROWS):
        answer = decide(base, **asset(bars, row, history=WARM if row == WARM else 0))
        np.testing.assert_allclose(answer["state"], expected[row], atol=1e-12)
        again = base.post("/predict", json={"state": answer["state"]}).json()
        for name in ("position_multiplier", "confidence", "model_version"):
            assert answer[name] == again[name]


def test_several_assets_come_together(folders: dict[str, Path]) -> None:
    panel = [market(symbol, seed) for seed, symbol in enumerate(SYMBOLS["multi"])]
    _, expected = StateEncoder(SYMBOLS["multi"]).panel_rows(panel)
    held = np.tile([0.2, -0.01, 0.6], (3, 1)).T
    write_account(expected, *(np.tile(column, (ROWS, 1)) for column in held), max_position_pct=0.5)
    with running(create_app(folders["multi"])) as client:
        for row in range(WARM, WARM + 5):
            history = WARM if row == WARM else 0
            answer = decide(client, assets={b.symbol: asset(b, row, history=history) for b in panel})
            assert set(answer["position_multipliers"]) == set(SYMBOLS["multi"])
            np.testing.assert_allclose(answer["state"], expected[row], atol=1e-12)
        some = {b.symbol: asset(b, WARM + 5) for b in panel[:2]}
        assert "exactly BTC-USDT, ETH-USDT, SOL-USDT" in decide(client, 422, assets=some)["detail"][0]["msg"]
        late = {b.symbol: asset(b, WARM + 5 + i) for i, b in enumerate(panel)}
        assert "the bars are of times" in decide(client, 422, assets=late)["detail"][0]["msg"]


def test_a_stream_without_history_is_refused_until_its_windows_are_full(base: httpx.Client) -> None:
    bars = market("BTC-USDT", 4)
    (problem,) = decide(base, 422, **asset(bars, WARM))["detail"]
    assert problem["loc"] == ["body", "history"]
    assert "is new here and has 0 earlier bars" in problem["msg"]
    assert "expected at least 20" in problem["msg"]
    decide(base, 422, **asset(bars, WARM, history=19))
    enough = decide(base, **asset(bars, WARM, history=20))
    assert enough["state"][13] == pytest.approx(StateEncoder().market_rows(bars)[WARM, 13], rel=1e-9)  # 20 returns


def test_a_bar_sent_twice_is_answered_the_same_or_corrected_and_an_older_one_is_refused(base: httpx.Client) -> None:
    bars = market("BTC-USDT", 5)
    decide(base, **asset(bars, WARM, history=WARM))
    first = decide(base, **asset(bars, WARM + 1))
    again = decide(base, **asset(bars, WARM + 1))
    assert again["state"] == first["state"]
    assert "repeated" not in first
    assert again["repeated"] is True
    other = asset(bars, WARM + 1)
    other["bar"]["close"] *= 1.01
    corrected = decide(base, **other)
    assert corrected["corrected"] is True
    assert corrected["state"][13] != first["state"][13]
    assert decide(base, **asset(bars, WARM + 1))["state"] == first["state"]  # and back
    (problem,) = decide(base, 422, **asset(bars, WARM))["detail"]
    assert problem["loc"] == ["body", "bar", "timestamp"]
    assert "in the order of time" in problem["msg"]
    untouched = decide(base, **asset(bars, WARM + 2))
    np.testing.assert_allclose(untouched["state"][13], StateEncoder().market_rows(bars)[WARM + 2, 13], atol=1e-12)


def test_sessions_keep_their_bars_apart_and_another_symbol_is_refused(base: httpx.Client) -> None:
    one, two = market("BTC-USDT", 6), market("BTC-USDT", 7)
    decide(base, session_id="one", **asset(one, WARM, history=WARM))
    decide(base, session_id="two", **asset(two, WARM, history=WARM))
    for name, bars in (("one", one), ("two", two)):
        state = decide(base, session_id=name, **asset(bars, WARM + 1))["state"]
        np.testing.assert_allclose(state[13], StateEncoder().market_rows(bars)[WARM + 1, 13], atol=1e-12)
    (problem,) = decide(base, 422, symbol="ETH-USDT", **asset(one, WARM + 2))["detail"]
    assert "exactly BTC-USDT" in problem["msg"]


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("bar", "close", 0),
        ("bar", "close", "1"),
        ("bar", "timestamp", -1),
        ("bar", "timestamp", 1.5),
        ("signal", "action", "buy"),
        ("signal", "confidence", 1.1),
        ("signal", "tier", "T5"),
        ("signal", "cascade_risk", None),
        ("account", "win_rate", -0.1),
        ("account", "exposure", "0.2"),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_name(base: httpx.Client, part: str, field: str, value: Any) -> None:
    sent = asset(market("BTC-USDT", 8), WARM, history=WARM)
    sent[part][field] = value
    assert decide(base, 422, **sent)["detail"][0]["loc"] == ["body", part, field]


def test_a_recurrent_policy_remembers_in_its_stream_and_says_when_bars_were_missing(folders: dict[str, Path]) -> None:
    bars = market("BTC-USDT", 9)
    with running(create_app(folders["lstm"], ServeSettings(max_sessions=1))) as client:
        assert decide(client, **asset(bars, WARM, history=WARM))["memory_started"] is True
        second = decide(client, **asset(bars, WARM + 1))
        assert second["memory_started"] is False
        fresh = client.post("/predict", json={"state": second["state"]}).json()
        assert fresh["confidence"] == second["confidence"]  # the same state
        after_gap = decide(client, **asset(bars, WARM + 4))
        assert after_gap["gap"] == {"rule": "reset", "missing_bars": 2}
        full = client.post("/v1/decide", json={"session_id": "more", **asset(bars, WARM, history=WARM)})
        assert full.status_code == 429
        assert full.headers["retry-after"]


def test_the_example_of_the_documentation_is_answered(base: httpx.Client) -> None:
    (example,) = DecideRequest.model_config["json_schema_extra"]["examples"]  # type: ignore[index,call-overload]
    answer = decide(base, **example)
    assert len(answer["state"]) == WIDTH
    assert answer["state"][8] == pytest.approx(0.25 / (2 * 0.5))  # |exposure| over twice the base position


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Service]:
    place = tmp_path_factory.mktemp("services")
    kinds = ("base", "multi")
    found = {kind: Service(load_policy(make_bundle(place, kind, name=kind)), ServeSettings()) for kind in kinds}
    for service in found.values():
        service.load()
    return found


@given(
    kind=st.sampled_from(["base", "multi"]),
    seed=st.integers(0, 10**6),
    rows=st.integers(20, 200),
    moved=st.sampled_from([0.0, 1e-9, 0.01, 2.0]),
)
@settings(max_examples=60, deadline=None)
def test_whatever_may_arrive_the_state_is_one_that_predict_takes(
    services: dict[str, Service], kind: str, seed: int, rows: int, moved: float
) -> None:
    """The server does not look at its own state again. Prices move by up to what is allowed between two bars."""
    rng, symbols = np.random.default_rng(seed), SYMBOLS[kind]

    def sent() -> dict[str, Any]:
        swings = np.clip(moved * rng.normal(size=rows + 1), -1.1, 1.1)  # neighbours within a factor of ten
        closes = 10.0 ** rng.uniform(-300.0, 300.0) * np.exp(swings)
        times = [EXAMPLE_TIME - back * HOUR_MS for back in range(rows, -1, -1)]
        kept = rng.uniform(size=rows + 1) < (0.95 if rows > 60 else 1.0)
        past = [[time, close] for time, close, here in zip(times, closes.tolist(), kept, strict=True) if here]
        exposure = float(rng.choice([0.0, rng.uniform(0.0, 1.0 / len(symbols))]))
        return {
            "bar": {"timestamp": EXAMPLE_TIME + HOUR_MS, "close": float(closes[-1] * rng.uniform(0.4, 2.5))},
            "signal": {
                "action": str(rng.choice(["STRONG_SELL", "SELL", "HOLD", "BUY", "STRONG_BUY"])),
                "confidence": float(rng.choice([0.0, 1.0, rng.uniform()])),
                "tier": f"T{rng.integers(1, 5)}",
                "cascade_risk": float(rng.choice([0.0, 1.0, rng.uniform()])),
            },
            "account": {
                "exposure": exposure,
                "unrealised_pnl": exposure * float(rng.uniform(-1.0, 1.0)),
                "win_rate": float(rng.uniform()),
            },
            "history": past,
        }

    body = sent() if kind == "base" else {"assets": {symbol: sent() for symbol in symbols}}
    state = services[kind].decide(DecideRequest.model_validate(body))["state"]
    validate_state(state, services[kind].ready().dim, symbols)
    assert len(state) == services[kind].ready().dim
