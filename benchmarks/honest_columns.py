"""Columns that know nothing but the past, 200 of them, for `leak_power.py` and tests: none may raise an alarm.

Columns of the real bars (momenta, volatilities, running candles, closed candles, volume, clocks), noise of every
memory, and predictors that really work: bars whose moves get new signs, drawn with chances that the column knew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.signal import lfilter
from scipy.special import ndtr

from himari_rl.schema import Bars, FloatArray
from leak_kinds import frame_of


@dataclass(frozen=True)
class Honest:
    """One column; `make` returns the bars too, as a planted predictor changes them."""

    kind: str
    name: str
    make: Callable[[Bars], tuple[Bars, Any]]
    into: str = "signal_confidence"


def honest_columns() -> list[Honest]:
    """All of them."""
    return [*_noises(), *_of_the_past(), *_candles(), *_clocks(), *_predictors(), *_forecasts()]


def autoregression(phi: float, rows: int, rng: np.random.Generator) -> FloatArray:
    """A stationary AR(1) of unit variance."""
    shocks = rng.standard_normal(rows) * np.sqrt(1.0 - phi**2)
    shocks[0] /= np.sqrt(1.0 - phi**2)
    return lfilter([1.0], [1.0, -phi], shocks)


def predicted(bars: Bars, z: FloatArray, rho: float, rng: np.random.Generator) -> Bars:
    """The bars with new signs: the move of bar t+1 is up with a chance that gives it a correlation of rho with z[t].

    E[z sign] = sqrt(2/pi) b / sqrt(1 + b^2) for a sign that is up with chance Phi(b z), and E|y| = sqrt(2/pi) of a
    normal score y: so b / sqrt(1 + b^2) = rho pi / 2. Opens are the closes before, so that a bar earns what it moves.
    """
    share = rho * np.pi / 2.0
    chance = ndtr(share / np.sqrt(1.0 - share**2) * np.concatenate(([0.0], z[:-1])))
    before = np.log(np.concatenate((bars.open[:1], bars.close[:-1])))
    high, low, close = (np.log(part) - before for part in (bars.high, bars.low, bars.close))
    sign = np.where((rng.random(len(bars)) < chance) == (close > 0.0), 1.0, -1.0)
    upper, lower = np.where(sign > 0.0, high, -low), np.where(sign > 0.0, low, -high)
    move = sign * close
    after = np.cumsum(move) + np.log(bars.open[0])
    start = after - move
    upper, lower = np.maximum.reduce([upper, move, 0.0 * move]), np.minimum.reduce([lower, move, 0.0 * move])
    prices = {"open": start, "high": start + upper, "low": start + lower, "close": after}
    made = {name: np.exp(values) for name, values in prices.items()}
    return replace(bars, **made, source=f"new signs of {bars.source}", synthetic=True, funding_rate=None)


def flipped(bars: Bars, seed: int) -> Bars:
    """The bars with random signs."""
    return predicted(bars, np.zeros(len(bars)), 0.0, np.random.default_rng(seed))


def _of(column: Callable[[pd.DataFrame], Any], flip: int | None = None) -> Callable[[Bars], tuple[Bars, Any]]:
    def make(bars: Bars) -> tuple[Bars, Any]:
        bars = bars if flip is None else flipped(bars, flip)
        return bars, column(frame_of(bars))

    return make


def _noises() -> Iterator[Honest]:
    for phi in (0.0, 0.5, 0.9, 0.95, 0.97, 0.99, 0.995, 1.0 - 1e-4):
        for seed in (1, 2, 3):

            def make(bars: Bars, phi: float = phi, seed: int = seed) -> tuple[Bars, Any]:
                return bars, autoregression(phi, len(bars), np.random.default_rng([seed, int(1e4 * phi)]))

            into = ("signal_confidence", "signal_action", "cascade_risk")[seed - 1]
            yield Honest("noise", f"AR({phi:g}) of seed {seed}", make, into)


def _of_the_past() -> Iterator[Honest]:
    for flip in (None, 11):
        suffix = "" if flip is None else ", new signs"
        for k in (1, 2, 4, 8, 12, 24, 48, 72, 168, 672):
            yield Honest("past", f"momentum {k}{suffix}", _of(lambda f, k=k: f.close.pct_change(k), flip))
        for k in (8, 24, 72, 168):
            yield Honest("past", f"volatility {k}{suffix}", _of(lambda f, k=k: f.r.rolling(k).std(), flip))
            risk = _of(lambda f, k=k: f.r.ewm(span=k).std(), flip)
            yield Honest("past", f"EWM volatility {k}{suffix}", risk, "cascade_risk")
            yield Honest("past", f"EWM {k}{suffix}", _of(lambda f, k=k: f.r.ewm(span=k).mean(), flip))
            yield Honest(
                "past", f"mean over close {k}{suffix}", _of(lambda f, k=k: f.close.rolling(k).mean() / f.close, flip)
            )
            yield Honest("past", f"place {k}{suffix}", _of(lambda f, k=k: _place(f, k), flip))
            act = _of(lambda f, k=k: f.close - f.close.ewm(span=k).mean(), flip)
            yield Honest("past", f"cross {k} as action{suffix}", act, "signal_action")
        yield Honest("past", f"close in its bar{suffix}", _of(lambda f: (f.close - f.low) / (f.high - f.low), flip))
        yield Honest("past", f"return of the bar{suffix}", _of(lambda f: f.close / f.open, flip))
        yield Honest("past", f"range{suffix}", _of(lambda f: f.high / f.low, flip), "cascade_risk")
        yield Honest("past", f"volume{suffix}", _of(lambda f: f.volume, flip))
        yield Honest("past", f"signed volume{suffix}", _of(lambda f: f.volume * np.sign(f.close - f.open), flip))
        yield Honest(
            "past", f"volume over its mean{suffix}", _of(lambda f: f.volume / f.volume.rolling(24).mean(), flip)
        )
        yield Honest("past", f"price{suffix}", _of(lambda f: f.close, flip))
        yield Honest("past", f"MACD{suffix}", _of(_macd, flip))
        yield Honest("past", f"own return a day ago{suffix}", _of(lambda f: f.r.shift(23), flip))
        yield Honest("past", f"confirmed fractal{suffix}", _of(_confirmed, flip), "signal_action")


def _place(f: pd.DataFrame, k: int) -> pd.Series:
    low, high = f.low.rolling(k).min(), f.high.rolling(k).max()
    return (f.close - low) / (high - low)


def _macd(f: pd.DataFrame) -> pd.Series:
    line = (f.close.ewm(span=12).mean() - f.close.ewm(span=26).mean()) / f.close
    return line - line.ewm(span=9).mean()


def _confirmed(f: pd.DataFrame) -> pd.Series:
    low, high = (part.rolling(5, center=True) for part in (f.low, f.high))
    return ((f.low == low.min()).astype(float) - (f.high == high.max())).shift(2)


def _candles() -> Iterator[Honest]:
    for rule in ("4h", "8h", "D", "7D"):
        for offset in ("0h", "3h", "16h"):
            closed = _of(lambda f, a=rule, b=offset: _closed(f, a, b))
            yield Honest("candle", f"{rule} candle + {offset}, shifted by one", closed)
        yield Honest("candle", f"running {rule} candle", _of(lambda f, a=rule: f.close / _start(f, a)))
        act = _of(lambda f, a=rule: f.close - _start(f, a), 12)
        yield Honest("candle", f"running {rule} candle as action, new signs", act, "signal_action")
        vwap = _of(lambda f, a=rule: _running_vwap(f, a) / f.close)
        yield Honest("candle", f"running {rule} VWAP", vwap)


def _closed(f: pd.DataFrame, rule: str, offset: str) -> FloatArray:
    by = (f.index - pd.Timedelta(offset)).floor(rule)
    candles = f.groupby(by).close.last() / f.groupby(by).open.first()
    return candles.shift(1).reindex(by).to_numpy()


def _start(f: pd.DataFrame, rule: str) -> pd.Series:
    return f.groupby(f.index.floor(rule)).open.transform("first")


def _running_vwap(f: pd.DataFrame, rule: str) -> pd.Series:
    groups = f.assign(pv=f.close * f.volume).groupby(f.index.floor(rule))
    return groups.pv.cumsum() / (groups.volume.cumsum() + 1e-9)


def _clocks() -> Iterator[Honest]:
    yield Honest("clock", "hour", _of(lambda f: f.index.hour))
    yield Honest("clock", "hour as risk", _of(lambda f: -np.abs(f.index.hour - 15)), "cascade_risk")
    yield Honest("clock", "weekday", _of(lambda f: f.index.dayofweek), "signal_tier")
    yield Honest("clock", "sine of the day", _of(lambda f: np.sin(f.index.hour / 24 * 2 * np.pi)))
    yield Honest("clock", "day of month", _of(lambda f: f.index.day))
    yield Honest("clock", "row", _of(lambda f: np.arange(len(f))))


def _planted(z_of: Callable[[int, np.random.Generator], FloatArray], rho: float, seed: int) -> Callable[[Bars], Any]:
    def make(bars: Bars) -> tuple[Bars, Any]:
        rng = np.random.default_rng([seed, int(1e4 * rho)])
        z = z_of(len(bars), rng)
        return predicted(bars, z, rho, rng), z

    return make


def _predictors() -> Iterator[Honest]:
    for phi in (0.9, 0.95, 0.97, 0.98, 0.99):
        for rho in (0.05, 0.08, 0.10, 0.12, 0.15):
            for seed in (1, 2):
                make = _planted(lambda rows, rng, phi=phi: autoregression(phi, rows, rng), rho, seed)
                yield Honest("predictor", f"AR({phi}) of correlation {rho}, seed {seed}", make)
    for phi in (0.6, 0.8, 0.9):
        for rho in (0.05, 0.1):

            def make(bars: Bars, phi: float = phi, rho: float = rho) -> tuple[Bars, Any]:
                rng = np.random.default_rng([3, int(100 * phi)])
                fast, slow = (autoregression(p, len(bars), rng) for p in (phi, 0.99))
                return predicted(bars, fast, rho, rng), fast + slow

            yield Honest("predictor", f"fast AR({phi}) of {rho} in slow noise", make)


def _forecasts() -> Iterator[Honest]:
    """Forecasts made at midnight, held for the day, of a correlation with each hour that a person could have."""
    for rho in (0.01, 0.02, 0.03):
        for phi in (0.0, 0.7):

            def at_midnight(rows: int, rng: np.random.Generator, phi: float = phi) -> FloatArray:
                return np.repeat(autoregression(phi, rows // 24 + 1, rng), 24)[:rows]

            yield Honest("midnight", f"AR({phi}) of {rho}, made at midnight", _planted(at_midnight, rho, 4))
