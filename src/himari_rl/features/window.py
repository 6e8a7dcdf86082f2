"""The market numbers at the newest bar from nothing but the closes that its windows reach: no running sums.

    window = CloseWindow.of(symbols' bars)        the closes of a history, in numpy
    window = window.then(timestamp, closes)  one bar later; the one before stays as it was
    window.numbers(state_dim, interval_ms)    the market's part of a state, as encoder.py gives it for the last row

live.py does the same in constant time a bar, for one stream that lives long, and its sums of every pair cost 100 KB. A
server keeps thousands of streams and is asked for each of them once a bar: here one costs a few KB, an earlier window
is an earlier value, so nothing has to be undone, and a history of a thousand bars costs what one bar costs.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

from himari_rl.features import contract
from himari_rl.features.contract import WIDTH
from himari_rl.features.encoder import clipped
from himari_rl.features.indicators import FLAT, correlation_from_sums, correlation_terms
from himari_rl.schema import FloatArray, IntArray

_SHORT, _LONG, _VOLATILITY = (
    contract.ASSET_FEATURES[column] for column in (contract.MOMENTUM_1H, contract.MOMENTUM_4H, contract.VOLATILITY)
)
_HORIZONS = (_SHORT.window, _LONG.window)
_BARS = _VOLATILITY.window
_ROOM = 32
"""Bars until rows are dropped: it costs more than the bar does."""
_LONGEST_MS = max(_HORIZONS)


class CloseWindow(NamedTuple):
    """The newest closes of several assets on one clock: the first `rows` rows of two arrays with room for more.

    A later window writes the row behind the last one of the window before, which never looks there.
    """

    times: IntArray  # (C,) ms UTC, bar OPEN, increasing
    closes: FloatArray  # (C, A); NaN where an asset has no bar
    rows: int
    complete: bool  # whether every asset has a bar in every row
    timestamp: int  # of the newest row

    @classmethod
    def of(cls, history: Sequence[tuple[Sequence[int], Sequence[float]]]) -> CloseWindow:
        """Of each asset's opening times, ms UTC and increasing, and its closes."""
        times = np.unique(np.concatenate([np.array(opened) for opened, _ in history]))
        closes = np.full((len(times), len(history)), np.nan)
        for column, (opened, values) in enumerate(history):
            closes[times.searchsorted(opened), column] = values
        return cls(times, closes, len(times), False, int(times[-1]))._needed()

    def then(self, timestamp: int, closes: Sequence[float]) -> CloseWindow:
        """The window with a newer row; a row of the same time takes the place of the last one."""
        times, rows, count, complete, newest = self
        if timestamp == newest:  # the window before must stay as it is
            times, rows, count = times.copy(), rows.copy(), count - 1
        elif count == len(times):
            times, rows, count, complete, _ = self._needed()
        times[count], rows[count] = timestamp, closes
        return tuple.__new__(CloseWindow, (times, rows, count + 1, complete, timestamp))

    def last(self, before: int | None = None) -> list[float]:
        """Each asset's newest close; only of rows before a time, where one is given."""
        count = self.rows
        if before is not None and before <= self.timestamp:
            count = bisect_left(self.times, before, 0, count)
        if self.complete:
            row: list[float] = self.closes[count - 1].tolist()
            return row
        return [float(column[~np.isnan(column)][-1]) for column in self.closes[:count].T]

    def last_times(self) -> list[int]:
        """The time of each asset's newest close."""
        if self.complete:
            return [self.timestamp]
        times, closes = self.times[: self.rows], self.closes[: self.rows]
        return [int(times[~np.isnan(column)][-1]) for column in closes.T]

    def numbers(self, dim: int, interval_ms: int) -> list[float]:
        """(state_dim,) momenta, volatilities and correlations at the newest row; everything else is 0.

        Every asset must have a bar there.
        """
        state = [0.0] * dim
        times, closes = self.times[: self.rows], self.closes[: self.rows]
        if self.complete:
            reached = _reached(times, closes, interval_ms)
        else:
            here = [~np.isnan(column) for column in closes.T]
            own = [
                _reached(times[rows], closes[rows, asset : asset + 1], interval_ms) for asset, rows in enumerate(here)
            ]
            reached = [one for (one,) in own]
        start = 0
        for one in reached:
            short, long, volatility = _market(*one)
            state[start + contract.MOMENTUM_1H] = clipped(short, _SHORT)
            state[start + contract.MOMENTUM_4H] = clipped(long, _LONG)
            state[start + contract.VOLATILITY] = clipped(volatility, _VOLATILITY)
            start += WIDTH
        if len(reached) > 1:
            state[WIDTH * len(reached) : -1] = self._correlations(closes).tolist()
        return state

    def _correlations(self, closes: FloatArray) -> FloatArray:
        window = contract.CORRELATION.window
        rows = closes[-window - 1 :]
        first, second = _pairs(rows.shape[1])
        if self.complete:
            columns = np.ascontiguousarray(rows.T)
            return complete_correlations(columns[:, 1:] / columns[:, :-1] - 1.0, first, second, window)
        returns = rows[1:] / rows[:-1] - 1.0  # NaN where either of two neighbouring rows has no bar
        terms = correlation_terms(returns[:, first], returns[:, second])
        found: FloatArray = correlation_from_sums(terms.sum(axis=0), window)
        return found

    def _needed(self) -> CloseWindow:
        """Without the rows that no later number reaches, and with room for more."""
        times, rows = self.times[: self.rows], self.closes[: self.rows]
        wanted = contract.CORRELATION.window + 1 if rows.shape[1] > 1 else 0
        keep = np.arange(len(times)) >= len(times) - wanted
        for column in rows.T:
            here = np.flatnonzero(~np.isnan(column))
            keep[here[-_BARS - 1 :]] = True
            past = int(times[here].searchsorted(times[-1] - _LONGEST_MS, side="right")) - 1
            keep[here[max(past, 0) :]] = True
        count = int(keep.sum())
        kept, closes = np.empty(count + _ROOM, np.int64), np.empty((count + _ROOM, rows.shape[1]))
        kept[:count], closes[:count] = times[keep], rows[keep]
        return type(self)(kept, closes, count, not np.isnan(closes[:count]).any(), self.timestamp)


def complete_correlations(returns: FloatArray, first: IntArray, second: IntArray, window: int) -> FloatArray:
    """`indicators.correlation_from_sums` of returns (A, T) of which none is missing, for the pairs (P,) of assets.

    Each asset's own sums are made once, and not once a pair; the same additions in the same order, so the same bits.
    """
    assets, count = returns.shape
    if 2 * count < window:
        return np.zeros(len(first))
    products = np.empty((2 * assets + len(first), count))
    products[:assets] = returns
    np.multiply(returns, returns, out=products[assets : 2 * assets])
    np.multiply(returns[first], returns[second], out=products[2 * assets :])
    sums = products.cumsum(axis=1)[:, -1]  # one after the other, as a sum over rows adds; sum(axis=1) adds pairwise
    total, square = sums[:assets], sums[assets : 2 * assets]
    variance = square - total * total / count
    moves = variance > FLAT * square
    root = np.sqrt(np.where(moves, variance, 1.0))
    found = (sums[2 * assets :] - total[first] * total[second] / count) / (root[first] * root[second])
    found = np.minimum(np.maximum(found, -1.0), 1.0)
    return found if moves.all() else np.where(moves[first] & moves[second], found, 0.0)


def _reached(times: IntArray, closes: FloatArray, interval_ms: int) -> list[tuple[list[float], float, float]]:
    """Of each asset of closes (T, A): the newest ones, and those that its momenta are counted from."""
    newest, end = int(times[-1]), len(times)
    rows = [bisect_right(times, newest - horizon) if interval_ms <= horizon else 0 for horizon in _HORIZONS]
    before = [closes[(row or end) - 1].tolist() for row in rows]  # where nothing is known the price did not move
    return list(zip(closes[-_BARS - 1 :].T.tolist(), *before, strict=True))


def _market(prices: list[float], hour_ago: float, four_hours_ago: float) -> tuple[float, float, float]:
    """As indicators.momentum over each horizon and indicators.volatility, at the last row.

    Twenty plain numbers take a third of what array calls do.
    """
    close = prices[-1]
    short, long = close / hour_ago - 1.0, close / four_hours_ago - 1.0
    if len(prices) <= _BARS:
        return short, long, 0.0
    returns = [after / before - 1.0 for before, after in pairwise(prices)]
    mean, mean_square = sum(returns) / _BARS, sum([value * value for value in returns]) / _BARS
    variance = mean_square - mean * mean
    return short, long, 0.0 if variance <= FLAT * mean_square else math.sqrt(variance)


@lru_cache(maxsize=64)
def _pairs(assets: int) -> tuple[IntArray, IntArray]:
    first, second = zip(*combinations(range(assets), 2), strict=True)
    return np.array(first), np.array(second)
