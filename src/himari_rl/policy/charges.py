"""What a trade costs beyond one rate for everything: each asset's own, resting orders, and the market's own impact."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from himari_rl.config import require_ranges
from himari_rl.errors import ConfigError
from himari_rl.policy.ledger import Costs, cost_per_turnover


@dataclass(frozen=True, kw_only=True)
class Charges:
    """Costs of a trade; all off by default, which leaves commission_rate and slippage_bps alone.

    >>> Charges(impact=1.0, capital_usd=1e6, volume_usd=1e8).impact_rate
    0.003
    """

    commission_rates: tuple[float, ...] = ()
    """Taker fee of each asset, in the order of the symbols; empty: commission_rate for all."""
    slippages_bps: tuple[float, ...] = ()
    """Slippage of each asset, in the same order; empty: slippage_bps for all."""
    maker_rate: float = 0.0
    """Fee of an order that rests, per unit of traded notional; below 0 it is a rebate."""
    maker_share: float = 0.0
    """Share of what is traded that rests and is filled: it pays maker_rate and no slippage, the rest is taken."""
    impact: float = 0.0
    """Coefficient Y of the square-root law: trading Q costs Y x impact_volatility x sqrt(Q / volume_usd) of Q."""
    impact_volatility: float = 0.03
    """Daily volatility in that law."""
    volume_usd: float = 1e9
    """Daily traded volume in that law, USD."""
    capital_usd: float = 100_000.0
    """What equity 1 is in that law, USD; it stays, however much the account has earned."""

    def __post_init__(self) -> None:
        positive, most = (1e-6, 1e15), 1000.0
        shares = {"maker_rate": (-0.01, 0.1), "maker_share": (0.0, 1.0), "impact": (0.0, 100.0)}
        require_ranges(
            self, shares | {"impact_volatility": (0.0, 10.0), "volume_usd": positive, "capital_usd": positive}
        )
        for name, top in (("commission_rates", 0.1), ("slippages_bps", most)):
            wrong = [value for value in getattr(self, name) if not 0.0 <= value <= top]  # NaN is in none
            if wrong:
                raise ConfigError(f"{name} has {wrong[0]}", f"0 to {top:g} for each asset")

    @property
    def impact_rate(self) -> float:
        """What is paid for |dw|^1.5, as a share of equity."""
        return self.impact * self.impact_volatility * math.sqrt(self.capital_usd / self.volume_usd)

    @property
    def off(self) -> bool:
        """Whether one rate tells everything."""
        return not (self.commission_rates or self.slippages_bps or self.maker_share or self.impact)

    def costs(self, commission_rate: float, slippage_bps: float) -> Costs | float:
        """The costs of a ledger with these rates: one number where that is all there is."""
        if self.off:
            return cost_per_turnover(commission_rate, slippage_bps)
        taker = np.asarray(self.commission_rates or commission_rate, np.float64)
        slip = np.asarray(self.slippages_bps or slippage_bps, np.float64)
        taken = (1.0 - self.maker_share) * (taker + slip * 1e-4)
        rate = taken + self.maker_share * self.maker_rate
        return Costs(float(rate) if rate.ndim == 0 else rate, self.impact_rate)

    def require(self, symbols: tuple[str, ...]) -> None:
        """Refuses rates for another number of assets.

        Raises:
            ConfigError: names both.
        """
        for name in ("commission_rates", "slippages_bps"):
            if getattr(self, name) and len(getattr(self, name)) != len(symbols):
                raise ConfigError(
                    f"{len(getattr(self, name))} {name} for {', '.join(symbols)}", f"{len(symbols)}, in that order"
                )

    def describe(self) -> str:
        """What is on, in words; empty where nothing is."""
        parts = []
        if self.commission_rates:
            parts.append(f"commission of each asset {', '.join(f'{1e4 * r:.1f}' for r in self.commission_rates)} bp")
        if self.slippages_bps:
            parts.append(f"slippage of each asset {', '.join(f'{r:.1f}' for r in self.slippages_bps)} bp")
        if self.maker_share:
            parts.append(f"{100.0 * self.maker_share:g} % maker at {1e4 * self.maker_rate:.1f} bp")
        if self.impact:
            parts.append(
                f"impact {self.impact:g} x sqrt law, {self.capital_usd:,.0f} of {self.volume_usd:,.0f} USD a day"
            )
        return ", ".join(parts)
