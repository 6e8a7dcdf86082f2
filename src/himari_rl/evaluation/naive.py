"""Naive policies of the known-optimum markets."""

from __future__ import annotations

from collections.abc import Callable

from himari_rl.data.known_optimum.markets import KnownMarket, Paths
from himari_rl.evaluation.grading import Chooser, constant


def naive_policies(market: KnownMarket) -> dict[str, Callable[[Paths], Chooser]]:
    """By name, what each chooses on given paths."""
    return {"multiplier 1.0": lambda paths: constant(0.5, market)}
