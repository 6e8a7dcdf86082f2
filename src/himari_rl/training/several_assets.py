"""Several assets under one gross cap: the bars forward, and the way back. The formulas stand in adjoint.py.

All arrays are (T, A, M), so that a sum over assets is a sum of whole rows; those of an account are (T, M). A bar's
growth, fee and gross exposure tie its assets together, and on the way back one number each carries what they share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from himari_rl.policy.ledger import RUINED, namespace
from himari_rl.schema import MAX_MULTIPLIER
from himari_rl.training.adjoint import (
    AccountStart,
    Array,
    BandBatch,
    LedgerRules,
    PlayedPath,
    RewardSlopes,
    at_least,
    edge_shares,
    joined,
    joined_or_none,
    mean_of,
    moving,
    set_where,
    share,
    sides,
)


def forward(batch: BandBatch, rules: LedgerRules, *, floored: bool) -> tuple[PlayedPath, AccountStart]:
    """Plays the bars. `floored` holds growth above RUINED; without it the caller looks afterwards."""
    market, start, edges = batch
    xp = namespace(market.base)
    side, hold = sides(market, start)
    stops, most = rules.daily_loss_stop < 1.0, rules.max_leverage
    kept, kept_marked = market.to_open + 1.0, market.to_close + 1.0
    cap = xp.clip(market.cap, None, MAX_MULTIPLIER)
    positions, exposures, trades, helds, markeds = (xp.empty_like(market.base) for _ in range(5))
    growths, marked_growths = xp.empty_like(market.base[:, 0]), xp.empty_like(market.base[:, 0])
    frees = xp.empty_like(growths) if stops else growths[:0]
    free, over = start.free + 0.0, start.over_stop + 0.0
    held, marked = start.held, start.marked
    each, fee = xp.empty_like(held), xp.empty_like(over)
    stuck = stuck_bars(market.cannot, len(market.base))
    for t in range(len(market.base)):
        x, w, traded = positions[t], exposures[t], trades[t]
        xp.multiply(side[t], marked, out=x)
        if hold is not None:
            x += hold[t] * abs(marked)
        x /= rules.max_position_pct
        if edges.carried:
            xp.maximum(x, edges.low[t], out=w)
            xp.minimum(w, edges.high[t], out=w)
            if edges.shift is not None:
                w += edges.shift[t]
                at_least(w, 0.0)
            xp.minimum(w, cap[t], out=w)
        else:
            xp.minimum(edges.low[t], cap[t], out=w)
        w *= market.base[t]
        if stops:
            set_where(over, market.new_day[t], rules.fresh)
            set_where(free, market.new_day[t], 1.0)
            frees[t] = free
            w *= free
        xp.abs(w, out=each)
        add_assets(each, fee)
        at_least(fee, most)
        w *= most / fee
        if market.cannot is not None and stuck[t]:
            w[:] = beside_carried(w, held, market.cannot[t], most)
        xp.subtract(w, held, out=traded)
        xp.abs(traded, out=each)
        add_assets(each, fee)
        fee *= rules.cost_rate
        growth, marked_growth = growths[t], marked_growths[t]
        for factor, rate in ((growth, market.earned[t]), (marked_growth, market.to_close[t])):
            xp.multiply(w, rate, out=each)
            add_assets(each, factor)
            factor += 1.0
            factor -= fee
        if floored:
            at_least(growth, RUINED)
            at_least(marked_growth, RUINED)
        held, marked = helds[t], markeds[t]
        xp.multiply(w, kept[t], out=held)
        held /= growth
        xp.multiply(w, kept_marked[t], out=marked)
        marked /= marked_growth
        if stops:
            set_where(free, over * marked_growth <= 1.0, 0.0)
            over *= growth
    path = PlayedPath(positions, exposures, trades, growths, marked_growths, helds, markeds, frees)
    return path, AccountStart(held, marked, free, over)


def add_assets(each: Array, out: Array) -> None:
    """out = each[0] + each[1] + ..., rows (M,) of (A, M)."""
    if isinstance(each, np.ndarray):
        np.add.reduce(each, 0, out=out)
    else:
        namespace(each).sum(each, 0, out=out)


def stuck_bars(cannot: Array | None, steps: int) -> list[bool]:
    """Which bars some asset cannot be traded at, of any account."""
    return [False] * steps if cannot is None else cannot.reshape(steps, -1).any(1).tolist()


def beside_carried(wanted: Array, held: Array, cannot: Array, most: float) -> Array:
    """(A, ...) what is held after the fill where some assets cannot be traded: policy/risk.py's function, then `fill`.

    An account whose assets can all be traded keeps what it wants to the bit, whoever else is in the batch.
    """
    room, asked, over = _room(wanted, held, cannot, most)
    xp = namespace(wanted)
    factor = xp.where(over, room / xp.where(over, asked, 1.0), 1.0)
    return xp.where(cannot, held, wanted * factor)


def _room(wanted: Array, held: Array, cannot: Array, most: float) -> tuple[Array, Array, Array]:
    """The gross that carried positions leave, the gross that asks for it, and whether that is too much."""
    xp = namespace(wanted)
    room = xp.clip(most - xp.where(cannot, abs(held), 0.0).sum(0), 0.0, None)
    asked = xp.where(cannot, 0.0, abs(wanted)).sum(0)
    return room, asked, (asked > room) & cannot.any(0)


class Columns(NamedTuple):
    """What the way back reads, one net's or all nets'; (T, A, M), or (T, M) where it says so."""

    growth: Array  # dr/dG, (T, M)
    exposure: Array  # dr/dw besides
    traded: Array  # dr/d|dw| besides
    sign: Array  # of the trade
    moves: Array  # (T, M) 1.0 where G moves with its bar
    marked_moves: Array  # (T, M)
    ratio: Array  # held_{t+1} / G
    marked_ratio: Array
    kept: Array  # (1 + R) / G
    kept_marked: Array
    earned: Array
    to_close: Array
    shared: Array  # what a slope in exposure says about the gross cap's factor
    side: Array  # what that factor says about each exposure
    at_mean: Array  # of the exposure, in the mean
    at_position: Array  # of the mean, in marked; or in held


class Beside(NamedTuple):
    """The way back through `beside_carried`: None where every bar can be traded."""

    able: Array  # 1.0 where it can be traded
    stuck: Array  # 1.0 where not
    factor: Array  # (T, M) of what is wanted
    at_factor: Array  # what a slope in exposure says about the factor
    at_held: Array  # what that says about the carried positions
    at_wanted: Array  # and about the wanted ones


def backward(
    batches: Sequence[BandBatch], paths: Sequence[PlayedPath], slopes: Sequence[RewardSlopes], rules: LedgerRules
) -> Iterator[tuple[Array, Array]]:
    """`engine.pull_back`: one loop over the bars for all nets, what needs no loop net by net."""
    local = []
    for batch, path, reward in zip(batches, paths, slopes, strict=True):
        mean = mean_of(batch.edges, path.position)
        whole = namespace(mean).ones_like(mean)
        low, high, marked = (
            edge_shares(batch, path, rules) if batch.edges.carried else (whole, whole * 0.0, whole * 0.0)
        )
        local.append((*columns_of(batch, path, reward, rules, mean, marked), low, high))
    shapes = [batch.market.base for batch in batches]
    columns = Columns(*(joined(leaves) for leaves in zip(*(each[0] for each in local), strict=True)))
    extra = joined_or_none([each.mean for each in slopes], shapes)
    known = [each[1] for each in local if each[1] is not None]
    beside = Beside(*(joined(leaves) for leaves in zip(*known, strict=True))) if known else None
    found = way_back(columns, beside, rules, extra=extra)
    first = 0
    for shape, (_, _, low, high) in zip(shapes, local, strict=True):
        last = first + shape.shape[-1]
        own = found[..., first:last]
        yield own * low, own * high
        first = last


def way_back(
    columns: Columns,
    beside: Beside | None,
    rules: LedgerRules,
    *,
    extra: Array | None = None,
    discount: float | None = None,
    alive: Array | None = None,
) -> Array:
    """(T, A, M) the slope in the mean multiplier of every bar, later bars included.

    Args:
        extra: slope in the mean besides.
        discount: then it is the slope in held before every bar, where what the mean depends on is held and not marked,
            and later bars count so much less; `alive` (T, M) is 0.0 where an account counts no more.
    """
    xp = namespace(columns.sign)
    found = xp.empty_like(columns.sign)
    h, k = xp.zeros_like(found[0]), xp.zeros_like(found[0])
    each, total, fee = xp.empty_like(h), xp.empty_like(columns.growth[0]), xp.empty_like(columns.growth[0])
    stuck = stuck_bars(None if beside is None else beside.stuck != 0.0, len(found))
    for t in range(len(found) - 1, -1, -1):
        c = Columns(*(leaf[t] for leaf in columns))
        w = h * c.kept
        w += c.exposure
        xp.multiply(h, c.ratio, out=each)
        add_assets(each, total)
        xp.subtract(c.growth, total, out=total)
        total *= c.moves
        xp.multiply(total, c.earned, out=each)
        w += each
        fee[:] = total
        if discount is None:
            xp.multiply(k, c.marked_ratio, out=each)
            add_assets(each, total)
            total *= c.marked_moves
            fee -= total
            xp.multiply(total, c.to_close, out=each)
            w -= each
            xp.multiply(k, c.kept_marked, out=each)
            w += each
        fee *= -rules.cost_rate
        trade = c.traded + fee
        trade *= c.sign
        w += trade
        h = -trade
        if beside is not None and stuck[t]:
            b = Beside(*(leaf[t] for leaf in beside))
            h += w * b.stuck
            w *= b.able
            xp.multiply(w, b.at_factor, out=each)
            add_assets(each, total)
            h += b.at_held * total
            w *= b.factor
            w += b.at_wanted * total
        xp.multiply(w, c.shared, out=each)
        add_assets(each, total)
        xp.multiply(total, c.side, out=each)
        w -= each
        w *= c.at_mean
        if extra is not None:
            w += extra[t]
        if discount is None or alive is None:
            found[t] = w
            k = w * c.at_position
        else:
            h += w * c.at_position
            h *= alive[t]
            found[t] = h
            h *= discount
    return found


def _before(first: Array, after: Array) -> Array:
    """What each bar began with, from what it ended with."""
    before = namespace(after).empty_like(after)
    before[0], before[1:] = first, after[:-1]
    return before


def columns_of(
    batch: BandBatch, path: PlayedPath, reward: RewardSlopes, rules: LedgerRules, wanted: Array, at_position: Array
) -> tuple[Columns, Beside | None]:
    """What one net's way back reads.

    Args:
        wanted: (T, A, M) multipliers, before the cap.
        at_position: slopes of those in what is held.
    """
    market, most = batch.market, rules.max_leverage
    xp = namespace(market.base)
    fee = abs(path.traded).sum(1) * rules.cost_rate
    moves = moving(path.growth, lambda: (path.exposure * market.earned).sum(1) + 1.0 - fee)
    marked_moves = moving(path.marked_growth, lambda: (path.exposure * market.to_close).sum(1) + 1.0 - fee)
    growth, marked_growth = path.growth[:, None], path.marked_growth[:, None]
    whole, account = xp.ones_like(market.base), xp.ones_like(path.growth)
    before_cap, at_mean = before_gross_cap(batch, path, wanted), market.base * share(market.cap, wanted)
    if len(path.free):
        at_mean = at_mean * path.free[:, None]
    gross = abs(before_cap).sum(1)[:, None]
    factor = most / xp.clip(gross, most, None)
    exposure = before_cap * factor
    columns = Columns(
        growth=reward.growth * account,
        exposure=reward.exposure * whole,
        traded=reward.traded * whole,
        sign=xp.sign(path.traded),
        moves=moves * account,
        marked_moves=marked_moves * account,
        ratio=path.held / growth,
        marked_ratio=path.marked / marked_growth,
        kept=(market.to_open + 1.0) / growth,
        kept_marked=(market.to_close + 1.0) / marked_growth,
        earned=market.earned,
        to_close=market.to_close,
        shared=exposure * (gross >= most) / most,
        side=xp.sign(before_cap),
        at_mean=at_mean * factor,
        at_position=at_position,
    )
    if market.cannot is None:
        return columns, None
    held, cannot = _before(batch.start.held, path.held), market.cannot
    first = exposure.swapaxes(0, 1), held.swapaxes(0, 1), cannot.swapaxes(0, 1)
    room, asked, over = _room(*first, most)
    safe = xp.where(over, asked, 1.0)
    part = xp.where(over, room / safe, 1.0)[:, None]
    moves = ((most - xp.where(first[2], abs(first[1]), 0.0).sum(0)) >= 0.0)[:, None]
    beside = Beside(
        able=~cannot * whole,
        stuck=cannot * whole,
        factor=part[:, 0],
        at_factor=exposure * (over / safe)[:, None],
        at_held=-xp.where(cannot, xp.sign(held), 0.0) * moves,
        at_wanted=-xp.where(cannot, 0.0, xp.sign(exposure)) * part,
    )
    return columns, beside


def before_gross_cap(batch: BandBatch, path: PlayedPath, wanted: Array) -> Array:
    """(T, A, M) exposure of multipliers after the regime's cap and the daily stop."""
    market = batch.market
    exposure = namespace(wanted).minimum(wanted, market.cap) * market.base
    return exposure * path.free[:, None] if len(path.free) else exposure


def played_instead(batch: BandBatch, path: PlayedPath, wanted: Array, rules: LedgerRules) -> PlayedPath:
    """Every bar alone with other multipliers, from the same accounts: exposure, trade, growth and held of a path."""
    xp, market, most = namespace(wanted), batch.market, rules.max_leverage
    exposure = before_gross_cap(batch, path, wanted)
    exposure = exposure * (most / xp.clip(abs(exposure).sum(1), most, None))[:, None]
    held = _before(batch.start.held, path.held)
    if market.cannot is not None:
        moved = beside_carried(exposure.swapaxes(0, 1), held.swapaxes(0, 1), market.cannot.swapaxes(0, 1), most)
        exposure = moved.swapaxes(0, 1)
    traded = exposure - held
    growth = (exposure * market.earned).sum(1) + 1.0 - rules.cost_rate * abs(traded).sum(1)
    growth = xp.clip(growth, RUINED, None)
    after = exposure * (market.to_open + 1.0) / growth[:, None]
    return path._replace(exposure=exposure, traded=traded, growth=growth, held=after)
