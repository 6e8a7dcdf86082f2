"""One asset: the bars forward, and the way back. The formulas stand in adjoint.py; all arrays are (T, M).

A bar passes two numbers on, held and marked, so its slopes are a few numbers that are known for all bars before the way
back begins. With W the slope in w_t, and h, k those in held_{t+1}, marked_{t+1}:

    W = rho_t + h alpha_t + k beta_t        h <- sigma_t + h gamma_t + k delta_t        k <- W dw_t/dmarked_t
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

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
    set_from,
    set_where,
    share,
    sides,
)


def forward(batch: BandBatch, rules: LedgerRules, *, floored: bool) -> tuple[PlayedPath, AccountStart]:
    """Plays the bars. `floored` holds growth above RUINED; without it the caller looks afterwards."""
    market, start, edges = batch
    xp = namespace(market.base)
    multiply, add, subtract, maximum, minimum, divide, absolute = (
        xp.multiply, xp.add, xp.subtract, xp.maximum, xp.minimum, xp.divide, xp.abs,
    )  # fmt: skip
    cost, unit, stops = rules.cost_rate, rules.max_position_pct, rules.daily_loss_stop < 1.0
    side, hold = sides(market, start)
    exact = math.frexp(unit)[0] == 0.5  # a power of two: dividing by it is multiplying, to the bit
    if exact:
        side, hold = side / unit, None if hold is None else hold / unit
    limit = rules.max_leverage / xp.clip(abs(market.base), 1e-300, None)
    limit = xp.clip(minimum(market.cap, limit, out=limit), None, MAX_MULTIPLIER)
    low, high = edges.low, edges.high if edges.shift is not None else minimum(edges.high, limit)
    if not edges.carried:
        low = minimum(low, limit)
    kept, kept_marked = market.to_open + 1.0, market.to_close + 1.0
    path = [xp.empty_like(market.base) for _ in range(7)]
    path.append(xp.empty_like(market.base) if stops else market.base[:0])
    positions, exposures, trades, growths, marked_growths, helds, markeds, frees = path
    free, over = start.free + 0.0, start.over_stop + 0.0
    held, marked = start.held, start.marked
    fee, after_close = xp.empty_like(held), xp.empty_like(held)
    for t in range(len(market.base)):
        x, w, traded, growth, marked_growth = positions[t], exposures[t], trades[t], growths[t], marked_growths[t]
        multiply(side[t], marked, out=x)
        if hold is not None:
            add(x, hold[t] * abs(marked), out=x)
        if not exact:
            divide(x, unit, out=x)
        if edges.carried:
            maximum(x, low[t], out=w)
            minimum(w, high[t], out=w)
            if edges.shift is not None:
                add(w, edges.shift[t], out=w)
                at_least(w, 0.0)
                minimum(w, limit[t], out=w)
            multiply(w, market.base[t], out=w)
        else:
            multiply(low[t], market.base[t], out=w)
        if stops:
            set_where(over, market.new_day[t], rules.fresh)
            set_where(free, market.new_day[t], 1.0)
            frees[t] = free
            multiply(w, free, out=w)
        if market.cannot is not None:
            set_from(w, market.cannot[t], held)
        subtract(w, held, out=traded)
        absolute(traded, out=fee)
        multiply(fee, cost, out=fee)
        multiply(w, market.earned[t], out=growth)
        add(growth, 1.0, out=growth)
        subtract(growth, fee, out=growth)
        multiply(w, market.to_close[t], out=marked_growth)
        add(marked_growth, 1.0, out=marked_growth)
        subtract(marked_growth, fee, out=marked_growth)
        if floored:
            at_least(growth, RUINED)
            at_least(marked_growth, RUINED)
        held, marked = helds[t], markeds[t]
        multiply(w, kept[t], out=held)
        divide(held, growth, out=held)
        multiply(w, kept_marked[t], out=marked)
        divide(marked, marked_growth, out=marked)
        if stops:
            multiply(over, marked_growth, out=after_close)
            set_where(free, after_close <= 1.0, 0.0)
            multiply(over, growth, out=over)
    return PlayedPath(*path), AccountStart(held, marked, free, over)


def backward(
    batches: Sequence[BandBatch], paths: Sequence[PlayedPath], slopes: Sequence[RewardSlopes], rules: LedgerRules
) -> Iterator[tuple[Array, Array]]:
    """`engine.pull_back`: one loop over the bars for all nets, what needs no loop net by net."""
    local = [_local(*each, rules) for each in zip(batches, paths, slopes, strict=True)]
    shapes = [batch.market.base for batch in batches]
    columns = [joined(leaves) for leaves in zip(*(columns for columns, _, _, _ in local), strict=True)]
    mean_at_marked = joined_or_none([each for _, each, _, _ in local], shapes)
    cannot = joined_or_none([batch.market.cannot for batch in batches], shapes)
    found = _loop(columns, mean_at_marked, cannot)
    first = 0
    for shape, (_, _, (at_low, at_high), besides) in zip(shapes, local, strict=True):
        last = first + shape.shape[-1]
        own = found[:, first:last]
        low, high = own * at_low, own * at_high
        yield (low, high) if besides is None else (low + besides[0], high + besides[1])
        first = last


def _loop(columns: Sequence[Array], mean_at_marked: Array | None, cannot: Array | None) -> Array:
    """(T, M) W of every bar."""
    alpha, beta, gamma, delta, rho, sigma, at_marked = columns
    xp = namespace(alpha)
    multiply, add = xp.multiply, xp.add
    found = xp.empty_like(alpha)
    h, k = xp.zeros_like(alpha[0]), xp.zeros_like(alpha[0])
    term = xp.empty_like(h)
    for t in range(len(alpha) - 1, -1, -1):
        w = found[t]
        multiply(h, alpha[t], out=w)
        multiply(k, beta[t], out=term)
        add(w, term, out=w)
        add(w, rho[t], out=w)
        multiply(h, gamma[t], out=h)
        multiply(k, delta[t], out=term)
        add(h, term, out=h)
        add(h, sigma[t], out=h)
        if cannot is not None:
            multiply(w, cannot[t], out=term)
            add(h, term, out=h)
        multiply(w, at_marked[t], out=k)
        if mean_at_marked is not None:
            add(k, mean_at_marked[t], out=k)
    return found


def carry_slopes(
    growth: Array, carried: Array, moved: Array, earned: Array, fee: Array, moves: Array | float
) -> tuple[Array, Array, Array, Array]:
    """Slopes of w (1 + moved) / growth in w and in held, and those of growth, whose own rate is `earned`."""
    at_w, at_held = earned - fee, fee
    if not isinstance(moves, float):
        at_w, at_held = at_w * moves, fee * moves
    ratio = carried / growth
    at_carried = moved + 1.0
    at_carried /= growth
    at_carried -= ratio * at_w
    ratio *= at_held
    return at_carried, -ratio, at_w, at_held


def own_slopes(reward: RewardSlopes, at_w: Array, at_held: Array, sign: Array) -> tuple[Array, Array]:
    """Slopes of a bar's own reward in w and in held."""
    rho, sigma = reward.growth * at_w, reward.growth * at_held
    if not isinstance(reward.exposure, float) or reward.exposure:
        rho += reward.exposure
    if not isinstance(reward.traded, float) or reward.traded:
        rho += reward.traded * sign
        sigma -= reward.traded * sign
    return rho, sigma


def _local(
    batch: BandBatch, path: PlayedPath, reward: RewardSlopes, rules: LedgerRules
) -> tuple[list[Array], Array | None, tuple[Array, Array], tuple[Array, Array] | None]:
    """One net's columns for the loop, and what the mean's slope adds to k there; what W is multiplied with for low and
    high, and what the mean's slope adds to those."""
    market, _, edges = batch
    xp = namespace(market.base)
    sign = xp.sign(path.traded)
    fee = rules.cost_rate * sign
    moves = moving(path.growth, lambda: 1.0 + path.exposure * market.earned - fee * path.traded)
    marked_moves = moving(path.marked_growth, lambda: 1.0 + path.exposure * market.to_close - fee * path.traded)
    alpha, gamma, at_w, at_held = carry_slopes(path.growth, path.held, market.to_open, market.earned, fee, moves)
    beta, delta, _, _ = carry_slopes(
        path.marked_growth, path.marked, market.to_close, market.to_close, fee, marked_moves
    )
    rho, sigma = own_slopes(reward, at_w, at_held, sign)
    columns = [alpha, beta, gamma, delta, rho, sigma]
    mean = mean_of(edges, path.position)
    wanted = abs(xp.minimum(mean, market.cap) * market.base)
    at_mean = market.base * share(market.cap, mean) * (wanted < rules.max_leverage)  # the gross cap lets nothing grow
    if len(path.free):
        at_mean = at_mean * path.free
    if market.cannot is not None:
        at_mean = at_mean * ~market.cannot
    extra = reward.mean
    if not edges.carried:
        none = xp.zeros_like(at_mean)
        return [*columns, none], None, (at_mean, none), None if extra is None else (extra, none)
    low, high, marked = edge_shares(batch, path, rules)
    edges_of = at_mean * low, at_mean * high
    if extra is None:
        return [*columns, at_mean * marked], None, edges_of, None
    return [*columns, at_mean * marked], extra * marked, edges_of, (extra * low, extra * high)
