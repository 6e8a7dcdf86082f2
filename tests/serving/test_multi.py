"""The whole road of a portfolio: `himari train multi`, its bundle served; other symbols, or another order, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers.bundle import valid_states
from helpers.serving import running
from himari_rl.cli import main
from himari_rl.data.synthetic_panel import synthetic_panel
from himari_rl.data.table import write_bars
from himari_rl.errors import BundleError
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.serving.http.app import create_app
from himari_rl.serving.settings import ServeSettings

ASKED = ("C-USD", "A-USD", "B-USD")  # not the alphabet's order: whoever sorts is found out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for bars in synthetic_panel(sorted(ASKED), 2_000, seed=6).bars:
        write_bars(bars, folder / f"{bars.symbol}_1h.parquet")
    return folder


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command, small."""
    out = tmp_path_factory.mktemp("run")
    asked = [
        "--symbols",
        *ASKED,
        "--num-episodes",
        "100",
        "--seeds",
        "1",
        "--hidden-dim",
        "8",
        "--device",
        "cpu",
        "--json",
    ]
    assert main(["train", "multi", "--data", str(data), "--out", str(out), *asked]) == 0
    return out / "bundle"


def allowed(policy: Policy, state: np.ndarray) -> list[float]:
    """The multipliers after the caps of policy/risk.py's text, written out: the regime's, then gross at most 1."""
    blocks = state[:48].reshape(3, 16)
    wanted, sides = [], []
    for block, multiplier in zip(blocks, policy.decide(state).multipliers, strict=True):
        volatility, risk = 0.1 * block[13], block[15]
        cap = 1.0 if volatility >= 0.03 or risk >= 0.6 else 1.5 if volatility >= 0.015 else 2.0
        wanted.append(min(float(multiplier), 0.0 if risk >= 0.8 else cap))
        sides.append(1.0 if block[3] or (block[2] and block[9] > 0) else 0.0)
    gross = sum(0.5 * m * side for m, side in zip(wanted, sides, strict=True))
    return [m / gross if gross > 1.0 and side else m for m, side in zip(wanted, sides, strict=True)]


def test_fifty_two_numbers_are_answered_by_symbol_in_the_policys_order(bundle: Path) -> None:
    policy = load_policy(bundle)
    assert policy.manifest.symbols == ASKED
    seen = []
    with running(create_app(bundle)) as client:
        for state in valid_states(30, 3, seed=4):
            answer = client.post("/predict", json={"state": state.tolist()})
            assert answer.status_code == 200, answer.text
            multipliers = answer.json()["position_multipliers"]
            assert list(multipliers) == list(ASKED)
            assert list(multipliers.values()) == pytest.approx(allowed(policy, state), abs=1e-6)
            seen.append(list(multipliers.values()))
    assert np.std(seen, axis=0).min() > 0.0  # not one answer for every state


def test_the_numbers_of_one_asset_or_of_two_are_refused(bundle: Path) -> None:
    state = valid_states(1, 3)[0].tolist()
    with running(create_app(bundle)) as client:
        for length in (16, 33, 51, 53):
            refused = client.post("/predict", json={"state": [*state, 0.0][:length]})
            assert refused.status_code == 422
            assert "expects 52 features" in refused.json()["detail"][0]["msg"]


def test_a_server_for_other_symbols_or_another_order_never_answers_with_this_policy(bundle: Path) -> None:
    state = valid_states(1, 3)[0].tolist()
    for symbols in (tuple(sorted(ASKED)), (*ASKED[:2], "D-USD"), ASKED[:2]):
        with running(create_app(bundle, ServeSettings(symbols=symbols))) as client:
            assert client.post("/predict", json={"state": state}).status_code == 503
            ready = client.get("/ready")
            assert ready.status_code == 503
            assert f"is for C-USD, A-USD, B-USD; expected a policy for {', '.join(symbols)}" in ready.text
    with running(create_app(bundle, ServeSettings(symbols=ASKED))) as client:
        assert client.post("/predict", json={"state": state}).status_code == 200


def moment(symbols: tuple[str, ...], data: Path) -> dict[str, Any]:
    """POST /v1/decide's body: the hour 30 of these symbols."""
    assets = {}
    for symbol in symbols:
        table = pd.read_parquet(data / f"{symbol}_1h.parquet")
        times = table["timestamp"].astype("datetime64[ms, UTC]").astype("int64").tolist()
        closes = table["close"].tolist()
        assets[symbol] = {
            "bar": {"timestamp": times[30], "close": closes[30]},
            "signal": {"action": "BUY", "confidence": 0.5, "tier": "T2", "cascade_risk": 0.1},
            "account": {"exposure": 0.1, "unrealised_pnl": 0.0, "win_rate": 0.5},
            "history": [[times[i], closes[i]] for i in range(30)],
        }
    return {"assets": assets}


def test_raw_numbers_are_taken_by_name_so_their_order_says_nothing_and_a_wrong_name_is_refused(
    bundle: Path, data: Path
) -> None:
    with running(create_app(bundle)) as client:
        answers = [client.post("/v1/decide", json=moment(order, data)).json() for order in (ASKED, ASKED[::-1])]
        assert answers[0]["state"] == answers[1]["state"]
        assert answers[0]["position_multipliers"] == answers[1]["position_multipliers"]
        assert list(answers[1]["position_multipliers"]) == list(ASKED)
        body = moment(ASKED, data)
        body["assets"]["D-USD"] = body["assets"].pop("B-USD")
        refused = client.post("/v1/decide", json=body)
        assert refused.status_code == 422
        told = refused.json()["detail"][0]["msg"]
        assert "the request is about A-USD, C-USD, D-USD; expected exactly C-USD, A-USD, B-USD" in told


def test_data_without_one_of_its_symbols_is_no_data_for_this_policy(
    bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for symbol in ASKED[:2]:
        (tmp_path / f"{symbol}_1h.parquet").write_bytes((data / f"{symbol}_1h.parquet").read_bytes())
    assert main(["evaluate", str(bundle), "--data", str(tmp_path)]) == 2
    assert "no data of B-USD" in capsys.readouterr().err


def test_a_bundle_whose_symbols_were_renamed_is_refused(bundle: Path, tmp_path: Path) -> None:
    for file in bundle.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"symbols": sorted(ASKED)}))
    with pytest.raises(BundleError):
        load_policy(tmp_path)
