"""M5: a portfolio of correlated assets, any number of them; trading is free, so that every bar stands alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from himari_rl.certification.generators import Predictable
from himari_rl.certification.law import KnownMarket, Paths, as_many, autoregressive, normal_nodes
from himari_rl.errors import ConfigError
from himari_rl.schema import FloatArray

MOST_MULTIPLIED = 3  # assets; beyond them a product of nodes is too many
ALIKE = 0.3  # correlation of every pair of M5xN
INVESTED = 0.7  # gross exposure of its optimum, about that of M5
LEFT_OUT = 0.8  # of the drift at which an asset would enter it


@dataclass(frozen=True, kw_only=True)
class PortfolioMarket(KnownMarket):
    """M5: correlated assets, box [0, 1] each, gross at most 1; drifts constant or moved by visible z_i.

    `sigmas` says how many assets; one number of `mus`, `betas` or `correlations` stands for all of them.
    """

    cost: float = 0.0
    sigmas: tuple[float, ...] = (0.06, 0.08, 0.05)
    correlations: tuple[float, ...] = (0.6, 0.2, 0.3)
    """Pairs 12, 13, .., 23, .."""
    mus: tuple[float, ...] = (0.00095, 0.00153, 0.00143)
    betas: tuple[float, ...] = (0.0, 0.0, 0.0)
    phi: float = 0.97

    def __post_init__(self) -> None:
        if self.cost != 0.0 or self.risk_aversion is not None:
            raise ConfigError(
                f"{self.name} with a cost or a risk aversion",
                "cost 0, log growth",
                "only those are solved",
            )
        count = len(self.sigmas)
        pairs = count * (count - 1) // 2
        for name, size in (("mus", count), ("betas", count), ("correlations", pairs)):
            object.__setattr__(self, name, as_many(self, name, size))
        if np.linalg.eigvalsh(self.correlation()).min() <= 0.0:
            raise ConfigError(f"correlations {self.correlations} of {self.name}", "a positive definite matrix")

    @property
    def assets_count(self) -> int:
        return len(self.sigmas)

    def correlation(self) -> FloatArray:
        """(A, A) correlations of the shocks."""
        found = np.eye(self.assets_count)
        found[np.triu_indices(self.assets_count, 1)] = self.correlations
        return found + found.T - np.eye(self.assets_count)

    def alone(self, asset: int) -> Predictable:
        """One of its assets as a market of its own: the same law without the others."""
        return Predictable(
            name=f"{self.name}/{asset}",
            cost=self.cost,
            sigma=self.sigmas[asset],
            mu=self.mus[asset],
            beta=self.betas[asset],
            phi=self.phi,
        )

    def covariance_root(self) -> FloatArray:
        """(A, A) Cholesky factor of the shocks' covariance."""
        return np.linalg.cholesky(self.correlation() * np.outer(self.sigmas, self.sigmas))

    def draw(self, paths: int, rows: int, rng: np.random.Generator) -> Paths:
        z = np.stack([autoregressive(paths, rows, self.phi, rng) for _ in range(self.assets_count)], axis=-1)
        shocks = rng.standard_normal((paths, rows, self.assets_count)) @ self.covariance_root().T
        mean = np.array(self.mus) + np.array(self.betas) * z - 0.5 * np.array(self.sigmas) ** 2
        return Paths(z, z, np.expm1(mean + shocks))

    def law(self, state: FloatArray, nodes: int = 5) -> tuple[FloatArray, FloatArray]:
        factors, probability = self.shocks(nodes)
        outcomes = self.median_growth(state)[:, None, :] * factors - 1.0
        return outcomes, np.broadcast_to(probability, outcomes.shape[:2])

    def shocks(self, nodes: int = 5) -> tuple[FloatArray, FloatArray]:
        """What a bar's correlated noise multiplies the prices by (K, A), and the probabilities (K,).

        Up to three assets: a product of Gauss-Hermite nodes; more: the fully symmetric rule of degree five, whatever
        `nodes` says. Its error is of order sigma^6: below 1e-4 of M5's growth.
        """
        if self.assets_count > MOST_MULTIPLIED:
            grid, probability = symmetric_nodes(self.assets_count)
        else:
            points, weights = normal_nodes(nodes)
            each = [points] * self.assets_count, [weights] * self.assets_count
            grid, chances = (
                np.stack(np.meshgrid(*axis, indexing="ij"), -1).reshape(-1, self.assets_count) for axis in each
            )
            probability = chances.prod(-1)
        return np.exp(grid @ self.covariance_root().T), probability

    def median_growth(self, state: FloatArray) -> FloatArray:
        """(N, A) what a bar without noise multiplies the prices by, given states (N, A)."""
        return np.exp(np.array(self.mus) + np.array(self.betas) * state - 0.5 * np.array(self.sigmas) ** 2)

    def earned(self, state: FloatArray, exposure: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Without a (N, K, A) array in between."""
        factors, probability = self.shocks()
        earned = (exposure * self.median_growth(state)) @ factors.T - exposure.sum(-1, keepdims=True)
        return earned, np.broadcast_to(probability, earned.shape)


def symmetric_nodes(dimension: int) -> tuple[FloatArray, FloatArray]:
    """(2 d^2 + 1, d) nodes and weights of the standard normal law in d dimensions, exact for polynomials of degree 5.

    The fully symmetric rule of McNamee & Stenger (1967): the origin, +-sqrt(3) on every axis, +-sqrt(3) on every pair
    of axes. Weights turn negative from five dimensions on.
    """
    far, eye = np.sqrt(3.0), np.eye(dimension)
    axes = np.concatenate([far * eye, -far * eye])
    pairs = [
        far * (one * eye[i] + other * eye[j])
        for i, j in combinations(range(dimension), 2)
        for one in (1.0, -1.0)
        for other in (1.0, -1.0)
    ]
    origin = 1.0 + (dimension**2 - 7.0 * dimension) / 18.0
    weights = np.concatenate([[origin], np.full(len(axes), (4.0 - dimension) / 18.0), np.full(len(pairs), 1.0 / 36.0)])
    return np.concatenate([np.zeros((1, dimension)), axes, np.array(pairs)]), weights


def alike(name: str, count: int) -> PortfolioMarket:
    """M5xN: N assets with volatilities from 5 to 8 %, every pair correlated by .3, and drifts S w for weights w.

    In continuous time w is the optimum; a bar's is near it. From the second asset on, one in four has no place in it:
    its drift is four fifths of what would bring it in.
    """
    sigmas = np.linspace(0.05, 0.08, count)
    wanted = np.where(np.arange(count) % 4 == 1, 0.0, np.linspace(2.0, 1.0, count))
    wanted *= INVESTED / wanted.sum()
    covariance = (ALIKE + (1.0 - ALIKE) * np.eye(count)) * np.outer(sigmas, sigmas)
    mus = np.round(np.where(wanted > 0.0, 1.0, LEFT_OUT) * (covariance @ wanted), 6)
    return PortfolioMarket(
        name=name, sigmas=tuple(np.round(sigmas, 4).tolist()), correlations=(ALIKE,), mus=tuple(mus.tolist()),
        betas=(0.0,),
    )  # fmt: skip
