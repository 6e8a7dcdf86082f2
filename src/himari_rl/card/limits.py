"""Why a limit shrank what: the ledger's own steps from what was asked to what was held, counted by cause.

asked        the multiplier, within [0, 2], times the side that may be held
regime       HIGH_VOL, CRISIS or CASCADE capped the multiplier
gross        sum |w| over all assets came to more than the account may hold
daily stop   the day had lost what a day may lose, so that everything was closed until the next
open         what could not trade at that open stood in the way
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from himari_rl.card.market import JudgedMarket
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.policy.risk import limited_exposure
from himari_rl.schema import MAX_MULTIPLIER, FloatArray

UNLIMITED = 1e9  # of gross exposure; infinity over infinity is no number
SHRUNK = 1e-4  # of equity: less is the drift between two fills, or float32


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """What one limit did."""

    cause: str
    bars: int
    """Decisions that it shrank."""
    share: float
    """Of all decisions."""
    taken: float
    """Gross exposure it took away, mean over those decisions, fraction of equity."""
    overall: float
    """The same, mean over all decisions."""


def shrunk_by(
    multiplier: FloatArray, exposure: FloatArray, market: JudgedMarket, ledger: LedgerConfig
) -> tuple[Shrunk, ...]:
    """Every cause, those that never acted included; arrays (D, A)."""
    limits, base = ledger.limits, market.side * ledger.max_position_pct
    running = np.zeros(len(base), bool)  # no stop holds

    def allowed(cap: FloatArray, gross: float) -> FloatArray:
        return np.asarray(limited_exposure(multiplier, cap, base, running, min(gross, UNLIMITED)))

    asked = allowed(np.full_like(market.cap, MAX_MULTIPLIER), UNLIMITED)
    capped, limited = allowed(market.cap, UNLIMITED), allowed(market.cap, limits.max_leverage)
    by_cap = np.abs(asked) - np.abs(capped)
    found: list[tuple[str, FloatArray]] = []
    regimes: dict[float, str] = {}
    caps = (limits.normal_cap, limits.high_vol_cap, limits.crisis_cap, limits.cascade_cap)
    for name, cap in zip(("NORMAL", "HIGH_VOL", "CRISIS", "CASCADE"), caps, strict=True):
        if cap < MAX_MULTIPLIER:
            regimes[cap] = f"{regimes[cap]} or {name}" if cap in regimes else name
    for cap, name in regimes.items():
        here = np.isclose(market.cap, cap)
        found.append((f"regime {name}: multiplier at most {cap:g}", np.where(here, by_cap, 0.0).sum(axis=1)))
    found.append((f"gross exposure at most {limits.max_leverage:g}", _gross(capped) - _gross(limited)))
    blocked = ~market.tradable
    stopped = (np.abs(exposure) < SHRUNK).all(axis=1) & ~blocked.any(axis=1)
    left = np.maximum(_gross(limited) - _gross(exposure), 0.0)
    if limits.daily_loss_stop < 1.0:
        found.append((f"daily loss stop at {100.0 * limits.daily_loss_stop:g} %", np.where(stopped, left, 0.0)))
    found.append(("no trade possible at that open", np.where(blocked.any(axis=1), left, 0.0)))
    return tuple(_counted(name, taken) for name, taken in found)


def _gross(exposure: FloatArray) -> FloatArray:
    return np.asarray(np.abs(exposure).sum(axis=1))


def _counted(cause: str, taken: FloatArray) -> Shrunk:
    acted = taken > SHRUNK
    return Shrunk(
        cause=cause,
        bars=int(acted.sum()),
        share=float(acted.mean()),
        taken=float(taken[acted].mean()) if acted.any() else 0.0,
        overall=float(np.where(acted, taken, 0.0).mean()),
    )
