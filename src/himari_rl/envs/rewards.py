"""Rewards: pure functions of what one decision earned. Their scale is the trainer's business.

`log_growth` is Kelly's objective and what certification uses. On real data the default is `mean_variance`:
at hourly volatility and exposures up to 1, log-growth is nearly risk-neutral and every policy runs to a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor

from himari_rl.errors import ConfigError
from himari_rl.policy.ledger import utility_per_bar


def log_growth(growth: Tensor) -> Tensor:
    """(N,) log of the equity factor from fill to next fill, after costs and funding."""
    return growth.log()


def mean_variance(growth: Tensor, portfolio_return: Tensor, risk_aversion: float) -> Tensor:
    """(N,) log-growth less risk_aversion / 2 times the bar's squared portfolio return.

    The squared return is the one-bar estimate of its variance (the squared mean is 1e-4 of it on hourly bars).
    Log-growth itself already charges half a variance, so the total aversion is risk_aversion + 1; a Sharpe ratio of
    1 a year is then held near 1 / (risk_aversion + 1) annual volatility.
    """
    return cast(Tensor, utility_per_bar(growth.log(), portfolio_return, risk_aversion))


def believed(exposure: Tensor, cost: Tensor, drift: Tensor, risk: Tensor) -> Tensor:
    """(N,) what exposures (N, A) are believed to earn: w'drift - cost - w' risk w / 2.

    Deterministic given the history (training/beliefs.py): no sign noise is left to overfit.
    """
    price = (risk @ exposure[..., None])[..., 0] if exposure.shape[-1] > 1 else risk[..., 0] * exposure
    return (exposure * (drift - 0.5 * price)).sum(-1) - cost


def turnover_penalty(traded: Tensor, weight: float) -> Tensor:
    """(N,) an extra charge on sum |dw|, beyond the ledger's costs."""
    return weight * traded


def drawdown_penalty(log_equity: Tensor, log_peak: Tensor, weight: float) -> Tensor:
    """(N,) charge on the depth below the episode's peak, in log units."""
    return weight * (log_peak - log_equity).clamp_min(0.0)


def differential_sharpe(growth: Tensor, first: Tensor, second: Tensor, rate: float) -> tuple[Tensor, Tensor, Tensor]:
    """Moody & Saffell (2001), eq. 8: the bar's marginal effect on an exponentially weighted Sharpe ratio.

    Args:
        growth: (N,) equity factor; its log is the return r.
        first, second: (N,) exponential moments of r and r^2 before this bar.
        rate: weight of the newest bar.

    Returns:
        reward (N,), and the two moments after this bar. The reward is 0 until the moments have a variance.
    """
    r = growth.log()
    delta_first, delta_second = r - first, r.square() - second
    variance = second - first.square()
    known = variance > 1e-12
    safe = variance.where(known, 1.0)
    reward = ((second * delta_first - 0.5 * first * delta_second) / safe**1.5).where(known, 0.0)
    return reward, first + rate * delta_first, second + rate * delta_second


def own(
    function: Callable[..., Tensor],
    name: str,
    growth: Tensor,
    portfolio_return: Tensor,
    cost: Tensor,
    turnover: Tensor,
) -> Tensor:
    """(...) what somebody's own function makes of a bar; it need not be differentiable.

    Args:
        growth: (...) equity factor from fill to next fill, after costs and funding; like the others float64.
        portfolio_return: (...) sum w R before costs. cost: (...) share of equity. turnover: (...) sum |dw|.

    Raises:
        ConfigError: something else than one finite number for each account.
    """
    found = function(growth=growth, portfolio_return=portfolio_return, cost=cost, turnover=turnover)
    if not isinstance(found, Tensor) or found.shape != growth.shape or not bool(found.isfinite().all()):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(f"the reward {name} returned {shape}", f"a finite tensor {tuple(growth.shape)}")
    return found.to(growth.dtype)
