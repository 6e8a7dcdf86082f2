"""The one config of the ledger: what a trade costs and what is allowed.

Environments, backtest, tuning, certification, manifest, server and run card read this one; TradingEnvConfig is it with
an episode and a reward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from himari_rl.config import require_ranges
from himari_rl.policy.ledger import cost_per_turnover
from himari_rl.policy.risk import RiskLimits


@dataclass(frozen=True, kw_only=True)
class LedgerConfig:
    """What the market charges and what is allowed.

    Raises:
        ConfigError: a number that no ledger can use.
    """

    max_position_pct: float = 0.5
    """Base position as a fraction of equity; a multiplier of 2 doubles it."""
    commission_rate: float = 0.001
    """Exchange fee per unit of traded notional."""
    slippage_bps: float = 5.0
    """Slippage per unit of traded notional, basis points."""
    allow_short: bool = False
    """True lets SELL open a short; False makes it stand aside."""
    limits: RiskLimits = field(default_factory=RiskLimits)
    """Regime caps, gross leverage and the daily loss stop."""

    def __post_init__(self) -> None:
        require_ranges(
            self,
            {"max_position_pct": (1e-6, 10.0), "commission_rate": (0.0, 0.1), "slippage_bps": (0.0, 1000.0)},
        )

    @property
    def cost_rate(self) -> float:
        """Commission plus slippage per unit of |dw|."""
        return cost_per_turnover(self.commission_rate, self.slippage_bps)


def describe(ledger: LedgerConfig) -> str:
    """Fees, shorts and limits in one line, for whoever reads a verdict that was reached under them.

    >>> describe(LedgerConfig())
    'commission 10 bp + slippage 5 bp, no shorts, base position 50 %, gross <= 1, daily stop 2 %, caps 2/1.5/1/0'
    """
    limits = ledger.limits
    caps = (limits.normal_cap, limits.high_vol_cap, limits.crisis_cap, limits.cascade_cap)
    off = min(limits.high_vol_volatility, limits.crisis_volatility, limits.crisis_risk, limits.cascade_risk) == math.inf
    stop = limits.daily_loss_stop
    return ", ".join(
        (
            f"commission {1e4 * ledger.commission_rate:g} bp + slippage {ledger.slippage_bps:g} bp",
            "shorts allowed" if ledger.allow_short else "no shorts",
            f"base position {100 * ledger.max_position_pct:g} %",
            f"gross <= {limits.max_leverage:g}",
            f"daily stop {100 * stop:g} %" if stop < 1.0 else "no daily stop",
            f"cap {limits.normal_cap:g} in every regime" if off else f"caps {'/'.join(f'{cap:g}' for cap in caps)}",
        )
    )
