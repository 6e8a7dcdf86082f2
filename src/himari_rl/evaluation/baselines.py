"""What a policy is compared with, in the same ledger, at the same costs, under the same limits.

Rules with a no-trade band, and the best of them, are in one_liners.py; splits of all equity in portfolio_baselines.py.

multiplier 1.0          do as Layer 2 says: the reference of every paired difference
buy and hold            all equity into the market at the first open, then never a trade
cash                    multiplier 0: nothing is held, nothing is lost
15 % volatility target  Layer 2's side, sized so that its annual volatility is 15 %
random                  a fresh uniform multiplier in [0, 2] every bar
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import numpy as np

from himari_rl.policy.account import MarketMove
from himari_rl.schema import HOUR_MS, MAX_MULTIPLIER, Bars, BoolArray, FloatArray, IntArray, bars_per_year

ONE, HOLD_ALL, CASH, VOLATILITY_TARGET, RANDOM = (
    "multiplier 1.0",
    "buy and hold",
    "cash",
    "15 % volatility",
    "random",
)
TARGET_VOLATILITY = 0.15  # a year
HALF_LIFE_MS = 7 * 24 * HOUR_MS  # of the volatility estimate


class Stage(NamedTuple):
    """Everything accounts meet and cannot change: D decisions on A assets."""

    symbols: tuple[str, ...]
    rows: FloatArray  # (D, F) market part of the state; account columns are 0
    moves: MarketMove  # (D, A), new_day (D,)
    base: FloatArray  # (D, A) direction * max_position_pct
    cap: FloatArray  # (D, A) regime cap on the multiplier
    volatility: FloatArray  # (D, A) causal annual volatility; 0 while unknown
    fill_time: IntArray  # (D,) ms UTC of the open where the decision fills
    end_time: int  # ms UTC of the open to which the last decision earns
    max_position_pct: float


class Orders(NamedTuple):
    """What one account asks for at each decision. Arrays are (D, A)."""

    multiplier: FloatArray
    base: FloatArray
    cap: FloatArray
    tradable: BoolArray


def ewma_volatility(bars: Bars, half_life_ms: int = HALF_LIFE_MS) -> FloatArray:
    """(T,) annual volatility at the close of each bar, from the closes of rows <= t; 0 at the first bar.

    Exponentially weighted squared log-returns, weights normalised to one from the start; a year has as many bars as
    the history up to that bar had. The judged span's own number would tell a policy of January how often the market
    opens in June, and the interval's would call a stock's hours more than twice as wild as they are. In the first days
    of a market that closes the number is rough.
    """
    keep = 0.5 ** (bars.interval_ms / half_life_ms)
    squares = np.diff(np.log(bars.close)) ** 2
    total = np.array(list(accumulate(squares.tolist(), lambda sum_, square: keep * sum_ + square)))
    weight = (1.0 - keep ** np.arange(1, len(bars))) / (1.0 - keep)
    times = bars.timestamp
    year = bars_per_year(np.arange(2, len(bars) + 1), int(times[0]), times[1:] + bars.interval_ms)
    return np.concatenate(([0.0], np.sqrt(total / weight * year)))


def multipliers(stage: Stage, rng: np.random.Generator) -> dict[str, FloatArray]:
    """(D, A) multipliers of every baseline that sizes Layer 2's direction."""
    shape = stage.base.shape
    known = stage.volatility > 0.0
    size = TARGET_VOLATILITY / np.where(known, stage.volatility, 1.0) / stage.max_position_pct
    return {
        ONE: np.ones(shape),
        CASH: np.zeros(shape),
        VOLATILITY_TARGET: np.where(known, np.minimum(size, MAX_MULTIPLIER), 0.0),
        RANDOM: rng.uniform(0.0, MAX_MULTIPLIER, shape),
    }


def follow(stage: Stage, multiplier: FloatArray, lag: int = 0) -> Orders:
    """Sizes Layer 2's direction; with a lag the whole decision (size, side and cap) is used that many bars later."""
    return later(Orders(multiplier, stage.base, stage.cap, stage.moves.tradable), lag)


def later(orders: Orders, lag: int) -> Orders:
    """The same decisions, each used `lag` bars too late; what can be traded when stays as it is."""
    return Orders(
        _later(orders.multiplier, lag, 0.0),
        _later(orders.base, lag, 0.0),
        _later(orders.cap, lag, 0.0),
        orders.tradable,
    )


def buy_and_hold(stage: Stage, lag: int = 0) -> Orders:
    """Equal shares of all equity at each asset's first tradable open; nothing trades afterwards."""
    shape = stage.base.shape
    tradable = stage.moves.tradable.copy()
    tradable[:lag] = False
    first = tradable & (np.cumsum(tradable, axis=0) == 1)
    return Orders(np.ones(shape), np.full(shape, 1.0 / shape[1]), np.full(shape, np.inf), first)


def _later(values: FloatArray, lag: int, before: float) -> FloatArray:
    if lag == 0:
        return values
    return np.concatenate([np.full((lag, *values.shape[1:]), before), values[:-lag]])
