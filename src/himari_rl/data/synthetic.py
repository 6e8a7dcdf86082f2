"""A seeded market that behaves like hourly bitcoin, always labelled synthetic.

What it has, of the size that hourly bitcoin shows (autocorrelation of |returns| .2 after an hour, .15 after a day):
  regimes     quiet, bull, bear and storm, a Markov chain with mean lengths of weeks; each has a drift and a volatility
  clustering  log-volatility is an AR(1) around the regime's level, half-life about two days
  jumps       rare, several times the bar's volatility, more often down than up
  bars        open at the last close, high and low from the law of a Brownian bridge, volume that rises with movement
  placeholders a few bars without volume, whose four prices are the last close

What there is to learn is mild and stated: the regimes' drifts (DRIFT_PER_YEAR) are the only predictable part of the
returns, and nobody is shown the regime. Somebody who knew it, long or flat, would have an annual Sharpe ratio of 1.3
before costs, holding 0.7; everything else is a martingale, so "keep 1.0" is a respectable answer here.

The same seed is the same file on every machine, as far as that can be had. exp, log and sin differ by a last bit
between CPUs, so moves lie on a grid of 2^-32 (their sum is then exact, and a last bit cannot grow with time) and every
price and volume is quoted with seven digits, as an exchange would: 10,000.00. What still depends on the machine: values
within a last bit of a rounding's tie (about one four-year market in a thousand has one), and numpy's own stream.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from himari_rl.errors import ConfigError
from himari_rl.schema import HOUR_MS, YEAR_MS, Bars, BoolArray, FloatArray, IntArray

START_MS = 1_577_836_800_000  # 2020-01-01
REGIMES = ("quiet", "bull", "bear", "storm")
DRIFT_PER_YEAR = np.array([0.15, 1.20, -0.70, -0.50])  # of the log price, before the volatility's own drag
VOLATILITY = np.array([0.65, 0.95, 1.10, 2.00])  # times annual_volatility
MEAN_LENGTH_HOURS = np.array([500.0, 700.0, 450.0, 60.0])
NEXT = np.array([[0.0, 0.5, 0.3, 0.2], [0.6, 0.0, 0.2, 0.2], [0.5, 0.3, 0.0, 0.2], [0.4, 0.3, 0.3, 0.0]])

VOL_HALF_LIFE_HOURS = 48.0
VOL_OF_LOG_VOL = 0.35
JUMPS_PER_HOUR = 0.002
JUMP_MEAN, JUMP_SPREAD = -0.5, 4.0  # in volatilities of the bar

DIGITS = 7  # of a quoted price or volume: a tick of 0.01 at 10,000
GRID = 2.0**32  # moves of the log price are multiples of 1 / GRID: a float64 holds their sum exactly
_DECADES = np.array([float(f"1e{k}") for k in range(-300, 301)])  # read, not computed: pow differs between machines


def synthetic_bars(
    rows: int,
    seed: int,
    *,
    interval_ms: int = HOUR_MS,
    symbol: str = "BTC-SYNTHETIC",
    start_ms: int = START_MS,
    start_price: float = 10_000.0,
    annual_volatility: float = 0.6,
    edge: float = 1.0,
    zero_volume: float = 0.0003,
    outages: int = 0,
) -> Bars:
    """A market of `rows` bars; the same seed gives the same market.

    Args:
        edge: multiplies the regimes' drifts; 0 leaves nothing to learn.
        zero_volume: share of bars that are placeholders.
        outages: number of gaps of 1 to 12 bars cut out of the grid (the prices move on meanwhile).

    Raises:
        ConfigError: a size that makes no market.
    """
    if rows < 1 or interval_ms < 1 or start_price <= 0 or annual_volatility <= 0 or outages < 0:
        raise ConfigError(
            f"no market has {rows} rows of {interval_ms} ms at {start_price} with volatility {annual_volatility}",
            "positive numbers",
        )
    if not 0.0 <= zero_volume < 1.0:
        raise ConfigError(f"zero_volume is {zero_volume}", "a share in [0, 1)")
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 13, size=outages)
    total = rows + int(lengths.sum())
    hours = interval_ms / HOUR_MS
    regime = regimes(total, hours, rng)
    sigma = annual_volatility * np.sqrt(interval_ms / YEAR_MS) * VOLATILITY[regime] * clustering(total, hours, rng)
    drift = edge * DRIFT_PER_YEAR[regime] * interval_ms / YEAR_MS
    diffusion = sigma * rng.standard_normal(total)
    jump = np.where(
        rng.random(total) < JUMPS_PER_HOUR * hours,
        sigma * (JUMP_MEAN + JUMP_SPREAD * rng.standard_normal(total)),
        0.0,
    )
    empty = rng.random(total) < zero_volume
    move = np.where(empty, 0.0, drift - sigma**2 / 2.0 + diffusion + jump)
    columns = market(move, sigma, start_price, start_ms, interval_ms, empty, rng)
    keep = np.flatnonzero(_kept(total, lengths, rng))
    return Bars(
        symbol=symbol,
        timestamp=start_ms + interval_ms * keep.astype(np.int64),
        **{name: column[keep] for name, column in columns.items()},
        interval_ms=interval_ms,
        source=f"synthetic (seed {seed})",
        synthetic=True,
    )


def market(
    move: FloatArray,
    sigma: FloatArray,
    start_price: float,
    start_ms: int,
    interval_ms: int,
    empty: BoolArray,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Prices and volume (T,) of one symbol by column, quoted.

    Args:
        move: (T,) of the log price over each bar; 0 where `empty`.
        sigma: (T,) the bar's volatility.
        empty: (T,) placeholders: no volume, and four prices that are the last close.
    """
    move = np.rint(move * GRID) / GRID
    end = np.cumsum(move)
    start = end - move
    high, low = _extremes(start, end, np.where(empty, 0.0, sigma), rng)
    volume = np.where(empty, 0.0, _volume(start_price, move, sigma, start_ms, interval_ms, rng))
    opened, close = quoted(start_price * np.exp(start)), quoted(start_price * np.exp(end))
    return {
        "open": opened,
        "high": np.maximum.reduce([quoted(start_price * np.exp(high)), opened, close]),
        "low": np.minimum.reduce([quoted(start_price * np.exp(low)), opened, close]),
        "close": close,
        "volume": quoted(volume),
    }


def quoted(values: FloatArray) -> FloatArray:
    """(T,) numbers >= 0 rounded to DIGITS significant decimal digits; 0 stays 0.

    Products and quotients with exact powers of ten, so that the same digits are the same bits everywhere.
    """
    decade = np.searchsorted(_DECADES, values, side="right") - 301  # 10^decade <= value < 10^(decade + 1)
    shift = np.clip(DIGITS - 1 - decade, -300, 300)
    up, down = _DECADES[300 + np.maximum(shift, 0)], _DECADES[300 + np.maximum(-shift, 0)]
    return np.asarray(np.rint(values * up / down) * down / up)


def regimes(rows: int, hours: float, rng: np.random.Generator) -> IntArray:
    """(T,) the regime of each bar: geometric lengths, next regime by NEXT."""
    path: list[IntArray] = []
    filled, state = 0, 0
    while filled < rows:
        length = int(rng.geometric(min(1.0, hours / MEAN_LENGTH_HOURS[state])))
        path.append(np.full(min(length, rows - filled), state, np.int64))
        filled += len(path[-1])
        state = int(rng.choice(len(REGIMES), p=NEXT[state]))
    return np.concatenate(path)


def clustering(rows: int, hours: float, rng: np.random.Generator) -> FloatArray:
    """(T,) a lognormal AR(1) factor on the volatility whose mean square is 1."""
    memory = 0.5 ** (hours / VOL_HALF_LIFE_HOURS)
    shocks = VOL_OF_LOG_VOL * np.sqrt(1.0 - memory**2) * rng.standard_normal(rows)
    level, path = float(VOL_OF_LOG_VOL * rng.standard_normal()), []
    for shock in shocks.tolist():
        level = memory * level + shock
        path.append(level)
    return np.exp(np.asarray(path) - VOL_OF_LOG_VOL**2)


def _extremes(
    start: FloatArray, end: FloatArray, sigma: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Highest and lowest point of a Brownian bridge from start to end: (d +- sqrt(d^2 - 2 s^2 ln U)) / 2."""
    move = end - start
    reach = [np.sqrt(move**2 - 2.0 * sigma**2 * np.log1p(-rng.random(len(move)))) for _ in range(2)]
    high = start + (move + reach[0]) / 2.0
    low = start + (move - reach[1]) / 2.0
    return np.maximum(high, np.maximum(start, end)), np.minimum(low, np.minimum(start, end))


def _volume(
    price: float, move: FloatArray, sigma: FloatArray, start_ms: int, interval_ms: int, rng: np.random.Generator
) -> FloatArray:
    """(T,) more when prices move, more in the European and American afternoon."""
    hour = (start_ms // HOUR_MS + np.arange(len(move)) * (interval_ms / HOUR_MS)) % 24.0
    daily = 1.0 + 0.35 * np.sin((hour - 9.0) / 24.0 * 2.0 * np.pi)
    surprise = np.abs(move) / sigma
    noise = np.exp(0.5 * rng.standard_normal(len(move)) - 0.125)
    return np.asarray(1e7 / price * (interval_ms / HOUR_MS) * daily * (0.5 + surprise) * noise)


def _kept(total: int, lengths: IntArray, rng: np.random.Generator) -> BoolArray:
    """(T,) True for the bars outside the outages: rows stay, exactly `lengths` bars go, never the first."""
    kept = np.ones(total, np.bool_)
    rows = total - int(lengths.sum())
    after = np.sort(rng.integers(1, rows, size=len(lengths))) if rows > 1 else np.ones(len(lengths), np.int64)
    removed = 0
    for place, length in zip(after.tolist(), lengths.tolist(), strict=True):
        kept[place + removed : place + removed + length] = False
        removed += length
    return kept
