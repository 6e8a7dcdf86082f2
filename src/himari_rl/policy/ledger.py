"""The ledger: what a position earns, costs and becomes. One arithmetic for reward, equity and paper trading.

Plain array expressions that run unchanged on numpy arrays and torch tensors (and are differentiable on the
latter), so the batched environment, the backtest and a paper account are the same lines. Exposures are
fractions of equity, shape (..., A); equity-level numbers are (...).

    fill      at the open:   w = target where the bar trades, else what is held;  cost = rate * sum |w - held|
    grow      over the bar:  G = 1 + sum w R - cost - sum w F                     g = log G
    drift     afterwards:    held' = w (1 + R) / G
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

RUINED = 1e-9  # equity cannot fall below nothing; its log must stay a number

Array = Any  # numpy.ndarray or torch.Tensor: the same operators, the same function names


def namespace(array: Array) -> Any:
    """The module (numpy or torch) whose functions act on `array`, without importing torch."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def bounded(array: Array, low: float, high: float | None = None) -> Array:
    """`array` clipped; on small arrays numpy's own clip takes five times as long as the two comparisons."""
    xp = namespace(array)
    if xp is not np:
        return xp.clip(array, low, high)
    above = np.maximum(array, low)
    return above if high is None else np.minimum(above, high)


def cost_per_turnover(commission_rate: float, slippage_bps: float) -> float:
    """What a unit of |dw| costs, as a share of equity: commission, and slippage from basis points."""
    return commission_rate + slippage_bps * 1e-4


def fill(held: Array, target: Array, tradable: Array, cost_rate: Array | float) -> tuple[Array, Array]:
    """Trades from `held` to `target` at the open.

    Args:
        held: (..., A) exposure carried into the open.
        target: (..., A) exposure wanted.
        tradable: (..., A) bool; False keeps `held` and costs nothing.
        cost_rate: commission + slippage as a fraction of the traded notional, scalar or (..., A).

    Returns:
        exposure (..., A) after the fill and cost (...), both as fractions of equity before the fill.
    """
    exposure = namespace(held).where(tradable, target, held)
    cost = (cost_rate * abs(exposure - held)).sum(-1)
    return exposure, cost


def grow(exposure: Array, cost: Array, returns: Array, funding: Array | float = 0.0) -> Array:
    """Growth factor G (...) of equity: 1 + sum w (R - F) - cost.

    Args:
        returns: (..., A) simple returns while `exposure` is held.
        funding: (..., A) or scalar; positive is paid by a long.
    """
    growth = 1.0 + (exposure * (returns - funding)).sum(-1) - cost
    return bounded(growth, RUINED)


def utility_per_bar(log_growth: Array, portfolio_return: Array, risk_aversion: float) -> Array:
    """(...) mean-variance utility of a bar: log-growth minus risk_aversion / 2 times the squared portfolio return.

    What policies are trained for (envs/rewards.py) and what they are judged by (evaluation): the squared return is the
    one-bar estimate of its variance, so the mean over bars is the utility and paired differences resample like returns.
    """
    return log_growth - 0.5 * risk_aversion * portfolio_return**2


def drift(exposure: Array, returns: Array, growth: Array) -> Array:
    """Exposure (..., A) after prices moved and equity became `growth` times itself."""
    return exposure * (1.0 + returns) / growth[..., None]
