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

_COLUMNS = [contract.MOMENTUM_1H, contract.MOMENTUM_4H, contract.VOLATILITY]
_FEATURES = [contract.ASSET_FEATURES[column] for column in _COLUMNS]
_HORIZONS = [feature.window for feature in _FEATURES[:2]]
_BARS = _FEATURES[2].window  # of the volatility
_TRIM = 32
"""Rows are dropped once in so many bars: it costs more than the bar does."""
_LONGEST_MS = max(_HORIZONS)


class CloseWindow(NamedTuple):
    """The newest closes of several assets on one clock."""

    times: IntArray  # (K,) ms UTC, bar OPEN, increasing
    closes: FloatArray  # (K, A); NaN where an asset has no bar
    complete: bool  # whether there is none

    @classmethod
    def of(cls, history: Sequence[tuple[Sequence[int], Sequence[float]]]) -> CloseWindow:
        """Of each asset's opening times, ms UTC and increasing, and its closes."""
        times = np.unique(np.concatenate([np.array(opened) for opened, _ in history]))
        closes = np.full((len(times), len(history)), np.nan)
        for column, (opened, values) in enumerate(history):
            closes[times.searchsorted(opened), column] = values
        return cls(times, closes, False)._needed()

    def then(self, timestamp: int, closes: Sequence[float]) -> CloseWindow:
        """The window with a newer row; a row of the same time takes the place of the last one."""
        end = len(self.times) - (timestamp == self.times[-1])
        times = np.empty(end + 1, np.int64)
        times[:end], times[end] = self.times[:end], timestamp
        rows = np.empty((end + 1, self.closes.shape[1]))
        rows[:end], rows[end] = self.closes[:end], closes
        window = type(self)(times, rows, self.complete)
        return window if end % _TRIM else window._needed()

    @property
    def timestamp(self) -> int:
        """Of the newest row."""
        return int(self.times[-1])

    def last(self, before: int | None = None) -> list[float]:
        """Each asset's newest close; only of rows before a time, where one is given."""
        end = len(self.times) if before is None else bisect_left(self.times, before)
        if self.complete:
            row: list[float] = self.closes[end - 1].tolist()
            return row
        return [float(column[~np.isnan(column)][-1]) for column in self.closes[:end].T]

    def last_times(self) -> list[int]:
        """The time of each asset's newest close."""
        if self.complete:
            return [self.timestamp]
        return [int(self.times[~np.isnan(column)][-1]) for column in self.closes.T]

    def numbers(self, dim: int, interval_ms: int) -> list[float]:
        """(state_dim,) momenta, volatilities and correlations at the newest row; everything else is 0.

        Every asset must have a bar there.
        """
        state = [0.0] * dim
        assets = self.closes.shape[1]
        for asset in range(assets):
            column, times = self.closes[:, asset], self.times
            if not self.complete:
                here = ~np.isnan(column)
                column, times = column[here], times[here]
            raw = (*_momenta(times, column, interval_ms), _volatility(column))
            for place, feature, value in zip(_COLUMNS, _FEATURES, raw, strict=True):
                state[WIDTH * asset + place] = clipped(value, feature)
        if assets > 1:
            state[WIDTH * assets : -1] = self._correlations().tolist()
        return state

    def _correlations(self) -> FloatArray:
        window = contract.CORRELATION.window
        rows = self.closes[-window - 1 :]
        returns = rows[1:] / rows[:-1] - 1.0  # NaN where either of two neighbouring rows has no bar
        first, second = _pairs(rows.shape[1])
        found: FloatArray = correlation_from_sums(
            correlation_terms(returns[:, first], returns[:, second]).sum(axis=0), window
        )
        return found

    def _needed(self) -> CloseWindow:
        """Without the rows that no later number reaches."""
        count = contract.CORRELATION.window + 1 if self.closes.shape[1] > 1 else 0
        keep = np.arange(len(self.times)) >= len(self.times) - count
        for column in self.closes.T:
            here = np.flatnonzero(~np.isnan(column))
            keep[here[-_BARS - 1 :]] = True
            past = int(self.times[here].searchsorted(self.times[-1] - _LONGEST_MS, side="right")) - 1
            keep[here[max(past, 0) :]] = True
        closes = self.closes[keep]
        return type(self)(self.times[keep], closes, not np.isnan(closes).any())


def _momenta(times: IntArray, closes: FloatArray, interval_ms: int) -> list[float]:
    """As indicators.momentum at the last row, over each horizon."""
    newest, close = int(times[-1]), float(closes[-1])
    rows = [bisect_right(times, newest - horizon) for horizon in _HORIZONS]
    return [
        close / float(closes[row - 1]) - 1.0 if row and interval_ms <= horizon else 0.0
        for row, horizon in zip(rows, _HORIZONS, strict=True)
    ]


def _volatility(closes: FloatArray) -> float:
    """As indicators.volatility at the last row. Twenty plain numbers take a third of what array calls do."""
    prices: list[float] = closes[-_BARS - 1 :].tolist()
    if len(prices) <= _BARS:
        return 0.0
    returns = [after / before - 1.0 for before, after in pairwise(prices)]
    mean, mean_square = sum(returns) / _BARS, sum([value * value for value in returns]) / _BARS
    variance = mean_square - mean * mean
    return 0.0 if variance <= FLAT * mean_square else math.sqrt(variance)


@lru_cache(maxsize=64)
def _pairs(assets: int) -> tuple[IntArray, IntArray]:
    first, second = zip(*combinations(range(assets), 2), strict=True)
    return np.array(first), np.array(second)
