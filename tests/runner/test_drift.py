"""Drift in the runner: an alarm names the feature, halts, survives a restart, resumes as written, and is a metric."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.bundle import make_bundle
from helpers.stream import NO_HALTS, REPLAYED, market, runner_of, said
from himari_rl.features.contract import FEATURES
from himari_rl.features.encoder import StateEncoder
from himari_rl.journal.entry import HALT, RESUME
from himari_rl.journal.store import open_journal
from himari_rl.policy.bundle import read_manifest
from himari_rl.policy.drift_reference import reference_of
from himari_rl.policy.runtime import load_policy
from himari_rl.runner.config import HaltConfig
from himari_rl.runner.replay import replay

INF = float("inf")
WARM = 240
OFF = {"daily_loss": INF, "drawdown": INF, "volatility": INF, "stale_bars": INF}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that knows a year of the market of `helpers.stream`."""
    place = tmp_path_factory.mktemp("drift")
    plain = make_bundle(place, name="plain", hidden=(8,))
    bars = market("BTC-USDT", 3, 9_000)
    rows = StateEncoder(("BTC-USDT",)).market_rows(bars)[WARM:]
    spec = reference_of(load_policy(plain), rows, ("BTC-USDT",), False)
    assert spec is not None
    return make_bundle(place, name="bundle", hidden=(8,), drift=spec.model_dump(mode="json"))


def stream(rows: range, dead: range = range(0)) -> list[str]:
    """Signals; within `dead` the confidence is the same number at every bar."""
    bars = market("BTC-USDT", 8, rows.stop)
    found = []
    for row in rows:
        signal = said(bars, row)
        if row in dead:
            signal["signal"]["confidence"] = 0.777
        found.append(json.dumps(signal))
    return found


def test_the_manifest_has_every_feature_but_the_account_s(folder: Path) -> None:
    spec = read_manifest(folder).drift
    assert spec is not None
    assert set(spec.features) == set(FEATURES) - {*("position_size", "position_side", "unrealised_pnl", "win_rate")} | {
        "multiplier.BTC-USDT",
        "confidence",
    }


def test_a_dead_input_halts_with_its_name_and_resumes_by_its_rule(tmp_path: Path, folder: Path) -> None:
    bars = market("BTC-USDT", 8, 1_000)
    dead = range(500, 620)
    halt, more = HaltConfig(**OFF, fresh_bars=3), {"histories": {"BTC-USDT": bars[:WARM]}}
    with open_journal(tmp_path / "j") as journal:
        told = []
        lines = stream(range(WARM, 900), dead)
        for part in (lines[:330], lines[330:]):  # a restart while it is dead
            told += runner_of(journal, folder, run=REPLAYED, halt=halt, **more).handle(part)
        whole = [(row.entry.bar, row.entry.kind, row.entry.said) for row in journal.entries(kinds=[HALT, RESUME])]
        assert [cause for _, _, said in whole for cause in [said["reason"]]] == ["drift"] * len(whole)
        first, kind, body = whole[0]
        assert kind == HALT
        assert body["why"].startswith("signal_confidence: equal bars in a row")
        assert bars.timestamp[500] < (first or 0) <= bars.timestamp[599]
        resumed = next(bar for bar, kind, _ in whole if kind == RESUME)
        assert bars.timestamp[620] <= (resumed or 0)
        causes = {each["bar"]: each["cause"] for each in told}
        assert causes[first] == causes[int(bars.timestamp[619])] == "halted"
        assert any(reason.startswith("drift: signal_confidence") for reason in told[610 - WARM]["reasons"])
        [found] = replay(journal, load_policy(folder))
        assert found.drift["signal_confidence"] >= 80


def test_without_the_rule_it_is_a_metric_and_a_reason_only(tmp_path: Path, folder: Path) -> None:
    bars = market("BTC-USDT", 8, 1_000)
    halt = HaltConfig(**OFF, drift_bars=0)
    with open_journal(tmp_path / "j") as journal:
        runner = runner_of(journal, folder, run=REPLAYED, halt=halt, histories={"BTC-USDT": bars[:WARM]})
        told = runner.handle(stream(range(WARM, 700), range(500, 700)))
        assert {each["cause"] for each in told} == {""}
        assert any("signal_confidence" in reason for reason in told[-1]["reasons"])
        text = runner.counts.text([], runner.drifts)
    labels = 'himari_run_drift{strategy="trend",symbols="BTC-USDT",feature="signal_confidence",measure="run"} '
    [line] = [line for line in text.splitlines() if line.startswith(labels)]
    assert float(line.removeprefix(labels)) == 200.0


def test_a_bundle_without_a_reference_watches_nothing(tmp_path: Path) -> None:
    plain = make_bundle(tmp_path, hidden=(8,))
    with open_journal(tmp_path / "j") as journal:
        runner = runner_of(journal, plain, halt=NO_HALTS)
        runner.handle(stream(range(60), range(10, 60)))
        assert runner.drifts == []
        assert np.array_equal([h.cause for h in runner.switch.active], [])
