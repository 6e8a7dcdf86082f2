"""The verdict where the truth is known: no edge is called no edge, and a leaky column does not pass the gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from helpers.verdict import small_bars, small_settings
from himari_rl.agents.config import PPOConfig
from himari_rl.certification.attempts import attempt, market_for
from himari_rl.certification.observe import market_rows
from himari_rl.certification.thresholds import Budget
from himari_rl.errors import RefusedError
from himari_rl.evaluation.backtest import BASE, LAGGED, POLICY, backtest
from himari_rl.evaluation.baselines import Stage
from himari_rl.evaluation.statements import BETTER, NO_EDGE
from himari_rl.evaluation.verdict import Verdict, judge
from himari_rl.experiments.run import run_walk_forward
from himari_rl.policy.account import MarketMove
from himari_rl.release.gate import gate
from himari_rl.release.promotion import promote
from himari_rl.release.rules import GateRules
from himari_rl.schema import BUY, HOUR_MS, Bars, Layer2


def verdict_on(name: str, bars: int) -> Verdict:
    """A freshly trained bundle on a fresh path of a market with a known optimum."""
    _, policy = attempt(name, 0, PPOConfig(), Budget(bars=bars, distinct=bars // 2))
    market, _ = market_for(name)
    path = market.simulate(1, 20_000, np.random.default_rng(99))
    returns = path.returns[0]
    shape = returns.shape
    on = Stage(
        symbols=(name,),
        rows=market_rows(market, path.x)[0],
        moves=MarketMove(np.ones(shape, bool), returns, returns, np.zeros(shape), np.zeros(len(returns), bool)),
        base=np.full(shape, 0.5),
        cap=np.full(shape, 2.0),
        volatility=np.zeros(shape),
        fill_time=HOUR_MS * np.arange(len(returns)),
        end_time=HOUR_MS * len(returns),
        max_position_pct=0.5,
    )
    ledger = policy.manifest.ledger
    result = backtest({POLICY: policy}, on, ledger, variants=(BASE, LAGGED), rng=np.random.default_rng(0))
    aversion = 0.0 if market.risk_aversion is None else market.risk_aversion - 1.0  # what it was trained for
    return judge(result, np.random.default_rng(0), replications=300, risk_aversion=aversion)


def test_a_market_without_an_edge_is_called_that() -> None:
    said = verdict_on("M6", 2_000_000)
    assert said.answer == NO_EDGE
    assert said.sentence.startswith("No edge found")


def test_the_same_road_finds_the_edge_of_a_market_that_has_one() -> None:
    said = verdict_on("M2", 500_000)
    assert said.answer == BETTER, said.sentence


def leaky(bars: Bars, rho: float) -> Bars:
    """Layer 2 whose confidence knows, with correlation rho, the return that its own decision will earn."""
    earned = np.append(bars.open[2:] / bars.open[1:-1] - 1.0, [0.0, 0.0])
    z = rho * earned / earned.std() + np.sqrt(1.0 - rho**2) * np.random.default_rng(1).standard_normal(len(bars))
    confidence = np.array([NormalDist().cdf(value) for value in z.tolist()])
    said = Layer2(
        action=np.full(len(bars), BUY),
        confidence=confidence,
        tier=np.ones(len(bars), np.int64),
        cascade_risk=np.zeros(len(bars)),
        supplied=True,
    )
    return replace(bars, signals=said)


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_a_leaky_supplied_column_is_walked_forward_and_blocks_the_gate_until_a_person_gives_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rho: float
) -> None:
    monkeypatch.setenv("HIMARI_TRIALS", str(tmp_path / "t.sqlite"))
    told = ("constant-columns",)  # BUY and T1 in every row
    run_walk_forward(leaky(small_bars(), rho), small_settings(seeds=(0,)), tmp_path / "run", None, accept=told)
    bundle = tmp_path / "run" / "bundle"
    answer = gate(bundle, GateRules())
    assert ("leak test" in answer.reason) == (rho > 0.0)
    if rho == 0.0:
        return
    line = next(line for line in answer.lines if line.rule == "leak test")
    assert "signal_confidence: knows the next 1 return(s)" in line.why
    with pytest.raises(RefusedError, match="leak test"):
        promote(str(tmp_path / "champion.json"), str(bundle), answer)
    accepted = gate(bundle, GateRules(), leak_reason="a column of the exchange, settled before the bar")
    assert "leak test" not in accepted.reason
    written = next(line for line in accepted.lines if line.rule == "leak test")
    assert written.why.startswith("overridden (a column of the exchange, settled before the bar)")
