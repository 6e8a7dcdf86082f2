"""A paper account: the ledger kept live, bar by bar, by the very lines of training and backtest (account.py).

    position = paper.close(...)     a bar has closed: the order before it was filled at its open; what is held now
    paper.order(m, base, cap)       what was decided at that close; the next bar's open fills it

The backtest knows open[t+2] when it moves an account; here it is known one bar later. So the move of the newest fill is
made twice: at its bar's close with what is known, for the numbers that are observed (marks, which no later price
enters), and once the next open is there, for good. Every number is then the backtest's to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from himari_rl.policy.account import Account, MarketMove, Trades, flat_account, move, no_trades, track
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.schema import DAY_MS, BoolArray, FloatArray


class ClosedBars(NamedTuple):
    """The bars of one time, in the policy's order of symbols; leaves (A,)."""

    timestamp: int  # ms UTC, bar OPEN
    open: FloatArray
    close: FloatArray
    tradable: BoolArray  # whether an order could be filled at the open
    funding: FloatArray  # rate settled at the open, before any fill there
    own: tuple[tuple[float, ...], ...] = ()  # (A, K) own features at the close; none: 0, as only the newest counts


class Position(NamedTuple):
    """An account at the close of a bar; leaves (A,)."""

    exposure: FloatArray  # signed, fraction of equity
    unrealised_pnl: FloatArray  # fraction of equity
    win_rate: FloatArray  # of the last ten closed trades; 0.5 before the first
    log_equity: float  # of equity over its start
    day_log_equity: float  # at the first open of the UTC day
    stopped: bool  # the daily loss stop holds, until the next UTC day


class Order(NamedTuple):
    """What was decided at a close; leaves (A,)."""

    multiplier: FloatArray
    base: FloatArray  # direction * max_position_pct
    cap: FloatArray


class _Filled(NamedTuple):
    """An order and the bar whose open filled it."""

    order: Order
    open: FloatArray
    to_close: FloatArray
    tradable: BoolArray
    new_day: bool


class PaperAccount:
    """One account on A assets, in cash until its first order is filled."""

    def __init__(self, ledger: LedgerConfig, assets: int) -> None:
        self._ledger = ledger
        zeros = np.zeros(assets)
        self._account: Account = flat_account(zeros)  # at the open before the newest fill
        self._trades: Trades = no_trades(zeros)
        self._filled: _Filled | None = None
        self._order: Order | None = None
        self._day: int | None = None

    def order(self, order: Order) -> None:
        """What the next bar's open is to fill."""
        self._order = order

    def close(self, bars: ClosedBars) -> Position:
        """Carries the account over a bar that has closed, and says what it holds.

        A bar that follows no order fills nothing: what was held is held on.
        """
        if self._filled is not None:
            to_open = bars.open / self._filled.open - 1.0
            self._account, self._trades = self._moved(self._filled, to_open, bars.funding)
        day = bars.timestamp // DAY_MS
        new_day = self._day is None or day != self._day
        self._day = day
        if self._order is None and self._filled is None:
            return self._position(self._account, self._trades)
        still = self._order is None
        order = self._filled.order if self._order is None and self._filled is not None else self._order
        assert order is not None
        tradable = np.zeros_like(bars.tradable) if still else bars.tradable
        self._filled = _Filled(order, bars.open, bars.close / bars.open - 1.0, tradable, new_day)
        self._order = None
        return self._position(*self._moved(self._filled, self._filled.to_close, np.zeros_like(bars.open)))

    def _moved(self, filled: _Filled, to_open: FloatArray, funding: FloatArray) -> tuple[Account, Trades]:
        met = MarketMove(filled.tradable, filled.to_close, to_open, funding, np.bool_(filled.new_day))
        rate, limits = self._ledger.costs, self._ledger.limits
        after, moved = move(self._account, *filled.order, met, rate, limits)
        return after, track(self._trades, self._account.held, moved, met, rate)

    @staticmethod
    def _position(account: Account, trades: Trades) -> Position:
        return Position(
            exposure=account.marked,
            unrealised_pnl=trades.marked_pnl,
            win_rate=trades.win_rate,
            log_equity=float(account.marked_log_equity),
            day_log_equity=float(account.day_log_equity),
            stopped=bool(account.stopped),
        )

    def snapshot(self) -> dict[str, Any]:
        """Everything, as JSON types: `restore` gives the same account to the last bit."""
        filled = None if self._filled is None else _plain(self._filled) | {"order": _plain(self._filled.order)}
        return {
            "account": _plain(self._account),
            "trades": _plain(self._trades),
            "filled": filled,
            "order": None if self._order is None else _plain(self._order),
            "day": self._day,
        }

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Takes what `snapshot` gave."""
        self._account = Account(**{k: np.array(v)[()] for k, v in kept["account"].items()})
        self._trades = Trades(**{k: np.array(v) for k, v in kept["trades"].items()})
        self._order = None if kept["order"] is None else _order(kept["order"])
        self._day = kept["day"]
        self._filled = None
        if (filled := kept["filled"]) is not None:
            arrays = {name: np.array(filled[name]) for name in ("open", "to_close", "tradable")}
            self._filled = _Filled(order=_order(filled["order"]), new_day=filled["new_day"], **arrays)


def _plain(leaves: Any) -> dict[str, Any]:
    named = leaves._asdict()
    return {name: np.asarray(value).tolist() for name, value in named.items() if not isinstance(value, tuple)}


def _order(kept: Mapping[str, Any]) -> Order:
    return Order(**{name: np.array(value, np.float64) for name, value in kept.items()})
