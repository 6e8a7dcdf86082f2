"""Trades: stretches of one asset on one side, what each earned and paid. A fill is a change of exposure at an open.

What a trade earned is the sum over its bars of w (R - funding) - cost, each a fraction of equity at its bar, before
compounding: over all assets and trades it is the sum of what the account's bars earned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from himari_rl.card.market import JudgedMarket
from himari_rl.data.table import stamp
from himari_rl.schema import FloatArray, IntArray

NOTHING = 1e-9  # of equity: a smaller change is rounding
COLUMNS = ("symbol", "side", "opened", "closed", "bars", "fills", "entry_price", "exit_price", "mean_exposure_pct")
CSV_HEAD = ",".join((*COLUMNS, "earned_pct", "cost_pct"))


@dataclass(frozen=True, kw_only=True)
class Trade:
    """One stretch on one side."""

    symbol: str
    side: int
    first: int
    """Row of the fill that opened it."""
    last: int
    """Row after its last bar: of the fill that closed it."""
    open: bool
    """Still held at the end."""
    fills: int
    exposure: float
    """Mean |w|, fraction of equity."""
    earned: float
    """After costs, fraction of equity."""
    cost: float
    entry: float
    """Price."""
    exit: float


def traded(exposure: FloatArray, market: JudgedMarket, growth: FloatArray) -> FloatArray:
    """(D, A) signed change of exposure at each fill.

    Args:
        exposure: (D, A) after the fill.
        growth: (D,) equity factor, fill to fill.
    """
    return exposure - _before(exposure, market, growth)


def _before(exposure: FloatArray, market: JudgedMarket, growth: FloatArray) -> FloatArray:
    """(D, A) what the last position had become by the fill."""
    held = exposure * (1.0 + market.asset_return) / growth[:, None]
    return np.concatenate([np.zeros_like(held[:1]), held[:-1]])


def trades(
    symbols: Sequence[str], exposure: FloatArray, market: JudgedMarket, growth: FloatArray, cost: FloatArray
) -> list[Trade]:
    """Every trade, in order of opening.

    Args:
        cost: (D,) of each fill, fraction of equity; it is shared out over the assets by what each traded.
    """
    before = _before(exposure, market, growth)
    change = np.abs(exposure - before)
    total = change.sum(axis=1, keepdims=True)
    paid = cost[:, None] * np.divide(change, total, out=np.zeros_like(change), where=total > 0.0)
    earned = exposure * (market.asset_return - market.funding)
    found = [
        trade
        for i, symbol in enumerate(symbols)
        for trade in _of_asset(
            symbol, exposure[:, i], before[:, i], change[:, i], paid[:, i], earned[:, i], market.price[:, i]
        )
    ]
    return sorted(found, key=lambda trade: trade.first)


def _of_asset(
    symbol: str,
    exposure: FloatArray,
    before: FloatArray,
    change: FloatArray,
    paid: FloatArray,
    earned: FloatArray,
    price: FloatArray,
) -> list[Trade]:
    count = len(exposure)
    side = np.where(np.abs(exposure) > NOTHING, np.sign(exposure), 0.0).astype(int)
    turns = np.flatnonzero(np.diff(np.concatenate([[0], side]))).tolist()
    # a reversal pays for both sides: the one that ends its |held|, the one that begins the rest
    closing = np.divide(np.abs(before), change, out=np.ones_like(change), where=change > 0.0).clip(0.0, 1.0)
    filled = np.concatenate([[0], np.cumsum(change > NOTHING)])
    sums = {name: np.concatenate([[0.0], np.cumsum(part)]) for name, part in {"earned": earned, "paid": paid}.items()}
    size = np.concatenate([[0.0], np.cumsum(np.abs(exposure))])
    found = []
    for first, after in zip(turns, [*turns, count][1:], strict=True):
        if side[first] == 0:
            continue
        reversed_in = first > 0 and side[first - 1] == -side[first]
        ends = after < count
        cost = float(sums["paid"][after] - sums["paid"][first])
        cost -= float(paid[first] * closing[first]) if reversed_in else 0.0
        if ends:
            cost += float(paid[after] * (closing[after] if side[after] else 1.0))
        found.append(
            Trade(
                symbol=symbol,
                side=int(side[first]),
                first=first,
                last=after,
                open=not ends,
                fills=int(filled[after] - filled[first]) + int(ends),
                exposure=float(size[after] - size[first]) / (after - first),
                earned=float(sums["earned"][after] - sums["earned"][first]) - cost,
                cost=cost,
                entry=float(price[first]),
                exit=float(price[after]),
            )
        )
    return found


def as_csv(found: Sequence[Trade], fill_time: IntArray, end_time: int) -> str:
    """One line a trade; times are UTC, an open trade has no closing time."""
    times = np.append(fill_time, end_time)
    lines = [CSV_HEAD]
    for trade in found:
        closed = "" if trade.open else stamp(int(times[trade.last]))
        cells = (
            trade.symbol,
            "long" if trade.side > 0 else "short",
            stamp(int(times[trade.first])),
            closed,
            f"{trade.last - trade.first}",
            f"{trade.fills}",
            f"{trade.entry:.8g}",
            f"{trade.exit:.8g}",
            f"{100.0 * trade.exposure:.2f}",
            f"{100.0 * trade.earned:.4f}",
            f"{100.0 * trade.cost:.4f}",
        )
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"
