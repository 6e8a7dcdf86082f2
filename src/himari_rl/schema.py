"""The nouns that travel between packages.

Shape legend, used in every docstring: T steps (bars), N environments, A assets, F features, H hidden.
Times are integer milliseconds since the epoch, UTC, and stamp the OPEN of a bar.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1000, 60_000, 3_600_000, 86_400_000
YEAR_MS = 365 * DAY_MS  # of elapsed time, whether or not a market trades all of it

SELL, HOLD, BUY = -1, 0, 1
ACTIONS = {"STRONG_SELL": SELL, "SELL": SELL, "HOLD": HOLD, "BUY": BUY, "STRONG_BUY": BUY}  # the words of Layer 2
PRICES = ("open", "high", "low", "close")
LAYER2 = ("signal_action", "signal_confidence", "signal_tier", "cascade_risk")  # Layer 2's columns in a file
MAX_MULTIPLIER = 2.0
RISK_AVERSION = 6.7  # of the mean-variance utility: a Sharpe ratio of 1 is held near 15 % annual volatility


def bars_per_year(count: int | IntArray, start_ms: int, end_ms: int | IntArray) -> FloatArray:
    """(...) how many bars a year has at the rate of `count` bars in the time from `start_ms` to `end_ms`, elementwise.

    The one factor that makes a figure per bar one per year: mean x factor is total / elapsed years, so that hours in
    which nothing trades earn nothing and count as time. 8,760 for hours without gaps, 1,629 for six and a half stock
    hours on 252 days.
    """
    return np.asarray(count * YEAR_MS / (end_ms - start_ms))


class History(Protocol):
    """What one symbol's `Bars` and a `Panel` of several answer alike: whoever needs no more takes either."""

    @property
    def each(self) -> tuple[Bars, ...]:
        """Every symbol's bars."""
        ...

    @property
    def features(self) -> tuple[str, ...]:
        """Own features that policies see."""
        ...

    @property
    def symbols(self) -> tuple[str, ...]:
        """Every symbol, in the order of states and answers."""
        ...

    @property
    def timestamp(self) -> IntArray:
        """(T,) ms UTC, bar OPEN."""
        ...

    @property
    def interval_ms(self) -> int: ...

    @property
    def bars_per_year(self) -> float:
        """Of its own span: T over the elapsed years, the last bar counted with one interval."""
        ...

    @property
    def source(self) -> str:
        """Where it came from, for people."""
        ...

    @property
    def synthetic(self) -> bool: ...

    @property
    def signals_supplied(self) -> bool:
        """Whether the data itself has Layer 2's columns, for every symbol."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the columns: the same in any file format."""
        ...

    def __len__(self) -> int:
        """T, the number of times."""
        ...

    def __getitem__(self, rows: slice) -> Self:
        """The same history restricted to a contiguous slice of rows."""
        ...


@dataclass(frozen=True, kw_only=True)
class Layer2:
    """What Layer 2 said at the close of each bar. All arrays (T,)."""

    action: IntArray  # SELL, HOLD or BUY; STRONG_* already folded in
    confidence: FloatArray  # [0, 1]
    tier: IntArray  # 1..4
    cascade_risk: FloatArray  # [0, 1]
    supplied: bool  # True: columns of the data; False: our causal reference signal

    def __getitem__(self, rows: slice | IntArray) -> Layer2:
        """The rows of a slice, or the ones picked by their numbers."""
        return Layer2(
            action=self.action[rows],
            confidence=self.confidence[rows],
            tier=self.tier[rows],
            cascade_risk=self.cascade_risk[rows],
            supplied=self.supplied,
        )


def direction(action: IntArray, allow_short: bool) -> FloatArray:
    """(T,) side of the base position: BUY +1, SELL -1 (0 without shorting), HOLD keeps the last; 0 before any."""
    opinionated = np.where(action == HOLD, -1, np.arange(action.shape[0]))
    last = np.maximum.accumulate(opinionated) if action.size else opinionated
    side = np.where(last >= 0, action[last], 0).astype(np.float64)
    return side if allow_short else np.maximum(side, 0.0)


@dataclass(frozen=True, kw_only=True)
class Bars:
    """One symbol's bars as they were recorded: gaps stay gaps, nothing is filled or invented.

    Every array is (T,), sorted by `timestamp`, unique, on one interval's grid. A bar without volume
    is an exchange's placeholder: its prices mark the position, but nothing trades at them.

    >>> from himari_rl.data.synthetic import synthetic_bars
    >>> bars = synthetic_bars(100, seed=0)
    >>> len(bars[:24]), bars.symbols
    (24, ('BTC-SYNTHETIC',))
    """

    symbol: str
    timestamp: IntArray  # ms UTC, bar OPEN
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray
    interval_ms: int
    source: str  # where it came from, for people: path or generator with seed
    synthetic: bool = False
    signals: Layer2 | None = None  # Layer 2 columns, where the data has them
    funding_rate: FloatArray | None = None  # settles at this bar's open, before any fill there
    extra: dict[str, FloatArray] = field(default_factory=dict)  # other numeric columns, by name
    features: tuple[str, ...] = ()  # columns of `extra` that policies see, in this order, after the sixteen numbers
    notes: tuple[str, ...] = ()  # what a file was taken for, for people; no part of the fingerprint

    def __len__(self) -> int:
        return int(self.timestamp.shape[0])

    def __getitem__(self, rows: slice) -> Bars:
        """The same bars restricted to a contiguous slice of rows."""
        return replace(
            self,
            timestamp=self.timestamp[rows],
            open=self.open[rows],
            high=self.high[rows],
            low=self.low[rows],
            close=self.close[rows],
            volume=self.volume[rows],
            signals=None if self.signals is None else self.signals[rows],
            funding_rate=None if self.funding_rate is None else self.funding_rate[rows],
            extra={name: column[rows] for name, column in self.extra.items()},
        )

    @property
    def each(self) -> tuple[Bars, ...]:
        """These bars alone, as a Panel would list them."""
        return (self,)

    @property
    def symbols(self) -> tuple[str, ...]:
        return (self.symbol,)

    @property
    def signals_supplied(self) -> bool:
        """Whether the data itself has Layer 2's columns."""
        return self.signals is not None and self.signals.supplied

    @property
    def tradable(self) -> BoolArray:
        """(T,) True where a fill at the open is possible."""
        return self.volume > 0.0

    @property
    def bars_per_year(self) -> float:
        """Of the span: 24 x 365 for hourly bars without gaps, fewer where the market closes or rows are missing."""
        return float(bars_per_year(len(self), int(self.timestamp[0]), int(self.timestamp[-1]) + self.interval_ms))

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, symbol: str = "asset", interval: str | None = None, *, source: str = "frame"
    ) -> Bars:
        """Bars from a pandas DataFrame, judged by the same rules as a file.

        Args:
            frame: times in a DatetimeIndex or a column `timestamp` (datetimes, ISO 8601 text or an epoch in s, ms, us
                or ns; no zone means UTC), each of a bar's OPEN; open, high, low, close and volume in any case; Layer
                2's four columns, funding_rate and other numeric columns where there are any.
            symbol: its name; a column `symbol` goes before it.
            interval: "1h": refused if the frame holds another.
            source: what error lines and manifests call it.

        Raises:
            DataError: no frame, or anything `load_bars` would refuse, with the row and the cure.

        Example:
            >>> import pandas as pd
            >>> hours = pd.date_range("2024-01-01", periods=3, freq="h")
            >>> frame = pd.DataFrame({"Open": 1.0, "High": 3.0, "Low": 1.0, "Close": 2.0, "Volume": 9.0}, index=hours)
            >>> len(Bars.from_frame(frame, "BTC-USD", "1h"))
            3
        """
        made: Bars = _frames().bars_from_frame(frame, symbol, interval, source)
        return made

    def to_frame(self) -> pd.DataFrame:
        """Every column by its file name under a UTC DatetimeIndex `timestamp`; `Bars.from_frame` reads it back.

        A reference signal is left out, as it was never recorded; synthetic bars carry the column `synthetic`.
        """
        frame: pd.DataFrame = _frames().frame_from_bars(self)
        return frame

    @property
    def recorded(self) -> Bars:
        """The same bars without a reference signal, which must not come back from a file as the data's own."""
        return self if self.signals is None or self.signals.supplied else replace(self, signals=None)

    def columns(self) -> dict[str, IntArray | FloatArray]:
        """Every column by its file name, `timestamp` first."""
        columns: dict[str, IntArray | FloatArray] = {"timestamp": self.timestamp}
        columns |= {name: getattr(self, name) for name in (*PRICES, "volume")}
        if self.signals is not None:
            said = self.signals
            columns |= dict(zip(LAYER2, (said.action, said.confidence, said.tier, said.cascade_risk), strict=True))
        if self.funding_rate is not None:
            columns["funding_rate"] = self.funding_rate
        return columns | self.extra

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of every column in little-endian bytes: the same bars have it in any file format.

        The symbol and the path are left out; names, lengths and the interval are in. Computed at every call (5 ms for
        four years of hours), so that it cannot be stale.
        """
        digest = hashlib.sha256(f"himari bars 1 {self.interval_ms} {int(self.synthetic)}".encode())
        for name, values in sorted(self.columns().items()):
            digest.update(f"|{name}:{len(values)}:".encode())
            if values.dtype.kind == "f":
                values = np.where(np.isnan(values), np.nan, values) + 0.0  # one NaN, one zero
            digest.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
        if self.features:
            digest.update(f"|features:{','.join(self.features)}".encode())
        return digest.hexdigest()


def _frames() -> Any:
    """data/frames.py, one layer up, found by name: a door for people, which nothing below ever walks through."""
    return import_module("himari_rl.data.frames")
