"""Nothing in an environment knows the future, lag behaves as an honest edge's lag does, and both checks can fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.envs import FREE, assert_no_future, bars_of, random_bars
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.physics import Market
from himari_rl.envs.trading_env import TradingEnv
from himari_rl.envs.vector_env import VectorTradingEnv
from himari_rl.errors import LookAheadError
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.account import MarketMove
from himari_rl.schema import Bars

ROWS = 110
CONFIG = TradingEnvConfig(episode_bars=ROWS - 3, allow_short=True, ruin=1e-6)


def honest(bars: Bars) -> TradingEnv:
    return TradingEnv(bars, CONFIG)


class Shifted(StateEncoder):
    """Features one bar ahead."""

    def market_rows(self, bars: Bars) -> np.ndarray:
        return np.roll(super().market_rows(bars), -1, axis=0)


def shifted_features(bars: Bars) -> TradingEnv:
    return TradingEnv(bars, CONFIG, encoder=Shifted((bars.symbol,)))


def marks_at_the_next_open(bars: Bars) -> TradingEnv:
    """The earlier attempt's kind of leak: the account that is observed has already met open[t + 2]."""
    env = TradingEnv(bars, CONFIG)
    observe = env.physics.observe

    def leaking(state, rows):
        return observe(state._replace(account=state.account._replace(marked=state.account.held)), rows)

    env.physics.observe = leaking
    return env


def knows_its_profit(bars: Bars) -> TradingEnv:
    env = TradingEnv(bars, CONFIG)
    observe = env.physics.observe

    def leaking(state, rows):
        return observe(state._replace(trades=state.trades._replace(marked_pnl=state.trades.open_pnl)), rows)

    env.physics.observe = leaking
    return env


def with_market(bars: Bars, **changes: torch.Tensor) -> TradingEnv:
    env = TradingEnv(bars, CONFIG)
    env.physics.market = replace(env.physics.market, **changes)
    return env


def next_direction(bars: Bars) -> TradingEnv:
    market: Market = honest(bars).physics.market
    return with_market(bars, base=market.base.roll(-1, 0))


def cap_of_the_bar_it_fills_in(bars: Bars) -> TradingEnv:
    market: Market = honest(bars).physics.market
    return with_market(bars, cap=market.cap.roll(-1, 0))


def earns_the_bar_it_knows(bars: Bars) -> TradingEnv:
    """Profit one bar early is no leak of the observation; it is a fill in the past, and growth tells."""
    market: Market = honest(bars).physics.market
    moves = MarketMove(*(leaf.roll(-1, 0) for leaf in market.moves))
    return with_market(bars, moves=moves)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("gaps", [0.0, 0.2])
def test_no_observation_decision_or_fill_changes_with_the_future(seed: int, gaps: float) -> None:
    assert_no_future(honest, random_bars(ROWS if not gaps else 160, seed, sigma=0.02, gaps=gaps), seed=seed, cuts=8)


def test_without_layer_2_columns_the_reference_signal_knows_no_future_either() -> None:
    assert_no_future(honest, replace(random_bars(ROWS, 3, sigma=0.02), signals=None), cuts=8)


@pytest.mark.parametrize(
    ("leak", "found"),
    [
        (shifted_features, "observation"),
        (marks_at_the_next_open, "observation"),
        (knows_its_profit, "observation"),
        (next_direction, "exposure"),
        (cap_of_the_bar_it_fills_in, "exposure"),
        (earns_the_bar_it_knows, "observation|exposure|cost|log_growth"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_planted_leak_is_caught(leak, found: str) -> None:
    with pytest.raises(LookAheadError, match=rf"the ({found}) of row \d+ moved when the rows after \d+ became noise"):
        assert_no_future(leak, random_bars(ROWS, 0, sigma=0.02), cuts=20)


def test_lagging_every_decision_by_a_bar_shrinks_an_honest_edge_and_collapses_a_leak() -> None:
    rows, rng = 3000, np.random.default_rng(7)
    state = np.ones(rows)
    for t in range(1, rows):
        state[t] = state[t - 1] if rng.random() < 0.95 else -state[t - 1]
    earned = 0.002 * state[:-1] + 0.01 * rng.normal(
        size=rows - 1
    )  # earned[i]: open[i] to open[i + 1], known by state[i]
    opens = 100.0 * np.exp(np.concatenate(([0.0], np.cumsum(earned))))
    decisions = rows - 3
    known = np.where(state > 0, 2.0, 0.0)[:decisions]  # at the close of bar t one may know the state of bar t
    leak = np.where(earned[1 : decisions + 1] > 0, 2.0, 0.0)  # sized on the very bar it then earns
    plans = [known, np.append(0.0, known[:-1]), leak, np.append(0.0, leak[:-1])]
    envs = VectorTradingEnv(4, bars_of(opens), TradingEnvConfig(**FREE, episode_bars=decisions, ruin=1e-9))
    envs.reset(seed=0, options={"row": 0})
    growth = np.array([envs.step(np.array(m)[:, None])[4]["log_growth"] for m in zip(*plans, strict=True)])
    market = (
        growth[:, 0].mean() * 0 + earned[1 : decisions + 1].mean() / 2
    )  # what a coin that is in half the time earns
    edge, lagged, leaked, exposed = growth.mean(0) - market
    assert 0.4 * edge < lagged < edge  # a persistent edge loses a tenth of its information, not all of it
    assert leaked > 4 * edge
    assert abs(exposed) < 0.15 * leaked


def test_the_market_the_decision_meets_is_the_one_of_the_next_open() -> None:
    opens, closes = np.array([10.0, 20, 40, 80, 160, 320]), np.array([11.0, 22, 44, 88, 176, 352])
    volume = np.array([1.0, 0, 1, 1, 1, 1])
    rate = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    market = honest_small(bars_of(opens, closes, volume=volume, funding_rate=rate))
    first = [leaf[0].item() for leaf in market.moves]
    tradable, to_close, to_open, funding, _ = first
    assert (tradable, funding) == (False, 0.3)
    assert (to_close, to_open) == pytest.approx((22 / 20 - 1, 40 / 20 - 1))
    assert len(market) == 4


def honest_small(bars: Bars) -> Market:
    return TradingEnv(bars, TradingEnvConfig(episode_bars=2)).physics.market
