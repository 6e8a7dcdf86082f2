"""policy/risk.py on one state: what the limits of the policy's own ledger leave of its multipliers.

A state tells the regime (features 14 and 16) and, with the action and the side, the direction; so the regime cap and
the gross cap apply here. The daily loss stop needs an account's day, which no state has: it stays with the runner.
HOLD while flat keeps a direction that the state does not tell: it counts as one, because a limit may only shrink.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from himari_rl.features.contract import (
    ACTION_BUY,
    ACTION_SELL,
    CASCADE_RISK,
    POSITION_SIDE,
    VOLATILITY,
    VOLATILITY_SCALE,
    WIDTH,
)
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.risk import multiplier_cap
from himari_rl.schema import MAX_MULTIPLIER


class Limiter:
    """The limits of one policy's ledger, for one state at a time."""

    def __init__(self, ledger: LedgerSpec, symbols: Sequence[str]) -> None:
        self._limits = limits = ledger.config.limits
        self._symbols = list(symbols)
        self._unit, self._short = ledger.max_position_pct, ledger.allow_short
        self._leverage = limits.max_leverage
        self._calm = min(limits.high_vol_volatility, limits.crisis_volatility)
        self._safe = min(limits.crisis_risk, limits.cascade_risk)
        self._free = limits.normal_cap
        self._caps: dict[tuple[bool, ...], float] = {}  # by regime
        # a gross exposure that cannot exceed the cap needs no look: one asset at 2 x 0.5 of equity and leverage 1
        self._can_exceed = len(symbols) * MAX_MULTIPLIER * self._unit > self._leverage

    def __call__(self, state: Sequence[float], multipliers: list[float]) -> dict[str, Any] | None:
        """Shrinks `multipliers` (A,) in place; says which limits bound and what was wanted, None where none did.

        Whoever knows the directions, as the runner does, applies the limits itself to what was wanted.
        """
        bound: dict[str, Any] | None = None
        start = 0
        for i, wanted in enumerate(multipliers):
            volatility, risk = state[start + VOLATILITY] * VOLATILITY_SCALE, state[start + CASCADE_RISK]
            if volatility >= self._calm or risk >= self._safe or wanted > self._free:
                bound = self._regime(i, self._cap(volatility, risk), multipliers, bound)
            start += WIDTH
        return self._gross(state, multipliers, bound) if self._can_exceed else bound

    def _cap(self, volatility: float, risk: float) -> float:
        """multiplier_cap, which asks nothing but these four things: each answer is asked for once."""
        limits = self._limits
        regime = (
            volatility >= limits.high_vol_volatility,
            volatility >= limits.crisis_volatility,
            risk >= limits.crisis_risk,
            risk >= limits.cascade_risk,
        )
        if (cap := self._caps.get(regime)) is None:
            cap = self._caps[regime] = float(multiplier_cap(np.array(volatility), np.array(risk), limits))
        return cap

    def _regime(
        self, i: int, cap: float, multipliers: list[float], bound: dict[str, Any] | None
    ) -> dict[str, Any] | None:
        if multipliers[i] <= cap:
            return bound
        bound = bound or {"wanted": self._named(multipliers)}
        bound.setdefault("regime_cap", {})[self._symbols[i]] = {"wanted": multipliers[i], "cap": cap}
        multipliers[i] = cap
        return bound

    def _gross(
        self, state: Sequence[float], multipliers: list[float], bound: dict[str, Any] | None
    ) -> dict[str, Any] | None:
        if self._unit * sum(multipliers) <= self._leverage:
            return bound  # whatever the directions are
        gross = 0.0
        active = []
        for i, wanted in enumerate(multipliers):
            block = WIDTH * i
            if state[block + ACTION_BUY] > 0.5:
                counts = True
            elif state[block + ACTION_SELL] > 0.5:
                counts = self._short
            else:
                counts = self._short or state[block + POSITION_SIDE] >= 0.0
            active.append(counts)
            gross += self._unit * wanted * counts
        if gross <= self._leverage:
            return bound
        bound = bound or {"wanted": self._named(multipliers)}
        for i, counts in enumerate(active):
            if counts:
                multipliers[i] *= self._leverage / gross
        return bound | {"gross_cap": {"wanted": gross, "cap": self._leverage}}

    def _named(self, multipliers: list[float]) -> dict[str, float]:
        return dict(zip(self._symbols, multipliers, strict=True))
