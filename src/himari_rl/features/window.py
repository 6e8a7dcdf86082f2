"""The market numbers at the newest bar from nothing but the closes that its windows reach: no running sums.

    window = CloseWindow.of([([times], [closes])])   a history, in numpy
    window = window.then(timestamp, closes)  one bar later; the one before stays as it was
    window.numbers(state_dim, interval_ms)    the market's part of a state, as encoder.py gives it for the last row

live.py does the same in constant time a bar, for one stream that lives long, and its sums of every pair cost 100 KB. A
server keeps thousands of streams and is asked for each of them once a bar: here one costs a few KB, an earlier window
is an earlier value, so nothing has to be undone, and a history of a thousand bars costs what one bar costs.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import combinations, pairwise
from operator import mul
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
_EMPTY, _NEVER = array("d", [0.0] * _ROOM), array("q", [0] * _ROOM)


class CloseWindow(NamedTuple):
    """The newest closes of several assets on one clock: the first `filled` places of arrays with room for more.

    A later window writes the place behind the last one of the window before, which never looks there. The arrays are
    Python's: of twenty numbers numpy makes one call's work of each.
    """

    times: array[int]  # (C,) ms UTC, bar OPEN, increasing
    closes: array[float]  # (A * C,) one asset behind the other; NaN where an asset has no bar
    assets: int
    filled: int  # places that count
    complete: bool  # whether every asset has a bar in each of them
    timestamp: int  # of the newest

    @classmethod
    def of(cls, history: Sequence[tuple[Sequence[int], Sequence[float]]]) -> CloseWindow:
        """Of each asset's opening times, ms UTC and increasing, and its closes."""
        times = np.unique(np.concatenate([np.array(opened) for opened, _ in history]))
        closes = np.full((len(history), len(times)), np.nan)
        for own, (opened, values) in zip(closes, history, strict=True):
            own[times.searchsorted(opened)] = values
        return _needed(times, closes)

    def then(self, timestamp: int, closes: Sequence[float]) -> CloseWindow:
        """The window with a newer bar of every asset; one of the same time takes the place of the last one."""
        times, kept, assets, filled, complete, newest = self
        if timestamp == newest:  # the window before must stay as it is
            times, kept, filled = times[:], kept[:], filled - 1
        elif filled == len(times):
            times, kept, assets, filled, complete, _ = self._newest() if complete else _needed(*self._columns())
        times[filled] = timestamp
        room, place = len(times), filled
        for close in closes:
            kept[place] = close
            place += room
        return tuple.__new__(CloseWindow, (times, kept, assets, filled + 1, complete, timestamp))

    def last(self, before: int | None = None) -> list[float]:
        """Each asset's newest close; only of bars before a time, where one is given."""
        filled = self.filled
        if before is not None and before <= self.timestamp:
            filled = bisect_left(self.times, before, 0, filled)
        if self.complete:
            return self.closes[filled - 1 :: len(self.times)].tolist()
        return [float(own[~np.isnan(own)][-1]) for own in self._columns()[1][:, :filled]]

    def last_times(self) -> list[int]:
        """The time of each asset's newest close."""
        if self.complete:
            return [self.timestamp]
        times, closes = self._columns()
        return [int(times[~np.isnan(own)][-1]) for own in closes]

    def numbers(self, dim: int, interval_ms: int) -> list[float]:
        """(state_dim,) momenta, volatilities and correlations at the newest bar; everything else is 0.

        Every asset must have a bar there.
        """
        state, start = [0.0] * dim, 0
        if self.assets == 1 and self.complete:
            market = [self._alone(interval_ms)]
        elif self.complete:
            market = self._together(state, interval_ms)
        else:
            times, columns = self._columns()
            here = [~np.isnan(own) for own in columns]
            alone = [_needed(times[rows], own[rows][None]) for rows, own in zip(here, columns, strict=True)]
            market = [window._alone(interval_ms) for window in alone]
            if len(alone) > 1:
                state[_pairs(len(alone))] = _with_gaps(columns[:, -contract.CORRELATION.window - 1 :])
        for short, long, volatility in market:
            state[start + contract.MOMENTUM_1H] = clipped(short, _SHORT)
            state[start + contract.MOMENTUM_4H] = clipped(long, _LONG)
            state[start + contract.VOLATILITY] = clipped(volatility, _VOLATILITY)
            start += WIDTH
        return state

    def _alone(self, interval_ms: int) -> tuple[float, float, float]:
        """Both momenta and the volatility of the one asset, which lacks no bar."""
        times, closes, last = self.times, self.closes, self.filled - 1
        prices = closes[max(last - _BARS, 0) : last + 1]
        returns = [after / before - 1.0 for before, after in pairwise(prices)]
        close, (short, long) = prices[-1], (_past(times, last, horizon, interval_ms) for horizon in _HORIZONS)
        volatility = 0.0
        if len(returns) == _BARS:
            volatility = _deviation(sum(returns), sum(map(mul, returns, returns)), _BARS)
        return close / closes[short] - 1.0, close / closes[long] - 1.0, volatility

    def _together(self, state: list[float], interval_ms: int) -> list[tuple[float, float, float]]:
        """The same of several assets, and their correlations into `state`; none lacks a bar."""
        times, closes, assets, filled, _, _ = self
        moved = returns_and_one(self._prices()[:, -contract.CORRELATION.window - 1 :])
        recent = moved[:, -_BARS:]
        state[_pairs(assets)] = correlations(moved)
        sums = (recent @ recent.T).tolist()
        short, long = (_past(times, filled - 1, horizon, interval_ms) for horizon in _HORIZONS)
        found, room, full = [], len(times), filled > _BARS
        for asset in range(assets):
            start, own = asset * room, sums[asset]
            close = closes[start + filled - 1]
            volatility = _deviation(own[assets], own[asset], _BARS) if full else 0.0
            found.append((close / closes[start + short] - 1.0, close / closes[start + long] - 1.0, volatility))
        return found

    def _newest(self) -> CloseWindow:
        """As `_needed`, where no asset lacks a bar: what is needed is then one stretch."""
        times, closes, assets, filled, _, newest = self
        past = bisect_right(times, newest - _LONGEST_MS, 0, filled) - 1
        start = min(filled - _BARS - 1, past, filled - contract.CORRELATION.window - 1 if assets > 1 else filled)
        start, room = max(start, 0), len(times)
        kept = array("d")
        for own in range(0, assets * room, room):
            kept += closes[own + start : own + filled] + _EMPTY
        return CloseWindow(times[start:filled] + _NEVER, kept, assets, filled - start, True, newest)

    def _columns(self) -> tuple[IntArray, FloatArray]:
        """Times (T,) and closes (A, T) as numpy sees them, without a copy."""
        return np.frombuffer(self.times, np.int64)[: self.filled], self._prices()

    def _prices(self) -> FloatArray:
        """Closes (A, T)."""
        return np.frombuffer(self.closes).reshape(self.assets, -1)[:, : self.filled]


def _needed(times: IntArray, closes: FloatArray) -> CloseWindow:
    """The window of times (T,) and closes (A, T) without what no later number reaches, and with room for more."""
    wanted = contract.CORRELATION.window + 1 if len(closes) > 1 else 0
    keep = np.arange(len(times)) >= len(times) - wanted
    for own in closes:
        here = np.flatnonzero(~np.isnan(own))
        keep[here[-_BARS - 1 :]] = True
        past = int(times[here].searchsorted(times[-1] - _LONGEST_MS, side="right")) - 1
        keep[here[max(past, 0) :]] = True
    filled = int(keep.sum())
    kept, columns = np.zeros(filled + _ROOM, np.int64), np.zeros((len(closes), filled + _ROOM))
    kept[:filled], columns[:, :filled] = times[keep], closes[:, keep]
    complete = not np.isnan(columns).any()
    clock, flat = array("q", kept.tobytes()), array("d", columns.tobytes())
    return CloseWindow(clock, flat, len(closes), filled, complete, int(times[-1]))


def _pairs(assets: int) -> slice:
    """Where the correlations stand in a state."""
    return slice(WIDTH * assets, contract.state_dim(assets) - 1)


def _past(times: array[int], last: int, horizon_ms: int, interval_ms: int) -> int:
    """The newest place that is `horizon_ms` old; the last one, whose price did not move, where nothing is known."""
    if interval_ms > horizon_ms:
        return last
    due = times[last] - horizon_ms
    place = last - horizon_ms // interval_ms
    if place < 0 or times[place] != due:  # bars are missing
        place = bisect_right(times, due, 0, last + 1) - 1
    return last if place < 0 else place


def _deviation(total: float, squares: float, count: int) -> float:
    """The population standard deviation of `count` returns from their sum and that of their squares; 0 of rounding."""
    mean, mean_square = total / count, squares / count
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

    A matrix product makes every sum; it adds in another order, so the two agree to 1e-12 and not to the last bit.
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


def _with_gaps(closes: FloatArray) -> list[float]:
    """`indicators.panel_correlations` at the last of closes (A, T), NaN where an asset has no bar."""
    returns = (closes[:, 1:] / closes[:, :-1] - 1.0).T  # NaN where either of two neighbours has no bar
    first, second = map(list, zip(*combinations(range(len(closes)), 2), strict=True))
    terms = correlation_terms(returns[:, first], returns[:, second])
    found: list[float] = correlation_from_sums(terms.sum(axis=0), contract.CORRELATION.window).tolist()
    return found
