"""The ledger: what a position earns, costs and becomes. One arithmetic for reward, equity and paper trading.

Plain array expressions that run unchanged on numpy arrays and torch tensors (and are differentiable on the
latter), so the batched environment, the backtest and a paper account are the same lines. Exposures are
fractions of equity, shape (..., A); equity-level numbers are (...).

    fill      at the open:   w = target where the bar trades, else what is held;  cost = sum fees(|w - held|)
    grow      over the bar:  G = 1 + sum w R - cost - sum w F                     g = log G
    drift     afterwards:    held' = w (1 + R) / G
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

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


class Costs(NamedTuple):
    """What trading costs where one rate does not tell it: rate |dw| + impact |dw|^1.5, elementwise, shares of equity.

    The square-root law (Almgren et al., "Direct estimation of equity market impact", 2005; Bouchaud et al. 2018): a
    trade of Q moves the price by about Y sigma sqrt(Q / V), so that it costs Q times that.
    """

    rate: Array | float  # (..., A) or scalar: commission + slippage per unit of |dw|
    impact: Array | float = 0.0  # (..., A) or scalar: of |dw|^1.5


def times(costs: Costs | float, multiple: float) -> Costs | float:
    """The same costs, `multiple` times as high."""
    if isinstance(costs, Costs):
        return Costs(costs.rate * multiple, costs.impact * multiple)
    return multiple * costs


def side_by_side(costs: Sequence[Costs | float], assets: int) -> Costs:
    """(P, A) rates and impacts of P accounts, numpy."""
    every = [each if isinstance(each, Costs) else Costs(each) for each in costs]
    rate, impact = (np.array([np.broadcast_to(part, assets) for part in parts]) for parts in zip(*every, strict=True))
    return Costs(rate, impact if impact.any() else 0.0)


def fees(costs: Costs | Array | float, traded: Array) -> Array:
    """What trading |dw| = `traded` (..., A) costs, elementwise; a plain number is a rate."""
    if not isinstance(costs, Costs):
        return costs * traded
    linear = costs.rate * traded
    return linear if isinstance(costs.impact, float) and costs.impact == 0.0 else linear + costs.impact * traded**1.5


def fill(held: Array, target: Array, tradable: Array, cost_rate: Costs | Array | float) -> tuple[Array, Array]:
    """Trades from `held` to `target` at the open.

    Args:
        held: (..., A) exposure carried into the open.
        target: (..., A) exposure wanted.
        tradable: (..., A) bool; False keeps `held` and costs nothing.
        cost_rate: commission + slippage as a fraction of the traded notional, scalar or (..., A); or `Costs`.

    Returns:
        exposure (..., A) after the fill and cost (...), both as fractions of equity before the fill.
    """
    exposure = namespace(held).where(tradable, target, held)
    cost = fees(cost_rate, abs(exposure - held)).sum(-1)
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
