"""Accounts whose orders are known beforehand, or whose policies say their bands beforehand: one loop over the bars.

    held  ->  m = clip(m_prev, low, high)  ->  min(m, cap) base, gross cap, daily stop  ->  fill, grow, drift

The arithmetic is that of policy/account.py line by line, on arrays that are laid out for it: all accounts of a chunk of
bars end to end (policies, seeds, twins, cost multiples, lags, baselines), what needs no position computed for the whole
chunk, logarithms afterwards. The plain loop of stepping.py is the definition, and a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from himari_rl.evaluation.baselines import Orders, Stage
from himari_rl.policy.bands import Bands
from himari_rl.policy.ledger import RUINED, Costs, side_by_side
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.risk import beside_carried, limited_exposure
from himari_rl.schema import MAX_MULTIPLIER, BoolArray, FloatArray, IntArray

CHUNK_NUMBERS = 150_000  # of one array of a chunk: accounts x assets x bars


class Lane(NamedTuple):
    """One account: what it meets, what it asks for, what it pays."""

    on: Stage
    orders: Orders  # (D, A)
    costs: Costs | float


class Banded(NamedTuple):
    """The bands of one policy, and the accounts that follow them."""

    bands: Bands
    accounts: IntArray  # which of the lanes
    lags: IntArray  # bars by which each of them decides too late


class Histories(NamedTuple):
    """What P accounts did; each one's numbers lie side by side."""

    exposure: FloatArray  # (P, D, A)
    multiplier: list[FloatArray]  # P times (D, A) as asked for, before limits
    growth: FloatArray  # (P, D)
    marked: FloatArray  # (P, D) log of equity at closes
    cost: FloatArray  # (P, D)


def walk(lanes: Sequence[Lane], banded: Sequence[Banded], ledger: LedgerSpec) -> Histories:
    """Walks every lane from cash; those that no `Banded` names follow the multipliers of their orders."""
    decisions, assets = lanes[0].orders.base.shape
    followers = sorted(
        (int(lag), int(account), own)
        for own, each in enumerate(banded)
        for account, lag in zip(each.accounts, each.lags, strict=True)
    )  # those of one lag side by side, before all that follow nothing
    led = [account for _, account, _ in followers]
    order = led + sorted(set(range(len(lanes))) - set(led))
    loop = _Loop([lanes[p] for p in order], [(lag, banded[own].bands) for lag, _, own in followers], ledger)
    size = max(1, CHUNK_NUMBERS // (len(lanes) * assets))
    for start in range(0, decisions, size):
        loop.step(slice(start, min(start + size, decisions)))
    exposure, wanted, growth, cost = loop.exposure, loop.wanted, loop.growth, loop.cost
    del loop  # of minute bars each array is hundreds of megabytes: it goes as soon as it is told by lane
    back = np.argsort(order)

    def by_lane(values: FloatArray) -> FloatArray:
        return np.ascontiguousarray(np.moveaxis(values, -1, 0)[back])

    multiplier = [lane.orders.multiplier for lane in lanes]
    for k, account in enumerate(led):
        multiplier[account] = np.ascontiguousarray(wanted[:decisions, :, k])
    del wanted
    paid = by_lane(cost[:, 0])
    del cost
    held = by_lane(exposure)
    del exposure
    fill_to_fill, to_close = (np.log(growth[:, k, 0]) for k in (0, 1))
    grown = by_lane(growth[:, 0, 0])
    del growth
    to_close[1:] += np.cumsum(fill_to_fill[:-1], axis=0)
    return Histories(held, multiplier, grown, by_lane(to_close), paid)


class _Chunk(NamedTuple):
    """What a stretch of C bars has for P accounts, of which the first B follow bands by M edges."""

    low: FloatArray  # (C, A, M)
    high: FloatArray  # (C, A, M)
    lean: FloatArray  # (C, A, B) twice the bands' own; where nothing is short, their hold is added
    hold: FloatArray  # (C, A, B)
    cap: FloatArray  # (C, A, B) at most 2
    base: FloatArray  # (C, A, B)
    fixed: FloatArray  # (C, A, P - B) exposure that the others want, unless they are stopped
    blocked: BoolArray  # (C, A, P) cannot trade
    new_day: BoolArray  # (C, P)
    returns: FloatArray  # (C, 2, A, P) open to open less funding, open to close
    factor: FloatArray  # (C, 2, A, P) 1 + open to open, 1 + open to close


class _Loop:
    """The state between two bars, and what is kept of every bar. Arrays end in the accounts."""

    def __init__(self, lanes: Sequence[Lane], following: Sequence[tuple[int, Bands]], ledger: LedgerSpec) -> None:
        decisions, assets = lanes[0].orders.base.shape
        count, led = len(lanes), len(following)
        self.lanes, self.following, self.ledger = lanes, following, ledger
        self.limits = ledger.config.limits
        self.stages = list({id(lane.on): lane.on for lane in lanes}.values())
        number = {id(on): k for k, on in enumerate(self.stages)}
        self.stage = np.array([number[id(lane.on)] for lane in lanes])
        paid = side_by_side([lane.costs for lane in lanes], assets)
        rate, impact = np.asarray(paid.rate), np.asarray(paid.impact)
        self.rate = rate[:, 0] if (rate == rate[:, :1]).all() else rate.T  # (P,) or (A, P)
        self.impact = impact.T if impact.ndim else None  # (A, P)
        self.signed = any(bool((lane.orders.base < 0.0).any()) for lane in lanes[:led])
        lags = [lag for lag, _ in following]
        self.late = [(lag, slice(lags.index(lag), lags.index(lag) + lags.count(lag))) for lag in sorted(set(lags))]
        members = np.array([bands.low.shape[1] for _, bands in following], np.int64)
        self.whose = np.repeat(np.arange(led), members)  # (M,) which follower an edge belongs to
        self.first = np.cumsum(members) - members
        self.members = members.astype(float)
        self.exposure = np.zeros((decisions, assets, count))
        self.wanted = np.zeros((decisions + max(lags, default=0), assets, led))
        self.growth = np.zeros((decisions, 2, 1, count))  # to the next open, to the close
        self.cost = np.zeros((decisions, 1, count))
        self.held = np.zeros((2, assets, count))  # exposure that arrives at the next open, and at the last close
        self.day = np.ones((1, count))  # equity over that at the day's first open
        self.alive = np.ones((1, count))  # 0 while the daily loss stop holds
        self.stopped = False  # any of them

    def step(self, rows: slice) -> None:
        """Walks a stretch of bars."""
        chunk = self._chunk(rows)
        led, assets = len(self.following), self.exposure.shape[1]
        stop = self.limits.daily_loss_stop
        floor, largest = 1.0 - stop, self.limits.max_leverage
        held, after = self.held[0], self.held
        marked, size = self.held[1][:, :led], 1.0 / (MAX_MULTIPLIER * self.ledger.max_position_pct)
        side, spare, moved = np.empty((assets, led)), np.empty((assets, led)), np.empty(held.shape)
        earned, level = np.empty(after.shape), np.empty(self.day.shape)
        one_each, ensembles = assets == 1, len(self.whose) > led
        below = bool((chunk.low < 0.0).any() or (chunk.high < 0.0).any())
        crowded = bool(((chunk.cap * np.abs(chunk.base)).sum(axis=1) > largest).any())
        begun = np.stack([chunk.new_day.any(axis=1), chunk.new_day.all(axis=1)]).sum(axis=0) * (stop < 1.0)
        carries: list[bool] = np.asarray(chunk.blocked.any(axis=(1, 2))).tolist()
        kept = zip(self.exposure[rows], self.growth[rows], self.cost[rows], strict=True)
        for t, ((exposure, growth, cost), now, carried, opened) in enumerate(
            zip(kept, zip(*chunk, strict=True), carries, begun.tolist(), strict=True), rows.start
        ):
            low, high, lean, hold, cap, base, fixed, blocked, new_day, returns, factor = now
            if opened:
                self._day_begins(new_day, bool(opened == 2))
            exposure[:, led:] = fixed
            if led:
                np.multiply(marked, size, out=side)
                np.minimum(side, 1.0, out=side)
                if self.signed:
                    np.maximum(side, -1.0, out=side)
                    np.multiply(np.absolute(side, out=spare), hold, out=spare)
                    np.multiply(side, lean, out=side)
                    np.add(side, spare, out=side)
                else:
                    np.multiply(side, lean, out=side)
                if ensembles:
                    inside = np.maximum(side.take(self.whose, axis=1), low)
                    np.minimum(inside, high, out=inside)
                    np.add.reduceat(inside, self.first, axis=1, out=side)
                    np.divide(side, self.members, out=side)
                else:
                    np.maximum(side, low, out=side)
                    np.minimum(side, high, out=side)
                for lag, part in self.late:
                    self.wanted[t + lag][:, part] = side[:, part]
                np.minimum(self.wanted[t], cap, out=side)
                if below:
                    np.maximum(side, 0.0, out=side)
                target = np.multiply(side, base, out=exposure[:, :led])
                if crowded:
                    gross = np.absolute(target, out=spare).sum(axis=0, keepdims=True)
                    target *= largest / np.maximum(gross, largest)
            if self.stopped:
                np.multiply(exposure, self.alive, out=exposure)
            if carried:
                if not one_each:
                    exposure[:] = beside_carried(exposure.T, held.T, ~blocked.T, largest).T
                np.copyto(exposure, held, where=blocked)
            np.subtract(exposure, held, out=moved)
            np.absolute(moved, out=moved)
            dear = None if self.impact is None else (self.impact * moved**1.5).sum(axis=0, keepdims=True)
            if one_each:
                np.multiply(moved, self.rate, out=cost)
                np.multiply(exposure, returns, out=growth)
            else:
                np.add.reduce(np.multiply(moved, self.rate, out=moved), axis=0, keepdims=True, out=cost)
                np.add.reduce(np.multiply(exposure, returns, out=earned), axis=1, keepdims=True, out=growth)
            if dear is not None:
                np.add(cost, dear, out=cost)
            np.add(growth, 1.0, out=growth)
            np.subtract(growth, cost, out=growth)
            np.maximum(growth, RUINED, out=growth)
            np.multiply(exposure, factor, out=after)
            np.divide(after, growth, out=after)
            if stop < 1.0:
                np.multiply(self.day, growth[1], out=level)
                if level.min() <= floor:
                    self.alive *= level > floor
                    self.stopped = True
                np.multiply(self.day, growth[0], out=self.day)

    def _day_begins(self, new_day: BoolArray, everywhere: bool) -> None:
        if everywhere:
            self.day.fill(1.0)
            self.alive.fill(1.0)
            self.stopped = False
            return
        self.day[:, new_day] = 1.0
        self.alive[:, new_day] = 1.0

    def _chunk(self, rows: slice) -> _Chunk:
        led = len(self.following)
        ahead, others = self.lanes[:led], self.lanes[led:]
        shape = (rows.stop - rows.start, self.exposure.shape[1], 0)

        def side_by_side(parts: Iterable[NDArray[Any]]) -> NDArray[Any]:
            """(C, A, K) from K times (C, A)."""
            found = list(parts)
            return np.stack(found, axis=-1) if found else np.zeros(shape)

        def edges(name: str) -> FloatArray:
            parts = [np.moveaxis(getattr(bands, name)[rows], 1, 2) for _, bands in self.following]
            return np.concatenate(parts, axis=2, dtype=float) if parts else np.zeros(shape)

        lean, hold = (
            MAX_MULTIPLIER * side_by_side(getattr(bands, name)[rows] for _, bands in self.following)
            for name in ("lean", "hold")
        )
        asked = [[getattr(lane.orders, name)[rows] for lane in others] for name in ("multiplier", "cap", "base")]
        fixed = np.zeros(shape)
        if others:
            multiplier, cap, base = (np.stack(parts, axis=1) for parts in asked)  # (C, P - B, A)
            never = np.zeros(multiplier.shape[:2], np.bool_)
            fixed = np.moveaxis(limited_exposure(multiplier, cap, base, never, self.limits.max_leverage), 1, 2)
        moves = [
            np.stack([np.asarray(getattr(on.moves, name)[rows], float) for on in self.stages], axis=-1)
            for name in ("to_open", "to_close", "funding")
        ]
        to_open, to_close, funding = (np.broadcast_to(part, (*shape[:2], len(self.stages))) for part in moves)
        returns = np.stack([to_open - funding, to_close], axis=1)
        factor = np.stack([1.0 + to_open, 1.0 + to_close], axis=1)
        new_day = np.stack([on.moves.new_day[rows] for on in self.stages], axis=-1)
        return _Chunk(
            low=edges("low"),
            high=edges("high"),
            lean=lean if self.signed else lean + hold,
            hold=hold,
            cap=np.minimum(side_by_side(lane.orders.cap[rows] for lane in ahead), MAX_MULTIPLIER),
            base=side_by_side(lane.orders.base[rows] for lane in ahead),
            fixed=fixed,
            blocked=~side_by_side(lane.orders.tradable[rows] for lane in self.lanes),
            new_day=new_day.take(self.stage, axis=-1),
            returns=returns.take(self.stage, axis=-1),
            factor=factor.take(self.stage, axis=-1),
        )
