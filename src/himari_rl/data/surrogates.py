"""Other histories made of one: block bootstrap, mirrored signs, a planted edge.

    bootstrapped(bars, rng)    blocks of the same bars in a random order: more paths to train on
    driftless(bars, rng)       every bar's move with a random sign: the same storms, nothing to know
    planted(bars, rng, edge)   a driftless twin whose signal_confidence knows the drift of the next bar, by `edge`

Each bar keeps its shape relative to the close before it. The twins are the controls of a verdict: the same pipeline
must find nothing in the first and the edge in the second.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from math import erf, sqrt

import numpy as np

from himari_rl.errors import ConfigError
from himari_rl.schema import BUY, Bars, FloatArray, Layer2

BLOCK_BARS = 336  # two weeks of hours: longer than any window of a feature
MEMORY = 0.97  # per bar, of the planted signal: a half-life of 23 bars


def bootstrapped(bars: Bars, rng: np.random.Generator, block_bars: int = BLOCK_BARS) -> Bars:
    """A history as long as this one, of blocks drawn from it with replacement (Kunsch 1989).

    Layer 2, funding and other columns travel with their bars; timestamps stay.

    Raises:
        ConfigError: a block longer than the history.
    """
    rows = len(bars)
    if not 1 <= block_bars <= rows:
        raise ConfigError(f"blocks of {block_bars} bars", f"1 to {rows}", "choose a shorter block")
    starts = rng.integers(0, rows - block_bars + 1, size=-(-rows // block_bars))
    pick = (starts[:, None] + np.arange(block_bars)).ravel()[:rows]
    opened, high, low, close = (part[pick] for part in _moves(bars))
    moved = _rebuilt(bars, opened, high, low, close, f"bootstrap of {bars.source}")
    return replace(
        moved,
        volume=bars.volume[pick],
        signals=None if bars.signals is None else bars.signals[pick],
        funding_rate=None if bars.funding_rate is None else bars.funding_rate[pick],
        extra={name: column[pick] for name, column in bars.extra.items()},
    )


def driftless(bars: Bars, rng: np.random.Generator) -> Bars:
    """The same bars, each with a random sign, so that the expected simple return of every bar is zero.

    What is left is volatility and its clustering; whatever knew the direction knows nothing now. Funding is dropped.
    """
    sign = rng.choice((-1.0, 1.0), len(bars))
    return _signed(bars, sign, np.zeros(len(bars)), f"driftless twin of {bars.source}")


def planted(bars: Bars, rng: np.random.Generator, edge: float) -> Bars:
    """A driftless twin with a drift of edge x (volatility of a bar) x z, where Phi(z) is the confidence one bar before.

    z is an AR(1) with memory .97 and unit variance; Layer 2 says BUY throughout. `edge` is therefore the correlation
    of the visible signal with the return that a decision earns, up to the clustering of volatility.
    """
    rows = len(bars)
    shocks = rng.standard_normal(rows) * np.sqrt(1.0 - MEMORY**2)
    first = float(rng.standard_normal())
    walked = accumulate(shocks.tolist(), lambda level, shock: MEMORY * level + shock, initial=first)
    z = np.array(list(walked)[1:])
    moves = np.diff(np.log(bars.close))
    drift = edge * float(moves.std()) * np.concatenate(([0.0], z[:-1]))
    sign = rng.choice((-1.0, 1.0), rows)
    signals = Layer2(
        action=np.full(rows, BUY, np.int64),
        confidence=0.5 * (1.0 + np.array(list(map(erf, (z / sqrt(2.0)).tolist())))),
        tier=np.ones(rows, np.int64),
        cascade_risk=np.zeros(rows),
        supplied=True,
    )
    twin = _signed(bars, sign, drift, f"edge {edge:g} planted in {bars.source}")
    return replace(twin, signals=signals, extra=bars.extra if bars.features else {})


def _signed(bars: Bars, sign: FloatArray, drift: FloatArray, source: str) -> Bars:
    opened, high, low, close = _moves(bars)
    flat = np.log(np.cosh(close))  # so that the mean of exp(+-close) is 1, not cosh(close)
    upper, lower = np.where(sign > 0.0, high, -low), np.where(sign > 0.0, low, -high)
    opened, close = sign * opened, sign * close - flat + drift
    upper, lower = np.maximum.reduce([upper, opened, close]), np.minimum.reduce([lower, opened, close])
    return replace(_rebuilt(bars, opened, upper, lower, close, source), funding_rate=None, synthetic=True)


def _moves(bars: Bars) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """(T,) log of open, high, low and close over the close before; the first bar's over its own open."""
    before = np.log(np.concatenate((bars.open[:1], bars.close[:-1])))
    opened, high, low, close = (np.log(part) - before for part in (bars.open, bars.high, bars.low, bars.close))
    return opened, high, low, close


def _rebuilt(bars: Bars, opened: FloatArray, high: FloatArray, low: FloatArray, close: FloatArray, source: str) -> Bars:
    after = np.log(bars.open[0]) + np.cumsum(close)
    before = after - close
    first, last = np.exp(before + opened), np.exp(after)
    return replace(
        bars,
        open=first,
        high=np.maximum.reduce([np.exp(before + high), first, last]),  # rounding alone would leave them outside
        low=np.minimum.reduce([np.exp(before + low), first, last]),
        close=last,
        source=source,
    )
