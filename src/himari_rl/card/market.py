"""What the market and Layer 2 did on the judged bars: curves that a run keeps for its page and is not judged by.

card/price        (D + 1, A) price at each fill, and the one to which the last decision earns
card/signal       (D, A) Layer 2's side, -1 0 1, SELL counted as -1 whether or not shorts are allowed
card/side         (D, A) the side that may be held
card/cap          (D, A) regime cap on the multiplier
card/tradable     (D, A) whether the fill could trade
card/confidence, card/tier    (D, A) as Layer 2 said them; tier 1 to 4
card/funding      (D, A) rate paid by longs, where the data has any
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himari_rl.data.panel import Panel
from himari_rl.evaluation.backtest import stage
from himari_rl.features.contract import CONFIDENCE, TIER, WIDTH
from himari_rl.features.signals import signals_of, with_signals
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.schema import Bars, BoolArray, FloatArray, IntArray, direction

PREFIX = "card/"


@dataclass(frozen=True, kw_only=True)
class JudgedMarket:
    """The curves above, by name; arrays (D, A), the price (D + 1, A)."""

    price: FloatArray
    signal: IntArray
    side: IntArray
    cap: FloatArray
    tradable: BoolArray
    confidence: FloatArray
    tier: IntArray
    funding: FloatArray

    @property
    def asset_return(self) -> FloatArray:
        """(D, A) simple returns, fill to fill."""
        return np.asarray(self.price[1:] / self.price[:-1] - 1.0)


def market_curves(history: Bars | Panel, ledger: LedgerSpec, start_row: int) -> dict[str, NDArray[Any]]:
    """The curves of the decisions from `start_row` on.

    Args:
        history: up to and with the last bar that an account earns to.
    """
    on = stage(history, ledger, start_row)
    count, assets = on.base.shape
    prices = history.prices() if isinstance(history, Panel) else history
    blocks = on.rows[:, : WIDTH * assets].reshape(count, assets, WIDTH)
    found: dict[str, NDArray[Any]] = {
        "price": np.asarray(prices.open, float).reshape(len(history), assets)[start_row + 1 :],
        "signal": _sides(history)[start_row : start_row + count].astype(np.int8),
        "side": np.sign(on.base).astype(np.int8),
        "cap": on.cap.astype(np.float32),
        "tradable": on.moves.tradable,
        "confidence": blocks[..., CONFIDENCE].astype(np.float32),
        "tier": (blocks[..., TIER].argmax(axis=-1) + 1).astype(np.int8),
    }
    if np.any(on.moves.funding):
        found["funding"] = on.moves.funding.astype(float)
    return {f"{PREFIX}{name}": np.ascontiguousarray(values) for name, values in found.items()}


def _sides(history: Bars | Panel) -> FloatArray:
    """(T, A) Layer 2's side at each time with shorts allowed, as policy/clock.py reads it."""
    told = with_signals(history)
    sides = [direction(signals_of(bars).action, True) for bars in told.each]
    if isinstance(told, Panel):
        latest, _ = told.rows()
        sides = [side[row] for side, row in zip(sides, latest.T, strict=True)]
    return np.stack(sides, axis=1)


def market_of(curves: Mapping[str, NDArray[Any]]) -> JudgedMarket | None:
    """From what `market_curves` gave; None for a run that kept none."""
    if f"{PREFIX}price" not in curves:
        return None
    names = ("price", "signal", "side", "cap", "tradable", "confidence", "tier")
    arrays = {name: np.asarray(curves[f"{PREFIX}{name}"]) for name in names}
    funding = np.asarray(curves.get(f"{PREFIX}funding", np.zeros(arrays["side"].shape)))
    return JudgedMarket(funding=funding, **arrays)
