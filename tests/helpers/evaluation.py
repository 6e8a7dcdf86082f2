"""Markets and policies that the evaluation tests share: every price follows from the opens given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.risk import RiskLimits
from himari_rl.schema import BUY, HOUR_MS, Bars, Layer2

START_MS = 1_704_067_200_000  # 2024-01-01


def ledger(limits: RiskLimits | None = None, **changes: Any) -> LedgerSpec:
    """The product's costs, without regime caps and daily stop unless limits are given."""
    chosen = vars(limits or RiskLimits.off())
    fields: dict[str, Any] = {
        "max_position_pct": 0.5,
        "commission_rate": 0.001,
        "slippage_bps": 5.0,
        "allow_short": False,
        "interval_ms": HOUR_MS,
        "limits": {name: None if value == float("inf") else value for name, value in chosen.items()},
    }
    return LedgerSpec(**(fields | changes))


def bars_from(
    opens: np.ndarray,
    closes: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
    **changes: Any,
) -> Bars:
    """Hourly bars, BUY throughout; each close is the next open unless given."""
    rows = len(opens)
    closes = np.append(opens[1:], opens[-1]) if closes is None else closes
    signals = Layer2(
        action=np.full(rows, BUY),
        confidence=np.full(rows, 0.5) if confidence is None else confidence,
        tier=np.ones(rows, np.int64),
        cascade_risk=np.zeros(rows),
        supplied=True,
    )
    fields: dict[str, Any] = {
        "symbol": "BTC-USDT",
        "timestamp": START_MS + HOUR_MS * np.arange(rows),
        "open": opens,
        "high": np.maximum(opens, closes),
        "low": np.minimum(opens, closes),
        "close": closes,
        "volume": np.ones(rows),
        "interval_ms": HOUR_MS,
        "source": "a test",
        "synthetic": True,
        "signals": signals,
    }
    return Bars(**(fields | changes))


def walk(rows: int, seed: int, sigma: float = 0.01, drift: float = 0.0) -> np.ndarray:
    """(rows,) opens of a geometric random walk."""
    rng = np.random.default_rng(seed)
    return 100.0 * np.exp(np.cumsum(rng.normal(drift - sigma**2 / 2, sigma, rows)))


class Rule:
    """A policy that answers with a function of its states (B, F); it counts its decisions in its memory."""

    def __init__(self, answer: Callable[[np.ndarray, int], np.ndarray]) -> None:
        self.answer = answer

    def decide_batch(self, states: np.ndarray, memory: int | None = None) -> tuple[np.ndarray, int]:
        step = memory or 0
        multipliers = np.broadcast_to(np.asarray(self.answer(states, step), float), len(states))
        return multipliers[:, None].copy(), step + 1
