"""Measures of one account's history: one pure function each, per bar unless its name or argument says a year.

A year is 365 days of elapsed time, never 252: `bars_per_year` is how many bars the judged span had of it.
Log-growth runs from fill to fill (open to open); drawdown is marked at closes.
"""

from __future__ import annotations

import numpy as np

from himari_rl.errors import DataError
from himari_rl.policy.ledger import utility_per_bar as utility_per_bar  # one formula for training and judging
from himari_rl.schema import MAX_MULTIPLIER, RISK_AVERSION, BoolArray, FloatArray


def mean_growth(log_growth: FloatArray, bars_per_year: float = 1.0) -> FloatArray:
    """(...) mean over the bars of (T, ...), per year where `bars_per_year` is given."""
    return np.asarray(log_growth.mean(axis=0) * bars_per_year)


def growth(log_growth: FloatArray, bars_per_year: float = 1.0) -> float:
    """Mean log-growth of (T,), per year where `bars_per_year` is given."""
    return float(mean_growth(log_growth, bars_per_year))


def total_return(log_growth: FloatArray) -> float:
    """Simple return of the whole span."""
    return float(np.expm1(log_growth.sum()))


def volatility(log_growth: FloatArray, bars_per_year: float = 1.0) -> float:
    """Standard deviation of log-growth (n - 1), per year where `bars_per_year` is given."""
    return float(log_growth.std(ddof=1) * np.sqrt(bars_per_year))


def sharpe_ratio(mean: FloatArray | float, deviation: FloatArray | float) -> FloatArray:
    """(...) mean over standard deviation, elementwise; 0 where nothing moves. Every Sharpe ratio is made here."""
    above, below = np.asarray(mean, float), np.asarray(deviation, float)
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below != 0.0))  # NaN stays NaN


def sharpe(log_growth: FloatArray, bars_per_year: float = 1.0) -> float:
    """Mean over standard deviation of log-growth; an account that never moves has 0.

    The statistics of statistics.py take it per bar: annualise for display only.

    Raises:
        DataError: a constant return other than zero, which no market pays.
    """
    mean, deviation = float(log_growth.mean()), float(log_growth.std(ddof=1))
    if deviation <= 1e-12 * abs(mean):
        if mean == 0.0:
            return 0.0
        raise DataError(f"every bar returns {mean:.3g}", "returns that vary", "check the prices")
    return float(sharpe_ratio(mean, deviation)) * float(np.sqrt(bars_per_year))


def underwater(log_equity: FloatArray) -> FloatArray:
    """(T,) log of equity over the highest so far, at most 0. Starts at equity 1.

    Args:
        log_equity: (T,) log of equity over its start, marked at closes.
    """
    below: FloatArray = log_equity - np.maximum.accumulate(np.maximum(log_equity, 0.0))
    return below


def max_drawdown(log_equity: FloatArray) -> float:
    """Deepest fall from an earlier peak, as a fraction of that peak, in [0, 1); arguments as `underwater`."""
    return float(-np.expm1(underwater(log_equity).min())) + 0.0  # never -0.0


def turnover(traded: FloatArray) -> float:
    """Mean of sum |dw| per bar, fraction of equity."""
    return float(traded.mean())


def cost_paid(cost: FloatArray) -> float:
    """Sum over bars of commission and slippage, each a fraction of equity at its time."""
    return float(cost.sum())


def mean_exposure(exposure: FloatArray) -> float:
    """Mean of the net exposure sum w of (T, A), fraction of equity."""
    return float(exposure.sum(-1).mean())


def gross_exposure(exposure: FloatArray) -> float:
    """Mean of the gross exposure sum |w| of (T, A), fraction of equity."""
    return float(np.abs(exposure).sum(-1).mean())


def utility(
    log_growth: FloatArray,
    portfolio_return: FloatArray,
    risk_aversion: float = RISK_AVERSION,
    bars_per_year: float = 1.0,
) -> float:
    """Mean of `utility_per_bar`, per year where `bars_per_year` is given."""
    return growth(utility_per_bar(log_growth, portfolio_return, risk_aversion), bars_per_year)


def action_spread(multiplier: FloatArray, active: BoolArray | None = None) -> float:
    """Standard deviation of the multipliers (T, A); 0 is a policy that answers the same to every state.

    Args:
        active: (T, A) False where the multiplier sizes nothing, because Layer 2 stands aside.
    """
    return float(_counted(multiplier, active).std())


def saturation(multiplier: FloatArray, active: BoolArray | None = None, margin: float = 0.01) -> float:
    """Share of the multipliers (T, A) within `margin` of 0 or of 2; `active` as in `action_spread`."""
    counted = _counted(multiplier, active)
    return float(np.mean((counted <= margin) | (counted >= MAX_MULTIPLIER - margin)))


def _counted(multiplier: FloatArray, active: BoolArray | None) -> FloatArray:
    return multiplier[active] if active is not None and active.any() else multiplier
