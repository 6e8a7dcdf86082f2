"""Power analysis of the positive control: how strong its planted edge must be, so that only the pipeline can fail it.

The law of the twin is known (data/surrogates.py), so a rule that knows it can be played before anything is trained:

    hold w with   a sigma^2 w = edge sigma z  -+  k cost / life    the nearer of the two edges; between them, stay

with z the planted signal, `life` = 1 / (1 - memory) bars, a = 1 + the risk aversion of the utility, and the best k of
WIDTHS. A learner is taken to keep half of that rule's advantage. The power is the chance that both things a twin is
asked (controls.py) are then shown on as many bars; the edge is the smallest of EDGES with 95 % of it which the
training rows can also teach. What was found is kept in the run's folder, under a hash of all that it depends on.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np

from himari_rl import __version__
from himari_rl.data.leaks.report import IMPLAUSIBLE
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
from himari_rl.storage import read_bytes, write_atomic
from himari_rl.storage.sealed import sealed, unsealed

EDGES = (0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)
KEPT = 0.5  # of the rule's advantage, by a learner
TAUGHT = 7.2  # edge x sqrt(training rows): twice the sum of the two normal quantiles of a 5 % test with 95 % power
PATHS = 3
WIDTHS = (1.0, 4.0, 8.0, 16.0)  # of the rule's no-trade band
TOGETHER = 3  # edges that are played in one loop over the bars, of a history of up to ...
ROWS_TOGETHER = 200_000  # ... so many rows in all
KEPT_IN = "planted_power"  # file in the folder of a run


@dataclass(frozen=True)
class Power:
    """The planted edge of a control."""

    edge: float  # correlation of the signal with the return that a decision earns
    power: float  # chance to show it; below .95 the data is too short for any of EDGES
    honest: float = 0.0  # utility a year over 1.0 of the rule above on the strongest edge that an honest column has
    key: str = ""  # hash of the history, the split, the ledger and the settings that it was found with

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
        z = _signals(np.ascontiguousarray(blocks[..., CONFIDENCE]).tobytes()).reshape(blocks.shape[:2])
        ledger = self.ledger
        fee = self.width * ledger.config.cost_rate * (1.0 - MEMORY)
        risk = (1.0 + RISK_AVERSION) * self.sigma**2 * ledger.max_position_pct
        low, high = ((self.edge * self.sigma * z + side * fee) / risk for side in (-1.0, 1.0))
        said = blocks[..., ACTION]
        edges = [np.clip(part, 0.0, MAX_MULTIPLIER).astype(np.float32)[:, None] for part in (low, high)]
        return Bands(edges[0], edges[1], said[..., 2] - said[..., 0], said[..., 1])


@lru_cache(maxsize=PATHS * TOGETHER)
def _signals(confidence: bytes) -> FloatArray:
    """The signal behind each confidence (float64), Phi(z); the widths of a law ask for the same ones."""
    sure = np.clip(np.frombuffer(confidence), 1e-6, 1.0 - 1e-6)
    return np.array(list(map(statistics.NORMAL.inv_cdf, sure.tolist())))


def planted_power(
    bars: Bars | Panel, start_row: int, train_rows: int, ledger: LedgerSpec, seed: int, kept: Path | None = None
) -> Power:
    """The planted edge that this much history can show.

    Args:
        bars: all rows up to the last that is decided on.
        start_row: first decision out of sample.
        train_rows: of one fold.
        kept: folder in which an earlier call may have been kept; what is there for anything else is not used.

    Raises:
        StorageError: the kept file is damaged.
    """
    constants = [EDGES, KEPT, TAUGHT, PATHS, WIDTHS, MEMORY, RISK_AVERSION, POWER, __version__]
    asked = [bars.fingerprint, start_row, train_rows, ledger.model_dump(mode="json"), seed, constants]
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    known = _recalled(kept, key)
    if known is not None:
        return known
    sigma = np.array([np.diff(np.log(each.close)).std() for each in bars.each])
    taught = [edge for edge in EDGES if edge * math.sqrt(train_rows) >= TAUGHT]
    size = max(1, min(TOGETHER, ROWS_TOGETHER // len(bars)))
    honest = _most(_played(bars, start_row, ledger, [IMPLAUSIBLE], sigma, seed))
    found = Power(EDGES[-1], 0.0, honest, key)
    for start in range(0, len(taught), size):
        some = taught[start : start + size]
        for edge, power in zip(some, _powers(bars, start_row, ledger, some, sigma, seed), strict=True):
            found = Power(edge, power, honest, key)
            if found.enough:
                return found
    return found


def keep(found: Power, folder: Path) -> None:
    """Writes a power analysis into a run's folder, for the next call of the same run."""
    said = {"key": found.key, "edge": found.edge, "power": found.power, "honest": found.honest}
    write_atomic(folder / KEPT_IN, sealed(json.dumps(said).encode()))


def _recalled(folder: Path | None, key: str) -> Power | None:
    path = None if folder is None else folder / KEPT_IN
    if path is None or not path.exists():
        return None
    said = json.loads(unsealed(read_bytes(path), str(path)))
    return Power(said["edge"], said["power"], said["honest"], key) if said["key"] == key else None


def planted_in(bars: Bars | Panel, rng: np.random.Generator, edge: float) -> Bars | Panel:
    """The planted twin of one history, or of each symbol of a panel."""
    if isinstance(bars, Panel):
        return replace(bars, bars=tuple(planted(each, rng, edge) for each in bars.bars))
    return planted(bars, rng, edge)


def _powers(
    bars: Bars | Panel, start_row: int, ledger: LedgerSpec, edges: Sequence[float], sigma: FloatArray, seed: int
) -> list[float]:
    """Chance that a learner which keeps KEPT of the known law's advantage passes the planted control, for each edge."""
    found = _played(bars, start_row, ledger, edges, sigma, seed)
    return [_passed(found[k * PATHS : (k + 1) * PATHS]) for k in range(len(edges))]


def _played(
    bars: Bars | Panel, start_row: int, ledger: LedgerSpec, edges: Sequence[float], sigma: FloatArray, seed: int
) -> list[Backtest]:
    """The known law of each edge on that edge's twins: PATHS backtests an edge, in the order of `edges`."""
    plays = []
    for edge in edges:
        laws = {f"width {k:g}": KnownLaw(edge, sigma, ledger, k) for k in WIDTHS}
        known = cast("Mapping[str, DecidesBatch]", laws)  # the backtest asks for their bands and for nothing else
        for path in range(PATHS):
            twin = planted_in(bars, np.random.default_rng([seed, path]), edge)
            plays.append(Play(policies=known, on=stage(twin, ledger, start_row), variants=(BASE,)))
    return backtests(plays, ledger, np.random.default_rng(seed))


def _most(found: list[Backtest]) -> float:
    """Utility a year over 1.0 of the best width on one edge's twins, mean over the paths."""
    advantage = [[float(_over_one(f"width {k:g}", result).mean()) for result in found] for k in WIDTHS]
    return float(np.mean(advantage, axis=1).max()) * found[0].bars_per_year


def _passed(found: list[Backtest]) -> float:
    """The chance on one edge's twins."""
    best = max((_strength(f"width {k:g}", found) for k in WIDTHS), key=min)
    normal = statistics.NORMAL
    missed = normal.cdf(normal.inv_cdf(0.975) - KEPT * best[0]) + normal.cdf(normal.inv_cdf(0.95) - KEPT * best[1])
    return max(0.0, 1.0 - missed)


def _strength(name: str, found: list[Backtest]) -> tuple[float, float]:
    """z of a rule's paired advantage in utility, and of its own growth; means over the paths."""
    both = []
    for result in found:
        # as the deflated Sharpe ratio counts: per bar
        own = metrics.sharpe(result.run(name).log_growth) * math.sqrt(len(result))
        both.append((_z(_over_one(name, result)), own))
    advantage, alone = np.mean(both, axis=0).tolist()
    return advantage, alone


def _over_one(name: str, result: Backtest) -> FloatArray:
    """A rule's utility of each bar less that of multiplier 1.0."""
    mine, one = result.run(name), result.run(ONE)
    useful = [metrics.utility_per_bar(r.log_growth, r.portfolio_return, RISK_AVERSION) for r in (mine, one)]
    return cast("FloatArray", useful[0] - useful[1])


def _z(series: FloatArray) -> float:
    """Mean over its standard error, from the means of blocks."""
    block = max(1, min(round(3.0 / (1.0 - MEMORY)), len(series) // 8))
    means = series[: len(series) // block * block].reshape(-1, block).mean(axis=1)
    error = float(means.std(ddof=1)) / math.sqrt(len(means))
    return float(means.mean()) / error if error > 0.0 else 0.0
