"""Small markets for the feature tests, and scalar twins written from the definitions in docs/features.md."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from himari_rl.schema import HOUR_MS, Bars, Layer2

START_MS = 1_700_006_400_000  # a UTC midnight


def make_bars(
    rows: int,
    seed: int = 0,
    *,
    interval_ms: int = HOUR_MS,
    gaps: float = 0.0,
    signals: bool = False,
    symbol: str = "TEST-USD",
    sigma: float = 0.01,
) -> Bars:
    """A random walk; each bar is lost with probability `gaps`, so the rows left are fewer than `rows`."""
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(rng.normal(0.0, sigma, rows).cumsum())
    opens = np.concatenate(([100.0], close[:-1]))
    said = Layer2(
        action=rng.integers(-1, 2, rows),
        confidence=rng.random(rows),
        tier=rng.integers(1, 5, rows),
        cascade_risk=rng.random(rows),
        supplied=True,
    )
    bars = Bars(
        symbol=symbol,
        timestamp=START_MS + interval_ms * np.arange(rows, dtype=np.int64),
        open=opens,
        high=np.maximum(opens, close) * 1.001,
        low=np.minimum(opens, close) * 0.999,
        close=close,
        volume=np.ones(rows),
        interval_ms=interval_ms,
        source="helpers.features",
        synthetic=True,
        signals=said if signals else None,
        funding_rate=rng.normal(0.0, 1e-4, rows),
        extra={"z": rng.normal(size=rows)},
    )
    return keep_rows(bars, rng.random(rows) >= gaps)


def keep_rows(bars: Bars, keep: np.ndarray) -> Bars:
    """The bars where `keep` is True (a slice with holes, which Bars itself does not offer)."""
    return bars[keep]  # type: ignore[index]


def with_close(
    close: list[float] | np.ndarray, timestamp: np.ndarray | None = None, interval_ms: int = HOUR_MS
) -> Bars:
    """Bars with exactly these closes."""
    prices = np.asarray(close, dtype=float)
    bars = make_bars(len(prices), interval_ms=interval_ms)
    when = bars.timestamp if timestamp is None else np.asarray(timestamp, dtype=np.int64)
    return replace(bars, timestamp=when, open=prices, high=prices, low=prices, close=prices)


def scalar_momentum(bars: Bars, row: int, horizon_ms: int) -> float:
    """By the definition: scan back for the last close that was known a horizon ago."""
    if bars.interval_ms > horizon_ms:
        return 0.0
    for past in range(row, -1, -1):
        if bars.timestamp[past] + horizon_ms <= bars.timestamp[row]:
            return float(bars.close[row] / bars.close[past] - 1.0)
    return 0.0


def scalar_volatility(bars: Bars, row: int, window: int = 20) -> float:
    """By the definition: two passes over the last `window` returns, dividing by their number."""
    if row < window:
        return 0.0
    returns = [float(bars.close[i] / bars.close[i - 1] - 1.0) for i in range(row - window + 1, row + 1)]
    mean = sum(returns) / window
    return math.sqrt(sum((value - mean) ** 2 for value in returns) / window)


def scalar_correlation(a: np.ndarray, b: np.ndarray, row: int, window: int) -> float:
    """By the definition, over the rows of the window at which both returns exist; 0 below half a window of them."""
    pairs = [(x, y) for x, y in zip(a[: row + 1][-window:], b[: row + 1][-window:], strict=True) if x == x and y == y]
    if 2 * len(pairs) < window:
        return 0.0
    mean_x, mean_y = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    xx = sum((x - mean_x) ** 2 for x, _ in pairs)
    yy = sum((y - mean_y) ** 2 for _, y in pairs)
    xy = sum((x - mean_x) * (y - mean_y) for x, y in pairs)
    return float(xy / math.sqrt(xx * yy)) if xx > 0 and yy > 0 else 0.0
