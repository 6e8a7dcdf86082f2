"""A causal stand-in for Layer 2, for data without its columns. The run that uses it says so (`supplied=False`).

Time-series momentum after Moskowitz, Ooi & Pedersen (2012), "Time series momentum", J. Financial Economics 104(2):
an asset's own past return, in units of its own volatility. Their one horizon of twelve months becomes four, one to
28 days, for crypto's clock; their sign becomes a clipped z, so that the confidence is graded:

    z_h    = log(P_t / P_{t-h}) / (sigma_t sqrt(h / interval))       h in 1, 3, 7, 28 days of time
    score  = mean over h of clip(z_h, -2, 2) / 2                     in [-1, 1]; a horizon not yet reached says 0
    action = BUY above +0.1, SELL below -0.1, else HOLD;  confidence = |score|;  T1 is the strongest tier
    risk   = clip(loss of the last 24 h / (sigma_t sqrt(24 h / interval)) / 5, 0, 1): a five-sigma day is 1

sigma_t is the standard deviation of bar log-returns over the last 28 days; before 20 of them there is no opinion.

`signals_of` is the one place that decides which of the two is read, `with_signals` settles it for a whole history.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from himari_rl.data.panel import Panel
from himari_rl.features.indicators import FLAT, ratio_to_past, rolling_sum
from himari_rl.schema import BUY, HOLD, HOUR_MS, SELL, Bars, FloatArray, IntArray, Layer2

HORIZONS_MS = (24 * HOUR_MS, 72 * HOUR_MS, 168 * HOUR_MS, 672 * HOUR_MS)
VOLATILITY_MS = 672 * HOUR_MS
MIN_RETURNS = 20
FULL_Z = 2.0  # a two-sigma move is a full opinion
NEUTRAL_SCORE = 0.1
TIER_FLOORS = (0.25, 0.5, 0.75)  # confidence from which the tier is T3, T2, T1
RISK_MS = 24 * HOUR_MS
FULL_RISK_Z = 5.0


def volatility_bars(interval_ms: int) -> int:
    """How many bars of `interval_ms` the signal's volatility looks back."""
    return max(MIN_RETURNS, round(VOLATILITY_MS / interval_ms))


def volatility_from_sums(count: FloatArray, total: FloatArray, squares: FloatArray) -> FloatArray:
    """(...,) population standard deviation from sums of log-returns; 0 (no opinion) before MIN_RETURNS of them."""
    n = np.maximum(count, 1.0)
    variance = (squares - total * total / n) / n
    known = (count >= MIN_RETURNS) & (variance > FLAT * squares / n)
    return np.sqrt(np.where(known, variance, 0.0))


def standardised(log_return: FloatArray, sigma: FloatArray, horizon_ms: int, interval_ms: int) -> FloatArray:
    """(...,) return over a horizon in units of its own volatility; 0 where the volatility is unknown."""
    known = sigma > 0.0
    scale = np.where(known, sigma, 1.0) * np.sqrt(horizon_ms / interval_ms)
    return np.where(known, log_return / scale, 0.0)


def opinion(z: FloatArray, risk_z: FloatArray) -> tuple[IntArray, FloatArray, IntArray, FloatArray]:
    """Action, confidence, tier and cascade risk (...,) from the horizons' z (H, ...) and the last day's z (...,)."""
    score = (np.clip(z, -FULL_Z, FULL_Z) / FULL_Z).sum(axis=0) / len(HORIZONS_MS)
    confidence = np.abs(score)
    action = np.where(confidence < NEUTRAL_SCORE, HOLD, np.where(score > 0.0, BUY, SELL)).astype(np.int64)
    tier = 4 - sum((confidence >= floor).astype(np.int64) for floor in TIER_FLOORS)
    return action, confidence, np.asarray(tier, dtype=np.int64), np.clip(-risk_z / FULL_RISK_Z, 0.0, 1.0)


def reference_signals(bars: Bars) -> Layer2:
    """What a causal momentum rule would have said at the close of each bar: a Layer2 with `supplied=False`."""
    log_returns = np.zeros(len(bars))
    log_returns[1:] = np.log(bars.close[1:] / bars.close[:-1])
    window = volatility_bars(bars.interval_ms)
    count = np.minimum(np.arange(len(bars), dtype=np.float64), window)
    sigma = volatility_from_sums(count, rolling_sum(log_returns, window), rolling_sum(log_returns**2, window))

    def z(horizon_ms: int) -> FloatArray:
        moved = np.log(ratio_to_past(bars.timestamp, bars.close, horizon_ms, bars.interval_ms))
        return standardised(moved, sigma, horizon_ms, bars.interval_ms)

    action, confidence, tier, risk = opinion(np.stack([z(horizon) for horizon in HORIZONS_MS]), z(RISK_MS))
    return Layer2(action=action, confidence=confidence, tier=tier, cascade_risk=risk, supplied=False)


def signals_of(bars: Bars) -> Layer2:
    """The data's own Layer 2 where it has it, else the reference's on exactly these bars."""
    return bars.signals if bars.signals is not None else reference_signals(bars)


def with_signals(history: Bars | Panel) -> Bars | Panel:
    """The same Bars or Panel with `signals` for every symbol: the data's own where it has them, else the reference's.

    The trap: the reference knows only the bars it is given. A slice of training rows starts cold (no opinion before 20
    returns), so resolving before slicing is another history than resolving after it. Everything here resolves the very
    rows that it encodes, in `policy.clock.decisions_of`: to resolve at load instead would change every trained weight.
    """
    if isinstance(history, Panel):
        return replace(history, bars=tuple(replace(bars, signals=signals_of(bars)) for bars in history.bars))
    return replace(history, signals=signals_of(history))
