"""The one config of the ledger: what a trade costs and what is allowed.

Environments, backtest, tuning, certification, manifest, server and run card read this one; TradingEnvConfig is it with
an episode and a reward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from himari_rl.config import require_ranges
from himari_rl.policy.charges import Charges
from himari_rl.policy.ledger import Costs
from himari_rl.policy.risk import RiskLimits
from himari_rl.schema import MAX_MULTIPLIER


@dataclass(frozen=True, kw_only=True)
class LedgerConfig:
    """What the market charges and what is allowed.

    Raises:
        ConfigError: a number that no ledger can use.
    """

    max_position_pct: float = 0.5
    """Base position as a fraction of equity; a multiplier of 2 doubles it."""
    commission_rate: float = 0.001
    """Exchange fee per unit of traded notional. Own costs (of each asset, maker and taker, impact):
    --set environment.charges.impact=1.0 and the like, docs/judge.md."""
    slippage_bps: float = 5.0
    """Slippage per unit of traded notional, basis points."""
    allow_short: bool = False
    """True lets SELL open a short; False makes it stand aside."""
    limits: RiskLimits = field(default_factory=RiskLimits)
    """Regime caps, gross leverage and the daily loss stop."""
    charges: Charges = field(default_factory=Charges)
    """Costs of each asset, of resting orders, and the market's own impact."""

    def __post_init__(self) -> None:
        require_ranges(
            self,
            {"max_position_pct": (1e-6, 10.0), "commission_rate": (0.0, 0.1), "slippage_bps": (0.0, 1000.0)},
        )

    @property
    def cost_rate(self) -> float:
        """One rate per unit of |dw|: commission plus slippage.

        Where there are `charges`, what the assets pay in the mean on a trade of the whole base position: training in
        closed form knows one rate, and what is judged, shown and paid is `costs`.
        """
        costs = self.costs
        if not isinstance(costs, Costs):
            return costs
        return float(np.mean(costs.rate)) + float(costs.impact) * math.sqrt(self.max_position_pct)

    @property
    def costs(self) -> Costs | float:
        """What a trade costs, whole: what `policy/ledger.py` takes."""
        return self.charges.costs(self.commission_rate, self.slippage_bps)

    def describe(self) -> str:
        """One sentence for run cards and terminals; caps are those of NORMAL / HIGH_VOL / CRISIS / CASCADE."""
        limits = self.limits
        caps = (limits.normal_cap, limits.high_vol_cap, limits.crisis_cap, limits.cascade_cap)
        entered = (limits.high_vol_volatility, limits.crisis_volatility, limits.crisis_risk, limits.cascade_risk)
        capped = limits.normal_cap < MAX_MULTIPLIER or any(map(math.isfinite, entered))
        stop = limits.daily_loss_stop  # equity cannot lose more than all of itself
        parts = (
            f"commission {1e4 * self.commission_rate:.1f} bp + slippage {self.slippage_bps:.1f} bp",
            *([self.charges.describe()] if not self.charges.off else []),
            "shorts allowed" if self.allow_short else "no shorts",
            f"base position {100.0 * self.max_position_pct:g} %",
            f"gross <= {limits.max_leverage:.1f}" if math.isfinite(limits.max_leverage) else "no gross limit",
            f"daily stop {100.0 * stop:g} %" if stop < 1.0 else "no daily stop",
            f"caps {' / '.join(f'{cap:.1f}' for cap in caps)}" if capped else "no caps",
        )
        return ", ".join(parts)
