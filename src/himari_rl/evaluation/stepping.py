"""The bar loop of the backtest: accounts side by side as (P, A) arrays, through policy/account.py and nothing else.

Only what depends on the position is stepped. A policy whose network reads nothing of the account gives its no-trade
bands for the whole history in one pass (policy/bands.py); one that does is asked bar by bar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from himari_rl.evaluation.baselines import Orders, Stage
from himari_rl.features.encoder import write_account
from himari_rl.policy.account import Account, MarketMove, Move, Trades, flat_account, move, no_trades, track
from himari_rl.policy.bands import Bands
from himari_rl.policy.ledger import bounded
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.protocol import DecidesBatch, bands_of
from himari_rl.schema import MAX_MULTIPLIER, FloatArray, IntArray


class Deciding(NamedTuple):
    """One policy on one stage, with an account for each lag."""

    policy: DecidesBatch
    on: Stage
    accounts: IntArray  # which accounts are its own
    lags: IntArray  # bars by which each of them decides too late


class AccountHistory(NamedTuple):
    """What the accounts did."""

    exposure: FloatArray  # (D, P, A)
    growth: FloatArray  # (D, P)
    marked: FloatArray  # (D, P) log of equity at closes
    cost: FloatArray  # (D, P)


def step_through(
    deciding: Sequence[Deciding], orders: Orders, moves: MarketMove, ledger: LedgerSpec, cost_rate: FloatArray
) -> AccountHistory:
    """Walks P accounts from cash through D decisions.

    Args:
        orders: (D, P, A); the multipliers of `deciding` are written into it here.
        moves: leaves (D, P, A), new_day (D, P).
        cost_rate: (P, 1).
    """
    decisions, count, assets = orders.multiplier.shape
    answered = [(each, bands_of(each.policy, each.on.rows)) for each in deciding]
    banded = _Banded([(each, found) for each, found in answered if found is not None], ledger)
    asked = _Asked([each for each, found in answered if found is None], assets, ledger)
    limits = ledger.config.limits
    account = flat_account(np.zeros((count, assets)))
    exposure = np.zeros((decisions, count, assets))
    growth, marked, cost = (np.zeros((decisions, count)) for _ in range(3))
    multiplier, base, cap, tradable = orders
    _, to_close, to_open, funding, new_day = moves
    for t in range(decisions):
        for group in (banded, asked):
            if len(group.accounts):
                late = group.late + t
                fits = late < decisions
                wanted = group.wanted(t, account)
                if fits.all():
                    multiplier[late, group.accounts] = wanted
                else:
                    multiplier[late[fits], group.accounts[fits]] = wanted[fits]
        now = MarketMove(tradable[t], to_close[t], to_open[t], funding[t], new_day[t])
        before = account.held
        account, moved = move(account, multiplier[t], base[t], cap[t], now, cost_rate, limits)
        asked.follow(before, moved, now, cost_rate)
        exposure[t], cost[t], growth[t], marked[t] = moved.exposure, moved.cost, moved.growth, account.marked_log_equity
    return AccountHistory(exposure, growth, marked, cost)


class _Banded:
    """Policies whose bands are known beforehand: what is left is each account's position against them."""

    def __init__(self, policies: Sequence[tuple[Deciding, Bands]], ledger: LedgerSpec) -> None:
        owner = [np.full(len(each.accounts), i) for i, (each, _) in enumerate(policies)]
        self._owner = np.concatenate(owner) if owner else np.zeros(0, np.int64)  # (P,) which policy
        self.accounts = np.concatenate([e.accounts for e, _ in policies]) if policies else np.zeros(0, np.int64)
        self.late = np.concatenate([e.lags for e, _ in policies]) if policies else np.zeros(0, np.int64)
        if not policies:
            return
        self._size = 1.0 / (MAX_MULTIPLIER * ledger.max_position_pct)
        self._lean, self._hold = (np.stack([getattr(b, name) for _, b in policies], 1) for name in ("lean", "hold"))
        # one row for each account and member, so that ensembles of any size are one comparison
        members = np.array([b.low.shape[1] for _, b in policies])
        offset = np.concatenate(([0], np.cumsum(members)[:-1]))
        self._low, self._high = (np.concatenate([getattr(b, n) for _, b in policies], 1) for n in ("low", "high"))
        sizes = members[self._owner]
        self._edge = np.concatenate([offset[i] + np.arange(members[i]) for i in self._owner])
        self._whose = np.repeat(np.arange(len(sizes)), sizes)
        self._first = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        self._count = sizes[:, None]

    def wanted(self, t: int, account: Account) -> FloatArray:
        """(P, A) answers at the close of bar t: the mean over members of clip(m_prev, low, high)."""
        side = bounded(account.marked[self.accounts] * self._size, -1.0, 1.0)
        held = MAX_MULTIPLIER * (side * self._lean[t][self._owner] + abs(side) * self._hold[t][self._owner])
        inside = np.maximum(held[self._whose], self._low[t][self._edge])
        inside = np.minimum(inside, self._high[t][self._edge])
        return np.asarray(np.add.reduceat(inside, self._first, axis=0) / self._count)


class _Asked:
    """Policies that are asked bar by bar, each with the whole state of its accounts."""

    def __init__(self, policies: Sequence[Deciding], assets: int, ledger: LedgerSpec) -> None:
        self._policies = policies
        self.accounts = np.concatenate([e.accounts for e in policies]) if policies else np.zeros(0, np.int64)
        self.late = np.concatenate([e.lags for e in policies]) if policies else np.zeros(0, np.int64)
        ends = np.cumsum([len(each.accounts) for each in policies])
        self._groups = [slice(end - len(e.accounts), end) for end, e in zip(ends.tolist(), policies, strict=True)]
        self._memories: list[Any] = [None] * len(policies)
        self._max_position_pct = ledger.max_position_pct
        none = np.zeros((len(self.accounts), assets))
        self._trades: Trades = no_trades(none)
        self._wanted = none.copy()
        self._states = np.zeros((len(none), policies[0].on.rows.shape[1])) if policies else none

    def wanted(self, t: int, account: Account) -> FloatArray:
        """(P, A) answers at the close of bar t."""
        states, trades = self._states, self._trades
        for each, group in zip(self._policies, self._groups, strict=True):
            states[group] = each.on.rows[t]
        marked = account.marked[self.accounts]
        write_account(states, marked, trades.marked_pnl, trades.win_rate, self._max_position_pct)
        for i, (each, group) in enumerate(zip(self._policies, self._groups, strict=True)):
            self._wanted[group], self._memories[i] = each.policy.decide_batch(states[group], self._memories[i])
        return self._wanted

    def follow(self, before: FloatArray, moved: Move, moves: MarketMove, cost_rate: FloatArray) -> None:
        """Keeps what these policies see of their trades."""
        mine = self.accounts
        if len(mine):
            part = Move(*(leaf[mine] for leaf in moved))
            met = MarketMove(*(leaf[mine] for leaf in moves))
            self._trades = track(self._trades, before[mine], part, met, cost_rate[mine])
