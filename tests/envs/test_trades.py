"""Unrealised P&L and the win rate against a book kept in coins and dollars, at average cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.envs import FREE, bars_of, play, random_bars
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.trading_env import TradingEnv
from himari_rl.schema import Bars

PNL, WIN_RATE = 10, 14


def book(bars: Bars, exposures: np.ndarray, rate: float) -> tuple[list[float], list[float]]:
    """Unrealised P&L / equity at each close and the win rate, of an account that holds `exposures` from each open on.

    Coins are bought and sold, cash pays; a reduction realises its share; a side that ends is a closed trade, and it
    won if all that flowed since it began, fees and funding included, is positive.
    """
    cash, coins, basis, flows = 1.0, 0.0, 0.0, 0.0  # basis: what the held coins cost, funding included
    closed: list[bool] = []
    unrealised, rates = [], []
    for t, w in enumerate(exposures):
        price = bars.open[t + 1]
        equity = cash + coins * price
        wanted = w * equity / price
        if abs(wanted - coins) < 1e-12 * max(1.0, abs(coins)):
            wanted = coins
        fee, after_close = rate * abs(wanted - coins) * price, 0.0
        if wanted * coins > 0:
            share = min(abs(wanted) / abs(coins), 1.0)
            added = (wanted - coins) * price if share == 1.0 else 0.0
            flows -= fee + (wanted - coins) * price
            basis = basis * share + added
        else:
            if coins != 0:
                closed.append(flows + coins * price - rate * abs(coins) * price > 0)
                after_close = fee - rate * abs(coins) * price
            flows = -wanted * price - (after_close if coins != 0 else fee)
            basis = wanted * price
        cash -= (wanted - coins) * price + fee
        coins = wanted
        close = bars.close[t + 1]
        unrealised.append((coins * close - basis) / (cash + coins * close))
        last = closed[-10:]
        rates.append(sum(last) / len(last) if last else 0.5)
        funding = 0.0 if bars.funding_rate is None else np.nan_to_num(bars.funding_rate[t + 2])
        paid = coins * price * funding
        cash, basis, flows = cash - paid, basis + paid, flows - paid
    return unrealised, rates


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), sigma=st.sampled_from([0.003, 0.02]), data=st.data())
def test_unrealised_pnl_and_win_rate_are_those_of_the_book(seed: int, sigma: float, data: st.DataObject) -> None:
    rows = 110
    bars = random_bars(rows, seed, sigma=sigma)
    plan = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.3, 2.0]), min_size=rows - 3, max_size=rows - 3))
    config = TradingEnvConfig(episode_bars=rows - 3, allow_short=True, ruin=1e-6)
    played = play(TradingEnv(bars, config), plan, 0, rows - 3)
    unrealised, rates = book(bars, played["exposure"], config.cost_rate)
    assert played["observation"][1:, PNL] == pytest.approx(np.clip(unrealised, -0.5, 0.5) * 2, abs=1e-6)
    assert played["observation"][1:, WIN_RATE] == pytest.approx(rates, abs=1e-6)


def test_a_trade_that_earns_less_than_its_fees_is_lost() -> None:
    opens = np.array([100.0, 100.0, 100.2, 100.2, 101.0, 102.0, 102.0, 102.0, 102.0])
    bars = bars_of(opens)
    costly = TradingEnvConfig(**(FREE | {"commission_rate": 0.0015}), episode_bars=6)
    free = TradingEnvConfig(**FREE, episode_bars=6)
    plan = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]  # +.2 % (fees .3 %), then +1.8 %
    rate = {
        n: play(TradingEnv(bars, c), plan, 0, 6)["observation"][:, WIN_RATE] for n, c in (("a", costly), ("b", free))
    }
    assert rate["a"].tolist() == [0.5, 0.5, 0.0, 0.0, 0.0, 0.5, 0.5]
    assert rate["b"].tolist() == [0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
