"""The encoder one bar at a time: the same numbers as encoder.py, in constant time and memory per bar.

The windowed sums are built in the same blocks and in the same order as the batch ones, so the two agree to the last
bits, however long the process lives: no running total is ever corrected by subtraction.

`undo` takes the newest bar back, exactly and in constant time, so that a corrected close can take its place: each class
keeps what its last UNDO_DEPTH updates replaced, and no array is changed in place where an undo needs it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import combinations
from math import isfinite
from typing import NamedTuple

import numpy as np

from himari_rl.errors import DataError
from himari_rl.features import contract
from himari_rl.features.contract import WIDTH
from himari_rl.features.encoder import StateEncoder, own_value, scaled, signal_columns, unheard
from himari_rl.features.indicators import FLAT, correlation_from_sums, correlation_terms
from himari_rl.features.signals import (
    HORIZONS_MS,
    RISK_MS,
    opinion,
    standardised,
    volatility_bars,
    volatility_from_sums,
)
from himari_rl.schema import FloatArray

UNDO_DEPTH = 2  # a new bar that is refused late, and then a correction of the one before it


class Bar(NamedTuple):
    """What the encoder needs of one closed bar."""

    timestamp: int  # ms UTC, bar OPEN
    close: float
    own: tuple[float, ...] = ()  # own features at its close, in the encoder's order


class Signal(NamedTuple):
    """What Layer 2 said at the close of one bar."""

    action: int  # SELL -1, HOLD 0, BUY +1
    confidence: float  # [0, 1]
    tier: int  # 1..4
    cascade_risk: float  # [0, 1]


class RollingSum:
    """`indicators.rolling_sum` row by row: amortised constant time, the same additions in the same order."""

    def __init__(self, window: int, *shape: int) -> None:
        self._window = window
        self._block = np.zeros((window, *shape))
        self._tails = np.zeros((window + 1, *shape))  # of the block before this one
        self._head = np.zeros(shape)
        self._filled = 0
        self._before: deque[tuple[FloatArray, FloatArray, FloatArray, int]] = deque(maxlen=UNDO_DEPTH)

    def update(self, values: FloatArray) -> FloatArray:
        """Adds one row (K,) and returns the sum (K,) of the last `window`."""
        self._before.append((self._block, self._tails, self._head, self._filled))
        self._block[self._filled] = values
        self._head = self._head + values
        self._filled += 1
        total: FloatArray = self._head + self._tails[self._filled]
        if self._filled == self._window:
            self._tails = np.zeros_like(self._tails)
            self._tails[:-1] = self._block[::-1].cumsum(axis=0)[::-1]
            self._block, self._head, self._filled = np.zeros_like(self._block), np.zeros_like(self._head), 0
        return total

    def undo(self) -> None:
        """Takes the last row back; the next update writes over it."""
        self._block, self._tails, self._head, self._filled = self._before.pop()


class PastClose:
    """The last close at least `horizon_ms` old: `indicators.ratio_to_past` bar by bar."""

    def __init__(self, horizon_ms: int, interval_ms: int) -> None:
        self._horizon_ms = horizon_ms
        self._unknowable = interval_ms > horizon_ms
        self._closes: deque[Bar] = deque()
        self._dropped: deque[list[Bar]] = deque(maxlen=UNDO_DEPTH)

    def ratio(self, bar: Bar) -> float:
        """close over the close a horizon earlier; 1 where there is none."""
        if self._unknowable:
            return 1.0
        closes, due = self._closes, bar.timestamp - self._horizon_ms
        closes.append(bar)
        dropped = []
        while len(closes) > 1 and closes[1].timestamp <= due:
            dropped.append(closes.popleft())
        self._dropped.append(dropped)
        return bar.close / closes[0].close if closes[0].timestamp <= due else 1.0

    def undo(self) -> None:
        """Takes the last bar back."""
        if not self._unknowable:
            self._closes.pop()
            self._closes.extendleft(reversed(self._dropped.pop()))


class LiveReference:
    """`signals.reference_signals` bar by bar."""

    def __init__(self, interval_ms: int) -> None:
        self._interval_ms = interval_ms
        self._past = {horizon: PastClose(horizon, interval_ms) for horizon in {*HORIZONS_MS, RISK_MS}}
        self._window = volatility_bars(interval_ms)
        self._sums = RollingSum(self._window, 2)
        self._returns = -1
        self._close = 0.0
        self._before: deque[tuple[int, float]] = deque(maxlen=UNDO_DEPTH)

    def update(self, bar: Bar) -> Signal:
        """The reference signal at the close of `bar`."""
        self._before.append((self._returns, self._close))
        moved = float(np.log(bar.close / self._close)) if self._returns >= 0 else 0.0
        self._close = bar.close
        self._returns = min(self._returns + 1, self._window)
        total, squares = self._sums.update(np.array((moved, moved * moved)))
        sigma = volatility_from_sums(np.float64(self._returns), total, squares)  # type: ignore[arg-type]
        z = {
            horizon: standardised(np.log(past.ratio(bar)), sigma, horizon, self._interval_ms)
            for horizon, past in self._past.items()
        }
        action, confidence, tier, risk = opinion(np.stack([z[horizon] for horizon in HORIZONS_MS]), z[RISK_MS])
        return Signal(int(action), float(confidence), int(tier), float(risk))

    def undo(self) -> None:
        """Takes the last bar back."""
        self._returns, self._close = self._before.pop()
        self._sums.undo()
        for past in self._past.values():
            past.undo()


class LiveEncoder:
    """One asset's market numbers as bars close; agrees with `StateEncoder.market_rows` on the same bars.

    Feed it history first: volatility needs 21 bars, 4 h momentum four hours, the reference signal 28 days.

    Args:
        reference: False where every bar comes with its Layer 2 signal: no reference signal is kept, which is most of
            the memory and of the time.
        own: names of own features, which every bar then has.
    """

    def __init__(self, interval_ms: int, *, reference: bool = True, own: tuple[str, ...] = ()) -> None:
        table = contract.ASSET_FEATURES
        self._own = own
        self._momenta = [
            (column, PastClose(table[column].window, interval_ms))
            for column in (contract.MOMENTUM_1H, contract.MOMENTUM_4H)
        ]
        self._window = table[contract.VOLATILITY].window
        self._sums = RollingSum(self._window, 2)
        self._reference = LiveReference(interval_ms) if reference else None
        self._last: Bar | None = None
        self._returns = 0
        self.bar_return = 0.0
        """Simple return of the last bar against the one before it."""
        self._before: deque[tuple[Bar | None, int, float]] = deque(maxlen=UNDO_DEPTH)

    def check(self, bar: Bar, signal: Signal | None = None) -> None:
        """Refuses what `update` cannot take, without taking it.

        Raises:
            DataError: the bar is not newer than the last one, its close is not a positive number, the signal is out
                of range, or own features are missing, too many or not finite.
        """
        if self._last is not None and bar.timestamp <= self._last.timestamp:
            raise DataError(
                f"bar {bar.timestamp} came after bar {self._last.timestamp}",
                "bars in the order of time, each once",
                "drop repeated bars, or start a new encoder and replay the history",
            )
        if not 0.0 < bar.close < float("inf"):
            raise DataError(
                f"close of bar {bar.timestamp} is {bar.close}", "a positive number", "skip the bar: gaps are allowed"
            )
        if len(bar.own) != len(self._own) or not all(map(isfinite, bar.own)):
            raise DataError(
                f"bar {bar.timestamp} has {len(bar.own)} own features ({', '.join(map(str, bar.own)) or 'none'})",
                f"finite numbers for {', '.join(self._own) or 'no feature'}",
                "give each bar those that the encoder was made for, in their order",
            )
        if signal is not None:
            signal_columns(np.zeros((1, WIDTH)), *(np.array([value]) for value in signal))
        elif self._reference is None:
            raise DataError(
                f"bar {bar.timestamp} has no signal", "one with every bar", "or keep the reference: LiveEncoder(...)"
            )

    def update(self, bar: Bar, signal: Signal | None = None) -> FloatArray:
        """(16 or more,) the market row at the close of `bar`; without a Layer 2 signal, with the reference signal.

        Raises:
            DataError: as `check`; a refused bar leaves the encoder as it was.
        """
        self.check(bar, signal)
        self._before.append((self._last, self._returns, self.bar_return))
        self.bar_return = 0.0 if self._last is None else bar.close / self._last.close - 1.0
        self._returns += self._last is not None
        self._last = bar
        reference = None if self._reference is None else self._reference.update(bar)
        said = reference if signal is None else signal
        row = np.zeros((1, WIDTH + len(self._own)))
        row[0, WIDTH:] = own_value(np.array(bar.own))
        if said is not None:  # `check` refuses a bar that has neither
            signal_columns(row, *(np.array([value]) for value in said))
        table = contract.ASSET_FEATURES
        for column, past in self._momenta:
            row[0, column] = scaled(np.float64(past.ratio(bar) - 1.0), table[column])
        row[0, contract.VOLATILITY] = scaled(np.float64(self._volatility()), table[contract.VOLATILITY])
        market: FloatArray = row[0]
        return market

    def undo(self) -> None:
        """Takes the last bar back."""
        self._last, self._returns, self.bar_return = self._before.pop()
        if self._reference is not None:
            self._reference.undo()
        self._sums.undo()
        for _, past in self._momenta:
            past.undo()

    def _volatility(self) -> float:
        move = self.bar_return
        mean, mean_square = self._sums.update(np.array((move, move * move))) / self._window
        variance = mean_square - mean * mean
        if self._returns < self._window or variance <= FLAT * mean_square:
            return 0.0
        return float(np.sqrt(variance))


class LivePanel:
    """All assets' market numbers as bars close; agrees with `StateEncoder.panel_rows` on the same bars.

    `reference` and `own` as for LiveEncoder.
    """

    def __init__(
        self, symbols: tuple[str, ...], interval_ms: int, *, reference: bool = True, own: tuple[str, ...] = ()
    ) -> None:
        self.encoder = StateEncoder(symbols, own)
        self._live = {symbol: LiveEncoder(interval_ms, reference=reference, own=own) for symbol in symbols}
        self._rows = {symbol: np.append(unheard(), np.zeros(len(own))) for symbol in symbols}
        self._ends = contract.own_columns(len(symbols), len(own))
        self._present: frozenset[str] = frozenset()
        self._window = contract.CORRELATION.window
        self._sums = {pair: RollingSum(self._window, 6) for pair in combinations(symbols, 2)}
        self._before: deque[tuple[frozenset[str], dict[str, FloatArray], frozenset[str]]] = deque(maxlen=UNDO_DEPTH)

    def update(self, closed: Mapping[str, tuple[Bar, Signal | None]]) -> FloatArray:
        """(state_dim,) the market state after the bars that closed at one time; assets without a bar are left out.

        Raises:
            DataError: an unknown symbol, no bar at all, bars of different times, or one that an encoder refuses;
                a refused update leaves every asset as it was.
        """
        unknown = sorted(set(closed) - set(self._live))
        times = sorted({bar.timestamp for bar, _ in closed.values()})
        if unknown or len(times) != 1:
            raise DataError(
                f"one update has bars of {sorted(closed)} at times {times}",
                f"bars of one time, of {', '.join(self._live)}",
                "send one update per bar time and leave out the assets that have no bar",
            )
        for symbol, (bar, signal) in closed.items():
            self._live[symbol].check(bar, signal)
        present = frozenset(closed)
        self._before.append((present, dict(self._rows), self._present))
        for symbol, (bar, signal) in closed.items():
            self._rows[symbol] = self._live[symbol].update(bar, signal)
        whole = present & self._present
        self._present = present
        returns = {symbol: live.bar_return if symbol in whole else np.nan for symbol, live in self._live.items()}
        state = np.zeros(self.encoder.state_dim)
        for asset, row in enumerate(self._rows.values()):
            state[WIDTH * asset : WIDTH * (asset + 1)], state[self._ends[asset]] = row[:WIDTH], row[WIDTH:]
        for column, ((a, b), sums) in enumerate(self._sums.items(), start=WIDTH * len(self._rows)):
            total = sums.update(correlation_terms(np.float64(returns[a]), np.float64(returns[b])))  # type: ignore[arg-type]
            state[column] = correlation_from_sums(total, self._window)
        return state

    def undo(self) -> None:
        """Takes the last update back, in constant time: as if it had never been; at most UNDO_DEPTH in a row.

        Raises:
            IndexError: no update is left to take back.
        """
        updated, self._rows, self._present = self._before.pop()
        for symbol in updated:
            self._live[symbol].undo()
        for sums in self._sums.values():
            sums.undo()
