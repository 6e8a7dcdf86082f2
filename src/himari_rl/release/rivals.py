"""The evidence about the rivals again, from the curves: the best one-liner, cash, and what multiplier 1.0 itself did.

Which one-liner is a fold's rival is chosen again from what the rules did on its training rows; the difference to it is
computed from the accounts. The statements of the document must be those of its own numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himari_rl.errors import StorageError
from himari_rl.evaluation import metrics, statistics
from himari_rl.evaluation.baselines import CASH, ONE
from himari_rl.evaluation.one_liners import BEST, OneLiners
from himari_rl.evaluation.record import CURVES
from himari_rl.evaluation.statements import found_in, statements
from himari_rl.evaluation.statistics import Interval
from himari_rl.evaluation.verdict import of_one
from himari_rl.release.figures import Figure, bounded
from himari_rl.schema import RISK_AVERSION, FloatArray

VERDICT = ("judgement", "verdict")
REPLICATIONS = 2000

Curves = Mapping[str, NDArray[Any]]


def rivals_in(curves: Curves) -> OneLiners:
    """The rules, what they did on training rows, and the folds.

    Raises:
        StorageError: the curves lack one of these, or the folds are not those of the decisions.
    """
    try:
        found = OneLiners.of_curves(curves)
        lengths = {len(curves[f"{kind}/{name}"]) for name in found.names for kind in ("growth", "return")}
    except (KeyError, ValueError) as error:
        raise StorageError(
            f"{CURVES} lacks {error}", "the curves of this release", "run himari walk-forward again"
        ) from error
    starts, decisions = found.rows[:, 2], len(curves["fill_time"])
    whole = lengths == {decisions} and len(starts) > 0 and starts[0] == 0 and starts[-1] < decisions
    if not (whole and (np.diff(starts) > 0).all() and (found.rows[:, 0] <= found.rows[:, 1]).all()):
        raise StorageError(
            f"{CURVES}: the one-liners are not of its {decisions} decisions",
            "the curves as they were written",
            "run himari walk-forward again",
        )
    return found


def rival_figures(
    growth: FloatArray, useful: FloatArray, one: tuple[FloatArray, FloatArray], curves: Curves, year: float
) -> list[Figure]:
    """The differences to the best one-liner and to cash, and multiplier 1.0 less cash.

    Args:
        growth, useful: the policy's, per bar.
        one: the same of multiplier 1.0.
    """
    found = rivals_in(curves)
    theirs, earned = (
        found.spliced({name: np.asarray(curves[f"{kind}/{name}"], float) for name in found.names})
        for kind in ("growth", "return")
    )
    over = useful - metrics.utility_per_bar(theirs, earned, RISK_AVERSION)
    to_best, to_cash = both_over(np.column_stack([growth - theirs, over, growth, useful]), year)
    less = (*VERDICT, "less")
    ratio = metrics.sharpe(growth, year) - metrics.sharpe(theirs, year)
    alone = of_one(*one, year, REPLICATIONS)
    return [
        *bounded("utility less the best one-liner's", (*less, BEST, "utility"), to_best),
        Figure("Sharpe less the best one-liner's", (*less, BEST, "sharpe", "estimate"), ratio),
        *bounded("utility less cash's", (*less, CASH, "utility"), to_cash),
        *bounded(f"utility of {ONE}", (*VERDICT, "one", "utility"), alone.utility),
        *bounded(f"growth of {ONE}", (*VERDICT, "one", "growth"), alone.growth),
    ]


def both_over(paired: FloatArray, year: float) -> tuple[Interval, Interval]:
    """Utility a year less the best one-liner's and less cash's, from differences (T, 4) in growth and in utility.

    The blocks are as long as the differences remember, as in evaluation/comparison.py.
    """
    block = statistics.block_length(paired)
    draws = statistics.resampled_means(paired[:, 1::2], 3, replications=REPLICATIONS, block=block)
    means = paired[:, 1::2].mean(axis=0)
    found = [statistics.interval(float(means[k]), draws[:, k]).scaled(year) for k in (0, 1)]
    return found[0], found[1]


def rival_claims(document: Mapping[str, Any], curves: Curves) -> list[str]:
    """Objections to what the document says in words: which one-liner was best, and its statements."""
    verdict, found = document["judgement"]["verdict"], rivals_in(curves)
    objections = []
    if verdict["one_liner"] != found.in_words():
        objections.append(
            f"best one-liner: the document says {verdict['one_liner']}, the training rows {found.in_words()}"
        )
    if len(found.rows) != len(document["folds"]):
        objections.append(f"folds: the document has {len(document['folds'])}, the curves {len(found.rows)}")
    made = list(map(str, statements(found_in(verdict, BEST, CASH))))
    if list(verdict["statements"]) != made:
        objections.append(f"statements: they are not those of its numbers, which are: {' '.join(made)}")
    return objections
