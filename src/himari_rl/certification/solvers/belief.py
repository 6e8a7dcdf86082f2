"""M3 and R2: the dynamic programme on the belief, the probability that the next bar is up (M3) or wild (R2).

    q(p, w) = E[log(1 + w R) + h(p'(R), w'(R))],   h(p, w_prev) = max_w q(p, w) - cost |w - w_prev|

The next belief is a function of the return, so both arguments of h move together: h is bilinear on a grid of
log-odds x exposures, and one sweep is one sparse product.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from himari_rl.certification.generators import HiddenRegime
from himari_rl.certification.hourly import HiddenVolatility
from himari_rl.certification.solvers.dynamic import SWEEPS, TOLERANCE, Solution, objective, refined
from himari_rl.schema import FloatArray

BELIEFS, EXPOSURES = 121, 101
SHARP = 121
"""Nodes where a volatility is hidden: one return may all but settle which it is; 21 nodes make R2 1.4 % too good."""


def solve_belief(market: HiddenRegime | HiddenVolatility) -> Solution:
    """The optimum; `states` are beliefs, low and high the band's edges there. With cost 0 the band is a line."""
    edge = np.log((1.0 - market.switch) / market.switch)
    odds = np.linspace(-edge, edge, BELIEFS)
    belief = 1.0 / (1.0 + np.exp(-odds))
    grid = np.linspace(0.0, 1.0, EXPOSURES)
    if isinstance(market, HiddenVolatility):
        outcomes, probabilities = market.law(belief[:, None], SHARP)
    else:
        outcomes, probabilities = market.law(belief[:, None])
    outcomes = outcomes[..., 0]
    after_belief = market.filtered(belief[:, None], np.log1p(outcomes))
    after_odds = np.log(after_belief / (1.0 - after_belief))
    earned = grid[None, :, None] * outcomes[:, None, :]
    reward = objective(market, earned, probabilities[:, None, :])
    drifted = np.clip(grid[None, :, None] * (1.0 + outcomes[:, None, :]) / (1.0 + earned), 0.0, 1.0)
    carry = _bilinear(odds, after_odds, drifted, probabilities)
    value = np.zeros((BELIEFS, EXPOSURES))
    cost = market.cost * grid
    gain, after = 0.0, reward
    tolerance = 1e-8 if isinstance(market, HiddenVolatility) else TOLERANCE * 100  # of an optimum of 6e-5 or 2e-3
    for _ in range(SWEEPS):
        after = reward + (carry @ value.ravel()).reshape(value.shape)
        buying = np.maximum.accumulate((after - cost)[:, ::-1], axis=1)[:, ::-1] + cost
        selling = np.maximum.accumulate(after + cost, axis=1) - cost
        updated = np.maximum(buying, selling)
        change = updated - value
        gain = 0.5 * (change.max() + change.min())
        value = updated - updated[0, 0]
        if np.ptp(change) < tolerance:
            break
    low = refined(grid, after - cost)
    return Solution(float(gain), belief, low, np.maximum(refined(grid, after + cost), low))


def _bilinear(odds: FloatArray, after: FloatArray, drifted: FloatArray, probabilities: FloatArray) -> csr_matrix:
    """(B W, B W) expectation of h at the next belief and the drifted exposure."""
    beliefs, exposures, _ = drifted.shape
    place = np.clip((after - odds[0]) / (odds[1] - odds[0]), 0.0, beliefs - 1.0)
    below = np.minimum(place.astype(np.int64), beliefs - 2)
    belief_share = (place - below)[:, None, :]
    spot = drifted * (exposures - 1)
    left = np.minimum(spot.astype(np.int64), exposures - 2)
    share = spot - left
    rows = np.broadcast_to(np.arange(beliefs * exposures).reshape(beliefs, exposures, 1), drifted.shape)
    base = below[:, None, :] * exposures + left
    weight = np.broadcast_to(probabilities[:, None, :], drifted.shape)
    columns = [base, base + 1, base + exposures, base + exposures + 1]
    weights = [
        weight * (1 - belief_share) * (1 - share), weight * (1 - belief_share) * share,
        weight * belief_share * (1 - share), weight * belief_share * share,
    ]  # fmt: skip
    size = beliefs * exposures
    flat = (
        np.concatenate([w.ravel() for w in weights]),
        (np.tile(rows.ravel(), 4), np.concatenate([c.ravel() for c in columns])),
    )
    return csr_matrix(flat, shape=(size, size))


def memoryless_exposure(market: HiddenRegime, seen: FloatArray) -> FloatArray:
    """(...) the best exposure that only the last return (in units of sigma) can justify, at no cost.

    The stationary prior is one half; one return and one chance of a switch later it is the belief to be myopic on.
    """
    prior = np.full(seen.shape, 0.5)
    belief = market.filtered(prior, seen * market.sigma)
    return myopic(market, belief)


def myopic(market: HiddenRegime, belief: FloatArray) -> FloatArray:
    """(...) argmax_w E[log(1 + w R) | belief] on [0, 1]: the whole optimum when trading is free."""
    table = np.linspace(0.0, 1.0, 401)
    outcomes, probabilities = market.law(table[:, None])
    grid = np.linspace(0.0, 1.0, 401)
    growth = np.stack([(np.log1p(w * outcomes[..., 0]) * probabilities).sum(-1) for w in grid], axis=-1)
    return np.interp(belief, table, refined(grid, growth))
