"""Several assets under one gross cap: the bars forward, and the way back. The formulas stand in adjoint.py.

All arrays are (T, A, M), so that a sum over assets is a sum of whole rows; those of an account are (T, M). A bar's
growth, fee and gross exposure tie its assets together, and on the way back one number each carries what they share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from himari_rl.policy.ledger import RUINED, namespace
from himari_rl.schema import MAX_MULTIPLIER
from himari_rl.training.adjoint import (
    AccountStart,
    Array,
    BandBatch,
    LedgerRules,
    PlayedPath,
    RewardSlopes,
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
                xp.clip(w, 0.0, None, out=w)
            xp.minimum(w, cap[t], out=w)
        else:
            xp.minimum(edges.low[t], cap[t], out=w)
        w *= market.base[t]
        if stops:
            set_where(over, market.new_day[t], rules.fresh)
            set_where(free, market.new_day[t], 1.0)
            frees[t] = free
            w *= free
        w *= most / xp.clip(abs(w).sum(0), most, None)
        if market.cannot is not None:
            w[:] = _beside_carried(w, held, market.cannot[t], most)[0]
        xp.subtract(w, held, out=traded)
        fee = abs(traded).sum(0) * rules.cost_rate
        growth, marked_growth = growths[t], marked_growths[t]
        growth[:] = (w * market.earned[t]).sum(0) + 1.0 - fee
        marked_growth[:] = (w * market.to_close[t]).sum(0) + 1.0 - fee
        if floored:
            xp.clip(growth, RUINED, None, out=growth)
            xp.clip(marked_growth, RUINED, None, out=marked_growth)
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


def _beside_carried(wanted: Array, held: Array, cannot: Array, most: float) -> tuple[Array, Array, Array]:
    """What is held after the fill where some assets cannot be traded (policy/risk.py's beside_carried, then fill).

    Returns:
        exposure (A, M), the room that carried positions leave and the gross that asks for it, (M,) each.
    """
    xp = namespace(wanted)
    room = xp.clip(most - xp.where(cannot, abs(held), 0.0).sum(0), 0.0, None)
    asked = xp.where(cannot, 0.0, abs(wanted)).sum(0)
    over = asked > room
    factor = xp.where(over, room / xp.where(over, asked, 1.0), 1.0)
    return xp.where(cannot, held, wanted * factor), room, asked


class _Columns(NamedTuple):
    """What the way back reads, one net's or all nets'."""

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
    before_cap: Array  # exposure before the gross cap
    at_mean: Array  # of that, in the mean
    at_marked: Array  # of the mean, in marked


def backward(
    batches: Sequence[BandBatch], paths: Sequence[PlayedPath], slopes: Sequence[RewardSlopes], rules: LedgerRules
) -> Iterator[tuple[Array, Array]]:
    """`engine.pull_back`: one loop over the bars for all nets, what needs no loop net by net."""
    local = [_local(*each, rules) for each in zip(batches, paths, slopes, strict=True)]
    shapes = [batch.market.base for batch in batches]
    columns = _Columns(*(joined(leaves) for leaves in zip(*(columns for columns, _, _ in local), strict=True)))
    extra = joined_or_none([each.mean for each in slopes], shapes)
    cannot = joined_or_none([batch.market.cannot for batch in batches], shapes)
    held = (
        None if cannot is None else joined([_before(b.start.held, p.held) for b, p in zip(batches, paths, strict=True)])
    )
    found = _loop(columns, extra, cannot, held, rules)
    first = 0
    for shape, (_, at_low, at_high) in zip(shapes, local, strict=True):
        last = first + shape.shape[-1]
        own = found[..., first:last]
        yield own * at_low, own * at_high
        first = last


def _loop(
    columns: _Columns, extra: Array | None, cannot: Array | None, held: Array | None, rules: LedgerRules
) -> Array:
    """(T, A, M) the slope in the mean multiplier of every bar."""
    xp = namespace(columns.sign)
    most = rules.max_leverage
    found = xp.empty_like(columns.sign)
    h, k = xp.zeros_like(found[0]), xp.zeros_like(found[0])
    gross = abs(columns.before_cap).sum(1)
    capped, factor = (gross >= most) * 1.0, most / xp.clip(gross, most, None)
    side = xp.sign(columns.before_cap)
    for t in range(len(found) - 1, -1, -1):
        c = _Columns(*(leaf[t] for leaf in columns))
        at_growth = (c.growth - (h * c.ratio).sum(0)) * c.moves
        at_marked_growth = -(k * c.marked_ratio).sum(0) * c.marked_moves
        trade = (c.traded - rules.cost_rate * (at_growth + at_marked_growth)) * c.sign
        w = c.exposure + h * c.kept + k * c.kept_marked + at_growth * c.earned + at_marked_growth * c.to_close + trade
        h = -trade
        capped_exposure = c.before_cap * factor[t]
        if cannot is not None and held is not None:
            stuck = cannot[t] != 0
            h += xp.where(stuck, w, 0.0)
            w, more = _before_beside(w, capped_exposure, held[t], stuck, most)
            h += more
        shared = (w * capped_exposure).sum(0) * (capped[t] / most)
        mean = (w - side[t] * shared) * factor[t] * c.at_mean
        if extra is not None:
            mean += extra[t]
        found[t] = mean
        k = mean * c.at_marked
    return found


def _before_beside(slope: Array, exposure: Array, held: Array, stuck: Array, most: float) -> tuple[Array, Array]:
    """The way back through `_beside_carried`: the slopes in the exposure before it, and in held besides."""
    xp = namespace(slope)
    carried = most - xp.where(stuck, abs(held), 0.0).sum(0)
    room, asked = xp.clip(carried, 0.0, None), xp.where(stuck, 0.0, abs(exposure)).sum(0)
    over = asked > room
    factor = xp.where(over, room / xp.where(over, asked, 1.0), 1.0)
    slope = xp.where(stuck, 0.0, slope)
    at_factor = (slope * exposure).sum(0) * over / xp.where(over, asked, 1.0)
    at_held = -xp.where(stuck, xp.sign(held), 0.0) * (at_factor * (carried >= 0.0))
    return slope * factor - xp.where(stuck, 0.0, xp.sign(exposure)) * (at_factor * factor), at_held


def _before(first: Array, after: Array) -> Array:
    """What each bar began with, from what it ended with."""
    before = namespace(after).empty_like(after)
    before[0], before[1:] = first, after[:-1]
    return before


def _local(
    batch: BandBatch, path: PlayedPath, reward: RewardSlopes, rules: LedgerRules
) -> tuple[_Columns, Array, Array]:
    """One net's columns, and what the mean's slope is multiplied with for low and high."""
    market, _, edges = batch
    xp = namespace(market.base)
    fee = abs(path.traded).sum(1) * rules.cost_rate
    moves = moving(path.growth, lambda: (path.exposure * market.earned).sum(1) + 1.0 - fee)
    marked_moves = moving(path.marked_growth, lambda: (path.exposure * market.to_close).sum(1) + 1.0 - fee)
    growth, marked_growth = path.growth[:, None], path.marked_growth[:, None]
    whole, account = xp.ones_like(market.base), xp.ones_like(path.growth)
    mean = mean_of(edges, path.position)
    before_cap, at_mean = xp.minimum(mean, market.cap) * market.base, market.base * share(market.cap, mean)
    if len(path.free):
        before_cap, at_mean = before_cap * path.free[:, None], at_mean * path.free[:, None]
    if edges.carried:
        low, high, marked = edge_shares(batch, path, rules)
    else:
        low, high, marked = whole, whole * 0.0, whole * 0.0
    columns = _Columns(
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
        before_cap=before_cap,
        at_mean=at_mean,
        at_marked=marked,
    )
    return columns, low, high
