"""`python -m himari_rl.certification`: solves every market and prints the optima, as docs/known_optimum.md does.

Turnover and the shares of agents and naive policies are measured by `himari certify`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from himari_rl.certification.generators import HiddenRegime, Predictable, Trap, VolatilityRegimes
from himari_rl.certification.hourly import HiddenVolatility, RareEdge, TailEdge
from himari_rl.certification.law import KnownMarket, normal_nodes
from himari_rl.certification.markets import MARKETS, market_named
from himari_rl.certification.portfolios import MOST_MULTIPLIED, PortfolioMarket, symmetric_nodes
from himari_rl.certification.solvers.belief import myopic
from himari_rl.certification.solvers.optimum import optimal_band, solution, without_edge
from himari_rl.certification.solvers.portfolio import growth_of, optimal_weights
from himari_rl.schema import FloatArray


def optimum_line(market: KnownMarket) -> tuple[float, str]:
    """The optimum per bar (times the risk aversion, where there is one) and the policy that earns it, in words."""
    if isinstance(market, PortfolioMarket):
        states, chances = visible_drifts(market)
        weights = optimal_weights(market, states, nodes=5, steps=400)
        listed = " ".join(f"{w:.4f}" for w in weights[len(weights) // 2])
        where = "w at z=0" if any(market.betas) else "w"
        return float(chances @ growth_of(market, states, weights)), f"{where} = {listed}"
    best = solution(market)
    growth = 0.0 if without_edge(market) else best.growth * (market.risk_aversion or 1.0)
    if isinstance(market, HiddenRegime) and market.cost == 0.0:
        beliefs = np.array([0.4, 0.5, 0.6])
        chosen = myopic(market, beliefs)
        return growth, "  ".join(f"p={p:g} {w:.3f}" for p, w in zip(beliefs, chosen, strict=True))
    shown, symbol = {
        Predictable: ([-1.0, 0.0, 1.0], "z"),
        HiddenRegime: ([0.4, 0.5, 0.6], "p"),
        HiddenVolatility: ([0.01, 0.5, 0.99], "p"),
        RareEdge: ([0.0, 1.0], "edge"),
        TailEdge: ([0.0, 1.5, 2.0], "z"),
    }.get(type(market), ([0.0], ""))
    if isinstance(market, VolatilityRegimes):
        shown, symbol = market.regimes.tolist(), "regime"
    low, high = optimal_band(market, np.array(shown))
    edges = zip(shown, low, high, strict=True)
    return growth, "  ".join((f"{symbol}={x:g} " if symbol else "") + f"[{a:.3f}, {b:.3f}]" for x, a, b in edges)


def visible_drifts(market: PortfolioMarket, nodes: int = 9) -> tuple[FloatArray, FloatArray]:
    """States z (N, A) and their probabilities (N,): one of them, at 0, where the drifts do not move."""
    if not any(market.betas):
        return np.zeros((1, market.assets_count)), np.ones(1)
    if market.assets_count > MOST_MULTIPLIED:
        return symmetric_nodes(market.assets_count)
    points, weights = normal_nodes(nodes)
    axes = [points] * market.assets_count, [weights] * market.assets_count
    states, chances = (
        np.stack(np.meshgrid(*axis, indexing="ij"), -1).reshape(-1, market.assets_count) for axis in axes
    )
    return states, chances.prod(-1)


def main(names: Sequence[str] = ()) -> None:
    """Prints the optimum of each market and the policy that earns it."""
    table = Table("market", "x1e-4 a bar", "optimal exposure: a number, or the edges of a no-trade band", box=None)
    table.columns[1].justify = "right"
    for name in names or MARKETS:
        market = market_named(name)
        if isinstance(market, Trap) or market.shuffled:
            continue  # nothing to know: stand aside, or the best that needs no x
        if isinstance(market, RareEdge) and market.place != RareEdge.place:
            continue  # shown elsewhere, worth the same
        growth, policy = optimum_line(market)
        table.add_row(name, f"{growth * 1e4:.4f}", escape(policy))
    Console(width=112).print(table)


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="MARKET", help="all of them by default")
    main(parser.parse_args().names)
