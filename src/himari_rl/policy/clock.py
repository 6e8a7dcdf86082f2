"""The clock: bars turned into what each decision meets, once, for training, backtest and runner alike.

    observe at the close of bar t (rows <= t) | fill at open[t+1] | earn open[t+1] .. open[t+2] | mark at closes

Row t of every array below belongs to the decision at the close of bar t, so T bars hold T - 2 decisions.

The words, from one decision to all of them:
    MarketMove   what the market does after a decision: returns, funding, whether it can be traded (policy/account.py)
    MarketPath   the D decisions of one history in order: its moves, the base position and the cap on the multiplier
    Market       paths end to end as tensors; a Window is some of its rows, gathered (envs/physics.py)
    Stage        a path with what only a backtest needs besides: observations, fill times (evaluation/baselines.py)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from himari_rl.data.panel import Panel, Prices
from himari_rl.errors import DataError
from himari_rl.features.contract import CASCADE_RISK, VOLATILITY, VOLATILITY_SCALE, WIDTH
from himari_rl.features.encoder import StateEncoder
from himari_rl.features.signals import signals_of, with_signals
from himari_rl.policy.account import MarketMove
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.policy.risk import multiplier_cap
from himari_rl.schema import DAY_MS, Bars, BoolArray, FloatArray, direction


class MarketPath(NamedTuple):
    """Decisions of one asset, arrays (D,), or of a panel, arrays (D, A); D = T - 2."""

    moves: MarketMove
    base: FloatArray  # direction * max_position_pct
    cap: FloatArray  # regime cap on the multiplier


def market_moves(bars: Bars | Prices) -> MarketMove:
    """What the market does after each decision; arrays (D,), or (D, A) for the prices of a panel."""
    opens, closes = bars.open, bars.close
    day = bars.timestamp // DAY_MS
    funding = np.zeros_like(opens) if bars.funding_rate is None else np.nan_to_num(bars.funding_rate)
    return MarketMove(
        tradable=bars.tradable[1:-1],
        to_close=closes[1:-1] / opens[1:-1] - 1.0,
        to_open=opens[2:] / opens[1:-1] - 1.0,
        funding=funding[2:],
        new_day=first_of_day(day)[1:-1],
    )


def first_of_day(day: np.ndarray) -> BoolArray:
    """(T,) True where a bar is the first of its UTC day."""
    return np.concatenate(([True], day[1:] != day[:-1]))


def market_path(bars: Bars, rows: FloatArray, ledger: LedgerConfig) -> MarketPath:
    """Joins what the market does with what the decision may use.

    Args:
        rows: (T, 16) market rows from `StateEncoder.market_rows(bars)`.
    """
    decisions = len(bars) - 2
    side = direction(signals_of(bars).action, ledger.allow_short)[:decisions]
    cap = multiplier_cap(rows[:decisions, VOLATILITY] * VOLATILITY_SCALE, rows[:decisions, CASCADE_RISK], ledger.limits)
    return MarketPath(market_moves(bars), side * ledger.max_position_pct, cap)


def panel_path(panel: Panel, rows: FloatArray, ledger: LedgerConfig) -> MarketPath:
    """`market_path` of several assets on one clock; arrays (D, A).

    A direction is what Layer 2 last said at or before each time, so that a symbol without a bar keeps it.

    Args:
        rows: (T, F) market rows of the panel's clock.
    """
    decisions = len(panel) - 2
    latest, _ = panel.rows()
    sides = []
    for bars, row in zip(panel.bars, latest.T, strict=True):
        sides.append(direction(signals_of(bars).action, ledger.allow_short)[row[:decisions]])
    blocks = rows[:decisions, : WIDTH * len(sides)].reshape(decisions, len(sides), WIDTH)
    cap = multiplier_cap(blocks[..., VOLATILITY] * VOLATILITY_SCALE, blocks[..., CASCADE_RISK], ledger.limits)
    return MarketPath(market_moves(panel.prices()), np.stack(sides, axis=1) * ledger.max_position_pct, cap)


def decisions_of(history: Bars | Panel, encoder: StateEncoder, ledger: LedgerConfig) -> tuple[FloatArray, MarketPath]:
    """What is seen and what is met at each decision of one asset's bars or of a panel.

    Returns:
        (D, F) market rows and the market path.

    Raises:
        DataError: a panel of other symbols, or in another order, than the encoder's.
    """
    history = with_signals(history)
    if isinstance(history, Bars):
        rows = encoder.market_rows(history)
        return rows[: len(history) - 2], market_path(history, rows, ledger)
    if history.symbols != encoder.symbols:
        raise DataError(
            f"bars of {', '.join(history.symbols)}", ", ".join(encoder.symbols), "name the symbols in this order"
        )
    clock, every = encoder.panel_rows(history.bars)
    rows = every[(clock >= history.start) & (clock <= history.end)]
    return rows[: len(history) - 2], panel_path(history, rows, ledger)
