"""The probability of backtest overfitting, by combinatorially symmetric cross-validation.

Of all ways to split history into two halves of blocks: how often is the best configuration of one half below the
median of the other? Bailey, Borwein, Lopez de Prado & Zhu, "The probability of backtest overfitting" (2017).
A single matrix of pure noise gives .48 +- .16, so one number near .5 says little, and one near 0 says much.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from himari_rl.errors import DataError
from himari_rl.evaluation import metrics
from himari_rl.schema import FloatArray


@dataclass(frozen=True)
class Overfitting:
    """What the splits said. Arrays are (C,), one entry per split."""

    probability: float  # share of splits whose winner fell to or below the median out of sample
    logits: FloatArray  # log odds of the winner's relative rank out of sample
    in_sample: FloatArray  # the winner's Sharpe ratio where it won, per period
    out_of_sample: FloatArray  # and in the other half
    loss: float  # share of splits whose winner lost money out of sample


def backtest_overfitting(returns: FloatArray, blocks: int = 16) -> Overfitting:
    """PBO of N configurations judged by their Sharpe ratio.

    Args:
        returns: (T, N) per-period returns of every configuration tried, losers included.
        blocks: even number S of contiguous blocks; T is cut at the front to a multiple of it.

    Raises:
        DataError: fewer than two configurations, or fewer than two rows a block.
    """
    rows, configurations = returns.shape
    size = rows // max(blocks, 1)
    if blocks < 2 or blocks % 2 or configurations < 2 or size < 2:
        raise DataError(
            f"{rows} rows of {configurations} configurations in {blocks} blocks",
            "at least two configurations, an even number of blocks and two rows in each",
            "keep the returns of every configuration tried",
        )
    cut = returns[rows - size * blocks :].reshape(blocks, size, configurations)
    sums, squares = cut.sum(axis=1), (cut**2).sum(axis=1)  # (S, N): all that a Sharpe ratio needs
    picks = list(combinations(range(blocks), blocks // 2))
    chosen = np.zeros((len(picks), blocks))
    chosen[np.arange(len(picks))[:, None], picks] = 1.0
    inside = _sharpe(chosen @ sums, chosen @ squares, size * blocks // 2)
    outside = _sharpe((1.0 - chosen) @ sums, (1.0 - chosen) @ squares, size * blocks // 2)
    winner = inside.argmax(axis=1)[:, None]
    won, then = (np.take_along_axis(side, winner, axis=1) for side in (inside, outside))
    rank = (outside < then).sum(axis=1) + 0.5 * ((outside == then).sum(axis=1) + 1)  # 1..N, ties shared
    odds = rank / (configurations + 1.0)
    logits = np.log(odds / (1.0 - odds))
    return Overfitting(float(np.mean(logits <= 0.0)), logits, won[:, 0], then[:, 0], float(np.mean(then < 0.0)))


def _sharpe(total: FloatArray, squares: FloatArray, count: int) -> FloatArray:
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0.0)
    still = variance <= 1e-15 * np.maximum(squares / count, 1e-300)  # a configuration that never moved
    return metrics.sharpe_ratio(mean, np.sqrt(np.where(still, 0.0, variance)))
