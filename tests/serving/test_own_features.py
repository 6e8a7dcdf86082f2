"""A panel's own features over HTTP: each symbol's by its name, in the state where training had them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.own import NAMES, history_of, markets, trained
from helpers.serving import running
from himari_rl.features.encoder import StateEncoder
from himari_rl.features.own import with_features
from himari_rl.policy.runtime import load_policy
from himari_rl.schema import Bars
from himari_rl.serving.http.app import create_app
from himari_rl.serving.settings import ServeSettings

WORDS = ("SELL", "HOLD", "BUY")
WARM = 250


def asset(bars: Bars, row: int, history: int = 0) -> dict[str, Any]:
    """What a client sends about one symbol at one close."""
    said = bars.signals
    assert said is not None
    sent: dict[str, Any] = {
        "bar": {"timestamp": int(bars.timestamp[row]), "close": float(bars.close[row])},
        "signal": {
            "action": WORDS[said.action[row] + 1],
            "confidence": float(said.confidence[row]),
            "tier": f"T{said.tier[row]}",
            "cascade_risk": float(said.cascade_risk[row]),
        },
        "account": {"exposure": 0.2, "unrealised_pnl": 0.01, "win_rate": 0.5},
        "features": {name: float(bars.extra[name][row]) for name in reversed(NAMES)},
    }
    if history:
        past = slice(row - history, row)
        sent["history"] = list(zip(bars.timestamp[past].tolist(), bars.close[past].tolist(), strict=True))
    return sent


def test_a_panel_s_states_are_the_batch_encoder_s_with_every_symbol_s_features(tmp_path: Path) -> None:
    every = markets("multi", 900)
    folder = trained(tmp_path / "run", "multi", every)
    symbols, policy = [bars.symbol for bars in every], load_policy(folder)
    assert policy.manifest.own_features == NAMES
    assert policy.manifest.feature_names[34:] == tuple(f"{symbol}.{name}" for symbol in symbols for name in NAMES)
    seen = with_features(history_of(every), NAMES)
    _, rows = StateEncoder.of(seen).panel_rows(seen.each)
    with running(create_app(folder, ServeSettings(open_bars=True))) as client:
        ready = client.get("/ready").json()
        assert (ready["features"], ready["state_dim"]) == (list(NAMES), 38)
        for row in range(WARM, WARM + 5):
            sent = {b.symbol: asset(b, row, WARM if row == WARM else 0) for b in every}
            answer = client.post("/v1/decide", json={"session_id": "s", "assets": sent})
            assert answer.status_code == 200, answer.text
            state = np.array(answer.json()["state"])
            market = np.ones(38, bool)
            market[[8, 9, 10, 14, 24, 25, 26, 30, 33]] = False  # the account's, and the concentration
            np.testing.assert_allclose(state[market], rows[row, market], atol=1e-9)
            assert state[33] == pytest.approx(0.5)
            again = client.post("/predict", json={"state": answer.json()["state"]}).json()
            assert set(again["position_multipliers"]) == set(symbols)


def test_what_is_missing_of_which_symbol_is_named(tmp_path: Path) -> None:
    every = markets("multi", 900)
    folder = trained(tmp_path / "run", "multi", every)
    with running(create_app(folder, ServeSettings(open_bars=True))) as client:
        for features, why in (
            ({"x": 1.0}, "the request lacks the feature y of ETH-USDT"),
            (None, "the request lacks the feature x of ETH-USDT"),
            ({"x": 1.0, "y": 1.0, "z": 1.0}, "has no feature z"),
            ({"x": 1.0, "y": 2e9}, "y of ETH-USDT is 2e+09"),
        ):
            sent = {bars.symbol: asset(bars, WARM, WARM) for bars in every}
            sent["ETH-USDT"]["features"] = features
            answer = client.post("/v1/decide", json={"assets": sent})
            assert answer.status_code == 422
            assert why in answer.text
            assert "ETH-USDT.features" in str(answer.json()["detail"][0]["loc"]) or "ETH-USDT" in answer.text
        short = client.post("/predict", json={"state": [0.0] * 37})
        assert short.status_code == 422
        assert "ETH-USDT.y" in short.text


@pytest.mark.parametrize("kind", ["base", "recurrent"])
def test_one_asset_by_name_with_a_memory_or_without(tmp_path: Path, kind: str) -> None:
    [bars] = markets(kind, 900)
    folder = trained(tmp_path / "run", kind, [bars])
    rows = StateEncoder.of(with_features(bars, NAMES)).market_rows(with_features(bars, NAMES))
    with running(create_app(folder, ServeSettings(open_bars=True))) as client:
        answer = client.post("/v1/decide", json=asset(bars, WARM, 60))
        assert answer.status_code == 200, answer.text
        np.testing.assert_allclose(answer.json()["state"][16:], rows[WARM, 16:])
        without = client.post("/v1/decide", json={k: v for k, v in asset(bars, WARM, 60).items() if k != "features"})
        assert without.status_code == 422
        assert "lacks the feature x" in without.text
