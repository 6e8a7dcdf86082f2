"""The ledger played for many accounts of many nets at once, and its adjoint written by hand (Griewank & Walther 2008).

    x_t = side marked_t / max_position_pct      u_t = min(max(x_t, low_t), high_t)
    w_t = min(u_t, cap_t) base_t                0 while the daily stop holds; sum |w_t| <= max_leverage, in proportion
    G_t = 1 + sum w_t (R_t - F_t) - c sum |w_t - held_t|          held_{t+1} = w_t (1 + R_t) / G_t
    M_t = 1 + sum w_t R'_t - c sum |w_t - held_t|                 marked_{t+1} = w_t (1 + R'_t) / M_t

`Physics` under autograd is the definition (tests/training/test_adjoint.py holds the two together). What is saved: a bar
is some 25 operations forward and 10 backward where autograd takes 65 and 90, numpy's on a CPU, where one on a few
hundred numbers costs a fifth of torch's. Ties are treated as torch treats them: max and min share the slope, |0| has
none, a clip passes it on at its bound.

No operation mixes accounts, so nets may be grouped at will: not a bit depends on it (decision record 0007).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from himari_rl.policy.ledger import RUINED, namespace

Array = Any  # numpy.ndarray or torch.Tensor: the same operators, the same function names


class LedgerRules(NamedTuple):
    """Of the ledger, alike for all accounts that are played together."""

    max_position_pct: float
    cost_rate: float
    max_leverage: float
    daily_loss_stop: float

    @property
    def fresh(self) -> float:
        """Equity at a day's begin over the equity at which its stop is hit."""
        return 1.0 / max(1.0 - self.daily_loss_stop, RUINED)


class MarketBars(NamedTuple):
    """What the market does in T bars of M accounts, (T, M), or (T, A, M) with several assets."""

    side: Array
    base: Array
    cap: Array
    to_close: Array
    to_open: Array
    earned: Array  # to_open less funding
    new_day: Array  # (T, M) bool
    cannot: Array | None  # bool, where the bar cannot be traded; None where every bar can


class AccountStart(NamedTuple):
    """The accounts before a bar, (M,); held and marked (A, M) with several assets."""

    held: Array
    marked: Array
    free: Array  # 0.0 while the daily stop holds, else 1.0
    over_stop: Array  # equity over the equity at which the day's stop is hit


class BandEdges(NamedTuple):
    """The no-trade band, multiplier units, shaped as the market."""

    low: Array
    high: Array
    shift: Array | None = None  # added to the mean, then clipped to [0, 2]: exploration. There is no way back from it
    carried: bool = True  # False: the mean is `low`, whatever is held


class BandBatch(NamedTuple):
    """T bars of the accounts of one net."""

    market: MarketBars
    start: AccountStart
    edges: BandEdges


class PlayedPath(NamedTuple):
    """What was played."""

    position: Array  # x_t
    exposure: Array  # w_t
    traded: Array  # w_t - held_t
    growth: Array  # G_t, (T, M)
    marked_growth: Array  # M_t, (T, M)
    held: Array  # held_{t+1}
    marked: Array  # marked_{t+1}
    free: Array  # (T, M) 0.0 while the stop held, else 1.0; (0, M) without a stop


class RewardSlopes(NamedTuple):
    """Of a reward in what a bar was: any reward that reads no more than these has its adjoint here."""

    growth: Array  # dr/dG, (T, M)
    exposure: Array | float  # dr/dw besides, shaped as the market
    traded: Array | float  # dr/d|w - held| besides
    mean: Array | None = None  # slope in the mean multiplier besides; None is nowhere


def set_where(array: Array, mask: Array, value: float) -> None:
    """array[mask] = value, in place, in a fifth of the time."""
    if isinstance(array, np.ndarray):
        np.putmask(array, mask, value)
    else:
        array.masked_fill_(mask, value)


def at_least(array: Array, low: float) -> None:
    """array = max(array, low), in place; numpy's clip takes five times as long."""
    if isinstance(array, np.ndarray):
        np.maximum(array, low, out=array)
    else:
        array.clamp_(min=low)


def set_from(array: Array, mask: Array, values: Array) -> None:
    """array[mask] = values[mask], in place."""
    if isinstance(array, np.ndarray):
        np.copyto(array, values, where=mask)
    else:
        array.copy_(values.where(mask, array))


def share(above: Array, below: Array) -> Array:
    """1.0 where above > below, 0.5 where they are equal: how torch's maximum divides a slope."""
    return (above > below) * 0.5 + (above >= below) * 0.5


def sides(market: MarketBars, start: AccountStart) -> tuple[Array, Array | None]:
    """Factors of marked and of |marked| in x; the second is None where nothing is short, and |marked| is marked."""
    hold = market.side == 0
    if bool((market.base < 0.0).any() | (start.marked < 0.0).any() | (start.held < 0.0).any()):
        return market.side, hold * namespace(market.base).ones_like(market.base)
    return market.side + hold, None


def mean_of(edges: BandEdges, position: Array) -> Array:
    """The mean multiplier that was wanted."""
    if not edges.carried:
        return edges.low
    xp = namespace(edges.low)
    return xp.minimum(xp.maximum(position, edges.low), edges.high)


def edge_shares(batch: BandBatch, path: PlayedPath, rules: LedgerRules) -> tuple[Array, Array, Array]:
    """What the slope in the mean is multiplied with to be that in low, in high and in marked."""
    market, start, edges = batch
    xp = namespace(market.base)
    inner = xp.maximum(path.position, edges.low)
    inside = share(edges.high, inner)
    carried = inside * share(path.position, edges.low)
    before = xp.empty_like(path.marked)
    before[0], before[1:] = start.marked, path.marked[:-1]
    side = xp.where(market.side == 0, xp.sign(before), market.side) / rules.max_position_pct
    return inside - carried, 1.0 - inside, carried * side


def joined(leaves: Sequence[Array]) -> Array:
    """Arrays side by side in their last axis, which counts accounts."""
    return leaves[0] if len(leaves) == 1 else namespace(leaves[0]).concatenate(leaves, axis=-1)


def joined_or_none(leaves: Sequence[Array | None], shapes: Sequence[Array]) -> Array | None:
    """`joined` with zeros for None, each shaped as its array of `shapes`; None where all are."""
    if all(leaf is None for leaf in leaves):
        return None
    return joined([shape * 0.0 if leaf is None else leaf for leaf, shape in zip(leaves, shapes, strict=True)])


def moving(growth: Array, raw: Callable[[], Array]) -> Array | float:
    """1.0 where a growth factor moves with its bar; 0.0 where it was held above nothing.

    Args:
        raw: what it was before that, asked for only where some was.
    """
    return 1.0 if bool((growth > RUINED).all()) else (raw() >= RUINED) * 1.0
