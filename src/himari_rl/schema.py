"""The nouns that travel between packages.

Shape legend, used in every docstring: T steps (bars), N environments, A assets, F features, H hidden.
Times are integer milliseconds since the epoch, UTC, and stamp the OPEN of a bar.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1000, 60_000, 3_600_000, 86_400_000
YEAR_MS = 365 * 24 * HOUR_MS  # crypto trades every hour of the year

SELL, HOLD, BUY = -1, 0, 1
ACTIONS = {"STRONG_SELL": SELL, "SELL": SELL, "HOLD": HOLD, "BUY": BUY, "STRONG_BUY": BUY}  # the words of Layer 2
MAX_MULTIPLIER = 2.0
RISK_AVERSION = 6.7  # of the mean-variance utility: a Sharpe ratio of 1 is held near 15 % annual volatility


@dataclass(frozen=True, kw_only=True)
class Layer2:
    """What Layer 2 said at the close of each bar. All arrays (T,)."""

    action: IntArray  # SELL, HOLD or BUY; STRONG_* already folded in
    confidence: FloatArray  # [0, 1]
    tier: IntArray  # 1..4
    cascade_risk: FloatArray  # [0, 1]
    supplied: bool  # True: columns of the data; False: our causal reference signal

    def __getitem__(self, rows: slice) -> Layer2:
        return Layer2(
            action=self.action[rows],
            confidence=self.confidence[rows],
            tier=self.tier[rows],
            cascade_risk=self.cascade_risk[rows],
            supplied=self.supplied,
        )


@dataclass(frozen=True, kw_only=True)
class Bars:
    """One symbol's bars as they were recorded: gaps stay gaps, nothing is filled or invented.

    Every array is (T,), sorted by `timestamp`, unique, on one interval's grid. A bar without volume
    is an exchange's placeholder: its prices mark the position, but nothing trades at them.
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
    def tradable(self) -> BoolArray:
        """(T,) True where a fill at the open is possible."""
        return self.volume > 0.0

    @property
    def bars_per_year(self) -> float:
        """24 x 365 for hourly bars: the calendar that annualises every ratio."""
        return YEAR_MS / self.interval_ms
