"""An account on the clock: what one decision does to a position between two opens.

    close of bar t      observe rows <= t, decide m_t
    open of bar t+1     fill                                  cost on the change of exposure
    close of bar t+1    mark: what the next observation sees
    open of bar t+2     R_t = open[t+2] / open[t+1] - 1 is earned; the exposure has drifted

Plain array expressions on numpy or torch, built on ledger.py. `move` is the money (and is differentiable);
`track` keeps the numbers that only the observation needs (unrealised P&L, win rate of closed trades).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from himari_rl.policy.ledger import Array, Costs, bounded, drift, fees, fill, grow, namespace
from himari_rl.policy.risk import RiskLimits, beside_carried, limited_exposure

WIN_WINDOW = 10  # feature 15 looks at the last ten closed trades


class Account(NamedTuple):
    """Money and exposure of accounts of shape (...), on A assets."""

    held: Array  # (..., A) exposure that arrives at the next open
    marked: Array  # (..., A) exposure at the last close: what is observed
    log_equity: Array  # (...) log of equity / initial equity at the next open, before its fill
    marked_log_equity: Array  # (...) the same at the last close
    day_log_equity: Array  # (...) at the first open of the current UTC day
    stopped: Array  # (...) bool: the daily loss stop holds


class Trades(NamedTuple):
    """Open and closed trades of the same accounts. A trade is one stretch on one side."""

    open_pnl: Array  # (..., A) unrealised P&L at the next open, fraction of equity
    marked_pnl: Array  # (..., A) unrealised P&L at the last close, fraction of equity: feature 11
    trade_pnl: Array  # (..., A) P&L of the open trade so far, costs included
    history: Array  # (..., A) int: one bit for each of the last ten closed trades, 1 = won
    wins: Array  # (..., A) int
    closed: Array  # (..., A) int, at most WIN_WINDOW

    @property
    def win_rate(self) -> Array:
        """(..., A) share of the last ten closed trades that won; 0.5 before the first one closes."""
        xp = namespace(self.wins)
        return xp.where(self.closed > 0, self.wins / bounded(self.closed, 1, WIN_WINDOW), 0.5)


class MarketMove(NamedTuple):
    """What the market does after the decision at the close of bar t. Leaves broadcast to (..., A)."""

    tradable: Array  # bool: bar t+1 can be traded at its open
    to_close: Array  # close[t+1] / open[t+1] - 1
    to_open: Array  # open[t+2] / open[t+1] - 1: the return this decision earns
    funding: Array  # rate settled at open[t+2], paid by longs
    new_day: Array  # (...) bool: bar t+1 is the first of its UTC day


class Move(NamedTuple):
    """What `move` did, beside the new account."""

    exposure: Array  # (..., A) after the fill
    cost: Array  # (...) commission and slippage, fraction of equity
    growth: Array  # (...) equity factor, open to open
    marked_growth: Array  # (...) equity factor, open to close


def flat_account(zeros: Array) -> Account:
    """An account in cash; `zeros` is a (..., A) array of zeros that gives shape, dtype and device."""
    none = zeros.sum(-1)
    return Account(zeros, zeros, none, none, none, none > 0)


def no_trades(zeros: Array) -> Trades:
    """The trade record of an account in cash."""
    count = zeros.astype(np.int64) if isinstance(zeros, np.ndarray) else zeros.long()
    return Trades(zeros, zeros, zeros, count, count, count)


def move(
    account: Account,
    multiplier: Array,
    base: Array,
    cap: Array,
    market: MarketMove,
    cost_rate: Costs | Array | float,
    limits: RiskLimits,
) -> tuple[Account, Move]:
    """Carries accounts from one decision to the next.

    Args:
        multiplier: (..., A) the decision at the close of bar t.
        base: (..., A) direction_t * max_position_pct.
        cap: (..., A) regime cap on the multiplier, from rows <= t.
        cost_rate: commission + slippage per unit of traded notional, or `Costs`.
    """
    xp = namespace(account.held)
    stopped = account.stopped & ~market.new_day
    day_log_equity = xp.where(market.new_day, account.log_equity, account.day_log_equity)
    target = limited_exposure(multiplier, cap, base, stopped, limits.max_leverage)
    if target.shape[-1] > 1:
        target = beside_carried(target, account.held, market.tradable, limits.max_leverage)
    exposure, cost = fill(account.held, target, market.tradable, cost_rate)
    marked_growth = grow(exposure, cost, market.to_close)
    growth = grow(exposure, cost, market.to_open, market.funding)
    marked_log_equity = account.log_equity + xp.log(marked_growth)
    if limits.daily_loss_stop < 1.0:
        stopped = stopped | (marked_log_equity - day_log_equity <= np.log1p(-limits.daily_loss_stop))
    after = Account(
        held=drift(exposure, market.to_open, growth),
        marked=drift(exposure, market.to_close, marked_growth),
        log_equity=account.log_equity + xp.log(growth),
        marked_log_equity=marked_log_equity,
        day_log_equity=day_log_equity,
        stopped=stopped,
    )
    return after, Move(exposure, cost, growth, marked_growth)


def track(trades: Trades, held: Array, moved: Move, market: MarketMove, cost_rate: Costs | Array | float) -> Trades:
    """Updates the trade record for a move that started from exposure `held`.

    A reduction realises its share of the open P&L; a side that ends (flat or reversed) is a closed trade,
    won if its P&L after costs is positive.
    """
    xp = namespace(held)
    exposure = moved.exposure
    same_side = exposure * held > 0
    closed = (held != 0) & ~same_side
    fee = fees(cost_rate, abs(exposure - held))
    closing_fee = xp.where(closed, fees(cost_rate, abs(held)), fee)  # a reversal pays for both sides
    won = (closed & (trades.trade_pnl - closing_fee > 0)) * 1
    count = closed * 1
    oldest = (trades.history >> (WIN_WINDOW - 1)) & 1
    history = xp.where(closed, ((trades.history << 1) | won) & (2**WIN_WINDOW - 1), trades.history)

    ratio = xp.where(same_side, abs(exposure) / xp.where(held == 0, 1.0, abs(held)), 0.0)
    kept = trades.open_pnl * bounded(ratio, 0.0, 1.0)
    carried = xp.where(closed, 0.0, trades.trade_pnl) - xp.where(closed, fee - closing_fee, fee)
    growth, marked_growth = moved.growth[..., None], moved.marked_growth[..., None]
    return Trades(
        open_pnl=(kept + exposure * (market.to_open - market.funding)) / growth,
        marked_pnl=(kept + exposure * market.to_close) / marked_growth,
        trade_pnl=(carried + exposure * (market.to_open - market.funding)) / growth,
        history=history,
        wins=trades.wins + won - oldest * count,
        closed=bounded(trades.closed + count, 0, WIN_WINDOW),
    )
