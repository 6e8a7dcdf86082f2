"""What Layer 2's signals are worth by themselves, tier by tier, before anybody sizes them and before costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from himari_rl.card.market import JudgedMarket
from himari_rl.evaluation import statistics
from himari_rl.evaluation.statistics import Interval
from himari_rl.schema import BoolArray, FloatArray

REPLICATIONS = 400
SEED = 3  # of the draws


@dataclass(frozen=True, kw_only=True)
class SignalQuality:
    """Signals of one tier, or all of them."""

    name: str
    count: int
    """Decisions with a side, times assets."""
    share: float
    """Of all such decisions."""
    hit_rate: Interval
    """Share of next returns on the signal's side, of those that are not 0."""
    earned: Interval
    """Side times the next return, per decision."""


def signal_quality(market: JudgedMarket) -> tuple[SignalQuality, ...]:
    """T1 to T4, as far as they occur, and all; SELL counts as a side, whether or not shorts are allowed."""
    known = market.signal != 0
    total = int(known.sum())
    if not total:
        return ()
    parts = [(f"T{tier}", known & (market.tier == tier)) for tier in range(1, 5)]
    return tuple(_quality(name, part, market, total) for name, part in [*parts, ("all", known)] if part.any())


def _quality(name: str, part: BoolArray, market: JudgedMarket, total: int) -> SignalQuality:
    earned = np.where(part, market.signal * market.asset_return, 0.0)
    columns = np.column_stack(
        [earned.sum(axis=1), part.sum(axis=1), (earned > 0.0).sum(axis=1), (earned != 0.0).sum(axis=1)]
    ).astype(float)
    block = statistics.block_length(columns[:, :1])
    draws = statistics.resampled_means(columns, SEED, replications=REPLICATIONS, block=block)

    def ratio(above: int, below: int) -> Interval:
        def of(means: FloatArray) -> FloatArray:
            return np.asarray(means[..., above] / np.maximum(means[..., below], 1e-12))

        return statistics.interval(float(of(columns.mean(axis=0))), of(draws))

    count = int(part.sum())
    return SignalQuality(name=name, count=count, share=count / total, hit_rate=ratio(2, 3), earned=ratio(0, 1))
