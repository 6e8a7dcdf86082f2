"""Risk limits: the one function between a wanted multiplier and an allowed exposure.

Training, backtest, server and runner call these same lines (numpy arrays or torch tensors alike). A limit
only ever shrinks an exposure towards zero; it never adds one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from himari_rl.errors import ConfigError
from himari_rl.policy.ledger import Array, bounded, namespace
from himari_rl.schema import MAX_MULTIPLIER

LARGEST_CAP, LARGEST_BOUND = 10.0, 100.0
"""Beyond these a number is no limit that anybody meant: 1e300 of a damaged or a forged file."""


@dataclass(frozen=True, kw_only=True)
class RiskLimits:
    """The limits the product was specified with. `RiskLimits.off()` is for markets with a solved optimum.

    >>> RiskLimits(max_leverage=2.0).crisis_cap
    1.0
    """

    normal_cap: float = 2.0
    """Largest multiplier in the NORMAL regime."""
    high_vol_cap: float = 1.5
    """Largest multiplier in the HIGH_VOL regime."""
    crisis_cap: float = 1.0
    """Largest multiplier in the CRISIS regime."""
    cascade_cap: float = 0.0
    """Largest multiplier in the CASCADE regime."""
    high_vol_volatility: float = 0.015
    """Standard deviation of the last 20 bar returns from which the regime is HIGH_VOL."""
    crisis_volatility: float = 0.03
    """Standard deviation of the last 20 bar returns from which the regime is CRISIS."""
    crisis_risk: float = 0.6
    """cascade_risk from which the regime is CRISIS."""
    cascade_risk: float = 0.8
    """cascade_risk from which the regime is CASCADE."""
    max_leverage: float = 1.0
    """Gross exposure sum |w| as a multiple of equity; above it all weights shrink in proportion."""
    daily_loss_stop: float = 0.02
    """Loss since the start of the UTC day, marked at closes, that closes every position until the next day."""

    def __post_init__(self) -> None:
        if not self.max_leverage > 0.0:
            raise ConfigError(f"max_leverage {self.max_leverage}", "above 0", "multiplier caps of 0 stand aside")
        for name in ("normal_cap", "high_vol_cap", "crisis_cap", "cascade_cap"):
            cap = getattr(self, name)
            if not 0.0 <= cap <= LARGEST_CAP:
                raise ConfigError(f"{name} {cap}", f"a multiplier from 0 to {LARGEST_CAP:g}", "0 stands aside")
        for name in ("high_vol_volatility", "crisis_volatility", "crisis_risk", "cascade_risk", "daily_loss_stop"):
            bound = getattr(self, name)
            if not 0.0 <= bound <= LARGEST_BOUND and bound != inf:
                raise ConfigError(f"{name} {bound}", f"from 0 to {LARGEST_BOUND:g}, or inf", "inf switches it off")
        if not (self.max_leverage <= LARGEST_BOUND or self.max_leverage == inf):
            raise ConfigError(f"max_leverage {self.max_leverage}", f"at most {LARGEST_BOUND:g}, or inf", "2 is a lot")

    @classmethod
    def off(cls, max_leverage: float = 1.0) -> RiskLimits:
        """No regime caps and no daily stop; the gross cap stays, because it is part of the ledger."""
        return cls(
            high_vol_volatility=inf,
            crisis_volatility=inf,
            crisis_risk=inf,
            cascade_risk=inf,
            max_leverage=max_leverage,
            daily_loss_stop=1.0,
        )


def multiplier_cap(volatility: Array, cascade_risk: Array, limits: RiskLimits) -> Array:
    """The regime's cap on the multiplier, elementwise.

    Args:
        volatility: standard deviation of the last 20 bar returns (feature 14 times 0.1).
        cascade_risk: feature 16, in [0, 1].
    """
    xp = namespace(volatility)
    cap = xp.full_like(volatility, limits.normal_cap)
    cap = xp.where(volatility >= limits.high_vol_volatility, limits.high_vol_cap, cap)
    crisis = (volatility >= limits.crisis_volatility) | (cascade_risk >= limits.crisis_risk)
    cap = xp.where(crisis, limits.crisis_cap, cap)
    return xp.where(cascade_risk >= limits.cascade_risk, limits.cascade_cap, cap)


def limited_exposure(multiplier: Array, cap: Array, base: Array, stopped: Array, max_leverage: float) -> Array:
    """The exposure that is allowed when `multiplier` is wanted.

    Args:
        multiplier: (..., A) wanted multiple of the base position.
        cap: (..., A) regime cap from `multiplier_cap`.
        base: (..., A) direction times max_position_pct; its sign is the side.
        stopped: (...) bool; True while the daily loss stop holds.
        max_leverage: gross cap as a multiple of equity.

    Returns:
        (..., A) signed exposure with sum |w| <= max_leverage.
    """
    xp = namespace(multiplier)
    allowed = xp.minimum(bounded(multiplier, 0.0, MAX_MULTIPLIER), cap)
    exposure = xp.where(stopped[..., None], 0.0, allowed * base)
    gross = abs(exposure).sum(-1)[..., None]
    # L / max(gross, L), not min(1, L / gross): the quotient's gradient is NaN at gross 0
    return exposure * (max_leverage / bounded(gross, max_leverage))


def beside_carried(exposure: Array, held: Array, tradable: Array, max_leverage: float) -> Array:
    """Shrinks what trades, in proportion, into the room that positions leave which cannot trade at this open.

    Without it an asset that cannot be sold would leave the others bought on credit.

    Args:
        exposure: (..., A) allowed if every asset could trade.
        held: (..., A) exposure carried into the open.
        tradable: (..., A) bool.
        max_leverage: gross cap; carried positions alone may exceed it, and then nothing else is held.
    """
    xp = namespace(exposure)
    room = bounded(max_leverage - xp.where(tradable, 0.0, abs(held)).sum(-1), 0.0)[..., None]
    wanted = xp.where(tradable, abs(exposure), 0.0).sum(-1)[..., None]
    return exposure * xp.where(wanted > room, room / xp.where(wanted > room, wanted, 1.0), 1.0)
