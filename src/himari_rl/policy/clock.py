"""The clock: bars turned into what each decision meets, once, for training, backtest and runner alike.

    observe at the close of bar t (rows <= t) | fill at open[t+1] | earn open[t+1] .. open[t+2] | mark at closes

Row t of every array below belongs to the decision at the close of bar t, so T bars hold T - 2 decisions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from himari_rl.features.encoder import MARKET_COLUMNS
from himari_rl.features.signals import direction, reference_signals
from himari_rl.policy.account import Leg
from himari_rl.policy.risk import RiskLimits, multiplier_cap
from himari_rl.schema import Bars, BoolArray, FloatArray

DAY_MS = 86_400_000
VOLATILITY_COLUMN, RISK_COLUMN = 13, 15  # features 14 and 16 of DESIGN section 6, zero-based
VOLATILITY_SCALE = 0.1
assert {VOLATILITY_COLUMN, RISK_COLUMN} <= set(MARKET_COLUMNS)


class Timeline(NamedTuple):
    """One asset's decisions. Arrays are (D,) with D = len(bars) - 2."""

    leg: Leg
    base: FloatArray  # direction * max_position_pct
    cap: FloatArray  # regime cap on the multiplier


def legs(bars: Bars) -> Leg:
    """What the market does after each decision; arrays (D,)."""
    opens, closes = bars.open, bars.close
    day = bars.timestamp // DAY_MS
    funding = np.zeros(len(bars)) if bars.funding_rate is None else np.nan_to_num(bars.funding_rate)
    return Leg(
        tradable=bars.tradable[1:-1],
        to_close=closes[1:-1] / opens[1:-1] - 1.0,
        to_open=opens[2:] / opens[1:-1] - 1.0,
        funding=funding[2:],
        new_day=first_of_day(day)[1:-1],
    )


def first_of_day(day: np.ndarray) -> BoolArray:
    """(T,) True where a bar is the first of its UTC day."""
    return np.concatenate(([True], day[1:] != day[:-1]))


def timeline(
    bars: Bars, rows: FloatArray, *, max_position_pct: float, allow_short: bool, limits: RiskLimits
) -> Timeline:
    """Joins what the market does with what the decision may use.

    Args:
        rows: (T, 16) market rows from `StateEncoder.market_rows(bars)`.
    """
    decisions = len(bars) - 2
    signals = bars.signals if bars.signals is not None else reference_signals(bars)
    side = direction(signals.action, allow_short)[:decisions]
    cap = multiplier_cap(rows[:decisions, VOLATILITY_COLUMN] * VOLATILITY_SCALE, rows[:decisions, RISK_COLUMN], limits)
    return Timeline(legs(bars), side * max_position_pct, cap)
