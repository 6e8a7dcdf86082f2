"""Naive policies of the known-optimum markets: what is earned without learning anything, or with one thing left out.

They see what an agent sees (x, the held position, the market's public parameters), never the paths' returns. A share
of the optimum says something only beside theirs: ignoring the cost already earns 91 % of M2, one line 81 % of M3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from himari_rl.certification.generators import HiddenRegime, Trap
from himari_rl.certification.grading import Chooser, best_constant, constant, expected
from himari_rl.certification.law import KnownMarket, Paths
from himari_rl.certification.portfolios import PortfolioMarket
from himari_rl.certification.solvers.belief import myopic
from himari_rl.certification.solvers.dynamic import refined
from himari_rl.certification.solvers.optimum import memoryless_policy
from himari_rl.certification.solvers.portfolio import growth_of, optimal_weights
from himari_rl.schema import FloatArray

ONE_LINE, MEMORYLESS = "one line, no memory but the position", "best without memory"
ONE_LINE_GAIN = 0.07
WINDOWS = (8, 24)
TABLE, EXPOSURES = 201, 201

Naive = Callable[[Paths], Chooser]


def naive_policies(market: KnownMarket) -> dict[str, Naive]:
    """By name, a function from paths to what the policy chooses on them: (row, held (P, A)) -> exposure (P, A)."""
    if isinstance(market, PortfolioMarket):
        return _portfolio_policies(market)
    found: dict[str, Naive] = {
        "multiplier 1.0": lambda paths: constant(0.5, market),
        "always 1": lambda paths: constant(1.0, market),
    }
    if isinstance(market, Trap):
        return found
    found["best constant"] = lambda paths: constant(best_constant(market, paths), market)
    found["half Kelly"] = partial(_scaled_kelly, market, 0.5)
    found["ignoring cost"] = partial(_scaled_kelly, market, 1.0)
    if isinstance(market, HiddenRegime) and market.account_visible:
        found[ONE_LINE] = _one_line
    elif isinstance(market, HiddenRegime):
        found[MEMORYLESS] = partial(memoryless_policy, market)
        for bars in WINDOWS:
            found[f"last {bars} bars"] = partial(_window, market, bars)
    return found


def kelly(market: KnownMarket, x: FloatArray) -> FloatArray:
    """(...) the exposure that maximises the next bar alone, trading being free, where the visible variable is x."""
    if isinstance(market, HiddenRegime):
        return myopic(market, x)  # x is a belief here
    states = np.linspace(x.min(), x.max(), TABLE) if np.ptp(x) > 0.0 else x.reshape(-1)[:1]
    grid = np.linspace(0.0, 1.0, EXPOSURES)
    free = np.zeros(len(states))
    growth = [expected(market, states[:, None], np.full((len(states), 1), w), free) for w in grid]
    return np.interp(x, states, refined(grid, np.stack(growth, axis=-1)))


def _scaled_kelly(market: KnownMarket, scale: float, paths: Paths) -> Chooser:
    seen = paths.state if isinstance(market, HiddenRegime) else paths.x
    every = scale * kelly(market, seen)
    return lambda t, held: every[:, t]


def _one_line(paths: Paths) -> Chooser:
    """w = clip(w_prev + .07 r / sigma): the position integrates the returns, so it is a memory."""
    return lambda t, held: np.clip(held + ONE_LINE_GAIN * paths.x[:, t], 0.0, 1.0)


def _window(market: HiddenRegime, bars: int, paths: Paths) -> Chooser:
    """The exact filter over the last few returns only, starting from the stationary belief of one half."""
    belief = np.full_like(paths.x, 0.5)
    rows = paths.x.shape[1]
    for lag in reversed(range(min(bars, rows - 1))):
        after = slice(lag + 1, None)  # the first row shows no return
        belief[:, after] = market.filtered(belief[:, after], paths.x[:, 1 : rows - lag] * market.sigma)
    every = myopic(market, belief)
    return lambda t, held: every[:, t]


def _portfolio_policies(market: PortfolioMarket) -> dict[str, Naive]:
    centre = np.zeros((1, market.assets_count))
    means, variances = np.array(market.mus), np.array(market.sigmas) ** 2
    alone = np.diag(np.clip(means / variances, 0.0, 1.0))
    single = alone[growth_of(market, np.repeat(centre, len(alone), axis=0), alone).argmax()]
    ignoring = means / variances / max(1.0, float((means / variances).sum()))  # scaled into the gross cap
    fixed = {"equal": np.full(len(means), 1.0 / len(means)), "best single": single, "ignoring correlation": ignoring}
    if any(market.betas):
        fixed["best constant"] = optimal_weights(market, centre)[0]
    return {name: partial(_always, weights) for name, weights in fixed.items()}


def _always(weights: FloatArray, paths: Paths) -> Chooser:
    return lambda t, held: np.broadcast_to(weights, held.shape)
