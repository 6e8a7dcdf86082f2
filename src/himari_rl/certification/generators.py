"""The generators of one asset at 5 to 20 % a bar: M1 to M4, M6 and the trap M7."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from himari_rl.certification.law import (
    KnownMarket,
    Paths,
    as_many,
    autoregressive,
    lognormal_law,
    switching,
)
from himari_rl.errors import ConfigError
from himari_rl.schema import FloatArray


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
    """M4: visible regimes, from calm to wild, each with its own volatility and drift; a switch leads to a neighbour.

    Two or more of them: `sigmas` says how many, and one drift stands for all.
    """

    sigmas: tuple[float, ...] = (0.05, 0.20)
    mus: tuple[float, ...] = (0.0024, 0.0024)
    switch: float = 0.02
    """Chance a bar to leave the regime."""
    shows: ClassVar[str] = "cascade_risk"

    def __post_init__(self) -> None:
        if len(self.sigmas) < 2:
            raise ConfigError(f"{len(self.sigmas)} regime of {self.name}", "two or more sigmas, as 0.05:0.10:0.20")
        object.__setattr__(self, "mus", as_many(self, "mus", len(self.sigmas)))

    @property
    def regimes(self) -> FloatArray:
        """(S,) what is visible in each regime: 0 in the first, 1 in the last, evenly between."""
        return np.linspace(0.0, 1.0, len(self.sigmas))

    def draw(self, paths: int, rows: int, rng: np.random.Generator) -> Paths:
        which = switching(paths, rows, self.switch, rng, len(self.sigmas))
        mu, sigma = np.take(self.mus, which), np.take(self.sigmas, which)
        returns = np.expm1(mu - 0.5 * sigma**2 + sigma * rng.standard_normal((paths, rows)))
        regime = self.regimes[which]
        return Paths(regime[..., None], regime[..., None], returns[..., None])

    def law(self, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        which = np.rint(state[:, 0] * (len(self.sigmas) - 1)).astype(np.int64)
        return lognormal_law(np.take(self.mus, which), np.take(self.sigmas, which))

    def transition(self) -> FloatArray:
        """(S, S) chances from one bar to the next."""
        count = len(self.sigmas)
        beside = np.eye(count, k=1) + np.eye(count, k=-1)
        return np.asarray(
            (1.0 - self.switch) * np.eye(count) + self.switch * beside / beside.sum(axis=1, keepdims=True)
        )


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
