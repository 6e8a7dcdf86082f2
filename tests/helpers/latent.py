"""Bars whose drift is hidden: a slow AR(1) that the confidence shows only through noise, so that memory pays."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import accumulate

import numpy as np

from helpers.envs import bars_of
from himari_rl.agents.config import LSTMPPOConfig
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.schema import Bars

SMALL = LSTMPPOConfig(num_envs=20, hidden_dim=8, minibatch=500)
KEEP, SIGMA = 0.97, 0.006


def environment(allow_short: bool) -> TradingEnvConfig:
    return TradingEnvConfig(reward="mean_variance", allow_short=allow_short)


def hidden_drift(rows: int, rng: np.random.Generator) -> np.ndarray:
    """(rows,) AR(1) of unit variance."""
    shocks = rng.standard_normal(rows) * math.sqrt(1.0 - KEEP**2)
    return np.array(list(accumulate(shocks.tolist(), lambda level, shock: KEEP * level + shock)))


def latent_bars(rows: int, seed: int, *, edge: float, shown: float = 0.1, sells: bool = False) -> Bars:
    """BUY, and where there are `sells` SELL every other week. A decision at bar t earns edge * sigma * hidden_t
    on average, along the side that Layer 2 asks for.

    Args:
        shown: share of the confidence's variance that is the hidden drift.
    """
    rng = np.random.default_rng(seed)
    hidden = hidden_drift(rows, rng)
    moves = SIGMA * rng.standard_normal(rows)
    action = np.where(sells & (np.arange(rows) // 168 % 2 == 1), -1, 1)
    moves[1:] += (
        action[:-1] * SIGMA * edge * hidden[:-1]
    )  # decided at the close of t, filled at that price at the next open
    prices = 100.0 * np.exp(np.cumsum(moves))
    bars = bars_of(np.concatenate([[100.0], prices[:-1]]), prices, action)
    z = math.sqrt(shown) * hidden + math.sqrt(1.0 - shown) * rng.standard_normal(rows)
    confidence = np.array([0.5 * (1.0 + math.erf(value / math.sqrt(2.0))) for value in z])
    assert bars.signals is not None
    return replace(bars, signals=replace(bars.signals, confidence=confidence))
