"""What every market with a known law is: a generator of paths and the conditional law of each return.

Every market states its law, so that a policy is graded without realised returns. Conventions, the same in generator,
solver and grader: see (x_t, w_prev); choose w in [0, 1]; pay cost |w - w_prev|; earn g = log(1 + w R - cost |dw|); the
held exposure drifts with the price. x_t is known BEFORE the bar whose drift it describes, and
R = exp(mu - s^2/2 + s e) - 1 with e standard normal, except in M1 (two points).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import numpy as np

from himari_rl.errors import ConfigError
from himari_rl.schema import FloatArray, IntArray

NODES = 21
NEVER = 1e-12  # probability of a node that is left out: with 121 of them half are beyond seven deviations


@cache
def normal_nodes(count: int = NODES) -> tuple[FloatArray, FloatArray]:
    """Gauss-Hermite nodes and weights of the standard normal distribution."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    counts = weights > NEVER * weights.sum()
    return nodes[counts], weights[counts] / weights[counts].sum()


@dataclass(frozen=True)
class Paths:
    """P simulated paths of T decisions. `returns[p, t]` is what the decision at row t earns."""

    x: FloatArray  # (P, T, A) what is visible at row t
    state: FloatArray  # (P, T, A) what drives the law of returns[:, t]; x itself where x is the driver
    returns: FloatArray  # (P, T, A)


@dataclass(frozen=True, kw_only=True)
class KnownMarket:
    """What all of them share."""

    name: str
    cost: float = 0.0015
    """Commission and slippage per unit of |dw|."""
    risk_aversion: float | None = None
    """None grades E log growth; a number grades mean - risk_aversion / 2 variance of the bar's return."""
    account_visible: bool = True
    """False hides the held position and every other account feature."""
    shuffled: bool = False
    """True shows an independent copy of x: the returns are the same, nothing can be known about them."""
    as_bars: bool = False
    """True shows it as bars through all sixteen features: learned from one history, as real bars are (histories.py)."""
    shows: ClassVar[str] = "signal_confidence"

    @property
    def assets_count(self) -> int:
        return 1

    def draw(self, paths: int, rows: int, rng: np.random.Generator) -> Paths:
        raise TypeError(f"{type(self).__name__} draws nothing: use a concrete market")

    def simulate(self, paths: int, rows: int, rng: np.random.Generator) -> Paths:
        """P stationary paths of T decisions."""
        drawn = self.draw(paths, rows, rng)
        if not self.shuffled:
            return drawn
        return replace(drawn, x=self.draw(paths, rows, rng).x)

    def law(self, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Outcomes (N, K, A) and probabilities (N, K) of the next return, given states (N, A)."""
        raise TypeError(f"{type(self).__name__} has no law: use a concrete market")

    def earned(self, state: FloatArray, exposure: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Portfolio returns (N, K) and their probabilities (N, K) under the law, given exposures (N, A)."""
        outcomes, probabilities = self.law(state)
        return np.einsum("nka,na->nk", outcomes, exposure), probabilities


def lognormal_law(mu: FloatArray, sigma: FloatArray, count: int = NODES) -> tuple[FloatArray, FloatArray]:
    """Outcomes (N, K, 1) and probabilities (N, K) of exp(mu - s^2/2 + s e) - 1 for mu, sigma (N,)."""
    nodes, weights = normal_nodes(count)
    outcomes = np.expm1(mu[:, None] - 0.5 * sigma[:, None] ** 2 + sigma[:, None] * nodes)
    return outcomes[..., None], np.broadcast_to(weights, outcomes.shape)


def autoregressive(paths: int, rows: int, phi: float, rng: np.random.Generator) -> FloatArray:
    """(P, T) stationary AR(1) with unit variance."""
    from scipy.signal import lfilter  # more than a second, which whoever draws nothing need not wait

    shocks = rng.standard_normal((paths, rows))
    shocks[:, 1:] *= np.sqrt(1.0 - phi * phi)
    return np.asarray(lfilter([1.0], [1.0, -phi], shocks, axis=1))


def switching(paths: int, rows: int, switch: float, rng: np.random.Generator, states: int = 2) -> IntArray:
    """(P, T) stationary chain over 0 .. states - 1 that moves to a neighbour with chance `switch` a bar.

    A state in the middle goes up or down alike, so that it is twice as frequent as the first and the last: a walk on a
    circle of 2 (states - 1) places, folded.
    """
    circle = 2 * (states - 1)
    moves = (rng.random((paths, rows)) < switch).astype(np.int64)
    if states > 2:
        moves *= rng.choice((-1, 1), (paths, rows))
    moves[:, 0] = circle - 1 - (circle * rng.random(paths)).astype(np.int64)
    place = np.cumsum(moves, axis=1) % circle
    return np.asarray(np.minimum(place, circle - place))


def as_many(market: KnownMarket, name: str, count: int) -> tuple[float, ...]:
    """A market's tuple `name`, where one number, or the same number often, stands for `count` of them.

    Raises:
        ConfigError: another number of different ones.
    """
    given: tuple[float, ...] = getattr(market, name)
    if len(given) == count:
        return given
    if len(set(given)) == 1:
        return given[:1] * count
    raise ConfigError(f"{len(given)} {name} of {market.name}", f"{count} numbers, or one for all")
