"""The market numbers at the newest bar from nothing but the closes that its windows reach: no running sums.

    window = Window.of(symbols' bars)        the closes of a history, in numpy
    window = window.then(timestamp, closes)  one bar later; the one before stays as it was
    window.numbers(state_dim, interval_ms)    the market's part of a state, as encoder.py gives it for the last row

live.py does the same in constant time a bar, for one stream that lives long, and its sums of every pair cost 100 KB. A
server keeps thousands of streams and is asked for each of them once a bar: here one costs a few KB, an earlier window
is an earlier value, so nothing has to be undone, and a history of a thousand bars costs what one bar costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

from himari_rl.features import contract
from himari_rl.features.contract import WIDTH
from himari_rl.features.encoder import scaled
from himari_rl.features.indicators import FLAT, correlation_from_sums, correlation_terms
from himari_rl.schema import FloatArray, IntArray

_MOMENTA = tuple((column, contract.ASSET_FEATURES[column]) for column in (contract.MOMENTUM_1H, contract.MOMENTUM_4H))
_VOLATILITY = contract.ASSET_FEATURES[contract.VOLATILITY]
_TRIM = 32
"""Rows are dropped once in so many bars: it costs more than the bar does."""
_LONGEST_MS = max(feature.window for _, feature in _MOMENTA)


class Window(NamedTuple):
    """The newest closes of several assets on one clock."""

    times: IntArray  # (K,) ms UTC, bar OPEN, increasing
    closes: FloatArray  # (K, A); NaN where an asset has no bar

    @classmethod
    def of(cls, history: Sequence[tuple[Sequence[int], Sequence[float]]]) -> Window:
        """Of each asset's opening times, ms UTC and increasing, and its closes."""
        times = np.unique(np.concatenate([np.array(opened) for opened, _ in history]))
        closes = np.full((len(times), len(history)), np.nan)
        for column, (opened, values) in enumerate(history):
            closes[times.searchsorted(opened), column] = values
        return cls(times, closes)._needed()

    def then(self, timestamp: int, closes: Sequence[float]) -> Window:
        """The window with a newer row; a row of the same time takes the place of the last one."""
        end = len(self.times) - (timestamp == self.times[-1])
        times = np.empty(end + 1, np.int64)
        times[:end], times[end] = self.times[:end], timestamp
        rows = np.empty((end + 1, self.closes.shape[1]))
        rows[:end], rows[end] = self.closes[:end], closes
        window = type(self)(times, rows)
        return window if end % _TRIM else window._needed()

    @property
    def timestamp(self) -> int:
        """Of the newest row."""
        return int(self.times[-1])

    def last(self, before: int | None = None) -> list[float]:
        """Each asset's newest close; only of rows before a time, where one is given."""
        end = len(self.times) if before is None else int(self.times.searchsorted(before))
        row: list[float] = self.closes[end - 1].tolist()
        if any(map(math.isnan, row)):
            return [float(column[~np.isnan(column)][-1]) for column in self.closes[:end].T]
        return row

    def last_times(self) -> list[int]:
        """The time of each asset's newest close."""
        if any(map(math.isnan, self.closes[-1].tolist())):
            return [int(self.times[~np.isnan(column)][-1]) for column in self.closes.T]
        return [self.timestamp]

    def numbers(self, dim: int, interval_ms: int) -> FloatArray:
        """(state_dim,) momenta, volatilities and correlations at the newest row; everything else is 0.

        Every asset must have a bar there.
        """
        state = np.zeros(dim)
        assets = self.closes.shape[1]
        complete = not np.isnan(self.closes).any()
        for asset in range(assets):
            column, times = self.closes[:, asset], self.times
            if not complete:
                here = ~np.isnan(column)
                column, times = column[here], times[here]
            block, close = WIDTH * asset, column[-1]
            for place, feature in _MOMENTA:
                if interval_ms <= feature.window:
                    past = int(times.searchsorted(times[-1] - feature.window, side="right")) - 1
                    if past >= 0:
                        state[block + place] = scaled(close / column[past] - 1.0, feature)
            state[block + contract.VOLATILITY] = scaled(np.float64(_volatility(column)), _VOLATILITY)
        if assets > 1:
            state[WIDTH * assets : -1] = self._correlations()
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

    def _needed(self) -> Window:
        """Without the rows that no later number reaches."""
        count = contract.CORRELATION.window + 1 if self.closes.shape[1] > 1 else 0
        keep = np.arange(len(self.times)) >= len(self.times) - count
        for column in self.closes.T:
            here = np.flatnonzero(~np.isnan(column))
            keep[here[-_VOLATILITY.window - 1 :]] = True
            past = int(self.times[here].searchsorted(self.times[-1] - _LONGEST_MS, side="right")) - 1
            keep[here[max(past, 0) :]] = True
        return self if keep.all() else type(self)(self.times[keep], self.closes[keep])


def _volatility(closes: FloatArray) -> float:
    """As indicators.volatility at the last row."""
    window = int(_VOLATILITY.window)
    if len(closes) <= window:
        return 0.0
    returns = closes[-window:] / closes[-window - 1 : -1] - 1.0
    mean, mean_square = float(returns.sum()) / window, float(returns @ returns) / window
    variance = mean_square - mean * mean
    return 0.0 if variance <= FLAT * mean_square else variance**0.5


@lru_cache(maxsize=64)
def _pairs(assets: int) -> tuple[IntArray, IntArray]:
    first, second = zip(*combinations(range(assets), 2), strict=True)
    return np.array(first), np.array(second)
