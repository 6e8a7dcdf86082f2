"""The environment's money against the design's ledger, written out one bar at a time in floats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.envs import FREE, bars_of, play, random_bars, scalar_ledger
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.trading_env import TradingEnv
from himari_rl.errors import ConfigError
from himari_rl.policy.risk import RiskLimits, limited_exposure

ROWS = 90


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    sigma=st.sampled_from([0.001, 0.01, 0.03]),
    gaps=st.sampled_from([0.0, 0.2]),
    allow_short=st.booleans(),
    limits=st.sampled_from(
        [RiskLimits(), RiskLimits.off(), RiskLimits(max_leverage=0.4), RiskLimits(daily_loss_stop=0.005)]
    ),
    costs=st.sampled_from([(0.0, 0.0), (0.001, 5.0), (0.01, 50.0)]),
    row=st.integers(0, 30),
    data=st.data(),
)
def test_every_bar_agrees_with_the_scalar_ledger(seed, sigma, gaps, allow_short, limits, costs, row, data) -> None:
    bars = random_bars(ROWS, seed, sigma=sigma, gaps=gaps)
    steps = len(bars) - 3 - row
    config = TradingEnvConfig(
        allow_short=allow_short, limits=limits, commission_rate=costs[0], slippage_bps=costs[1], episode_bars=steps,
        ruin=0.001, reward="log_growth",
    )  # fmt: skip
    multipliers = data.draw(st.lists(st.floats(-0.5, 2.5), min_size=steps, max_size=steps))
    played = play(TradingEnv(bars, config), multipliers, row, steps)
    expected = scalar_ledger(bars, config, row, multipliers)
    for name in ("exposure", "cost", "log_growth"):
        assert played[name] == pytest.approx([getattr(bar, name) for bar in expected], rel=1e-12, abs=1e-12), name
    marked = np.array([bar.marked for bar in expected])
    size = np.clip(np.abs(marked) / (2 * config.max_position_pct), 0.0, 1.0)
    assert played["observation"][1:, 8] == pytest.approx(size, abs=1e-7)
    assert played["observation"][1:, 9].tolist() == np.sign(marked).tolist()


@pytest.mark.parametrize(
    "change",
    [
        lambda bars: replace(bars, open=np.append(bars.open[1:], bars.open[-1])),  # earns one bar early
        lambda bars: replace(bars, volume=np.ones(len(bars))),  # fills where nothing trades
        lambda bars: replace(bars, funding_rate=-bars.funding_rate),  # a long receives funding
        lambda bars: replace(bars, funding_rate=np.append(bars.funding_rate[1:], 0.0)),  # settles one bar early
        lambda bars: replace(bars, timestamp=bars.timestamp + 3_600_000),  # the day begins an hour off
        lambda bars: replace(bars, close=bars.open),  # marks at the open
    ],
    ids=["shifted opens", "placeholders trade", "funding sign", "funding clock", "day boundary", "marks"],
)
def test_the_comparison_notices_a_ledger_on_a_wrong_clock(change) -> None:
    bars, multipliers = random_bars(ROWS, 5, sigma=0.02), np.random.default_rng(0).uniform(0, 2, ROWS - 3)
    limits = RiskLimits(daily_loss_stop=0.005, high_vol_volatility=9.0, crisis_volatility=9.0)
    config = TradingEnvConfig(limits=limits, episode_bars=ROWS - 3, ruin=0.001, allow_short=True)
    story = play(TradingEnv(bars, config), multipliers.tolist(), 0, ROWS - 3)["log_growth"]
    right = [bar.log_growth for bar in scalar_ledger(bars, config, 0, multipliers.tolist())]
    wrong = [bar.log_growth for bar in scalar_ledger(change(bars), config, 0, multipliers.tolist())]
    assert np.abs(story - right).max() < 1e-12 < 1e-5 < np.abs(story - wrong).max()


def test_flat_earns_exactly_nothing() -> None:
    bars = random_bars(ROWS, 1, sigma=0.03)
    config = TradingEnvConfig(episode_bars=ROWS - 3, reward="mean_variance", allow_short=True)
    played = play(TradingEnv(bars, config), [0.0] * (ROWS - 3), 0, ROWS - 3)
    assert not played["log_growth"].any()
    assert not played["reward"].any()
    assert (played["equity"] == config.initial_capital).all()
    assert not played["observation"][:, 8:11].any()


def test_buy_and_hold_equals_the_price_ratio_less_its_cost() -> None:
    bars = bars_of(np.random.default_rng(2).uniform(90, 110, ROWS))
    limits = RiskLimits.off(max_leverage=1.0)
    config = TradingEnvConfig(max_position_pct=0.5, limits=limits, episode_bars=ROWS - 3, reward="log_growth")
    played = play(TradingEnv(bars, config), [2.0] * (ROWS - 3), 0, ROWS - 3)
    prices, cost = bars.open, 0.0015
    first = prices[2] / prices[1] - cost
    drifted = prices[2] / prices[1] / first  # just above 1: the fee left a debt, which selling at open[2] repays
    second = prices[3] / prices[2] - cost * (drifted - 1.0)
    assert played["exposure"] == pytest.approx(1.0, abs=1e-15)
    assert played["cost"][:2] == pytest.approx([cost, cost * (drifted - 1.0)], rel=1e-9)
    assert played["equity"][-1] / 1e5 == pytest.approx(first * second * prices[-2] / prices[3], rel=1e-8)


def test_without_costs_buy_and_hold_is_the_price_ratio() -> None:
    bars = bars_of(np.random.default_rng(2).uniform(90, 110, ROWS))
    played = play(TradingEnv(bars, TradingEnvConfig(**FREE, episode_bars=ROWS - 3)), [2.0] * (ROWS - 3), 0, ROWS - 3)
    assert played["equity"][-1] / 1e5 == pytest.approx(bars.open[-2] / bars.open[1], rel=1e-12)


def test_equity_is_the_exponential_of_the_growth_so_far() -> None:
    bars = random_bars(ROWS, 3)
    config = TradingEnvConfig(episode_bars=ROWS - 3, allow_short=True, initial_capital=12_345.0)
    multipliers = np.random.default_rng(3).uniform(0, 2, ROWS - 3).tolist()
    played = play(TradingEnv(bars, config), multipliers, 0, ROWS - 3)
    assert played["equity"] == pytest.approx(12_345.0 * np.exp(np.cumsum(played["log_growth"])), rel=1e-12)


def test_a_long_pays_positive_funding_and_a_short_receives_it() -> None:
    rows = 8
    rate = np.zeros(rows)
    rate[4] = 0.01  # settles at open[4], so whoever holds from open[3] to open[4] meets it
    growth = {}
    for name, action in (("long", 1), ("short", -1)):
        bars = bars_of(np.full(rows, 100.0), action=action, funding_rate=rate)
        config = TradingEnvConfig(**FREE, episode_bars=5, allow_short=True)
        growth[name] = play(TradingEnv(bars, config), [1.0] * 5, 0, 5)["log_growth"]
    assert growth["long"] == pytest.approx([0, 0, np.log(1 - 0.5 * 0.01), 0, 0], abs=1e-15)
    assert growth["short"] == pytest.approx([0, 0, np.log(1 + 0.5 * 0.01), 0, 0], abs=1e-15)


def test_a_position_cannot_be_left_at_a_bar_that_does_not_trade() -> None:
    opens = np.array([100.0, 100, 100, 60, 60, 60, 60, 60])
    volume = np.array([1.0, 1, 0, 1, 1, 1, 1, 1])
    bars = bars_of(opens, volume=volume)
    config = TradingEnvConfig(**FREE, episode_bars=5)
    played = play(TradingEnv(bars, config), [2.0, 0.0, 0.0, 0.0, 0.0], 0, 5)
    # bought at open[1]; the sale wanted for open[2] does not happen; sold at open[3] after the fall
    assert played["exposure"] == pytest.approx([1.0, 1.0, 0.0, 0.0, 0.0])
    assert played["equity"] == pytest.approx([1e5, 6e4, 6e4, 6e4, 6e4])


def test_the_daily_stop_closes_until_the_next_utc_day_and_judges_by_closes() -> None:
    rows, fall = 60, 10
    opens = np.full(rows, 100.0)
    closes = opens.copy()
    closes[fall] = 95.0  # a fall seen at the close only: 2.5 % of equity at exposure .5
    opens[fall + 1 :] = closes[fall + 1 :] = 95.0
    bars = bars_of(opens, closes)
    limits = RiskLimits(high_vol_volatility=9.0, crisis_volatility=9.0, daily_loss_stop=0.02)
    config = TradingEnvConfig(limits=limits, commission_rate=0.0, slippage_bps=0.0, episode_bars=rows - 3)
    exposure = play(TradingEnv(bars, config), [1.0] * (rows - 3), 0, rows - 3)["exposure"]
    open_of_fill = np.arange(1, rows - 2)  # decision t fills at open[t + 1]
    closed = (open_of_fill > fall) & (open_of_fill < 24)
    assert (exposure == np.where(closed, 0.0, 0.5)).all()


def test_a_day_that_begins_with_an_outage_still_begins_a_new_day() -> None:
    rows, fall = 60, 10
    opens = np.full(rows, 100.0)
    opens[fall + 1 :] = 95.0
    keep = (np.arange(rows) < 20) | (np.arange(rows) >= 30)  # 20:00 to 05:59 is missing
    bars = bars_of(opens)[keep]  # type: ignore[index]
    limits = RiskLimits(high_vol_volatility=9.0, crisis_volatility=9.0, daily_loss_stop=0.02)
    config = TradingEnvConfig(limits=limits, commission_rate=0.0, slippage_bps=0.0, episode_bars=40)
    exposure = play(TradingEnv(bars, config), [1.0] * 40, 0, 40)["exposure"]
    fill = bars.timestamp[1:41] - bars.timestamp[0]
    assert (exposure == np.where((fill > fall * 3.6e6) & (fill < 20 * 3.6e6), 0.0, 0.5)).all()


@pytest.mark.parametrize("cap", [0.0, -1.0, float("nan")])
def test_a_gross_cap_that_leaves_no_room_is_refused(cap: float) -> None:
    with pytest.raises(ConfigError, match="max_leverage"):
        RiskLimits(max_leverage=cap)


def test_the_gross_cap_has_a_gradient_on_both_sides_and_at_zero() -> None:
    multiplier = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    base, open_cap = torch.full((3, 1), 0.8, dtype=torch.float64), torch.full((3, 1), 9.0, dtype=torch.float64)
    exposure = limited_exposure(multiplier, open_cap, base, torch.zeros(3, dtype=torch.bool), 1.0)
    assert exposure[:, 0].tolist() == pytest.approx([0.0, 0.8, 1.0], abs=1e-15)
    (slope,) = torch.autograd.grad(exposure.sum(), multiplier)
    assert slope[:, 0].tolist() == pytest.approx([0.8, 0.8, 0.0], abs=1e-15)  # one asset above its cap: nothing left
