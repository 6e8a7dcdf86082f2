"""The generators. Every market states its conditional law, so that a policy is graded without realised returns.

Conventions, the same in generator, solver and grader: see (x_t, w_prev); choose w in [0, 1]; pay cost |w - w_prev|;
earn g = log(1 + w R - cost |dw|); the held exposure drifts with the price. x_t is known BEFORE the bar whose drift it
describes, and R = exp(mu - s^2/2 + s e) - 1 with e standard normal, except in M1 (two points).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, ClassVar

import numpy as np
from scipy.signal import lfilter

from himari_rl.errors import ConfigError
from himari_rl.schema import FloatArray

NODES = 21


@cache
def normal_nodes(count: int = NODES) -> tuple[FloatArray, FloatArray]:
    """Gauss-Hermite nodes and weights of the standard normal distribution."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights / weights.sum()


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


def lognormal_law(mu: FloatArray, sigma: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Outcomes (N, K, 1) and probabilities (N, K) of exp(mu - s^2/2 + s e) - 1 for mu, sigma (N,)."""
    nodes, weights = normal_nodes()
    outcomes = np.expm1(mu[:, None] - 0.5 * sigma[:, None] ** 2 + sigma[:, None] * nodes)
    return outcomes[..., None], np.broadcast_to(weights, outcomes.shape)


def autoregressive(paths: int, rows: int, phi: float, rng: np.random.Generator) -> FloatArray:
    """(P, T) stationary AR(1) with unit variance."""
    shocks = rng.standard_normal((paths, rows))
    shocks[:, 1:] *= np.sqrt(1.0 - phi * phi)
    return np.asarray(lfilter([1.0], [1.0, -phi], shocks, axis=1))


def switching(paths: int, rows: int, switch: float, rng: np.random.Generator) -> FloatArray:
    """(P, T) stationary two-state chain with values 0 and 1."""
    flips = rng.random((paths, rows)) < switch
    flips[:, 0] = rng.random(paths) < 0.5
    return (np.cumsum(flips, axis=1) % 2).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class ConstantEdge(KnownMarket):
    """M1: up or down by `jump`, up with probability `up`. Nothing to see but the position."""

    jump: float = 0.08
    up: float = 0.512

    def draw(self, paths: int, rows: int, rng: np.random.Generator) -> Paths:
        returns = np.where(rng.random((paths, rows, 1)) < self.up, self.jump, -self.jump)
        nothing = np.zeros_like(returns)
        return Paths(nothing, nothing, returns)

    def law(self, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        shape = (len(state), 2)
        outcomes = np.broadcast_to(np.array([self.jump, -self.jump]), shape)[..., None]
        return outcomes, np.broadcast_to(np.array([self.up, 1.0 - self.up]), shape)


@dataclass(frozen=True, kw_only=True)
class Predictable(KnownMarket):
    """M2: drift mu + beta z with a visible AR(1) z. With mu = beta = 0 it is M6, where z means nothing."""

    sigma: float = 0.05
    mu: float = 0.00125
    beta: float = 0.0015
    phi: float = 0.97

    def __post_init__(self) -> None:
        if not 0.0 <= self.phi < 1.0:
            raise ConfigError(f"phi {self.phi}", "0 <= phi < 1, or z has no stationary law")

    def draw(self, paths: int, rows: int, rng: np.random.Generator) -> Paths:
        z = autoregressive(paths, rows, self.phi, rng)
        noise = rng.standard_normal((paths, rows))
        returns = np.expm1(self.mu + self.beta * z - 0.5 * self.sigma**2 + self.sigma * noise)
        return Paths(z[..., None], z[..., None], returns[..., None])

    def law(self, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        return lognormal_law(self.mu + self.beta * state[:, 0], np.full(len(state), self.sigma))


@dataclass(frozen=True, kw_only=True)
class VolatilityRegimes(KnownMarket):
    """M4: two visible regimes, calm and wild, with their own volatility and drift."""

    sigmas: tuple[float, float] = (0.05, 0.20)
    mus: tuple[float, float] = (0.0024, 0.0024)
    switch: float = 0.02
    shows: ClassVar[str] = "cascade_risk"

    def draw(self, paths: int, rows: int, rng: np.random.Generator) -> Paths:
        regime = switching(paths, rows, self.switch, rng)
        which = regime.astype(np.int64)
        mu, sigma = np.take(self.mus, which), np.take(self.sigmas, which)
        returns = np.expm1(mu - 0.5 * sigma**2 + sigma * rng.standard_normal((paths, rows)))
        return Paths(regime[..., None], regime[..., None], returns[..., None])

    def law(self, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        which = state[:, 0].astype(np.int64)
        return lognormal_law(np.take(self.mus, which), np.take(self.sigmas, which))


@dataclass(frozen=True, kw_only=True)
class HiddenRegime(KnownMarket):
    """M3: drift +-drift in a hidden regime; only the last return, in units of sigma, is seen. `state` is the belief."""

    sigma: float = 0.05
    drift: float = 0.01
    switch: float = 0.01

    def __post_init__(self) -> None:
        if self.risk_aversion is not None:
            raise ConfigError(f"{self.name} with a risk aversion", "log growth", "only that is solved")

    def draw(self, paths: int, rows: int, rng: np.random.Generator) -> Paths:
        up = switching(paths, rows, self.switch, rng)
        mean = np.where(up > 0.0, self.drift, -self.drift) - 0.5 * self.sigma**2
        log_returns = mean + self.sigma * rng.standard_normal((paths, rows))
        seen = np.concatenate([np.zeros((paths, 1)), log_returns[:, :-1]], axis=1) / self.sigma
        belief = np.empty((paths, rows))
        belief[:, 0] = 0.5
        for t in range(1, rows):
            belief[:, t] = self.filtered(belief[:, t - 1], log_returns[:, t - 1])
        return Paths(seen[..., None], belief[..., None], np.expm1(log_returns)[..., None])

    def filtered(self, belief: FloatArray, log_return: FloatArray) -> FloatArray:
        """P(up for the next bar) after one more return, from P(up) before it: Bayes, then the chance of a switch."""
        evidence = 2.0 * self.drift * (log_return + 0.5 * self.sigma**2) / self.sigma**2
        posterior = belief / (belief + (1.0 - belief) * np.exp(-evidence))
        return posterior * (1.0 - self.switch) + (1.0 - posterior) * self.switch

    def law(self, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        belief = state[:, 0]
        sigma = np.full(len(belief), self.sigma)
        up, weights = lognormal_law(np.full(len(belief), self.drift), sigma)
        down, _ = lognormal_law(np.full(len(belief), -self.drift), sigma)
        probabilities = np.concatenate([weights * belief[:, None], weights * (1.0 - belief[:, None])], axis=1)
        return np.concatenate([up, down], axis=1), probabilities


@dataclass(frozen=True, kw_only=True)
class Trap(KnownMarket):
    """M7: a driftless market and a column that contains a share rho of the next shock: a leak, to be caught."""

    sigma: float = 0.02
    rho: float = 0.1

    def draw(self, paths: int, rows: int, rng: np.random.Generator) -> Paths:
        shock = rng.standard_normal((paths, rows))
        leak = self.rho * shock + np.sqrt(1.0 - self.rho**2) * rng.standard_normal((paths, rows))
        returns = np.expm1(-0.5 * self.sigma**2 + self.sigma * shock)
        return Paths(leak[..., None], leak[..., None], returns[..., None])

    def law(self, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        return lognormal_law(np.zeros(len(state)), np.full(len(state), self.sigma))  # what is true without the leak


@dataclass(frozen=True, kw_only=True)
class PortfolioMarket(KnownMarket):
    """M5: three correlated assets, box [0, 1] each, gross at most 1; drifts constant or moved by visible z_i."""

    cost: float = 0.0
    sigmas: tuple[float, ...] = (0.06, 0.08, 0.05)
    correlations: tuple[float, ...] = (0.6, 0.2, 0.3)  # pairs 12, 13, 23
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
        """What a bar's correlated noise multiplies the prices by (K, A), and the probabilities (K,)."""
        points, weights = normal_nodes(nodes)
        grid = np.stack(np.meshgrid(*[points] * self.assets_count, indexing="ij"), -1).reshape(-1, self.assets_count)
        probability = np.prod(np.stack(np.meshgrid(*[weights] * self.assets_count, indexing="ij"), -1), -1).ravel()
        return np.exp(grid @ self.covariance_root().T), probability

    def median_growth(self, state: FloatArray) -> FloatArray:
        """(N, A) what a bar without noise multiplies the prices by, given states (N, A)."""
        return np.exp(np.array(self.mus) + np.array(self.betas) * state - 0.5 * np.array(self.sigmas) ** 2)


def _registry() -> dict[str, KnownMarket]:
    m2, m4 = Predictable(name="M2"), VolatilityRegimes(name="M4")
    realistic: dict[str, Any] = {"sigmas": (0.004, 0.016), "mus": (1.92e-4, 1.92e-4), "risk_aversion": 12.5}
    every: list[KnownMarket] = [
        ConstantEdge(name="M1", cost=0.0),
        ConstantEdge(name="M1c"),
        m2,
        Predictable(name="M2h", beta=0.0025, phi=0.9, cost=0.003),
        HiddenRegime(name="M3"),
        HiddenRegime(name="M3z", cost=0.0, account_visible=False),
        m4,
        VolatilityRegimes(name="M4b", mus=(0.002, 0.008)),
        VolatilityRegimes(name="M4r", cost=1.2e-4, **realistic),
        VolatilityRegimes(name="M4r-costly", cost=0.0015, **realistic),
        PortfolioMarket(name="M5"),
        PortfolioMarket(name="M5-corner", mus=(0.00205, 0.00145, 0.00099)),
        PortfolioMarket(name="M5c", mus=(0.00285, 0.00459, 0.00429)),
        PortfolioMarket(name="M5b", betas=(0.0012, 0.0016, 0.0010)),
        Predictable(name="M6", sigma=0.02, mu=0.0, beta=0.0),
        Trap(name="M7"),
        replace(m2, name="M2-shuffled", shuffled=True),
        replace(m4, name="M4-shuffled", shuffled=True),
    ]
    return {market.name: market for market in every}


MARKETS = _registry()
_NUMBERS = ("float", "float | None", "tuple[float, float]", "tuple[float, ...]")  # the types that a name can set
_RANGES = {  # what a bar of a market may do; beyond them a grid of states or exposures no longer holds the optimum
    "cost": (0.0, 0.1),
    "risk_aversion": (1.0, 1000.0),
    "jump": (1e-3, 0.99),
    "up": (0.0, 1.0),
    "sigma": (1e-3, 1.0),
    "sigmas": (1e-3, 1.0),
    "mu": (-0.1, 0.1),
    "mus": (-0.1, 0.1),
    "beta": (-0.1, 0.1),
    "betas": (-0.1, 0.1),
    "drift": (0.0, 0.1),
    "switch": (1e-5, 1.0),
    "phi": (0.0, 0.9999),
    "rho": (-1.0, 1.0),
    "correlations": (-0.99, 0.99),
}


def market_named(name: str) -> KnownMarket:
    """A market of the table, or one with other numbers: "M2:sigma=0.04,cost=0.001", "M4:sigmas=0.06:0.15".

    Raises:
        ConfigError: no such market, or a number that it does not have or cannot take.
    """
    known, _, settings = name.partition(":")
    if known not in MARKETS:
        raise ConfigError(f"no market {known!r}", f"one of {', '.join(MARKETS)}")
    market = MARKETS[known]
    if ":" not in name:
        return market
    return replace(market, name=name, **dict(_setting(market, part) for part in settings.split(",")))


def _setting(market: KnownMarket, text: str) -> tuple[str, Any]:
    """One number of a market, or one tuple of them, from `field=value` or `field=value:value`."""
    numbers = {f.name: getattr(market, f.name) for f in fields(market) if f.type in _NUMBERS}
    name, _, value = text.partition("=")
    if name not in numbers:
        raise ConfigError(f"{text!r} of {market.name}", f"one of {', '.join(numbers)}, as field=number")
    try:
        found = tuple(float(part) for part in value.split(":"))
    except ValueError as error:
        raise ConfigError(f"{text!r} of {market.name}", "numbers, several as 0.05:0.20") from error
    length = len(numbers[name]) if isinstance(numbers[name], tuple) else 1
    low, high = _RANGES[name]
    if len(found) != length or not all(low <= part <= high for part in found):
        raise ConfigError(f"{text!r} of {market.name}", f"{length} number(s) from {low:g} to {high:g}")
    return name, found if isinstance(numbers[name], tuple) else found[0]
