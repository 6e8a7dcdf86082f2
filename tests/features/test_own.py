"""Own features: seen where they are named, found where they know something, asked for by name where they are served."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.serving import running
from helpers.strangers import stranger
from helpers.verdict import AGENT, small_bars
from himari_rl.agents.config import PPOConfig
from himari_rl.cli import main
from himari_rl.data.leaks import doubtful_columns
from himari_rl.data.surrogates import planted
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.data.table import write_bars
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.errors import ConfigError, DataError
from himari_rl.experiments.adapters import RuleFactory
from himari_rl.experiments.run import walk_forward
from himari_rl.features.contract import FEATURES
from himari_rl.features.encoder import StateEncoder
from himari_rl.features.own import with_features
from himari_rl.policy.runtime import load_policy
from himari_rl.release.gate import gate
from himari_rl.schema import Bars
from himari_rl.serving.http.app import create_app
from himari_rl.serving.settings import ServeSettings

SMALL: dict[str, Any] = {"train": "20d", "test": "10d", "step": "10d", "purge_bars": 24, "seeds": 1}


def with_x(bars: Bars, seed: int = 0) -> Bars:
    return replace(bars, extra={"x": np.random.default_rng(seed).normal(0.0, 3.0, len(bars)), "y": np.ones(len(bars))})


def test_they_stand_after_everything_else_as_they_are_and_change_the_schema() -> None:
    bars = with_x(small_bars())
    seen = with_features(bars, ["y", "x"])
    rows = StateEncoder.of(seen).market_rows(seen)
    np.testing.assert_array_equal(rows[:, 16:], np.column_stack([bars.extra["y"], bars.extra["x"]]))
    np.testing.assert_array_equal(rows[:, :16], StateEncoder.of(bars).market_rows(bars))
    assert StateEncoder.of(seen).names == (*FEATURES, "y", "x")
    hashes = {StateEncoder.of(each).schema_hash for each in (bars, seen, with_features(bars, ["x", "y"]))}
    assert len(hashes) == 3
    assert seen.fingerprint != bars.fingerprint
    assert seen[10:50].features == ("y", "x")


def test_what_is_no_feature_is_refused() -> None:
    bars = with_x(small_bars())
    with pytest.raises(DataError, match="no numeric column z; expected one of: x, y"):
        with_features(bars, ["z"])
    with pytest.raises(DataError, match="each once"):
        with_features(bars, ["x", "x"])
    hole = replace(bars, extra={"x": np.where(np.arange(len(bars)) == 7, np.nan, 1.0)})
    with pytest.raises(DataError, match="x is nan in row 7"):
        with_features(hole, ["x"])
    taken = replace(bars, extra={"volatility": bars.extra["x"]})
    with pytest.raises(ConfigError, match="names of their own"):
        with_features(taken, ["volatility"])
    many = replace(bars, extra={f"x{k}": bars.extra["x"] for k in range(9)})
    with pytest.raises(ConfigError, match="at most 8"):
        with_features(many, list(many.extra))


def market_of_x() -> Bars:
    """A market whose drift only the column x knows: Layer 2 says BUY with the same confidence throughout."""
    told = planted(synthetic_bars(24 * 400, 0), np.random.default_rng(3), 0.15)
    assert told.signals is not None
    quiet = replace(told.signals, confidence=np.random.default_rng(1).uniform(0.4, 0.6, len(told)))
    return replace(told, signals=quiet, extra={"x": told.signals.confidence}, synthetic=False)


def test_an_edge_that_only_x_knows_is_promoted_with_it_and_refused_without(tmp_path: Path) -> None:
    module = stranger(tmp_path / "code", "reads_x")
    spans: dict[str, Any] = {"train": "100d", "test": "50d", "step": "50d", "seeds": 1, "accept": ["constant-columns"]}
    bars = market_of_x()
    quick = {"new_ledger": True, "latency_ms": lambda bundle, manifest: 0.1}
    blind = gate(walk_forward(module.learns, bars, out=tmp_path / "blind", **spans).bundle, **quick)
    assert not blind.passed
    run = walk_forward(module.learns_own, with_features(bars, ["x"]), out=tmp_path / "run", **spans)
    found = gate(run.bundle, **quick)
    assert found.passed, found.reason
    assert run.document["data"]["features"] == ["x"]


def test_it_is_served_by_name_and_422_names_what_is_missing(tmp_path: Path) -> None:
    module = stranger(tmp_path / "code", "sizes_by_x")
    bars = with_features(with_x(small_bars()), ["x"])
    run = walk_forward(RuleFactory(module.by_x), bars, out=tmp_path / "run", **(SMALL | {"folds": 1}))
    assert load_policy(run.bundle).manifest.own_features == ("x",)
    time = 1_767_225_600_000
    body = {
        "bar": {"timestamp": time, "close": 87_650.5},
        "signal": {"action": "BUY", "confidence": 0.8, "tier": "T2", "cascade_risk": 0.05},
        "account": {"exposure": 0.0, "unrealised_pnl": 0.0, "win_rate": 0.5},
        "history": [[time - 3_600_000 * k, 87_000.0 + 10 * (k % 7)] for k in range(20, 0, -1)],
    }
    with running(create_app(run.bundle, ServeSettings(external_code=True, open_bars=True))) as client:
        answer = client.post("/v1/decide", json=body | {"features": {"x": 1.25}})
        assert answer.status_code == 200, answer.text
        assert answer.json()["state"][16] == 1.25
        assert answer.json()["position_multiplier"] == pytest.approx(1.25)
        without = client.post("/v1/decide", json=body)
        assert without.status_code == 422
        assert "the request lacks the feature x" in without.text
        other = client.post("/v1/decide", json=body | {"features": {"x": 1.0, "z": 1.0}})
        assert other.status_code == 422
        assert "has no feature z" in other.text
        state = answer.json()["state"]
        assert client.post("/predict", json={"state": state}).json()["position_multiplier"] == pytest.approx(1.25)
        short = client.post("/predict", json={"state": state[:16]})
        assert short.status_code == 422
        assert "missing: x" in short.text


def test_from_the_command_line(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "BTC-USDT_1h.csv"
    write_bars(with_x(small_bars()), path)
    module = stranger(tmp_path / "code", "typed_x")
    words = ["walk-forward", f"rule:{module.__file__}:by_x", "--data", str(path), "--features", "x", "--jobs", "1"]
    words += ["--train", "20d", "--test", "10d", "--step", "10d", "--set", "walk_forward.purge_bars=24", "--seeds", "1"]
    words += ["--out", str(tmp_path / "run"), "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["data"]["features"] == ["x"]
    assert main(["verify", str(tmp_path / "run"), "--data", str(path)]) == 0
    assert main([*words[:5], "z", *words[6:]]) == 2


def test_a_column_that_knows_the_next_bar_is_named_by_the_leak_tests(tmp_path: Path) -> None:
    bars = small_bars()
    ahead = np.append(np.diff(np.log(bars.close)), 0.0)
    leaked = with_features(replace(bars, extra={"x": ahead}), ["x"])
    named, _ = doubtful_columns(leaked)
    assert any("x" in report.message for report in named)
    honest, _ = doubtful_columns(with_features(with_x(bars), ["x"]))
    assert not honest
    run = walk_forward(RuleFactory(abs_of_x), leaked, out=tmp_path / "run", **SMALL)
    lines = {line.rule: line for line in gate(run.bundle).lines}
    assert not lines["leak test"].passed


def abs_of_x(states: np.ndarray) -> np.ndarray:
    return np.abs(states[:, 16]) * 100.0


def test_an_agent_on_raw_returns_reads_them(tmp_path: Path) -> None:
    agent = PPOConfig(**AGENT, beliefs=False)
    environment = TradingEnvConfig(episode_bars=20)
    options = SMALL | {"folds": 1, "num_episodes": 20, "agent": agent, "environment": environment}
    run = walk_forward(with_features(with_x(small_bars()), ["x"]), out=tmp_path / "run", **options)
    manifest = load_policy(run.bundle).manifest
    assert (manifest.state_dim, manifest.own_features, manifest.normaliser.keep[16]) == (17, ("x",), 1)
