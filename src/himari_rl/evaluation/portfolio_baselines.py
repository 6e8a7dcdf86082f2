"""What a portfolio policy is compared with besides Layer 2's 1.0: long-only splits of all equity, in the same ledger.

buy and hold (UBAH)      equal shares bought once: baselines.HOLD_ALL
equal weight (UCRP)      equal shares, restored once a day
inverse volatility       shares in proportion to 1 / volatility            skfolio, 30 days, once a week
minimum variance         the long-only portfolio of least variance         skfolio, 30 days, once a week
maximum diversification  Choueifaty & Coignard (2008)                      skfolio, 30 days, once a week
OLMAR                    Li & Hoi (2012), reversion to a moving average of five days, once a day
best single asset        all equity in the asset that did best: a choice of hindsight, nobody could have made it

Weights at a decision come from closes of rows <= t. Between two days of adjustment the weights drift.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from himari_rl.data.panel import Panel
from himari_rl.errors import not_installed
from himari_rl.evaluation.baselines import Orders, Stage
from himari_rl.schema import DAY_MS, Bars, BoolArray, FloatArray, IntArray

EQUAL, INVERSE, MINIMUM, DIVERSIFIED, OLMAR, SINGLE = (
    "equal weight",
    "inverse volatility",
    "minimum variance",
    "max. diversification",
    "OLMAR",
    "best single asset",
)
WINDOW_MS = 30 * DAY_MS
FEWEST_RETURNS = 48
OLMAR_EPSILON, OLMAR_DAYS = 10.0, 5  # the paper's own

Fit = Callable[[FloatArray], FloatArray]  # returns (n, A) -> weights (A,)


def allocations_of(history: Bars | Panel, on: Stage, start_row: int) -> dict[str, Orders]:
    """The orders of every baseline on the decisions of `on`, which begin at `start_row`.

    One symbol has nothing to split: no orders.

    Raises:
        ConfigError: skfolio is not installed.
    """
    if not isinstance(history, Panel):
        return {}
    try:
        from skfolio.optimization import InverseVolatility, MaximumDiversification, MeanRisk
    except ImportError as error:
        raise not_installed("a portfolio's baseline", error, "judge") from error

    def fitted(estimator: Callable[[], Any]) -> Fit:
        return lambda returns: np.asarray(estimator().fit(returns).weights_)

    closes, shape = history.prices().close, on.base.shape
    days = np.union1d([0], np.flatnonzero(on.moves.new_day))  # the first fill of a UTC day, when no daily stop holds
    window = max(2, WINDOW_MS // history.interval_ms)
    found = {EQUAL: _orders(on, np.full(shape, 1.0 / shape[1]), days)}
    for name, make in ((INVERSE, InverseVolatility), (MINIMUM, MeanRisk), (DIVERSIFIED, MaximumDiversification)):
        weights = rolling(closes, start_row + days[::7], window, fitted(make))
        found[name] = _orders(on, between(weights, days[::7], shape[0]), days[::7])
    found[OLMAR] = _orders(on, between(olmar(closes, start_row + days), days, shape[0]), days)
    best = int(np.log1p(on.moves.to_open).sum(axis=0).argmax())
    found[SINGLE] = _orders(on, np.eye(shape[1])[np.full(shape[0], best)], days[:1])
    return found


def _orders(on: Stage, weights: FloatArray, when: IntArray) -> Orders:
    """Trades to `weights` (D, A) at the decisions `when` and at no other."""
    due = np.zeros(on.base.shape, np.bool_)
    due[when] = True
    return Orders(np.ones(on.base.shape), weights, np.full(on.base.shape, np.inf), carried(due, on.moves.tradable))


def carried(due: BoolArray, tradable: BoolArray) -> BoolArray:
    """(D, A) True where a due trade happens: at once, or at the asset's first tradable bar after it was due."""
    rows = np.arange(len(due))[:, None]
    asked = np.maximum.accumulate(np.where(due, rows, -1), axis=0)
    traded = np.maximum.accumulate(np.where(tradable, rows, -1), axis=0)
    before = np.concatenate([np.full((1, due.shape[1]), -1), traded[:-1]])
    return np.asarray(tradable & (asked >= 0) & (before < asked))


def between(weights: FloatArray, when: IntArray, count: int) -> FloatArray:
    """(count, A) weights (K, A), each from its decision `when` (K,) on until the next one."""
    return np.asarray(weights[np.searchsorted(when, np.arange(count), side="right") - 1])


def rolling(closes: FloatArray, rows: IntArray, window: int, fit: Fit) -> FloatArray:
    """(K, A) weights at the close of each of `rows`, fitted on the last `window` returns up to it.

    Equal weights until 48 returns of assets that all moved are known.
    """
    weights = np.full((len(rows), closes.shape[1]), 1.0 / closes.shape[1])
    for k, row in enumerate(rows.tolist()):
        seen = closes[max(0, row - window) : row + 1]
        returns = seen[1:] / seen[:-1] - 1.0
        if len(returns) >= FEWEST_RETURNS and (returns.std(axis=0) > 0.0).all():
            weights[k] = fit(returns)
    return weights


def olmar(closes: FloatArray, rows: IntArray) -> FloatArray:
    """(K, A) weights of OLMAR-1 on the closes of `rows`, equal at the first.

    b' = project(b + l (x - mean x)),   x = moving average / close,   l = max(0, (epsilon - b x) / |x - mean x|^2)
    """
    b = np.full(closes.shape[1], 1.0 / closes.shape[1])
    weights = []
    for k, row in enumerate(rows.tolist()):
        x = closes[rows[max(0, k + 1 - OLMAR_DAYS) : k + 1]].mean(axis=0) / closes[row]
        away = x - x.mean()
        square = float(away @ away)
        if square > 0.0:
            b = on_simplex(b + max(0.0, (OLMAR_EPSILON - float(b @ x)) / square) * away)
        weights.append(b)
    return np.stack(weights)


def on_simplex(v: FloatArray) -> FloatArray:
    """(A,) the nearest point with w >= 0 and sum w = 1 (Duchi et al. 2008)."""
    ordered = np.sort(v)[::-1]
    excess = (np.cumsum(ordered) - 1.0) / np.arange(1, len(v) + 1)
    kept = int((ordered > excess).sum()) - 1
    return np.asarray(np.maximum(v - excess[kept], 0.0))
