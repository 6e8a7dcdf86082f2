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
from himari_rl.schema import MAX_MULTIPLIER, BoolArray, FloatArray


class Limiter:
    """The limits of one policy's ledger, for one state at a time."""

    def __init__(self, ledger: LedgerSpec, symbols: Sequence[str]) -> None:
        self._limits = limits = ledger.config.limits
        self._symbols = list(symbols)
        self._columns = WIDTH * np.arange(len(symbols))
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

    def rows(self, states: FloatArray, multipliers: FloatArray) -> dict[int, dict[str, Any]]:
        """The same for states (B, F) and multipliers (B, A), shrunk in place: by row, what it says of those it shrank.

        The sums are made column by column, in the order of the one-state arithmetic, so the bits are its bits.
        """
        volatility, risk = states[:, self._columns + VOLATILITY], states[:, self._columns + CASCADE_RISK]
        caps = multiplier_cap(volatility * VOLATILITY_SCALE, risk, self._limits)
        wanted, over = multipliers.tolist(), multipliers > caps
        np.minimum(multipliers, caps, out=multipliers)
        said: dict[int, dict[str, Any]] = {}
        for row, asset in zip(*map(np.ndarray.tolist, over.nonzero()), strict=True):
            note = said.setdefault(row, {"wanted": self._named(wanted[row]), "regime_cap": {}})
            cap = {"wanted": wanted[row][asset], "cap": float(caps[row, asset])}
            note["regime_cap"][self._symbols[asset]] = cap
        if not self._can_exceed:
            return said
        total, gross, active = np.zeros(len(states)), np.zeros(len(states)), self._active(states)
        for own, counts in zip(multipliers.T, active.T, strict=True):
            total += own
            gross += self._unit * own * counts
        bound = (self._unit * total > self._leverage) & (gross > self._leverage)
        for row, sum_ in zip(bound.nonzero()[0].tolist(), gross[bound].tolist(), strict=True):
            note = said.setdefault(row, {"wanted": self._named(wanted[row])})
            note["gross_cap"] = {"wanted": sum_, "cap": self._leverage}
        shrink = active & bound[:, None]
        np.multiply(multipliers, self._leverage / np.where(bound, gross, 1.0)[:, None], out=multipliers, where=shrink)
        return said

    def _active(self, states: FloatArray) -> BoolArray:
        """(B, A) which assets' multipliers count towards the gross exposure, as `_gross` says."""
        buy, sell, side = (states[:, self._columns + at] for at in (ACTION_BUY, ACTION_SELL, POSITION_SIDE))
        if self._short:
            return np.ones(buy.shape, np.bool_)
        active: BoolArray = (buy > 0.5) | (~(sell > 0.5) & (side >= 0.0))
        return active

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
