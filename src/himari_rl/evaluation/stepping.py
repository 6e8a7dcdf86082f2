"""The bar loop of the backtest: accounts side by side as (P, A) arrays, through policy/account.py.

Only what depends on the position is stepped. A policy whose network reads nothing of the account gives its no-trade
bands for the whole history in one pass (policy/bands.py), and known.py walks all such accounts, and the baselines, at
once; one that reads its account is asked here, bar by bar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from himari_rl.evaluation.baselines import Stage
from himari_rl.evaluation.known import Banded, Histories, Lane, walk
from himari_rl.features.encoder import write_account
from himari_rl.policy.account import Account, MarketMove, Move, Trades, flat_account, move, no_trades, track
from himari_rl.policy.ledger import Costs, side_by_side
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.protocol import DecidesBatch, bands_of, timed
from himari_rl.schema import FloatArray, IntArray


class Deciding(NamedTuple):
    """One policy on one stage, with an account for each lag."""

    policy: DecidesBatch
    on: Stage
    accounts: IntArray  # which accounts are its own
    lags: IntArray  # bars by which each of them decides too late


def step_through(deciding: Sequence[Deciding], lanes: Sequence[Lane], ledger: LedgerSpec) -> Histories:
    """Walks every lane from cash through its decisions; the lanes that a policy decides for ask what it answers."""
    deciding = [each._replace(policy=timed(each.policy, each.on.fill_time)) for each in deciding]
    answered = [(each, bands_of(each.policy, each.on.rows)) for each in deciding]
    banded = [Banded(found, each.accounts, each.lags) for each, found in answered if found is not None]
    asked = [each for each, found in answered if found is None]
    if not asked:
        return walk(lanes, banded, ledger)
    slow = np.concatenate([each.accounts for each in asked])
    parts = [(slow, _asked(asked, [lanes[p] for p in slow], ledger))]
    quick = np.setdiff1d(np.arange(len(lanes)), slow)
    if len(quick):
        renumbered = [each._replace(accounts=np.searchsorted(quick, each.accounts)) for each in banded]
        parts.append((quick, walk([lanes[p] for p in quick], renumbered, ledger)))
    place = np.argsort(np.concatenate([accounts for accounts, _ in parts]))
    multiplier = [one for _, found in parts for one in found.multiplier]

    def whole(name: str) -> FloatArray:
        return np.asarray(np.concatenate([getattr(found, name) for _, found in parts])[place])

    return Histories(
        exposure=whole("exposure"),
        multiplier=[multiplier[p] for p in place],
        growth=whole("growth"),
        marked=whole("marked"),
        cost=whole("cost"),
    )


def _asked(deciding: Sequence[Deciding], lanes: Sequence[Lane], ledger: LedgerSpec) -> Histories:
    """Accounts of policies that are asked bar by bar, in the order of `deciding`."""
    decisions, assets = lanes[0].orders.base.shape
    count, limits = len(lanes), ledger.config.limits
    multiplier, base, cap, tradable = (np.stack(leaf, 1) for leaf in zip(*(lane.orders for lane in lanes), strict=True))
    moves = (np.stack(leaf, 1) for leaf in zip(*(lane.on.moves for lane in lanes), strict=True))
    cost_rate = side_by_side([lane.costs for lane in lanes], assets)
    group = _Asked(deciding, assets, ledger)
    account, late = flat_account(np.zeros((count, assets))), np.concatenate([each.lags for each in deciding])
    exposure = np.zeros((count, decisions, assets))
    growth, marked, cost = (np.zeros((count, decisions)) for _ in range(3))
    every = np.arange(count)
    for t, met in enumerate(zip(*moves, strict=True)):
        wanted, when = group.wanted(t, account), late + t
        fits = when < decisions
        multiplier[when[fits], every[fits]] = wanted[fits]
        now, before = MarketMove(*met)._replace(tradable=tradable[t]), account.held
        account, moved = move(account, multiplier[t], base[t], cap[t], now, cost_rate, limits)
        group.follow(before, moved, now, cost_rate)
        exposure[:, t], cost[:, t], growth[:, t] = moved.exposure, moved.cost, moved.growth
        marked[:, t] = account.marked_log_equity
    return Histories(exposure, [np.ascontiguousarray(multiplier[:, p]) for p in every], growth, marked, cost)


class _Asked:
    """Policies that are asked bar by bar, each with the whole state of its accounts."""

    def __init__(self, policies: Sequence[Deciding], assets: int, ledger: LedgerSpec) -> None:
        self._policies = policies
        ends = np.cumsum([len(each.accounts) for each in policies])
        self._groups = [slice(end - len(e.accounts), end) for end, e in zip(ends.tolist(), policies, strict=True)]
        self._memories: list[Any] = [None] * len(policies)
        self._max_position_pct = ledger.max_position_pct
        none = np.zeros((int(ends[-1]), assets))
        self._trades: Trades = no_trades(none)
        self._wanted = none.copy()
        self._states = np.zeros((len(none), policies[0].on.rows.shape[1]))

    def wanted(self, t: int, account: Account) -> FloatArray:
        """(P, A) answers at the close of bar t."""
        states, trades = self._states, self._trades
        for each, group in zip(self._policies, self._groups, strict=True):
            states[group] = each.on.rows[t]
        write_account(states, account.marked, trades.marked_pnl, trades.win_rate, self._max_position_pct)
        for i, (each, group) in enumerate(zip(self._policies, self._groups, strict=True)):
            self._wanted[group], self._memories[i] = each.policy.decide_batch(states[group], self._memories[i])
        return self._wanted

    def follow(self, before: FloatArray, moved: Move, moves: MarketMove, cost_rate: Costs) -> None:
        """Keeps what these policies see of their trades."""
        self._trades = track(self._trades, before, moved, moves, cost_rate)
