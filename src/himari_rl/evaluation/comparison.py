"""A policy beside baselines: its own measures, and its paired difference to each, all with bootstrap intervals.

The stationary bootstrap resamples the bars of all accounts together, so that a difference stays paired: both sides of
it had the same bars at the same costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from himari_rl.evaluation import metrics, statistics
from himari_rl.evaluation.backtest import Backtest
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
    series = np.hstack([growth, useful, marked])
    paired = np.hstack([growth[:, :1] - growth[:, 1:], useful[:, :1] - useful[:, 1:]])
    block = statistics.block_length(paired)
    draws = statistics.resample(series, _measured, rng, replications=replications, block=block)
    year = result.bars_per_year
    per_year = (year, year, math.sqrt(year), 1.0)
    true = _measured(series).reshape(len(per_year), len(runs))
    drawn = draws.reshape(len(draws), len(per_year), len(runs))

    def found(values: FloatArray, columns: FloatArray) -> Measures:
        growth, useful, sharpe, drawdown = (
            statistics.interval(values[k], columns[:, k], confidence).scaled(scale) for k, scale in enumerate(per_year)
        )
        return Measures(growth=growth, utility=useful, sharpe=sharpe, drawdown=drawdown)

    differences = {
        name: found(true[:, 0] - true[:, i], drawn[:, :, 0] - drawn[:, :, i])
        for i, name in enumerate(baselines, start=1)
    }
    return found(true[:, 0], drawn[:, :, 0]), differences


def _measured(rows: FloatArray) -> FloatArray:
    """(4 K,) mean growth, mean utility, Sharpe ratio and drawdown of K accounts, per bar, from (T, 3 K)."""
    growth, useful, marked = np.hsplit(rows, 3)
    mean, deviation = growth.mean(axis=0), growth.std(axis=0, ddof=1)
    depth = [metrics.max_drawdown(equity) for equity in marked.cumsum(axis=0).T]
    return np.concatenate([mean, useful.mean(axis=0), metrics.sharpe_ratio(mean, deviation), depth])
