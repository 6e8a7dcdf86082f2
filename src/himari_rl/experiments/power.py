"""Power analysis of the positive control: how strong its planted edge must be, so that only the pipeline can fail it.

The law of the twin is known (data/surrogates.py), so a rule that knows it can be played before anything is trained:

    hold w with   a sigma^2 w = edge sigma z  -+  k cost / life    the nearer of the two edges; between them, stay

with z the planted signal, `life` = 1 / (1 - memory) bars, a = 1 + the risk aversion of the utility, and the best k of
WIDTHS. A learner is taken to keep half of that rule's advantage. The power is the chance that both things a twin is
asked (controls.py) are then shown on as many bars; the edge is the smallest of EDGES with 95 % of it which the
training rows can also teach.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import cast

import numpy as np

from himari_rl.data.panel import Panel
from himari_rl.data.surrogates import MEMORY, planted
from himari_rl.evaluation import metrics, statistics
from himari_rl.evaluation.backtest import BASE, Backtest, Play, backtests, stage
from himari_rl.evaluation.baselines import ONE
from himari_rl.evaluation.control import POWER
from himari_rl.features.contract import ACTION, CONFIDENCE, WIDTH
from himari_rl.policy.bands import Bands
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.protocol import DecidesBatch
from himari_rl.schema import MAX_MULTIPLIER, RISK_AVERSION, Bars, FloatArray

EDGES = (0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)
KEPT = 0.5  # of the rule's advantage, by a learner
TAUGHT = 7.2  # edge x sqrt(training rows): twice the sum of the two normal quantiles of a 5 % test with 95 % power
PATHS = 3
WIDTHS = (1.0, 4.0, 8.0, 16.0)  # of the rule's no-trade band


@dataclass(frozen=True)
class Power:
    """The planted edge of a control."""

    edge: float  # correlation of the signal with the return that a decision earns
    power: float  # chance to show it; below .95 the data is too short for any of EDGES

    @property
    def enough(self) -> bool:
        return self.power >= POWER


class KnownLaw:
    """The rule above, as a policy for one edge and one width of its band."""

    def __init__(self, edge: float, sigma: FloatArray, ledger: LedgerSpec, width: float) -> None:
        self.edge, self.sigma, self.ledger, self.width = edge, sigma, ledger, width

    def bands(self, rows: FloatArray) -> Bands:
        assets = len(self.sigma)
        blocks = rows[:, : WIDTH * assets].reshape(len(rows), assets, WIDTH)
        normal = NormalDist()
        sure = np.clip(blocks[..., CONFIDENCE], 1e-6, 1.0 - 1e-6)
        z = np.array([normal.inv_cdf(p) for p in sure.ravel().tolist()]).reshape(sure.shape)
        ledger = self.ledger
        fee = self.width * ledger.config.cost_rate * (1.0 - MEMORY)
        risk = (1.0 + RISK_AVERSION) * self.sigma**2 * ledger.max_position_pct
        low, high = ((self.edge * self.sigma * z + side * fee) / risk for side in (-1.0, 1.0))
        said = blocks[..., ACTION]
        low, high = (np.clip(part, 0.0, MAX_MULTIPLIER).astype(np.float32)[:, None] for part in (low, high))
        return Bands(low, high, said[..., 2] - said[..., 0], said[..., 1])


def planted_power(bars: Bars | Panel, start_row: int, train_rows: int, ledger: LedgerSpec, seed: int) -> Power:
    """The planted edge that this much history can show.

    Args:
        bars: all rows up to the last that is decided on.
        start_row: first decision out of sample.
        train_rows: of one fold.
    """
    sigma = np.array([np.diff(np.log(each.close)).std() for each in bars.each])
    found = Power(EDGES[-1], 0.0)
    for edge in EDGES:
        if edge * math.sqrt(train_rows) < TAUGHT:
            continue
        found = Power(edge, _power(bars, start_row, ledger, edge, sigma, seed))
        if found.enough:
            break
    return found


def planted_in(bars: Bars | Panel, rng: np.random.Generator, edge: float) -> Bars | Panel:
    """The planted twin of one history, or of each symbol of a panel."""
    if isinstance(bars, Panel):
        return replace(bars, bars=tuple(planted(each, rng, edge) for each in bars.bars))
    return planted(bars, rng, edge)


def _power(bars: Bars | Panel, start_row: int, ledger: LedgerSpec, edge: float, sigma: FloatArray, seed: int) -> float:
    """Chance that a learner which keeps KEPT of the known law's advantage passes the planted control."""
    twins = [planted_in(bars, np.random.default_rng([seed, path]), edge) for path in range(PATHS)]
    laws = {f"width {k:g}": KnownLaw(edge, sigma, ledger, k) for k in WIDTHS}
    known = cast("Mapping[str, DecidesBatch]", laws)  # the backtest asks for their bands and for nothing else
    plays = [Play(policies=known, on=stage(twin, ledger, start_row), variants=(BASE,)) for twin in twins]
    found = backtests(plays, ledger, np.random.default_rng(seed))
    best = max((_strength(name, found) for name in laws), key=min)
    normal = statistics.NORMAL
    missed = normal.cdf(normal.inv_cdf(0.975) - KEPT * best[0]) + normal.cdf(normal.inv_cdf(0.95) - KEPT * best[1])
    return max(0.0, 1.0 - missed)


def _strength(name: str, found: list[Backtest]) -> tuple[float, float]:
    """z of a rule's paired advantage in utility, and of its own growth; means over the paths."""
    both = []
    for result in found:
        mine, one = result.run(name), result.run(ONE)
        useful = [metrics.utility_per_bar(r.log_growth, r.portfolio_return, RISK_AVERSION) for r in (mine, one)]
        own = metrics.sharpe(mine.log_growth) * math.sqrt(len(result))  # as the deflated Sharpe ratio counts: per bar
        both.append((_z(useful[0] - useful[1]), own))
    advantage, alone = np.mean(both, axis=0).tolist()
    return advantage, alone


def _z(series: FloatArray) -> float:
    """Mean over its standard error, from the means of blocks."""
    block = max(1, min(round(3.0 / (1.0 - MEMORY)), len(series) // 8))
    means = series[: len(series) // block * block].reshape(-1, block).mean(axis=1)
    error = float(means.std(ddof=1)) / math.sqrt(len(means))
    return float(means.mean()) / error if error > 0.0 else 0.0
