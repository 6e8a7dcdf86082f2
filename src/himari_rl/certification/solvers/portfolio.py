"""M5: maximise E log(1 + w R) over the box [0, 1] with gross at most 1. Trading is free, so every bar stands alone.

Concave in w, so projected ascent cannot fail: exact gradients by quadrature, steps scaled by the covariance's largest
eigenvalue, accelerated (Beck & Teboulle 2009), and a projection on the capped box.
"""

from __future__ import annotations

import numpy as np

from himari_rl.certification.portfolios import PortfolioMarket
from himari_rl.schema import FloatArray

STEPS = 4000


def project(weights: FloatArray, gross: float = 1.0) -> FloatArray:
    """(N, A) nearest points of {0 <= w <= 1, sum w <= gross}, gross at most 1 (sorting: Duchi et al. 2008)."""
    inside = np.clip(weights, 0.0, 1.0)
    over = inside.sum(-1) > gross
    ordered = -np.sort(-weights[over], axis=-1)
    excess = (ordered.cumsum(-1) - gross) / np.arange(1, weights.shape[-1] + 1)
    inside[over] = np.maximum(weights[over] - excess.max(-1, keepdims=True), 0.0)
    return inside


def optimal_weights(market: PortfolioMarket, state: FloatArray, nodes: int = 5, steps: int = STEPS) -> FloatArray:
    """(N, A) optimal exposures for visible states (N, A)."""
    factors, probabilities = market.shocks(nodes)
    median = market.median_growth(state)
    root = market.covariance_root()
    size = 1.0 / (1.5 * np.linalg.eigvalsh(root @ root.T).max())
    weights = np.full((len(state), market.assets_count), 1.0 / (2 * market.assets_count))
    ahead, momentum = weights, 1.0
    for _ in range(steps):
        wealth = 1.0 - ahead.sum(-1, keepdims=True) + (ahead * median) @ factors.T  # 1 + w R, all in two products
        marginal = probabilities / wealth
        gradient = (marginal @ factors) * median - marginal.sum(-1, keepdims=True)
        moved = project(ahead + size * gradient)
        following = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * momentum**2))
        ahead = moved + (momentum - 1.0) / following * (moved - weights)
        change = float(np.abs(moved - weights).max())
        weights, momentum = moved, following
        if change < 1e-10:
            break
    return weights


def growth_of(market: PortfolioMarket, state: FloatArray, weights: FloatArray) -> FloatArray:
    """(N,) E log(1 + w R) for states (N, A) and exposures (N, A)."""
    outcomes, probabilities = market.law(state, 9)
    return np.asarray((np.log1p(np.einsum("nka,na->nk", outcomes, weights)) * probabilities).sum(-1))
