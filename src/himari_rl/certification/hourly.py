"""Markets of hourly size, shown as bars through all sixteen features and learned from one history of them.

    R1   an honest edge of .3 sigma in 5 % of the bars, the rest without drift: Layer 2 knows when
    R2   volatility timing: a constant drift in calm and wild weeks, which only the returns themselves tell apart
    L0   R2's weather without any drift: whatever Layer 2 says, it is worth nothing

What is graded is the utility of the product's own judge, mean - 7.7 / 2 variance (log growth charges one half of the
variance, mean_variance the rest), at the default 15 bp a side. Limits are off, as wherever an optimum is solved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

from himari_rl.certification.generators import VolatilityRegimes
from himari_rl.certification.law import NODES, KnownMarket, Paths, autoregressive, lognormal_law, switching
from himari_rl.errors import ConfigError
from himari_rl.schema import RISK_AVERSION, BoolArray, FloatArray

UTILITY = 1.0 + RISK_AVERSION
WORTHLESS = 0.97  # memory of a confidence that knows nothing
PLACES = ("top", "bottom", "ends")


@dataclass(frozen=True, kw_only=True)
class RareEdge(KnownMarket):
    """R1: a drift of `edge` sigma in a share of the bars, in visits of `length` bars; none elsewhere.

    Layer 2's confidence is uniform over time; during a visit it lies in the highest 5 % (or the lowest, or at either
    end), outside it does not: the exact place is what one history has to teach.
    """

    risk_aversion: float | None = UTILITY
    as_bars: bool = True
    sigma: float = 0.006
    edge: float = 0.3
    share: float = 0.05
    length: float = 10.0
    """Mean bars of a visit."""
    place: str = "top"

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise ConfigError(f"place {self.place!r} of {self.name}", f"one of {', '.join(PLACES)}")
        if self.transition()[0, 1] > 1.0:
            raise ConfigError(
                f"share {self.share:g} in visits of {self.length:g} bars of {self.name}",
                "a share of at most length / (1 + length)",
            )

    def draw(self, paths: int, rows: int, rng: np.random.Generator) -> Paths:
        chances = self.transition()
        uniform = rng.random((paths, rows))
        on = np.empty((paths, rows), bool)
        on[:, 0] = uniform[:, 0] < self.share
        for t in range(1, rows):
            on[:, t] = uniform[:, t] < np.where(on[:, t - 1], chances[1, 1], chances[0, 1])
        log_return = self.sigma * (self.edge * on - 0.5 * self.sigma + rng.standard_normal((paths, rows)))
        state = on.astype(np.float64)
        return Paths(self.score(on, rng)[..., None], state[..., None], np.expm1(log_return)[..., None])

    def score(self, on: BoolArray, rng: np.random.Generator) -> FloatArray:
        """Normal scores of a confidence that is uniform over all bars and tells exactly where the edge is."""
        place = np.where(on, 1.0 - self.share * rng.random(on.shape), (1.0 - self.share) * rng.random(on.shape))
        if self.place == "bottom":
            place = 1.0 - place
        elif self.place == "ends":  # the highest half of the edge stays, the other goes below everything else
            half = 0.5 * self.share
            low = place < 1.0 - half
            place = np.where(on & low, place - (1.0 - self.share), np.where(on, place, place + half))
        return np.asarray(ndtri(np.clip(place, 1e-9, 1.0 - 1e-9)))

    def law(self, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        return lognormal_law(self.edge * self.sigma * state[:, 0], np.full(len(state), self.sigma))

    def transition(self) -> FloatArray:
        """(2, 2) chances from one bar to the next, without the edge and with it."""
        leave = 1.0 / self.length
        enter = leave * self.share / (1.0 - self.share)
        return np.array([[1.0 - enter, enter], [leave, 1.0 - leave]])


@dataclass(frozen=True, kw_only=True)
class HiddenVolatility(KnownMarket):
    """R2: one drift, two volatilities that only the returns tell apart. `state` is the belief in the wild one.

    Layer 2's confidence has a memory and knows nothing. With mu = 0 it is L0, where there is nothing to know.
    """

    risk_aversion: float | None = UTILITY
    as_bars: bool = True
    sigmas: tuple[float, float] = (0.0036, 0.0120)  # .6 and 2.0 times .006
    mu: float = 1.7e-4
    switch: float = 1.0 / 336.0
    """Chance a bar to leave the regime: two weeks on average."""

    def draw(self, paths: int, rows: int, rng: np.random.Generator) -> Paths:
        sigma = np.take(self.sigmas, switching(paths, rows, self.switch, rng))
        log_returns = self.mu - 0.5 * sigma**2 + sigma * rng.standard_normal((paths, rows))
        belief = np.empty((paths, rows))
        belief[:, 0] = 0.5
        for t in range(1, rows):
            belief[:, t] = self.filtered(belief[:, t - 1], log_returns[:, t - 1])
        confidence = autoregressive(paths, rows, WORTHLESS, rng)
        return Paths(confidence[..., None], belief[..., None], np.expm1(log_returns)[..., None])

    def filtered(self, belief: FloatArray, log_return: FloatArray) -> FloatArray:
        """P(wild for the next bar) after one more return, from P(wild) before it: Bayes, then a chance of a switch."""
        calm, wild = self.sigmas
        surprise = [((log_return - self.mu) / s + 0.5 * s) ** 2 for s in (calm, wild)]
        evidence = np.log(calm / wild) + 0.5 * (surprise[0] - surprise[1])
        posterior = belief / (belief + (1.0 - belief) * np.exp(-evidence))
        return np.asarray(posterior * (1.0 - self.switch) + (1.0 - posterior) * self.switch)

    def law(self, state: FloatArray, nodes: int = NODES) -> tuple[FloatArray, FloatArray]:
        wild = state[:, 0]
        mu = np.full(len(wild), self.mu)
        calm, wild_law = (lognormal_law(mu, np.full(len(wild), s), nodes) for s in self.sigmas)
        probabilities = np.concatenate([calm[1] * (1.0 - wild[:, None]), wild_law[1] * wild[:, None]], axis=1)
        return np.concatenate([calm[0], wild_law[0]], axis=1), probabilities


@dataclass(frozen=True, kw_only=True)
class TailEdge(KnownMarket):
    """R1-tail: R1's edge where a visible AR(1) score lies in its highest 5 %; it comes and goes at the border."""

    risk_aversion: float | None = UTILITY
    as_bars: bool = True
    sigma: float = 0.006
    edge: float = 0.3
    share: float = 0.05
    phi: float = 0.97

    @property
    def border(self) -> float:
        """The score above which the edge is."""
        return float(ndtri(1.0 - self.share))

    def draw(self, paths: int, rows: int, rng: np.random.Generator) -> Paths:
        z = autoregressive(paths, rows, self.phi, rng)
        noise = rng.standard_normal((paths, rows))
        returns = np.expm1(self.sigma * (self.edge * (z > self.border) - 0.5 * self.sigma + noise))
        return Paths(z[..., None], z[..., None], returns[..., None])

    def law(self, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        drift = np.where(state[:, 0] > self.border, self.edge * self.sigma, 0.0)
        return lognormal_law(drift, np.full(len(state), self.sigma))


def visible_weather(name: str) -> VolatilityRegimes:
    """R2 with the regime to be seen, as M4's."""
    hidden = HiddenVolatility(name=name)
    return replace(
        VolatilityRegimes(name=name, sigmas=hidden.sigmas, mus=(hidden.mu,), switch=hidden.switch),
        cost=hidden.cost, risk_aversion=UTILITY, as_bars=True,
    )  # fmt: skip
