"""Grading on a market with a known law: never by realised returns, never by a Sharpe ratio.

Every policy walks the same simulated paths; what it is graded by is the conditional expectation of each bar's
objective, given what is true at that bar, by quadrature. share = (g_policy - g_zero) / (g_optimum - g_zero).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from himari_rl.certification.law import KnownMarket, Paths
from himari_rl.certification.observe import state_rows
from himari_rl.certification.solvers.optimum import optimal_policy
from himari_rl.errors import LookAheadError
from himari_rl.features.encoder import write_account
from himari_rl.policy.ledger import drift, fill, grow
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.policy.protocol import DecidesBatch
from himari_rl.policy.risk import limited_exposure
from himari_rl.schema import MAX_MULTIPLIER, FloatArray

MAX_POSITION_PCT = LedgerConfig().max_position_pct
CHAINS, ROWS, BURN_IN = 1000, 200, 100
IMPOSSIBLE = 1.01
EVERY = 20  # rows, between the states that the best constant is chosen on
SHIFTS = np.linspace(-0.1, 0.1, 11)  # from it, where a blind band is looked for
BLIND_HALVES = (0.0, 0.02, 0.05, 0.1, 0.2)

Chooser = Callable[[int, FloatArray], FloatArray]  # (row, held (N, A)) -> wanted exposure (N, A)


@dataclass(frozen=True)
class Walk:
    """What one policy did on the graded rows of every chain."""

    growth: FloatArray  # (N,) mean objective per bar of each chain
    turnover: float  # mean sum |dw| per bar
    exposure: float  # mean gross exposure
    gross_max: float
    weights: FloatArray  # (A,) mean exposure per asset


@dataclass(frozen=True)
class Grade:
    """A policy against the optimum and against the best constant, on the same paths."""

    market: str
    share: float
    share_error: float  # standard error over chains, paired
    share_over_constant: float
    over_constant_error: float
    growth: float
    optimum: float
    turnover: float
    optimal_turnover: float
    exposure: float
    gross_max: float
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Reference:
    """The paths of one grading and what the yardsticks earn on them."""

    market: KnownMarket
    paths: Paths
    burn_in: int
    optimum: Walk
    zero: Walk
    constant: Walk


def walk(market: KnownMarket, paths: Paths, choose: Chooser, burn_in: int) -> Walk:
    """Plays a policy on every chain and grades rows from `burn_in` on under the known law."""
    count, rows, assets = paths.returns.shape
    held = np.zeros((count, assets))
    tradable = np.ones((count, assets), bool)
    total, traded, gross, top, weights = np.zeros(count), 0.0, 0.0, 0.0, np.zeros(assets)
    for t in range(rows):
        exposure, cost = fill(held, choose(t, held), tradable, market.cost)
        if t >= burn_in:
            total += expected(market, paths.state[:, t], exposure, cost)
            traded += float(np.abs(exposure - held).sum(-1).mean())
            size = np.abs(exposure).sum(-1)
            gross, top = gross + float(size.mean()), max(top, float(size.max()))
            weights += exposure.mean(0)
        returns = paths.returns[:, t]
        held = drift(exposure, returns, grow(exposure, cost, returns))
    graded = rows - burn_in
    return Walk(total / graded, traded / graded, gross / graded, top, weights / graded)


def expected(market: KnownMarket, state: FloatArray, exposure: FloatArray, cost: FloatArray) -> FloatArray:
    """(N,) conditional expectation of one bar's objective, given the true state (N, S)."""
    earned, probabilities = market.earned(state, exposure)
    if market.risk_aversion is None:
        return np.asarray((np.log1p(earned - cost[:, None]) * probabilities).sum(-1))
    mean = (earned * probabilities).sum(-1)
    variance = ((earned - mean[:, None]) ** 2 * probabilities).sum(-1)
    return np.asarray(mean - cost - 0.5 * market.risk_aversion * variance)


@lru_cache(maxsize=64)
def reference(
    market: KnownMarket, seed: int, chains: int = CHAINS, rows: int = ROWS, burn_in: int = BURN_IN
) -> Reference:
    """Fresh paths, and the optimum, zero and the best constant on them; shared by all graded with this seed."""
    paths = market.simulate(chains, burn_in + rows, np.random.default_rng([seed, 7]))
    optimum = walk(market, paths, optimal_policy(market, paths), burn_in)
    zero = walk(market, paths, lambda t, held: np.zeros_like(held), burn_in)
    few = Paths(paths.x[:200], paths.state[:200], paths.returns[:200])
    start = best_constant(market, paths, burn_in)
    centres, halves = (np.clip(start + SHIFTS, 0.0, 1.0), BLIND_HALVES) if market.shuffled else ([start], (0.0,))
    blind = {(float(c), h): blind_band(c, h, market) for c in centres for h in halves}
    walks = {edges: walk(market, few, choose, burn_in) for edges, choose in blind.items()}
    best = max(walks, key=lambda edges: float(walks[edges].growth.mean()))
    return Reference(market, paths, burn_in, optimum, zero, walk(market, paths, blind[best], burn_in))


def blind_band(centre: float, half: float, market: KnownMarket) -> Chooser:
    """Keeps the exposure within `half` of `centre` and looks at nothing else.

    Where x says nothing (shuffled markets) this, not the constant, is the best that can be done: a constant pays for
    rebalancing every bar, and an honest net that learned not to would seem to know something.
    """
    if half == 0.0:
        return constant(centre, market)
    return lambda t, held: np.clip(held, centre - half, centre + half)


def constant(exposure: float, market: KnownMarket) -> Chooser:
    """Rebalances every bar to the same gross exposure, split evenly."""
    each = exposure / market.assets_count
    return lambda t, held: np.full_like(held, each)


def best_constant(market: KnownMarket, paths: Paths, burn_in: int = 0) -> float:
    """The gross exposure, split evenly, that earns most on these paths when it is restored every bar.

    What is restored is the drift of one bar, which has the law of a single return: no path needs to be walked.
    """
    state = paths.state[:, burn_in::EVERY].reshape(-1, paths.state.shape[-1])
    outcomes, probabilities = market.law(state)

    def loss(gross: float) -> float:
        each = gross / market.assets_count
        grown = 1.0 + each * outcomes.sum(-1, keepdims=True)
        away = np.abs(each * (1.0 + outcomes) / grown - each).sum(-1)
        cost = market.cost * (away * probabilities).sum(-1)
        return -float(expected(market, state, np.full((len(state), market.assets_count), each), cost).mean())

    inner = float(minimize_scalar(loss, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-4}).x)
    return min((0.0, inner, 1.0), key=loss)


def policy_chooser(market: KnownMarket, paths: Paths, policy: DecidesBatch, max_leverage: float = 1.0) -> Chooser:
    """A bundle seen through the encoder's contract and the product's risk function."""
    base = np.full((1, paths.returns.shape[2]), MAX_POSITION_PCT)
    cap = np.full_like(base, MAX_MULTIPLIER)
    memory: Any = None

    def choose(t: int, held: FloatArray) -> FloatArray:
        nonlocal memory
        states = state_rows(market, paths, t)
        if market.account_visible:
            none = np.zeros_like(held)
            write_account(states, held, none, none + 0.5, MAX_POSITION_PCT)
        multipliers, memory = policy.decide_batch(states, memory)
        stopped = np.zeros(len(held), bool)
        return np.asarray(limited_exposure(multipliers, cap, base, stopped, max_leverage))

    return choose


def grade(market: KnownMarket, policy: DecidesBatch, seed: int, **size: int) -> Grade:
    """Grades a policy on fresh paths.

    Args:
        seed: of the paths; two policies graded with the same seed walk the same ones.
        size: chains, rows and burn_in, where the defaults are not enough.

    Raises:
        LookAheadError: a share above 1.01, which only a leak or mixed conventions can produce.
    """
    ref = reference(market, seed, **size)
    walked = walk(market, ref.paths, policy_chooser(market, ref.paths, policy), ref.burn_in)
    return compare(ref, walked)


def compare(ref: Reference, walked: Walk) -> Grade:
    """The shares of one walk."""
    share, error = ratio(walked.growth - ref.zero.growth, ref.optimum.growth - ref.zero.growth)
    over, over_error = ratio(walked.growth - ref.constant.growth, ref.optimum.growth - ref.constant.growth)
    if share > IMPOSSIBLE:
        raise LookAheadError(
            f"{ref.market.name}: share {share:.3f} of the optimum",
            f"at most {IMPOSSIBLE}",
            "this is a bug: the policy sees the future, or two conventions are mixed",
        )
    return Grade(
        market=ref.market.name,
        share=share,
        share_error=error,
        share_over_constant=over,
        over_constant_error=over_error,
        growth=float(walked.growth.mean()),
        optimum=float(ref.optimum.growth.mean()),
        turnover=walked.turnover,
        optimal_turnover=ref.optimum.turnover,
        exposure=walked.exposure,
        gross_max=walked.gross_max,
        weights=tuple(float(w) for w in walked.weights),
    )


def ratio(part: FloatArray, whole: FloatArray) -> tuple[float, float]:
    """Ratio of two paired means over chains and its standard error (delta method); 0 where nothing can be won."""
    bottom = float(whole.mean())
    if abs(bottom) < 1e-12:
        return 0.0, 0.0
    value = float(part.mean()) / bottom
    residual = part - value * whole
    return value, float(residual.std(ddof=1) / np.sqrt(len(part)) / abs(bottom))


def graded_naively(
    market: KnownMarket, seed: int, naive: Mapping[str, Callable[[Paths], Chooser]], **size: int
) -> dict[str, Grade]:
    """The naive policies of the table on the same paths, of the same `size`."""
    ref = reference(market, seed, **size)
    return {name: compare(ref, walk(market, ref.paths, make(ref.paths), ref.burn_in)) for name, make in naive.items()}
