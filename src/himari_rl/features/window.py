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
from collections.abc import Iterator, Sequence
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
"""Bars until some are dropped: it costs more than the bar does."""
_LONGEST_MS = max(_HORIZONS)


class CloseWindow(NamedTuple):
    """The newest closes of several assets on one clock: the first `count` columns of two arrays with room for more.

    A later window writes the column behind the last one of the window before, which never looks there.
    """

    times: IntArray  # (C,) ms UTC, bar OPEN, increasing
    closes: FloatArray  # (A, C); NaN where an asset has no bar
    filled: int  # columns that count
    complete: bool  # whether every asset has a bar at every time
    timestamp: int  # of the newest column

    @classmethod
    def of(cls, history: Sequence[tuple[Sequence[int], Sequence[float]]]) -> CloseWindow:
        """Of each asset's opening times, ms UTC and increasing, and its closes."""
        times = np.unique(np.concatenate([np.array(opened) for opened, _ in history]))
        closes = np.full((len(history), len(times)), np.nan)
        for own, (opened, values) in zip(closes, history, strict=True):
            own[times.searchsorted(opened)] = values
        return cls(times, closes, len(times), False, int(times[-1]))._needed()

    def then(self, timestamp: int, closes: Sequence[float]) -> CloseWindow:
        """The window with a newer bar of every asset; one of the same time takes the place of the last one."""
        times, columns, filled, complete, newest = self
        if timestamp == newest:  # the window before must stay as it is
            times, columns, filled = times.copy(), columns.copy(), filled - 1
        elif filled == len(times):
            times, columns, filled, complete, _ = self._needed()
        times[filled] = timestamp
        columns[:, filled] = closes
        return tuple.__new__(CloseWindow, (times, columns, filled + 1, complete, timestamp))

    def last(self, before: int | None = None) -> list[float]:
        """Each asset's newest close; only of bars before a time, where one is given."""
        filled = self.filled
        if before is not None and before <= self.timestamp:
            filled = int(self.times[:filled].searchsorted(before))
        if self.complete:
            column: list[float] = self.closes[:, filled - 1].tolist()
            return column
        return [float(own[~np.isnan(own)][-1]) for own in self.closes[:, :filled]]

    def last_times(self) -> list[int]:
        """The time of each asset's newest close."""
        if self.complete:
            return [self.timestamp]
        times, closes = self.times[: self.filled], self.closes[:, : self.filled]
        return [int(times[~np.isnan(own)][-1]) for own in closes]

    def numbers(self, dim: int, interval_ms: int) -> list[float]:
        """(state_dim,) momenta, volatilities and correlations at the newest bar; everything else is 0.

        Every asset must have a bar there.
        """
        state = [0.0] * dim
        times, closes = self.times[: self.filled], self.closes[:, : self.filled]
        if self.complete:
            now, hour_ago, four_hours_ago = (
                closes[:, column].tolist() for column in (-1, *(_past(times, h, interval_ms) for h in _HORIZONS))
            )
            if len(closes) > 1:
                moved = returns_and_one(closes[:, -contract.CORRELATION.window - 1 :])
                state[WIDTH * len(closes) : -1] = correlations(moved)
                returns = moved[:-1, -_BARS:].tolist()
            else:
                returns = [[after / before - 1.0 for before, after in pairwise(closes[0, -_BARS - 1 :].tolist())]]
        else:
            now, hour_ago, four_hours_ago, returns = zip(*_each(times, closes, interval_ms), strict=True)
            if len(closes) > 1:
                state[WIDTH * len(closes) : -1] = _correlations_with_gaps(closes[:, -contract.CORRELATION.window - 1 :])
        start = 0
        for close, short, long, own in zip(now, hour_ago, four_hours_ago, returns, strict=True):
            state[start + contract.MOMENTUM_1H] = clipped(close / short - 1.0, _SHORT)
            state[start + contract.MOMENTUM_4H] = clipped(close / long - 1.0, _LONG)
            state[start + contract.VOLATILITY] = clipped(_volatility(own), _VOLATILITY)
            start += WIDTH
        return state

    def _needed(self) -> CloseWindow:
        """Without the columns that no later number reaches, and with room for more."""
        times, closes = self.times[: self.filled], self.closes[:, : self.filled]
        wanted = contract.CORRELATION.window + 1 if len(closes) > 1 else 0
        keep = np.arange(len(times)) >= len(times) - wanted
        for own in closes:
            here = np.flatnonzero(~np.isnan(own))
            keep[here[-_BARS - 1 :]] = True
            past = int(times[here].searchsorted(times[-1] - _LONGEST_MS, side="right")) - 1
            keep[here[max(past, 0) :]] = True
        filled = int(keep.sum())
        kept, columns = np.empty(filled + _ROOM, np.int64), np.empty((len(closes), filled + _ROOM))
        kept[:filled], columns[:, :filled] = times[keep], closes[:, keep]
        return type(self)(kept, columns, filled, not np.isnan(columns[:, :filled]).any(), self.timestamp)


def _each(times: IntArray, closes: FloatArray, interval_ms: int) -> Iterator[tuple[float, float, float, list[float]]]:
    """Of each asset of closes (A, T) with bars missing: close, closes an hour and four hours ago, last returns."""
    for column in closes:
        here = ~np.isnan(column)
        own_times, own = times[here], column[here]
        hour_ago, four_hours_ago = (own.item(_past(own_times, horizon, interval_ms)) for horizon in _HORIZONS)
        prices = own[-_BARS - 1 :].tolist()
        yield prices[-1], hour_ago, four_hours_ago, [after / before - 1.0 for before, after in pairwise(prices)]


def _past(times: IntArray, horizon_ms: int, interval_ms: int) -> int:
    """The newest column that is `horizon_ms` old; the last one, whose price did not move, where nothing is known."""
    last = len(times) - 1
    if interval_ms > horizon_ms:
        return last
    due = times.item(last) - horizon_ms
    column = last - horizon_ms // interval_ms
    if column < 0 or times.item(column) != due:  # bars are missing
        column = int(times.searchsorted(due, side="right")) - 1
    return last if column < 0 else column


def _volatility(returns: Sequence[float]) -> float:
    """As indicators.volatility at the last row. Twenty plain numbers take a third of what array calls do."""
    if len(returns) < _BARS:
        return 0.0
    mean, mean_square = sum(returns) / _BARS, sum([value * value for value in returns]) / _BARS
    variance = mean_square - mean * mean
    return 0.0 if variance <= FLAT * mean_square else math.sqrt(variance)


def returns_and_one(closes: FloatArray) -> FloatArray:
    """(A + 1, T) the returns between closes (A, T + 1), and a row of ones: what `correlations` sums."""
    assets, count = closes.shape
    moved = np.empty((assets + 1, count - 1))
    np.divide(closes[:, 1:], closes[:, :-1], out=moved[:assets])
    moved[:assets] -= 1.0
    moved[assets] = 1.0
    return moved


def correlations(moved: FloatArray) -> list[float]:
    """`indicators.correlation_from_sums` of returns of which none is missing, from `returns_and_one`.

    One matrix product makes every sum; it adds in another order, so the two agree to 1e-12 and not to the last bit.
    """
    assets, count = len(moved) - 1, moved.shape[1]
    if 2 * count < contract.CORRELATION.window:
        return [0.0] * (assets * (assets - 1) // 2)
    *sums, total = (moved @ moved.T).tolist()
    roots = []
    for asset, own in enumerate(sums):
        variance = own[asset] - own[assets] * own[assets] / count
        roots.append(math.sqrt(variance) if variance > FLAT * own[asset] else 0.0)
    found = []
    for first, second in combinations(range(assets), 2):
        scale = roots[first] * roots[second]
        value = (sums[first][second] - total[first] * total[second] / count) / scale if scale else 0.0
        found.append(-1.0 if value < -1.0 else 1.0 if value > 1.0 else value)
    return found


def _correlations_with_gaps(closes: FloatArray) -> list[float]:
    """`indicators.panel_correlations` at the last of closes (A, T), NaN where an asset has no bar."""
    returns = (closes[:, 1:] / closes[:, :-1] - 1.0).T  # NaN where either of two neighbours has no bar
    first, second = map(list, zip(*combinations(range(len(closes)), 2), strict=True))
    terms = correlation_terms(returns[:, first], returns[:, second])
    found: list[float] = correlation_from_sums(terms.sum(axis=0), contract.CORRELATION.window).tolist()
    return found
