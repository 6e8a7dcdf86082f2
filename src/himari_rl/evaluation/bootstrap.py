"""The stationary bootstrap (Politis & Romano 1994) in numpy alone: blocks are drawn, and no resampled series is copied.

A resample is T rows in blocks of geometric length that begin anywhere and go around the end. A mean over it needs the
sums of its blocks, which are differences of the series' cumulative sums; a drawdown needs its path, which is walked in
pieces side by side. The draws are those of arch.bootstrap.StationaryBootstrap with the same generator (a test).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np

from himari_rl.schema import FloatArray, IntArray

PIECE = 16  # bars of a path that are walked one after the other; pieces are walked side by side
AT_ONCE = 200_000  # rows of the resamples whose paths are walked together: they stay in the cache


class Blocks(NamedTuple):
    """One resample of T rows: rows first, first + 1, ..., `length` of them, around the end; block after block."""

    first: IntArray  # (N,) the row with which each block begins
    length: IntArray  # (N,)
    begins: IntArray  # (N,) where in the resample it begins; the first is 0

    def rows(self) -> IntArray:
        """(T,) the rows in order, counted on: the T rows follow themselves once, so that no block goes around."""
        found: IntArray = np.repeat(self.first - self.begins, self.length)
        found += np.arange(len(found))
        return found


def drawn(rows: int, rng: np.random.Generator, replications: int, block: float) -> Iterator[Blocks]:
    """Resamples of `rows` rows, in the order in which the generator gives them.

    Args:
        block: expected length of a block, at least 1.
    """
    share = 1.0 / block
    for _ in range(replications):
        place = rng.integers(rows, size=rows, dtype=np.int64)
        fresh = rng.random(rows) <= share
        fresh[0] = True
        (begins,) = fresh.nonzero()
        length = np.empty_like(begins)  # np.diff's own work costs as much as the draws
        np.subtract(begins[1:], begins[:-1], out=length[:-1])
        length[-1] = rows - begins[-1]
        yield Blocks(place[begins], length, begins)


class BlockSums:
    """Means of columns (T, K) over resamples, from cumulative sums.

    The columns are not centred: rows that are exactly zero add exactly nothing, and two accounts that are the same in
    a resample differ there by exactly nothing where their difference is a column.
    """

    def __init__(self, columns: FloatArray) -> None:
        count, width = columns.shape
        self._count = count
        self._sums = np.zeros((2 * count + 1, width))
        np.cumsum(np.concatenate([columns, columns]), axis=0, out=self._sums[1:])

    def means(self, blocks: Blocks) -> FloatArray:
        """(K,)"""
        end = blocks.first + blocks.length
        if self._sums.shape[1] == 1:
            sums = self._sums[:, 0]
            return np.asarray([(sums.take(end) - sums.take(blocks.first)).sum() / self._count])
        parts = self._sums.take(end, axis=0)
        parts -= self._sums.take(blocks.first, axis=0)
        return np.asarray(np.ones(len(parts)) @ parts / self._count)


class Drawdowns:
    """The deepest drawdown of K accounts over resamples, from what their log-equity gains a bar, (T, K)."""

    def __init__(self, gained: FloatArray) -> None:
        self._count, width = len(gained), gained.shape[1]
        self._gained = np.zeros((width, 2 * self._count + 1))  # a last zero, to fill up the last piece of a path
        self._gained[:, :-1] = np.concatenate([gained, gained]).T

    @property
    def together(self) -> int:
        """Resamples that are best walked together."""
        return max(1, int(AT_ONCE // self._count))

    def deepest(self, resamples: Sequence[Blocks]) -> FloatArray:
        """(B, K) as metrics.max_drawdown of the summed rows, fractions of the peak."""
        count, width, pieces = len(resamples), len(self._gained), -(-self._count // PIECE)
        rows = np.full((count, pieces * PIECE), 2 * self._count)
        for own, blocks in zip(rows, resamples, strict=True):
            own[: self._count] = blocks.rows()
        turned = np.ascontiguousarray(rows.reshape(count * pieces, PIECE).T)  # (PIECE, B x pieces), bars below another
        level = np.stack([gained.take(turned) for gained in self._gained], axis=1)  # (PIECE, K, B x pieces)
        highest, lowest = level[0].copy(), level[0].copy()
        deepest, below = np.zeros(level.shape[1:]), np.empty(level.shape[1:])
        for before, now in pairwise(level):
            now += before
            np.maximum(highest, now, out=highest)
            np.minimum(lowest, now, out=lowest)
            np.subtract(now, highest, out=below)
            np.minimum(deepest, below, out=deepest)
        parts = (width, count, pieces)
        whole, top, low, fall = (part.reshape(parts) for part in (level[-1], highest, lowest, deepest))
        start = np.zeros(parts)  # of each piece: the level on which it begins, and the peak before it
        np.cumsum(whole[..., :-1], axis=-1, out=start[..., 1:])
        peak = np.zeros(parts)
        np.maximum.accumulate((start + top)[..., :-1], axis=-1, out=peak[..., 1:])
        np.maximum(peak, 0.0, out=peak)
        whole_path = np.minimum(fall, start + low - peak).min(axis=-1)
        return np.asarray(-np.expm1(whole_path.T)) + 0.0  # never -0.0


def batches(resamples: Iterator[Blocks], size: int) -> Iterator[list[Blocks]]:
    """The same resamples, `size` at a time."""
    while found := list(islice(resamples, size)):
        yield found
