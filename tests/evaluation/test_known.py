"""The loop of known accounts against the plain one: policy/account.py asked bar by bar, one account at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.evaluation import bars_from, ledger, walk
from himari_rl.data.panel import panel_of
from himari_rl.evaluation import known
from himari_rl.evaluation.backtest import stage
from himari_rl.evaluation.baselines import Orders, Stage, follow, multipliers
from himari_rl.evaluation.known import Banded, Histories, Lane
from himari_rl.policy.account import MarketMove, flat_account, move
from himari_rl.policy.bands import Bands
from himari_rl.policy.ledger import times
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.risk import RiskLimits
from himari_rl.schema import BUY, HOLD, SELL, Bars

ROWS = 260  # ten days
LIMITS = RiskLimits(daily_loss_stop=0.01, high_vol_volatility=0.008, crisis_volatility=0.02)


def plain(lanes: list[Lane], banded: list[Banded], spec: LedgerSpec) -> Histories:
    """The definition: every account alone, every bar through `move`."""
    size = 1.0 / (2.0 * spec.max_position_pct)
    led = {int(p): (each.bands, int(lag)) for each in banded for p, lag in zip(each.accounts, each.lags, strict=True)}
    found: list[list[np.ndarray]] = []
    asked = []
    for p, lane in enumerate(lanes):
        multiplier = lane.orders.multiplier.copy()
        decisions, assets = multiplier.shape
        account = flat_account(np.zeros((1, assets)))
        kept = []
        for t in range(decisions):
            if p in led:
                bands, lag = led[p]
                side = np.clip(account.marked[0] * size, -1.0, 1.0)
                held = 2.0 * (side * bands.lean[t] + abs(side) * bands.hold[t])
                inside = [
                    np.minimum(np.maximum(held, low), high)
                    for low, high in zip(bands.low[t].astype(float), bands.high[t].astype(float), strict=True)
                ]
                if t + lag < decisions:
                    multiplier[t + lag] = sum(inside[1:], inside[0]) / len(inside)
            now = MarketMove(*(leaf[t : t + 1] for leaf in lane.on.moves))._replace(
                tradable=lane.orders.tradable[t : t + 1]
            )
            orders = (multiplier[t : t + 1], lane.orders.base[t : t + 1], lane.orders.cap[t : t + 1])
            account, moved = move(account, *orders, now, lane.costs, spec.config.limits)
            kept.append((moved.exposure[0], moved.growth[0], account.marked_log_equity[0], moved.cost[0]))
        found.append([np.array(part) for part in zip(*kept, strict=True)])
        asked.append(multiplier)
    exposure, growth, marked, cost = (np.array(part) for part in zip(*found, strict=True))
    return Histories(exposure, asked, growth, marked, cost)


def drawn_bands(on: Stage, members: int, seed: int) -> Bands:
    rng = np.random.default_rng(seed)
    shape = (len(on.base), members, on.base.shape[1])
    low = np.clip(np.cumsum(rng.normal(0.0, 0.05, shape), axis=0) + rng.uniform(0.0, 1.5, shape[1:]), 0.0, 2.0)
    high = np.minimum(low + rng.uniform(0.0, 0.6, shape), 2.0)
    side = np.sign(on.base)
    hold = (rng.random(on.base.shape) < 0.3) * 1.0
    return Bands(low.astype(np.float32), high.astype(np.float32), side * (1.0 - hold), hold)


def market(seed: int, symbol: str = "BTC-USDT") -> Bars:
    """Wild hours with funding, closes that are no opens, and signals of every kind."""
    rng = np.random.default_rng(seed)
    opens = walk(ROWS, seed, 0.012)
    bars = bars_from(opens, opens * np.exp(rng.normal(0.0, 0.008, ROWS)), rng.random(ROWS), symbol=symbol)
    said = replace(bars.signals, action=rng.choice([BUY, BUY, HOLD, SELL], ROWS))  # type: ignore[type-var]
    return replace(bars, signals=said, funding_rate=rng.normal(0.0, 1e-4, ROWS))


def scene(assets: int, spec: LedgerSpec, seed: int) -> tuple[list[Lane], list[Banded]]:
    """Two histories, on each an ensemble and a lone policy at several lags and costs, and baselines, in mixed order."""
    lanes: list[Lane] = []
    banded: list[Banded] = []
    for k in range(2):
        each = [market(seed + 10 * k + a, f"S{a}-USD") for a in range(assets)]
        on = stage(each[0] if assets == 1 else panel_of(each), spec, 20)
        rng = np.random.default_rng(seed + k)
        closed = rng.random(on.base.shape) < 0.05
        on = on._replace(moves=on.moves._replace(tradable=on.moves.tradable & ~closed))
        for name, sized in multipliers(on, rng).items():
            lanes.append(Lane(on, follow(on, sized, 1 if name == "random" else 0), spec.config.costs))
        for members in (1, 3):
            lags = np.array([0, 1, 0, 5])
            banded.append(Banded(drawn_bands(on, members, seed + k), len(lanes) + np.arange(4), lags))
            nothing = np.zeros(on.base.shape)
            for lag, multiple in zip(lags.tolist(), (1.0, 1.0, 3.0, 0.0), strict=True):
                lanes.append(Lane(on, follow(on, nothing, lag), times(spec.config.costs, multiple)))
        leveraged = Orders(np.ones(on.base.shape), np.full(on.base.shape, 0.8), on.cap, on.moves.tradable)
        lanes.append(Lane(on, leveraged, 0.001))
    return lanes, banded


def equal(found: Histories, expected: Histories) -> None:
    for name in ("exposure", "growth", "marked", "cost"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=0.0, atol=1e-13, err_msg=name)
    for ours, theirs in zip(found.multiplier, expected.multiplier, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("assets", [1, 3])
@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("limits", [LIMITS, RiskLimits.off(2.0), replace(LIMITS, max_leverage=0.7)])
def test_every_account_does_what_it_does_alone_bar_by_bar(
    assets: int, short: bool, limits: RiskLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ledger(limits, allow_short=short)
    lanes, banded = scene(assets, spec, 3)
    expected = plain(lanes, banded, spec)
    whole = known.walk(lanes, banded, spec)
    equal(whole, expected)
    if limits is LIMITS:
        calm = known.walk(lanes, banded, ledger(replace(limits, daily_loss_stop=1.0), allow_short=short))
        assert np.abs(calm.exposure - whole.exposure).max() > 0.1  # the stop does something here
    monkeypatch.setattr(known, "CHUNK_NUMBERS", 7 * len(lanes) * assets)  # stretches of seven bars
    in_stretches = known.walk(lanes, banded, spec)
    for ours, theirs in zip(in_stretches, whole, strict=True):
        np.testing.assert_array_equal(np.array(ours), np.array(theirs))


@pytest.mark.parametrize("assets", [1, 3])
def test_own_rates_of_each_asset_and_impact_are_paid_as_alone_bar_by_bar(assets: int) -> None:
    charges = {"commission_rates": (0.001, 0.0004, 0.002)[:assets], "maker_share": 0.25, "maker_rate": -0.0001}
    charges |= {"impact": 1.0, "capital_usd": 1e7, "volume_usd": 1e9}
    spec = ledger(LIMITS, charges=charges)
    lanes, banded = scene(assets, spec, 3)
    whole = known.walk(lanes, banded, spec)
    equal(whole, plain(lanes, banded, spec))
    assert whole.cost.sum() > known.walk(*scene(assets, ledger(LIMITS), 3), ledger(LIMITS)).cost.sum()


def test_histories_whose_days_begin_at_other_hours_keep_their_own_stops() -> None:
    spec = ledger(LIMITS)
    lanes, banded = scene(1, spec, 5)
    second = lanes[-1].on
    shifted = second._replace(moves=second.moves._replace(new_day=np.roll(second.moves.new_day, 5)))
    lanes = [lane._replace(on=shifted) if lane.on is second else lane for lane in lanes]
    equal(known.walk(lanes, banded, spec), plain(lanes, banded, spec))


def test_bands_outside_what_may_be_asked_are_kept_as_asked_and_held_at_the_limits() -> None:
    spec = ledger(LIMITS, allow_short=True)
    lanes, banded = scene(1, spec, 7)
    wild = [each._replace(bands=Bands(each.bands.low - 1.0, each.bands.high + 1.5, *each.bands[2:])) for each in banded]
    found = known.walk(lanes, wild, spec)
    equal(found, plain(lanes, wild, spec))
    assert min(asked.min() for asked in found.multiplier) < 0.0


def test_a_loop_that_forgets_a_lag_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of this file."""
    spec = ledger(LIMITS)
    lanes, banded = scene(1, spec, 3)
    forgetful: list[Any] = [each._replace(lags=np.zeros_like(each.lags)) for each in banded]
    with pytest.raises(AssertionError):
        equal(known.walk(lanes, forgetful, spec), plain(lanes, banded, spec))
