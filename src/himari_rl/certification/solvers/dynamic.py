"""Relative value iteration for one asset with proportional costs: the optimum is a no-trade band.

    h(x, w_prev) + G = max_w  q(x, w) - cost |w - w_prev|
    q(x, w) = E[log(1 + w R) + h(x', w')],   w' = w (1 + R) / (1 + w R)

w lives on a grid of 201 exposures, R on 21 Gauss-Hermite nodes, h is linear between grid points. The cost is taken
out of the logarithm, which changes G by less than cost^2 (the grader keeps it inside, exactly). Because q is concave
in w the maximum is a band [lo(x), hi(x)], found for all w_prev at once by two running maxima.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import gammaln, ndtr

from himari_rl.certification.generators import ConstantEdge, Predictable, VolatilityRegimes
from himari_rl.certification.hourly import RareEdge, TailEdge
from himari_rl.certification.law import KnownMarket
from himari_rl.errors import ConfigError
from himari_rl.schema import FloatArray

GRID = 201
AR_STATES = 201
WIDEST = 4.5  # of a score of unit variance
TOLERANCE = 1e-12
SWEEPS = 20_000


@dataclass(frozen=True)
class Solution:
    """The optimal policy of a market with one asset: w = clip(w_prev, low(x), high(x))."""

    growth: float  # optimum per bar
    states: FloatArray  # (S,) the visible variable at the solver's states
    low: FloatArray  # (S,)
    high: FloatArray  # (S,)

    def band(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Edges at any x, linear between the solver's states."""
        return np.interp(x, self.states, self.low), np.interp(x, self.states, self.high)


def solve(market: KnownMarket) -> Solution:
    """The optimum of M1, M2, M4, M6, R1 or any of their variants.

    Raises:
        ConfigError: the market belongs to another solver.
    """
    states, transition = chain(market)
    outcomes, probabilities = market.law(states[:, None])
    grid = np.linspace(0.0, 1.0, GRID)
    reward, carry = one_bar(market, grid, outcomes[..., 0], probabilities)
    value = np.zeros((len(states), GRID))
    cost_up, cost_down = market.cost * grid, -market.cost * grid
    gain = 0.0
    for _ in range(SWEEPS):
        after = reward + (carry @ (transition @ value).ravel()).reshape(value.shape)
        buying = np.maximum.accumulate((after - cost_up)[:, ::-1], axis=1)[:, ::-1] + cost_up
        selling = np.maximum.accumulate(after - cost_down, axis=1) + cost_down
        updated = np.maximum(buying, selling)
        change = updated - value
        gain = 0.5 * (change.max() + change.min())
        value = updated - updated[0, 0]
        if np.ptp(change) < TOLERANCE:
            break
    low = refined(grid, after - cost_up)
    high = np.maximum(refined(grid, after - cost_down), low)
    return Solution(float(gain), states, low, high)


def chain(market: KnownMarket) -> tuple[FloatArray, FloatArray]:
    """The visible variable's states (S,) and transition matrix (S, S)."""
    if isinstance(market, ConstantEdge):
        return np.zeros(1), np.ones((1, 1))
    if isinstance(market, VolatilityRegimes):
        return market.regimes, market.transition()
    if isinstance(market, RareEdge):
        return np.array([0.0, 1.0]), market.transition()
    if isinstance(market, TailEdge):
        return cells(market.phi, market.border)
    if isinstance(market, Predictable):
        return rouwenhorst(market.phi, AR_STATES)
    raise ConfigError(f"market {market.name}", "one asset with a visible state")


def rouwenhorst(phi: float, count: int) -> tuple[FloatArray, FloatArray]:
    """A chain with the mean, variance and autocorrelation of a unit-variance AR(1) (Rouwenhorst 1995).

    State i counts the successes among `count` - 1 coins, each of which keeps its face with probability (1 + phi) / 2.
    """
    coins = count - 1
    keep = 0.5 * (1.0 + phi)
    k = np.arange(count)
    transition = np.empty((count, count))
    for i in range(count):
        heads = binomial(i, keep)
        tails = binomial(coins - i, 1.0 - keep)
        transition[i] = np.convolve(heads, tails)
    return (2.0 * k - coins) / np.sqrt(coins), transition


def cells(phi: float, border: float, width: float = 0.05) -> tuple[FloatArray, FloatArray]:
    """An AR(1) on cells of equal width (Tauchen 1986), one edge of which is `border`: a jump of the law stays sharp.

    A value stands for its cell, which adds width^2 / 12 to the variance: that much less is shocked (Sheppard 1898).
    """
    count = int(2.0 * WIDEST / width)
    edges = border + width * (np.arange(count + 1) - round((border + WIDEST) / width))
    centres = 0.5 * (edges[1:] + edges[:-1])
    edges[0], edges[-1] = -np.inf, np.inf
    below = ndtr((edges[None, :] - phi * centres[:, None]) / np.sqrt(1.0 - phi**2 - width**2 / 12.0))
    return centres, np.diff(below, axis=1)


def binomial(trials: int, p: float) -> FloatArray:
    """(trials + 1,) probabilities."""
    k = np.arange(trials + 1)
    log = gammaln(trials + 1) - gammaln(k + 1) - gammaln(trials - k + 1) + k * np.log(p) + (trials - k) * np.log1p(-p)
    return np.asarray(np.exp(log))


def one_bar(
    market: KnownMarket, grid: FloatArray, outcomes: FloatArray, probabilities: FloatArray
) -> tuple[FloatArray, csr_matrix]:
    """Reward (S, W) of holding each exposure for a bar, and the operator (S W, S W) that carries it to the next.

    Args:
        outcomes, probabilities: (S, K) of the return.
    """
    count, size = outcomes.shape[0], len(grid)
    earned = grid[None, :, None] * outcomes[:, None, :]
    reward = objective(market, earned, probabilities[:, None, :])
    drifted = grid[None, :, None] * (1.0 + outcomes[:, None, :]) / (1.0 + earned)
    place = np.clip(drifted, 0.0, 1.0) * (size - 1)
    left = np.minimum(place.astype(np.int64), size - 2)
    share = place - left
    rows = np.broadcast_to(np.arange(count * size).reshape(count, size, 1), left.shape)
    columns = left + size * np.arange(count)[:, None, None]
    weight = np.broadcast_to(probabilities[:, None, :], left.shape)
    flat = (
        np.concatenate([(weight * (1.0 - share)).ravel(), (weight * share).ravel()]),
        (np.tile(rows.ravel(), 2), np.concatenate([columns.ravel(), columns.ravel() + 1])),
    )
    return reward, csr_matrix(flat, shape=(count * size, count * size))


def objective(market: KnownMarket, earned: FloatArray, probabilities: FloatArray) -> FloatArray:
    """(...) E log growth, or mean - risk aversion / 2 variance, of portfolio returns (..., K) before costs."""
    if market.risk_aversion is None:
        return np.asarray((np.log1p(earned) * probabilities).sum(-1))
    mean = (earned * probabilities).sum(-1)
    square = (earned**2 * probabilities).sum(-1)
    return np.asarray(mean - 0.5 * market.risk_aversion * (square - mean**2))


def refined(grid: FloatArray, value: FloatArray) -> FloatArray:
    """(S,) place of each row's maximum, to better than the grid: the vertex of the parabola through its neighbours."""
    best = value.argmax(axis=1)
    inner = np.clip(best, 1, len(grid) - 2)
    rows = np.arange(len(value))
    left, middle, right = value[rows, inner - 1], value[rows, inner], value[rows, inner + 1]
    bend = left - 2.0 * middle + right
    step = np.where(bend < 0.0, 0.5 * (left - right) / np.where(bend < 0.0, bend, -1.0), 0.0)
    vertex = grid[inner] + np.clip(step, -1.0, 1.0) * (grid[1] - grid[0])
    at_edge = (best == 0) | (best == len(grid) - 1)
    return np.asarray(np.where(at_edge, grid[best], np.clip(vertex, 0.0, 1.0)))
