"""What a page is made of: a verdict's document, its curves, the ledger it was judged in, and what is known beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himari_rl.card.market import JudgedMarket, market_of
from himari_rl.card.returns import Daily, daily
from himari_rl.card.trades import Trade, trades
from himari_rl.evaluation.backtest import POLICY
from himari_rl.evaluation.baselines import ONE
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.policy.protocol import DecidesBatch
from himari_rl.schema import FloatArray, IntArray

UNKEPT = (
    "This run kept no prices: it was judged by an earlier release, or from returns alone. Judge it again to see this."
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Everything that the pages of a run card and of an evaluation have in common."""

    symbols: Sequence[str]
    verdict: Mapping[str, Any]
    """As in a judgement's document."""
    controls: Sequence[Mapping[str, Any]]
    detectable: float | None
    curves: Mapping[str, NDArray[Any]]
    """As in a run's curves, evaluation/record.py."""
    ledger: LedgerConfig
    facts: Sequence[Mapping[str, Any]] = ()
    accepted: Sequence[str] = ()
    notes: Sequence[str] = ()
    policy: DecidesBatch | None = None
    """Whose behaviour is drawn, on the states that are among the curves."""
    own_features: Sequence[str] = ()
    settings: Mapping[str, Any] | None = None
    lag_profile: Mapping[str, Sequence[float]] | None = None

    @cached_property
    def market(self) -> JudgedMarket | None:
        return market_of(self.curves)

    @property
    def time(self) -> IntArray:
        """(D,) ms UTC of each fill."""
        return np.asarray(self.curves["fill_time"])

    @property
    def end_time(self) -> int:
        """ms UTC to which the last decision earns."""
        return int(self.curves["end_time"][0]) if "end_time" in self.curves else int(self.time[-1])

    @property
    def exposure(self) -> FloatArray:
        return np.asarray(self.curves["exposure"])

    def growth(self, strategy: str = POLICY) -> FloatArray:
        """(D,) log-growth, fill to fill."""
        return np.asarray(self.curves[f"growth/{strategy}"], float)

    def equity(self, strategy: str = POLICY) -> FloatArray:
        """(D,) log of equity over its start, marked at closes."""
        return np.asarray(self.curves[f"equity/{strategy}"], float)

    @cached_property
    def days(self) -> dict[str, Daily]:
        """Daily returns of the policy and of multiplier 1.0."""
        return {name: daily(self.time, self.end_time, self.growth(name)) for name in (POLICY, ONE)}

    @cached_property
    def trades(self) -> list[Trade]:
        """Every trade of the policy; none where no prices were kept."""
        if self.market is None:
            return []
        cost = np.diff(self.curves["cost"], prepend=0.0)
        return trades(self.symbols, self.exposure, self.market, np.exp(self.growth()), cost)

    def summaries(self, variant: str = "x1") -> dict[str, Mapping[str, Any]]:
        """Absolute figures by strategy."""
        return {row["strategy"]: row for row in self.verdict.get("summaries", ()) if row["variant"] == variant}
