"""Many nets in one program: each is a coroutine that asks for the ledger, and all that ask together are answered by one
loop over the bars.

    run(coroutines)      until all have ended; a net asks (LedgerAsk) and goes on with the answer (LedgerAnswer)
    play, pull_back      the batch of accounts itself (one_asset.py, several_assets.py)

Everything else of a net, its products above all, is its own, of the same shapes whoever else is there, so its weights
are the same to the bit alone and in any company.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from himari_rl.policy.ledger import RUINED
from himari_rl.training import one_asset, several_assets
from himari_rl.training.adjoint import (
    AccountStart,
    Array,
    BandBatch,
    BandEdges,
    LedgerRules,
    MarketBars,
    PlayedPath,
    RewardSlopes,
    joined,
    joined_or_none,
)

MOST_ACCOUNTS = 5_000  # of one loop: beyond that a bar's numbers leave the cache, and nothing is left to save

T = TypeVar("T")


class LedgerAnswer(NamedTuple):
    """What was played, and the slopes of the reward in the band's edges."""

    path: PlayedPath
    after: AccountStart
    low: Array | None
    high: Array | None
    seconds: float  # the net's share of the loop


class LedgerAsk(NamedTuple):
    """One net's bars to play."""

    batch: BandBatch
    rules: LedgerRules
    slopes: Callable[[PlayedPath], RewardSlopes] | None = None  # None: only forward

    @property
    def kind(self) -> Hashable:
        """Those of one kind are played together."""
        market, edges = self.batch.market, self.batch.edges
        whole = market.cannot is None, edges.shift is None, self.slopes is None, edges.carried
        return self.rules, tuple(market.base.shape[:-1]), whole, type(edges.low)


Asking = Generator[LedgerAsk, LedgerAnswer, T]


def run(coroutines: Sequence[Asking[T]]) -> list[T]:
    """Runs all of them to their ends, in step; the first that fails ends them all."""
    results: dict[int, T] = {}
    waiting: dict[int, LedgerAsk] = {}

    def go_on(index: int, answer: LedgerAnswer | None) -> None:
        try:
            waiting[index] = next(coroutines[index]) if answer is None else coroutines[index].send(answer)
        except StopIteration as end:
            waiting.pop(index, None)
            results[index] = end.value

    for index in range(len(coroutines)):
        go_on(index, None)
    while waiting:
        for group in _groups(waiting):
            for index, answer in zip(group, answered([waiting[i] for i in group]), strict=True):
                go_on(index, answer)
    return [results[index] for index in range(len(coroutines))]


def _groups(waiting: dict[int, LedgerAsk]) -> list[list[int]]:
    """Asks of one kind, as many together as fit the cache."""
    kinds: dict[Hashable, list[list[int]]] = {}
    for index, ask in waiting.items():
        groups = kinds.setdefault(ask.kind, [[]])
        count = sum(waiting[i].batch.market.base.shape[-1] for i in groups[-1])
        if groups[-1] and count + ask.batch.market.base.shape[-1] > MOST_ACCOUNTS:
            groups.append([])
        groups[-1].append(index)
    return [group for groups in kinds.values() for group in groups]


def answered(asks: Sequence[LedgerAsk]) -> list[LedgerAnswer]:
    """Answers asks of one kind (LedgerAsk.kind)."""
    started = time.perf_counter()
    batches, rules = [ask.batch for ask in asks], asks[0].rules
    played = play(batches, rules)
    edges: list[tuple[Array | None, Array | None]] = [(None, None)] * len(asks)
    if all(ask.slopes is not None for ask in asks):
        wanted = [ask.slopes(path) for ask, (path, _) in zip(asks, played, strict=True) if ask.slopes is not None]
        edges = list(pull_back(batches, [path for path, _ in played], wanted, rules))
    seconds = (time.perf_counter() - started) / len(asks)
    return [LedgerAnswer(path, after, *own, seconds) for (path, after), own in zip(played, edges, strict=True)]


def play(batches: Sequence[BandBatch], rules: LedgerRules) -> list[tuple[PlayedPath, AccountStart]]:
    """Plays several nets' accounts in one loop over the bars: what was played, and the accounts after it, of each.

    Args:
        batches: of as many bars and assets each.
    """
    together = _together(batches)
    forward = _module(together).forward
    path, after = forward(together, rules, floored=False)
    if bool((path.growth < RUINED).any() | (path.marked_growth < RUINED).any()):  # all of an account lost in a bar
        path, after = forward(together, rules, floored=True)
    if len(batches) == 1:
        return [(path, after)]
    found, first = [], 0
    for batch in batches:
        last = first + batch.market.base.shape[-1]
        # whole arrays again: some functions round by where a number lies
        own = (_whole(leaf[..., first:last]) for leaf in path), (_whole(leaf[..., first:last]) for leaf in after)
        found.append((PlayedPath(*own[0]), AccountStart(*own[1])))
        first = last
    return found


def pull_back(
    batches: Sequence[BandBatch], paths: Sequence[PlayedPath], slopes: Sequence[RewardSlopes], rules: LedgerRules
) -> Sequence[tuple[Array, Array]]:
    """The slope of each net's summed rewards in its `low` and `high`, through every later bar.

    Args:
        slopes: of the summands, in what the bars were.
    """
    return list(_module(batches[0]).backward(batches, paths, slopes, rules))


def _module(batch: BandBatch) -> Any:
    """Which one steps as many assets."""
    return one_asset if batch.market.base.ndim == 2 else several_assets


def _whole(array: Array) -> Array:
    return np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array.contiguous()


def _together(batches: Sequence[BandBatch]) -> BandBatch:
    """All accounts side by side."""
    if len(batches) == 1:
        return batches[0]
    markets, starts, edges = zip(*batches, strict=True)
    shapes = [market.base for market in markets]
    market = MarketBars(*(joined_or_none(leaves, shapes) for leaves in zip(*markets, strict=True)))
    return BandBatch(
        market,
        AccountStart(*(joined(leaves) for leaves in zip(*starts, strict=True))),
        BandEdges(
            joined([each.low for each in edges]),
            joined([each.high for each in edges]),
            joined_or_none([each.shift for each in edges], shapes),
            edges[0].carried,
        ),
    )
