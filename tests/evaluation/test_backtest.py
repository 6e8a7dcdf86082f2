"""The backtest against a scalar ledger, closed forms, and the clock."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.bundle import make_bundle
from helpers.evaluation import Rule, bars_from, ledger, walk
from himari_rl.errors import DataError
from himari_rl.evaluation.backtest import Backtest, backtest, stage
from himari_rl.evaluation.baselines import CASH, HOLD_ALL, ONE, RANDOM, VOLATILITY_TARGET, ewma_volatility
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.protocol import DecidesBatch
from himari_rl.policy.risk import RiskLimits
from himari_rl.policy.runtime import load_policy
from himari_rl.schema import SELL, Bars

COST = 0.0015


def judged(bars: Bars, policy: DecidesBatch, spec: LedgerSpec | None = None, start: int = 0) -> Backtest:
    spec = spec or ledger()
    return backtest({"policy": policy}, stage(bars, spec, start), spec, rng=np.random.default_rng(0))


def market(rows: int = 300, seed: int = 0) -> Bars:
    """Opens, closes that are not the next opens, a confidence that wanders, bars without volume, funding."""
    rng = np.random.default_rng(seed)
    opens = walk(rows, seed)
    volume = np.ones(rows)
    volume[[1, 40, 41, 150]] = 0.0
    return bars_from(
        opens,
        opens * np.exp(rng.normal(0.0, 0.004, rows)),
        rng.uniform(size=rows),
        volume=volume,
        funding_rate=np.where(np.arange(rows) % 8 == 0, 0.0003, 0.0),
    )


def scalar_ledger(bars: Bars, cost_rate: float, lag: int, start: int = 0) -> tuple[list[float], list[float]]:
    """Log-growth and marked equity of the rule m = 1 + confidence - position size, in plain Python."""
    signals = bars.signals
    assert signals is not None
    held = size = 0.0
    equity, growths, marks, wanted = 1.0, [], [], []
    for t in range(start, len(bars) - 2):
        wanted.append(1.0 + signals.confidence[t] - size)
        target = 0.5 * wanted[-1 - lag] if len(wanted) > lag else 0.0
        w = target if bars.volume[t + 1] > 0 else held
        cost = cost_rate * abs(w - held)
        to_close = bars.close[t + 1] / bars.open[t + 1] - 1
        to_open = bars.open[t + 2] / bars.open[t + 1] - 1
        funding = 0.0 if bars.funding_rate is None else bars.funding_rate[t + 2]
        g, mark = 1 + w * (to_open - funding) - cost, 1 + w * to_close - cost
        held, size = w * (1 + to_open) / g, abs(w * (1 + to_close) / mark)  # size of 1 is 2 x 50 % of equity
        marks.append(equity * mark)
        equity *= g
        growths.append(math.log(g))
    return growths, marks


def reaching(states: np.ndarray, step: int) -> np.ndarray:
    return 1.0 + states[:, 0] - states[:, 8]


@pytest.mark.parametrize(("variant", "cost_rate", "lag"), [("x1", COST, 0), ("x3", 3 * COST, 0), ("lag", COST, 1)])
def test_every_account_is_a_scalar_ledger_to_1e_12(variant: str, cost_rate: float, lag: int) -> None:
    bars = market()
    run = judged(bars, Rule(reaching)).run("policy", variant)
    growths, marks = scalar_ledger(bars, cost_rate, lag)
    np.testing.assert_allclose(run.log_growth, growths, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.exp(run.marked_log_equity), marks, rtol=1e-12)


def test_the_account_starts_flat_at_the_start_row_and_the_features_do_not() -> None:
    bars = market()
    run = judged(bars, Rule(reaching), start=120).run("policy")
    growths, _ = scalar_ledger(bars, COST, 0, start=120)
    np.testing.assert_allclose(run.log_growth, growths, rtol=0, atol=1e-12)
    on = stage(bars, ledger(), 120)
    np.testing.assert_array_equal(on.rows, StateEncoder().market_rows(bars)[120:-2])
    assert on.rows[0, 13] > 0.0  # the volatility of the twenty bars before the start
    assert stage(bars[120:], ledger()).rows[0, 13] == 0.0
    assert on.fill_time[0] == bars.timestamp[121]


def test_buy_and_hold_is_the_price_ratio_less_its_cost() -> None:
    bars = bars_from(walk(400, 1))
    result = judged(bars, Rule(reaching))
    for variant, cost in (("x1", COST), ("x2", 2 * COST), ("x3", 3 * COST)):
        run = result.run(HOLD_ALL, variant)
        assert math.exp(run.log_growth.sum()) == pytest.approx(bars.open[-1] / bars.open[1] - cost, abs=1e-12)
        assert (run.traded[0], run.traded[1:].max()) == (1.0, pytest.approx(0.0, abs=1e-15))
    late = result.run(HOLD_ALL, "lag")
    assert math.exp(late.log_growth.sum()) == pytest.approx(bars.open[-1] / bars.open[2] - COST, abs=1e-12)


def test_buy_and_hold_waits_for_the_first_bar_that_trades_and_heeds_no_stop() -> None:
    opens = walk(300, 2, sigma=0.03)
    volume = np.ones(300)
    volume[[1, 2]] = 0.0
    result = judged(bars_from(opens, volume=volume), Rule(reaching), ledger(RiskLimits()))
    run = result.run(HOLD_ALL)
    assert math.exp(run.log_growth.sum()) == pytest.approx(opens[-1] / opens[3] - COST, abs=1e-12)
    assert (result.run(ONE).exposure == 0.0).any()  # the daily stop did close the others


def test_a_cascade_closes_every_position_but_the_one_that_is_held() -> None:
    bars = bars_from(walk(300, 5))
    assert bars.signals is not None
    risk = np.zeros(300)
    risk[150] = 0.9
    bars = replace(bars, signals=replace(bars.signals, cascade_risk=risk))
    result = judged(bars, Rule(reaching), ledger(RiskLimits(high_vol_volatility=1.0, crisis_volatility=1.0)))
    for variant, closed in (("x1", 150), ("lag", 151)):
        for strategy in ("policy", ONE):
            exposure = result.run(strategy, variant).exposure[140:160, 0]
            np.testing.assert_array_equal(exposure == 0.0, np.arange(140, 160) == closed)
        assert (result.run(HOLD_ALL, variant).exposure[1:] > 0.9).all()


def test_buy_and_hold_buys_even_in_a_cascade() -> None:
    bars = bars_from(walk(300, 5))
    assert bars.signals is not None
    bars = replace(bars, signals=replace(bars.signals, cascade_risk=np.full(300, 0.9)))
    result = judged(bars, Rule(reaching), ledger(RiskLimits()))
    assert (result.run(HOLD_ALL).exposure > 0.9).all()
    assert not result.run(ONE).exposure.any()


@pytest.mark.parametrize(("allowed", "exposure"), [(False, 0.0), (True, -0.5)])
def test_a_sell_is_short_only_where_that_is_allowed(allowed: bool, exposure: float) -> None:
    bars = bars_from(walk(300, 6))
    assert bars.signals is not None
    bars = replace(bars, signals=replace(bars.signals, action=np.full(300, SELL)))
    result = judged(bars, Rule(reaching), ledger(allow_short=allowed))
    np.testing.assert_allclose(result.run(ONE).exposure, exposure, atol=1e-15)
    assert (result.run(HOLD_ALL).exposure > 0.9).all()


def test_zero_earns_exactly_nothing() -> None:
    result = judged(market(), Rule(lambda states, step: np.zeros(len(states))))
    for strategy in ("policy", CASH):
        for variant in result.variants:
            run = result.run(strategy, variant.name)
            assert not run.log_growth.any()
            assert not run.marked_log_equity.any()
            assert not run.traded.any()


def test_a_policy_that_says_one_is_the_reference_at_every_variant() -> None:
    result = judged(market(), Rule(lambda states, step: np.ones(len(states))))
    for variant in result.variants:
        mine, one = result.run("policy", variant.name), result.run(ONE, variant.name)
        np.testing.assert_array_equal(mine.log_growth, one.log_growth)


def test_costs_are_what_the_traded_notional_says() -> None:
    result = judged(market(), Rule(reaching))
    for strategy in ("policy", ONE, RANDOM, VOLATILITY_TARGET, HOLD_ALL):
        for variant in result.variants:
            run = result.run(strategy, variant.name)
            np.testing.assert_allclose(run.cost, COST * variant.cost_multiple * run.traded, rtol=0, atol=1e-15)


def test_a_lagged_decision_is_used_one_bar_later_side_and_size_alike() -> None:
    """The policy answers its own step number over a thousand, so that every use can be read off."""
    bars = bars_from(walk(300, 3))
    result = judged(bars, Rule(lambda states, step: step / 1000.0))
    np.testing.assert_allclose(result.run("policy").exposure[:, 0], 0.5 * np.arange(298) / 1000)
    lagged = result.run("policy", "lag").exposure[:, 0]
    np.testing.assert_allclose(lagged, 0.5 * np.concatenate(([0.0], np.arange(297))) / 1000)


def test_two_policies_are_judged_in_one_pass_as_if_alone() -> None:
    bars, spec = market(), ledger()
    on = stage(bars, spec)
    steady = Rule(lambda states, step: 0.3 + 0.1 * states[:, 8])
    both = backtest({"a": Rule(reaching), "b": steady}, on, spec, rng=np.random.default_rng(0))
    for name, rule in (("a", Rule(reaching)), ("b", steady)):
        alone = backtest({name: rule}, on, spec, rng=np.random.default_rng(0))
        np.testing.assert_array_equal(both.run(name, "lag").log_growth, alone.run(name, "lag").log_growth)
    assert set(both.strategies) == {"a", "b", ONE, CASH, VOLATILITY_TARGET, RANDOM, HOLD_ALL}


CUT = 250


def noisy_future(bars: Bars) -> Bars:
    """The same bars up to CUT, other prices from there on."""
    future = np.concatenate([np.ones(CUT), np.random.default_rng(9).uniform(0.5, 2.0, len(bars) - CUT)])
    return replace(
        bars, open=bars.open * future, high=bars.high * future, low=bars.low * future, close=bars.close * future
    )


def wary(states: np.ndarray, step: int) -> np.ndarray:
    return 1.0 + states[:, 0] - states[:, 8] - states[:, 13]  # prices enter through the volatility


def test_no_past_decision_fill_or_return_changes_when_the_future_is_replaced() -> None:
    before, after = (judged(bars, Rule(wary)) for bars in (market(400), noisy_future(market(400))))
    for strategy in before.strategies:
        for variant in ("x1", "lag"):
            first, second = before.run(strategy, variant), after.run(strategy, variant)
            np.testing.assert_array_equal(first.multiplier[:CUT], second.multiplier[:CUT])
            np.testing.assert_array_equal(first.exposure[: CUT - 1], second.exposure[: CUT - 1])
            np.testing.assert_array_equal(first.log_growth[: CUT - 2], second.log_growth[: CUT - 2])
    assert (before.run("policy").multiplier[CUT:] != after.run("policy").multiplier[CUT:]).any()


def test_features_of_the_next_bar_would_be_noticed() -> None:
    """The negative control of the test above: rows that arrive one bar early."""
    found = []
    for bars in (market(400), noisy_future(market(400))):
        early = stage(bars, ledger())
        early = early._replace(rows=np.roll(early.rows, -1, axis=0))
        found.append(backtest({"policy": Rule(wary)}, early, ledger(), rng=np.random.default_rng(0)).run("policy"))
    assert (found[0].multiplier[:CUT] != found[1].multiplier[:CUT]).any()


def test_the_volatility_estimate_is_the_weighted_mean_of_past_squares() -> None:
    bars = market()[:60]
    returns = np.diff(np.log(bars.close))
    for t in (1, 2, 30, 59):
        weight = 0.5 ** (np.arange(t)[::-1] / 168)
        expected = math.sqrt((weight * returns[:t] ** 2).sum() / weight.sum() * 8760)
        assert ewma_volatility(bars)[t] == pytest.approx(expected, rel=1e-12)
    assert ewma_volatility(bars)[0] == 0.0


def test_the_volatility_target_holds_fifteen_per_cent_a_year() -> None:
    hourly = 0.6 / math.sqrt(8760)
    bars = bars_from(walk(4000, 4, sigma=hourly))
    run = judged(bars, Rule(reaching), start=1000).run(VOLATILITY_TARGET)
    assert run.log_growth.std() * math.sqrt(8760) == pytest.approx(0.15, rel=0.06)


def test_the_bundle_decides_in_the_backtest_as_it_does_when_served(tmp_path: Path) -> None:
    """Bar by bar through `decide`, fed by the account that the backtest shows."""
    policy = load_policy(make_bundle(tmp_path, hidden=(16,), seeds=(0, 1), scale=2.0))
    bars = replace(market(200), funding_rate=None)
    run = judged(bars, policy).run("policy")
    assert run.multiplier.std() > 0.05
    assert (run.exposure[2:40] > 0.0).all()  # so no trade has closed
    held = 0.0
    rows = StateEncoder().market_rows(bars)
    kept = np.flatnonzero(np.array(policy.manifest.normaliser.keep))
    assert {8, 9, 10, 14} <= set(kept)
    for t in range(40):
        state = rows[t].copy()
        state[[8, 9]] = abs(held), np.sign(held)
        state[[10, 14]] = unrealised_and_win_rate(bars, run.exposure[:t, 0], run.log_growth[:t])
        assert policy.decide(state).multipliers[0] == pytest.approx(run.multiplier[t, 0], abs=2e-5)
        w, to_close = run.exposure[t, 0], bars.close[t + 1] / bars.open[t + 1] - 1
        held = w * (1 + to_close) / (1 + w * to_close - run.cost[t])


def unrealised_and_win_rate(bars: Bars, exposure: np.ndarray, growth: np.ndarray) -> tuple[float, float]:
    """Features 11 and 15 of an account that never closed a trade, by average-cost bookkeeping in money."""
    equity, units, basis, pnl = 1.0, 0.0, 0.0, 0.0
    for t, w in enumerate(exposure):
        wanted = w * equity / bars.open[t + 1]
        if wanted > units:
            basis += (wanted - units) * bars.open[t + 1]
        elif units:
            basis *= wanted / units
        units = wanted
        to_close = bars.close[t + 1] / bars.open[t + 1] - 1
        before = exposure[t - 1] * bars.open[t + 1] / bars.open[t] / math.exp(growth[t - 1]) if t else 0.0
        cost = COST * abs(w - before)
        pnl = (units * bars.close[t + 1] - basis) / (equity * (1 + w * to_close - cost))
        equity *= math.exp(growth[t])
    return 2 * max(-0.5, min(0.5, pnl)), 0.5


def test_bars_of_another_interval_are_refused() -> None:
    with pytest.raises(DataError, match=r"60-minute bars; expected 1440-minute bars"):
        stage(market(), ledger(interval_ms=86_400_000))


@pytest.mark.parametrize("start", [203, 400])
def test_too_few_decisions_are_refused(start: int) -> None:
    with pytest.raises(DataError, match="at least 100"):
        stage(market(304), ledger(), start)
    assert len(stage(market(304), ledger(), 202).base) == 100
