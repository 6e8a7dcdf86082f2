"""A policy beside baselines: its own measures, and its paired difference to each, all with bootstrap intervals.

The stationary bootstrap resamples the bars of all accounts together, so that a difference stays paired: both sides of
it had the same bars at the same costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from himari_rl.evaluation import metrics, statistics
from himari_rl.evaluation.backtest import Backtest
from himari_rl.evaluation.bootstrap import Blocks, BlockSums, Drawdowns, batches, drawn
from himari_rl.evaluation.statistics import Interval
from himari_rl.schema import FloatArray


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Of an account, or of a difference between two: per year, the deepest drawdown as a share of the peak."""

    growth: Interval
    utility: Interval
    sharpe: Interval
    drawdown: Interval


def compare(
    result: Backtest,
    policy: str,
    baselines: Sequence[str],
    rng: np.random.Generator,
    *,
    risk_aversion: float,
    confidence: float,
    replications: int,
) -> tuple[Measures, dict[str, Measures]]:
    """Measures of one policy of a backtest at the base costs, and the paired differences, policy minus each baseline.

    The blocks are as long as the differences remember, which is longer than what the accounts themselves do.
    """
    runs = [result.run(name) for name in (policy, *baselines)]
    growth = np.column_stack([run.log_growth for run in runs])
    useful = np.column_stack(
        [metrics.utility_per_bar(run.log_growth, run.portfolio_return, risk_aversion) for run in runs]
    )
    marked = np.column_stack([np.diff(run.marked_log_equity, prepend=0.0) for run in runs])  # close to close
    paired = np.hstack([growth[:, :1] - growth[:, 1:], useful[:, :1] - useful[:, 1:]])
    resamples = drawn(len(growth), rng, replications, statistics.block_length(paired))
    drawn_alone, drawn_paired = _resampled(growth, useful, marked, resamples)
    year = result.bars_per_year
    per_year = (year, year, math.sqrt(year), 1.0)
    true = measured(growth, useful, marked)

    def found(values: FloatArray, columns: FloatArray) -> Measures:
        growth, useful, sharpe, drawdown = (
            statistics.interval(values[k], columns[:, k], confidence).scaled(scale) for k, scale in enumerate(per_year)
        )
        return Measures(growth=growth, utility=useful, sharpe=sharpe, drawdown=drawdown)

    differences = {
        name: found(true[:, 0] - true[:, i], drawn_paired[:, :, i - 1]) for i, name in enumerate(baselines, start=1)
    }
    return found(true[:, 0], drawn_alone[:, :, 0]), differences


def measured(growth: FloatArray, useful: FloatArray, marked: FloatArray) -> FloatArray:
    """(4, K) mean growth, mean utility, Sharpe ratio and drawdown of K accounts, per bar, from three times (T, K)."""
    mean, deviation = growth.mean(axis=0), growth.std(axis=0, ddof=1)
    depth = [metrics.max_drawdown(equity) for equity in marked.cumsum(axis=0).T]
    return np.stack([mean, useful.mean(axis=0), metrics.sharpe_ratio(mean, deviation), depth])


def _resampled(
    growth: FloatArray, useful: FloatArray, marked: FloatArray, resamples: Iterator[Blocks]
) -> tuple[FloatArray, FloatArray]:
    """`measured` of every resample, (B, 4, K), and the first account minus each other one, (B, 4, K - 1).

    Means of differences are means of their own columns: what is the same in every row of a resample differs by exactly
    nothing there, as in copies of the series, and not by the rounding of two sums.
    """
    rows, width = growth.shape
    gain, better = growth[:, :1] - growth[:, 1:], useful[:, :1] - useful[:, 1:]
    sums = BlockSums(np.hstack([growth, useful, growth * growth, gain, better, np.abs(gain)]))
    paths = Drawdowns(marked)
    means, depth = [], []
    for some in batches(resamples, paths.together):
        means += [sums.means(each) for each in some]
        depth.append(paths.deepest(some))
    parts = np.split(np.array(means), np.cumsum([width, width, width, width - 1, width - 1]), axis=1)
    mean, useful, square, gain, better, apart = parts
    deepest = np.concatenate(depth)
    variance = np.maximum(square - mean * mean, 0.0) * (rows / (rows - 1))
    ratio = metrics.sharpe_ratio(mean, np.sqrt(variance))
    ahead = np.where(apart > 0.0, ratio[:, :1] - ratio[:, 1:], 0.0)
    return (
        np.stack([mean, useful, ratio, deepest], axis=1),
        np.stack([gain, better, ahead, deepest[:, :1] - deepest[:, 1:]], axis=1),
    )
