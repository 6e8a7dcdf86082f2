"""LedgerConfig.describe: the judged ledger in one sentence."""

from __future__ import annotations

from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.policy.risk import RiskLimits


def test_the_specified_ledger_in_one_sentence() -> None:
    assert LedgerConfig().describe() == (
        "commission 10.0 bp + slippage 5.0 bp, no shorts, base position 50 %, gross <= 1.0, daily stop 2 %, "
        "caps 2.0 / 1.5 / 1.0 / 0.0"
    )


def test_a_limit_that_is_off_says_so() -> None:
    free = LedgerConfig(
        commission_rate=0.0, slippage_bps=0.5, allow_short=True, max_position_pct=0.25, limits=RiskLimits.off(2.0)
    )
    assert free.describe() == (
        "commission 0.0 bp + slippage 0.5 bp, shorts allowed, base position 25 %, gross <= 2.0, no daily stop, no caps"
    )


def test_one_regime_that_can_be_entered_shows_the_caps() -> None:
    inf = float("inf")
    limits = RiskLimits(high_vol_volatility=inf, crisis_volatility=inf, crisis_risk=inf, daily_loss_stop=1.0)
    assert LedgerConfig(limits=limits).describe().endswith("no daily stop, caps 2.0 / 1.5 / 1.0 / 0.0")
