"""One face over the solvers. Solutions are cached by the market's parameters, in memory and on disk."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from himari_rl.certification.generators import HiddenRegime, Predictable, Trap
from himari_rl.certification.hourly import HiddenVolatility
from himari_rl.certification.law import KnownMarket, Paths
from himari_rl.certification.portfolios import PortfolioMarket
from himari_rl.certification.solvers.belief import memoryless_exposure, myopic, solve_belief
from himari_rl.certification.solvers.dynamic import Solution, solve
from himari_rl.certification.solvers.portfolio import optimal_weights
from himari_rl.config import config_hash
from himari_rl.errors import RefusedError, StorageError
from himari_rl.evaluation.metrics import sharpe_ratio
from himari_rl.schema import FloatArray
from himari_rl.storage import read_bytes, write_atomic
from himari_rl.storage.sealed import sealed, unsealed

SOLVER = "5"  # part of the cache's key: raise it when a solver changes

Chooser = Callable[[int, FloatArray], FloatArray]


def cache_folder() -> Path:
    """HIMARI_CACHE_DIR, or ~/.cache/himari_rl."""
    return Path(os.environ.get("HIMARI_CACHE_DIR", Path.home() / ".cache" / "himari_rl")) / "known_optimum"


@lru_cache(maxsize=64)
def solution(market: KnownMarket) -> Solution:
    """The optimal band of a market with one asset."""
    path = cache_path(market)
    # no file yet, or a damaged one: it is solved again
    with contextlib.suppress(StorageError), np.load(io.BytesIO(unsealed(read_bytes(path), str(path)))) as stored:
        return Solution(float(stored["growth"]), stored["states"], stored["low"], stored["high"])
    found = solve_belief(market) if isinstance(market, HiddenRegime | HiddenVolatility) else solve(market)
    buffer = io.BytesIO()
    np.savez(buffer, growth=found.growth, states=found.states, low=found.low, high=found.high)
    with contextlib.suppress(StorageError):  # without a cache the next process solves again: seconds, same answer
        write_atomic(path, sealed(buffer.getvalue()))
    return found


def cache_path(market: KnownMarket) -> Path:
    """Where a market's solution lies: a name of its own for every set of parameters and every solver."""
    return cache_folder() / f"{type(market).__name__}-{config_hash(market)}-{SOLVER}.solution"


def optimal_policy(market: KnownMarket, paths: Paths) -> Chooser:
    """(row, held (P, A)) -> optimal exposure (P, A) on these paths, given what truly drives them."""
    if isinstance(market, Trap):
        return lambda t, held: np.zeros_like(held)
    if isinstance(market, PortfolioMarket):
        shape = paths.state.shape
        if not any(market.betas):
            fixed = optimal_weights(market, np.zeros((1, shape[2])), nodes=9)
            return lambda t, held: np.broadcast_to(fixed, held.shape)
        every = np.empty(shape)
        for t in range(shape[1]):
            every[:, t] = optimal_weights(market, paths.state[:, t], nodes=4, steps=60)
        return lambda t, held: every[:, t]
    if isinstance(market, HiddenRegime) and market.cost == 0.0:
        exposure = myopic(market, paths.state)
        return lambda t, held: exposure[:, t]

    def choose(t: int, held: FloatArray) -> FloatArray:
        return np.clip(held, *optimal_band(market, paths.state[:, t]))

    return choose


def optimal_band(market: KnownMarket, state: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Edges of the optimal no-trade band, one asset, given what truly drives it."""
    if without_edge(market):
        return np.zeros_like(state), np.zeros_like(state)
    return solution(market).band(state)


def without_edge(market: KnownMarket) -> bool:
    """Whether there is nothing to earn, so that the claim is standing aside."""
    if isinstance(market, Predictable):
        return market.mu == 0.0 and market.beta == 0.0
    return isinstance(market, Trap) or (isinstance(market, HiddenVolatility) and market.mu == 0.0)


def memoryless_policy(market: HiddenRegime, paths: Paths) -> Chooser:
    """The exact best policy of the last return alone, which no net without memory can beat on M3z."""
    exposure = memoryless_exposure(market, paths.x)
    return lambda t, held: exposure[:, t]


def require_learnable(market: KnownMarket, bars: int, share: float = 0.99) -> None:
    """Refuses bars that cannot show `share` of the optimum: fewer than 1 / ((1 - share) SR^2), SR per bar.

    N bars leave about 1 / N of growth unlearned for each thing to learn, and the optimum itself is about SR^2 / 2: one
    per cent asks for 100 / SR^2 different bars, however often they are replayed. A market without an edge is exempt:
    there the claim is standing aside.

    Raises:
        RefusedError: naming the bars that would be needed.
    """
    if without_edge(market):
        return
    sharpe = optimal_sharpe(market)
    needed = 1.0 / ((1.0 - share) * sharpe**2) if sharpe > 0.0 else float("inf")
    if bars < needed:
        raise RefusedError(
            f"{market.name}: {bars:,} bars, and the optimum's Sharpe ratio is {sharpe:.4f} a bar",
            f"at least {1.0 / (1.0 - share):.0f} / SR^2 = {needed:,.0f} bars to learn {share:.0%} of it",
            "give more bars, or a market with a larger edge or less noise",
        )


@lru_cache(maxsize=64)
def optimal_sharpe(market: KnownMarket) -> float:
    """Per-bar Sharpe ratio of the costless return of the optimal policy, by simulation (a few per cent accurate)."""
    paths = market.simulate(
        *((100, 100) if isinstance(market, PortfolioMarket) else (400, 300)), np.random.default_rng(0)
    )
    choose = optimal_policy(market, paths)
    held = np.zeros_like(paths.returns[:, 0])
    earned, squared = 0.0, 0.0
    for t in range(paths.returns.shape[1]):
        held = choose(t, held)
        outcomes, probabilities = market.law(paths.state[:, t])
        portfolio = (outcomes * held[:, None, :]).sum(-1)
        earned += float((portfolio * probabilities).sum(-1).mean())
        squared += float((portfolio**2 * probabilities).sum(-1).mean())
    bars = paths.returns.shape[1]
    mean, square = earned / bars, squared / bars
    return float(sharpe_ratio(mean, max(np.sqrt(square - mean**2), 1e-12)))
