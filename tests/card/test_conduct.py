"""Trades, limits, signals, diversification and behaviour: each against a definition, a twin or a planted truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from helpers.bundle import valid_states
from himari_rl.card.behaviour import behaviour
from himari_rl.card.diversification import risk_taken_away
from himari_rl.card.limits import shrunk_by
from himari_rl.card.market import JudgedMarket, market_curves, market_of
from himari_rl.card.signals import signal_quality
from himari_rl.card.trades import as_csv, traded, trades
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.data.synthetic_panel import synthetic_panel
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.evaluation.backtest import BASE, POLICY, Backtest, backtest, stage
from himari_rl.features.contract import CONFIDENCE, POSITION_SIZE, TIER, state_dim
from himari_rl.features.signals import signals_of, with_signals
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.risk import RiskLimits
from himari_rl.schema import HOUR_MS, direction


def flat_market(count: int, assets: int = 1, **changes: np.ndarray) -> JudgedMarket:
    """Prices that stand still and nothing that limits anything."""
    shape = (count, assets)
    plain = JudgedMarket(
        price=np.full((count + 1, assets), 100.0),
        signal=np.ones(shape, int),
        side=np.ones(shape, int),
        cap=np.full(shape, 2.0),
        tradable=np.ones(shape, bool),
        confidence=np.full(shape, 0.5),
        tier=np.full(shape, 2),
        funding=np.zeros(shape),
    )
    return replace(plain, **changes)


class Wanders:
    """Multipliers that change with the confidence, and the account is never asked."""

    def decide_batch(self, states, memory=None):
        assets = 1 if states.shape[1] == 16 else 3
        return np.stack([2.0 * states[:, 16 * i] for i in range(assets)], axis=1), memory


def played(bars, start: int, **changes) -> tuple[Backtest, JudgedMarket, LedgerSpec]:
    ledger = LedgerSpec.of(TradingEnvConfig(**changes), bars.interval_ms)
    result = backtest(
        {POLICY: Wanders()}, stage(bars, ledger, start), ledger, variants=(BASE,), rng=np.random.default_rng(0)
    )
    market = market_of(market_curves(bars, ledger, start))
    assert market is not None
    return result, market, ledger


@pytest.mark.parametrize("assets", [1, 3])
@pytest.mark.parametrize("allow_short", [False, True])
def test_what_trades_earn_and_pay_is_what_the_account_earned_and_paid(assets: int, allow_short: bool) -> None:
    bars = synthetic_bars(900, 3) if assets == 1 else synthetic_panel(("A", "B", "C"), 900, 3)
    result, market, _ = played(bars, 200, allow_short=allow_short)
    run = result.run(POLICY)
    growth = np.exp(run.log_growth)
    found = trades(result.symbols, run.exposure, market, growth, run.cost)
    assert len(found) >= 5
    assert {trade.side for trade in found} == ({1, -1} if allow_short else {1})
    assert sum(trade.earned for trade in found) == pytest.approx((growth - 1.0).sum(), abs=1e-12)
    assert sum(trade.cost for trade in found) == pytest.approx(run.cost.sum(), abs=1e-12)
    assert np.abs(traded(run.exposure, market, growth)).sum(axis=1) == pytest.approx(run.traded, abs=1e-12)


@pytest.mark.parametrize("assets", [1, 3])
def test_the_market_kept_for_the_page_is_the_one_that_was_judged(assets: int) -> None:
    bars = synthetic_bars(900, 3) if assets == 1 else synthetic_panel(("A", "B", "C"), 900, 3)
    result, market, ledger = played(bars, 200)
    on = stage(bars, ledger, 200)
    assert market.asset_return == pytest.approx(result.asset_return, abs=1e-12)
    assert np.array_equal(market.side * ledger.max_position_pct, on.base)
    assert np.array_equal(market.tradable, on.moves.tradable)
    assert np.array_equal(market.side, np.maximum(market.signal, 0))  # without shorts


def test_a_signal_holds_until_the_next_one() -> None:
    bars = with_signals(synthetic_bars(900, 3))
    ledger = LedgerSpec.of(TradingEnvConfig(), bars.interval_ms)
    market = market_of(market_curves(bars, ledger, 0))
    assert market is not None
    # from row 0 on, so that nothing was said before the first row that is kept
    assert market.signal[:, 0].tolist() == direction(signals_of(bars).action, True)[: len(bars) - 2].tolist()


def test_two_trades_and_a_reversal_by_hand() -> None:
    price = np.array([100.0, 110.0, 110.0, 99.0, 99.0, 99.0])[:, None]
    exposure = np.array([0.5, 0.0, -0.4, 0.2, 0.2])[:, None]
    rate = 0.001
    market = flat_market(5, price=price)
    asset_return = market.asset_return[:, 0]
    held, growth, cost = 0.0, [], []
    for w, r in zip(exposure[:, 0].tolist(), asset_return.tolist(), strict=True):
        cost.append(rate * abs(w - held))
        growth.append(1.0 + w * r - cost[-1])
        held = w * (1.0 + r) / growth[-1]
    first, short, long = trades(("X",), exposure, market, np.array(growth), np.array(cost))
    drifted = 0.5 * 1.1 / growth[0]
    assert (first.first, first.last, first.side, first.open, first.fills) == (0, 1, 1, False, 2)
    assert (first.entry, first.exit) == (100.0, 110.0)
    assert first.cost == pytest.approx(rate * (0.5 + drifted))
    assert first.earned == pytest.approx(0.5 * 0.1 - first.cost)
    back = 0.4 * 0.9 / growth[2]  # what the short had become when it was turned round
    assert (short.side, short.first, short.last) == (-1, 2, 3)
    assert short.cost == pytest.approx(rate * (0.4 + back))
    assert short.earned == pytest.approx(0.4 * 0.1 - short.cost)
    assert (long.side, long.open, long.exposure) == (1, True, pytest.approx(0.2))
    assert long.cost == pytest.approx(cost[3] - rate * back + cost[4])
    text = as_csv([first, short, long], 3_600_000 * np.arange(5), 5 * 3_600_000).splitlines()
    assert text[0].split(",")[:4] == ["symbol", "side", "opened", "closed"]
    assert text[1].startswith("X,long,1970-01-01T00:00Z,1970-01-01T01:00Z,1,2,100,110,50.00,")
    assert text[3].split(",")[3] == ""  # still held


def test_each_limit_is_found_where_it_acted_and_nowhere_else() -> None:
    limits = RiskLimits(max_leverage=0.8)
    config = LedgerConfig(limits=limits)  # base 0.5, HIGH_VOL 1.5, CRISIS 1.0, CASCADE 0.0, stop 2 %
    count = 6
    cap = np.array([2.0, 1.5, 1.0, 0.0, 2.0, 2.0])[:, None]
    multiplier = np.array([1.0, 1.6, 1.6, 0.4, 2.0, 1.0])[:, None]
    exposure = np.array([0.5, 0.75, 0.5, 0.0, 0.8, 0.0])[:, None]  # the last one: closed by the daily stop
    found = {each.cause: each for each in shrunk_by(multiplier, exposure, flat_market(count, cap=cap), config)}
    taken = {cause: (each.bars, round(each.taken, 9)) for cause, each in found.items()}
    assert taken == {
        "regime HIGH_VOL: multiplier at most 1.5": (1, 0.05),
        "regime CRISIS: multiplier at most 1": (1, 0.3),
        "regime CASCADE: multiplier at most 0": (1, 0.2),
        "gross exposure at most 0.8": (1, 0.2),
        "daily loss stop at 2 %": (1, 0.5),
        "no trade possible at that open": (0, 0.0),
    }
    assert found["gross exposure at most 0.8"].share == pytest.approx(1 / count)
    assert found["daily loss stop at 2 %"].overall == pytest.approx(0.5 / count)


def test_what_cannot_trade_is_told_apart_from_the_daily_stop() -> None:
    tradable = np.array([[True], [False]])
    found = shrunk_by(np.ones((2, 1)), np.array([[0.5], [0.0]]), flat_market(2, tradable=tradable), LedgerConfig())
    assert {each.cause: each.bars for each in found if each.bars} == {"no trade possible at that open": 1}


def test_a_planted_tier_is_worth_what_was_planted_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    count = 6000
    signal, tier = rng.choice([-1, 1], (count, 1)), rng.integers(1, 3, (count, 1))
    edge = np.where(tier == 1, 0.002, 0.0)
    moved = signal * edge + 0.01 * rng.standard_normal((count, 1))
    price = 100.0 * np.concatenate([np.ones((1, 1)), np.cumprod(1.0 + moved, axis=0)])
    found = {each.name: each for each in signal_quality(flat_market(count, price=price, signal=signal, tier=tier))}
    assert list(found) == ["T1", "T2", "all"]
    mine = (signal * moved)[tier == 1]
    assert found["T1"].earned.estimate == pytest.approx(mine.mean())
    assert found["T1"].hit_rate.estimate == pytest.approx((mine > 0.0).mean())
    assert found["T1"].earned.lower > 0.0
    assert found["T2"].earned.lower < 0.0 < found["T2"].earned.upper
    assert found["all"].count == found["T1"].count + found["T2"].count == count
    assert signal_quality(flat_market(10, signal=np.zeros((10, 1), int))) == ()


def test_n_independent_assets_take_away_one_minus_one_over_the_root_of_n() -> None:
    rng = np.random.default_rng(0)
    for assets in (2, 3, 4):
        moved = 0.01 * rng.standard_normal((20_000, assets))
        found = risk_taken_away(np.full((20_000, assets), 1.0 / assets), moved)
        assert found.estimate == pytest.approx(1.0 - 1.0 / math.sqrt(assets), abs=0.01)
        assert found.lower < found.estimate < found.upper
    same = np.repeat(moved[:, :1], 3, axis=1)
    assert risk_taken_away(np.full((20_000, 3), 1 / 3), same).estimate == pytest.approx(0.0, abs=1e-9)


class Known:
    """Multiplier 0.5 + confidence, and T1 adds 0.25; a band from 0.3 to 1.2 around what is held instead, if asked."""

    def __init__(self, band: bool = False) -> None:
        self.band = band

    def decide_batch(self, states, memory=None):
        assets = 1 if states.shape[1] == 16 else 3
        blocks = states[:, : 16 * assets].reshape(len(states), assets, 16)
        if self.band:
            return np.clip(2.0 * blocks[..., POSITION_SIZE], 0.3, 1.2), memory
        return 0.5 + blocks[..., CONFIDENCE] + 0.25 * blocks[..., TIER.start], memory


@pytest.mark.parametrize("assets", [1, 3])
def test_partial_dependence_finds_what_a_policy_reads_and_how_much(assets: int) -> None:
    states = valid_states(300, assets, seed=0)
    found = behaviour(Known(), states, assets)
    assert found is not None
    by_name = {each.name: each for each in found.features}
    confidence, tier = by_name["signal_confidence"], by_name["tier"]
    assert confidence.reach == pytest.approx(confidence.x[-1] - confidence.x[0])
    slope = np.diff(confidence.mean) / np.diff(confidence.x)
    assert slope == pytest.approx(np.ones(len(slope)))
    assert [round(tier.mean[0] - mean, 9) for mean in tier.mean] == [0.0, 0.25, 0.25, 0.25]
    others = [each.reach for each in found.features if each.name not in ("signal_confidence", "tier")]
    assert max(others) == pytest.approx(0.0, abs=1e-12)
    assert found.features[0].name == "signal_confidence"


@pytest.mark.parametrize("assets", [1, 3])
def test_the_no_trade_band_is_the_one_that_the_policy_has(assets: int) -> None:
    found = behaviour(Known(band=True), valid_states(300, assets, seed=0), assets)
    assert found is not None
    assert found.band == (pytest.approx(0.3), pytest.approx(1.2))
    held = dict(zip(np.round(found.held.x, 6).tolist(), found.held.mean, strict=True))
    assert held[0.5] == pytest.approx(0.5)  # inside: nothing is traded


def test_own_features_are_varied_too_and_constant_ones_are_named() -> None:
    states = np.hstack([valid_states(200, 1, seed=0), np.linspace(-1, 1, 200)[:, None], np.full((200, 1), 3.0)])

    class ReadsItsOwn:
        def decide_batch(self, rows, memory=None):
            return 1.0 + 0.5 * rows[:, [state_dim(1)]], memory

    found = behaviour(ReadsItsOwn(), states, 1, ("x", "y"))
    assert found is not None
    assert found.features[0].name == "x"
    assert found.features[0].reach == pytest.approx(0.5 * (found.features[0].x[-1] - found.features[0].x[0]))
    assert "y" in found.constant


def test_a_policy_that_never_held_anything_has_no_trades() -> None:
    assert trades(("X",), np.zeros((3, 1)), flat_market(3), np.ones(3), np.zeros(3)) == []


def test_hours_and_days_of_a_trade_are_told_in_utc() -> None:
    found = trades(("X",), np.full((3, 1), 0.5), flat_market(3), np.ones(3), np.zeros(3))
    line = as_csv(found, 1_704_067_200_000 + HOUR_MS * np.arange(3), 0).splitlines()[1]
    assert line.split(",")[2:4] == ["2024-01-01T00:00Z", ""]
