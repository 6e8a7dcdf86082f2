"""One line of code that sizes Layer 2's side: the rivals that a policy must not lose to, and which of them is best.

15 % volatility          baselines.py: restored at every bar
banded 15 % volatility   the same target; a trade only where the position is more than 25 % away from it, to the nearer
                         edge of that band, as under proportional costs it should be (Davis & Norman 1990)
15 % portfolio           15 % for the portfolio as a whole: A equally risky assets of mean pair correlation rho have
                         sqrt(A (1 + (A - 1) rho)) times the volatility of one, so each target is that much smaller
banded 15 % portfolio    the same with the band

best one-liner           fold by fold the one with the largest utility on the fold's training rows, never on a judged
                         row. It changes from one account to another without paying for the change.

Multiplier 1.0 is none of them: the verdict and the gate ask for more against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from himari_rl.data.panel import Panel
from himari_rl.evaluation import metrics
from himari_rl.evaluation.backtest import BASE, MIN_DECISIONS, Backtest, Play, Run, backtests, stage
from himari_rl.evaluation.baselines import TARGET_VOLATILITY, VOLATILITY_TARGET, Stage
from himari_rl.features.contract import ACTION, WIDTH
from himari_rl.policy.bands import Bands
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.protocol import DecidesBatch
from himari_rl.schema import MAX_MULTIPLIER, RISK_AVERSION, Bars, FloatArray, IntArray

BANDED, WHOLE, BANDED_WHOLE = "banded 15 % volatility", "15 % portfolio", "banded 15 % portfolio"
BEST = "best one-liner"
BAND = 0.25  # of the target, to either side
CORRELATION_HALF_LIFE = 720  # bars
RULES, USEFUL = "one-liner/rows", "one-liner/"  # names of curves: the folds' rows, and before each rule's utility
_BLOCK = 512  # bars that an average over the past is carried forward at once


def candidates(assets: int) -> tuple[str, ...]:
    """The rules among which the best one is chosen, the one that stands where there is nothing to choose on first."""
    return (BANDED, VOLATILITY_TARGET) if assets == 1 else (BANDED_WHOLE, WHOLE, BANDED, VOLATILITY_TARGET)


class KnownBand:
    """Trades to the nearer edge of a band of multipliers (D, A) that is known beforehand."""

    def __init__(self, low: FloatArray, high: FloatArray) -> None:
        self.low, self.high = (np.asarray(edge, np.float32)[:, None] for edge in (low, high))

    def bands(self, rows: FloatArray) -> Bands:
        """On all decisions of the stage that it was made for; `rows` say the side."""
        assets = self.low.shape[2]
        said = rows[:, : WIDTH * assets].reshape(len(rows), assets, WIDTH)[..., ACTION]
        return Bands(self.low, self.high, said[..., 2] - said[..., 0], said[..., 1])


def one_liners(history: Bars | Panel, on: Stage, start_row: int) -> dict[str, DecidesBatch]:
    """Every rule by name, as a policy on the decisions of `on`, which begin at `start_row`; from rows <= t.

    15 % volatility itself is among the backtest's own baselines.
    """
    known = on.volatility > 0.0
    target = np.where(known, TARGET_VOLATILITY / np.where(known, on.volatility, 1.0) / on.max_position_pct, 0.0)
    sizes = {BANDED: (target, BAND)}
    if isinstance(history, Panel):
        rho = mean_correlation(history.prices().close)[start_row : start_row + len(target)]
        whole = target / portfolio_risk(rho, len(history.symbols))[:, None]
        sizes |= {WHOLE: (whole, 0.0), BANDED_WHOLE: (whole, BAND)}
    made = {
        name: KnownBand(*(np.minimum(size, MAX_MULTIPLIER) * (1.0 + side * band) for side in (-1.0, 1.0)))
        for name, (size, band) in sizes.items()
    }
    return cast("dict[str, DecidesBatch]", made)  # the backtest asks for their bands and for nothing else


def portfolio_risk(rho: FloatArray, assets: int) -> FloatArray:
    """Volatility of so many assets of volatility 1 and mean pair correlation `rho`.

    At least 1: no asset is held larger than alone because its neighbours have moved against it lately.
    """
    return np.asarray(np.sqrt(np.maximum(assets * (1.0 + (assets - 1) * rho), 1.0)))


def mean_correlation(closes: FloatArray, half_life: int = CORRELATION_HALF_LIFE) -> FloatArray:
    """(T,) mean over pairs of the correlation of log-returns, exponentially weighted, from closes (T, A) of rows <= t.

    Returns count from zero, not from their mean; a pair of which one asset has not moved yet counts 0.
    """
    moved = np.diff(np.log(closes), axis=0, prepend=np.log(closes[:1]))
    assets = closes.shape[1]
    pairs = np.triu_indices(assets, 1)
    sum_ = np.zeros((assets, assets))
    found = []
    keep = 0.5 ** (1.0 / half_life)
    for start in range(0, len(moved), _BLOCK):
        part = moved[start : start + _BLOCK]
        weight = keep ** np.arange(1, len(part) + 1)[:, None, None]
        sums = weight * (sum_ + np.cumsum(part[:, :, None] * part[:, None, :] / weight, axis=0))
        sum_ = sums[-1]
        scale = np.sqrt(np.diagonal(sums, axis1=1, axis2=2))
        both = (scale[:, :, None] * scale[:, None, :])[:, *pairs]
        found.append(np.divide(sums[:, *pairs], both, out=np.zeros_like(both), where=both > 0.0).mean(axis=1))
    return np.concatenate(found)


@dataclass(frozen=True, kw_only=True)
class OneLiners:
    """What the rules did on training rows, and which of them is the rival of each fold."""

    names: tuple[str, ...]
    """Candidates, K of them; the first where a fold has nothing to choose on."""
    useful: NDArray[np.float32]
    """(N, K) utility a bar of each at the decisions from the first training row on; N is 0 where it is too short."""
    rows: IntArray
    """(folds, 3): training decisions from, to, counted in `useful`; first judged decision."""

    @property
    def utility(self) -> FloatArray:
        """(folds, K) mean utility a bar on each fold's training rows; 0 where there are none."""
        sums = np.concatenate([np.zeros((1, len(self.names))), np.cumsum(self.useful, axis=0, dtype=float)])
        start, stop = (np.clip(self.rows[:, i], 0, len(self.useful)) for i in (0, 1))
        return np.asarray((sums[stop] - sums[start]) / np.maximum(stop - start, 1)[:, None])

    @property
    def chosen(self) -> tuple[str, ...]:
        """Each fold's best one-liner."""
        return tuple(self.names[i] for i in self.utility.argmax(axis=1).tolist())

    def spliced(self, parts: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """(D, ...) each fold's rows from the array of the rule that was chosen for it."""
        starts = self.rows[:, 2].tolist()
        total = len(next(iter(parts.values())))
        ends = zip(self.chosen, starts, [*starts[1:], total], strict=True)
        return np.concatenate([parts[name][start:end] for name, start, end in ends])

    def in_words(self) -> str:
        """Which rules, and for how many folds."""
        counts = {name: self.chosen.count(name) for name in dict.fromkeys(self.chosen)}
        if len(counts) == 1:
            return next(iter(counts))
        total = len(self.rows)
        return ", ".join(f"{name} in {count} of {total} folds" for name, count in counts.items())

    def curves(self) -> dict[str, NDArray[Any]]:
        """What the gate needs to choose again."""
        return {RULES: self.rows} | {f"{USEFUL}{name}": self.useful[:, k] for k, name in enumerate(self.names)}

    @classmethod
    def of_curves(cls, curves: Mapping[str, NDArray[Any]]) -> OneLiners:
        """From what `curves` gave.

        Raises:
            KeyError: something is missing.
        """
        rows = np.asarray(curves[RULES], np.int64)
        names = candidates(np.asarray(curves["exposure"]).shape[1])
        useful = np.stack([np.asarray(curves[f"{USEFUL}{name}"], np.float32) for name in names], axis=1)
        return cls(names=names, useful=useful, rows=rows)


def on_training_rows(
    history: Bars | Panel,
    ledger: LedgerSpec,
    folds: Sequence[tuple[slice, int]],
    risk_aversion: float = RISK_AVERSION,
) -> OneLiners:
    """Plays the rules, one account each, through all rows that any fold was trained on.

    Args:
        folds: training rows of each, and its first judged decision.
    """
    names = candidates(len(history.symbols))
    first, last = min(train.start for train, _ in folds), max(train.stop for train, _ in folds)
    rows = np.array([[train.start - first, train.stop - 2 - first, start] for train, start in folds], np.int64)
    if last - 2 - first < MIN_DECISIONS:
        return OneLiners(names=names, useful=np.zeros((0, len(names)), np.float32), rows=rows)
    seen = history[:last]  # no later row is given, so none can choose
    on = stage(seen, ledger, first)
    play = Play(policies=one_liners(seen, on, first), on=on, variants=(BASE,))
    result = backtests([play], ledger, np.random.default_rng(0))[0]
    runs = [result.run(name) for name in names]
    useful = [metrics.utility_per_bar(run.log_growth, run.portfolio_return, risk_aversion) for run in runs]
    return OneLiners(names=names, useful=np.stack(useful, axis=1).astype(np.float32), rows=rows)


def with_best(result: Backtest, found: OneLiners) -> Backtest:
    """The backtest with the best one-liner among its strategies, at every variant."""
    at = [variant.name for variant in result.variants]
    made = {(BEST, v): _spliced([result.run(name, v) for name in found.names], found) for v in at}
    return replace(result, runs={**result.runs, **made})


def _spliced(runs: Sequence[Run], found: OneLiners) -> Run:
    arrays = [each.name for each in fields(Run) if isinstance(getattr(runs[0], each.name), np.ndarray)]
    parts: dict[str, Any] = {name: found.spliced({run.strategy: getattr(run, name) for run in runs}) for name in arrays}
    steps = {run.strategy: np.diff(run.marked_log_equity, prepend=0.0) for run in runs}
    return replace(runs[0], strategy=BEST, **(parts | {"marked_log_equity": found.spliced(steps).cumsum()}))
