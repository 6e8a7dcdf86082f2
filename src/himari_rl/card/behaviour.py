"""What the policy that ships does: its multiplier by feature, and by what is held (the no-trade band).

Partial dependence (Friedman 2001): one feature of many recorded states is set to a value, the others stay; the mean
answer is drawn, beside the middle 80 % of the answers. A policy with memory is asked from an empty one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from himari_rl.features.contract import (
    ACTION,
    ASSET_FEATURES,
    POSITION_SIDE,
    POSITION_SIZE,
    TIER,
    WIDTH,
    state_dim,
)
from himari_rl.policy.protocol import DecidesBatch
from himari_rl.schema import MAX_MULTIPLIER, FloatArray

STATES = 120  # recorded states that are varied
POINTS = 15  # values of a feature that is a number
HELD = 21  # positions of the band's curve
MIDDLE = (10.0, 90.0)  # per cent of the answers
FLAT = 1e-9  # a feature that varies less is constant
GROUPS = {"Layer 2 says": (ACTION, ("SELL", "HOLD", "BUY")), "tier": (TIER, ("T1", "T2", "T3", "T4"))}


@dataclass(frozen=True, kw_only=True)
class Dependence:
    """The multiplier over the values of one feature."""

    name: str
    x: tuple[float, ...]
    labels: tuple[str, ...]
    """Of the values, where these are names and not numbers."""
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def reach(self) -> float:
        """How far the mean answer moves over the feature's values."""
        return max(self.mean) - min(self.mean)


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What is drawn of a policy."""

    features: tuple[Dependence, ...]
    """The one that moves the answer most first; features that are constant in the states are not among them."""
    constant: tuple[str, ...]
    held: Dependence
    """Wanted multiple of the base position over the one that is held, on states with a side to hold."""
    band: tuple[float, float]
    """Mean lower and upper edge of what is left alone: wanted from nothing, and from the most that may be held."""
    states: int


def behaviour(policy: DecidesBatch, states: FloatArray, assets: int, own: Sequence[str] = ()) -> Behaviour | None:
    """Asks a policy about recorded states (N, F); None where there are too few to say anything.

    Args:
        own: names of features that stand after the contract's own columns, each asset's in turn.
    """
    if len(states) < 2:
        return None
    pick = np.unique(np.linspace(0, len(states) - 1, min(len(states), STATES)).round().astype(int))
    some = np.asarray(states, float)[pick]
    found, constant = [], []
    for name, (columns, labels) in GROUPS.items():
        choices = np.eye(len(labels))
        found.append(_asked(policy, some, assets, name, columns, choices, labels))
    for column, feature in enumerate(ASSET_FEATURES):
        grouped = any(columns.start <= column < columns.stop for columns, _ in GROUPS.values())
        if grouped or column in (POSITION_SIZE, POSITION_SIDE):
            continue
        seen = np.concatenate([some[:, column + WIDTH * i] for i in range(assets)])
        grid = _grid(seen)
        if grid is None:
            constant.append(feature.name)
        else:
            one = slice(column, column + 1)
            found.append(_asked(policy, some, assets, feature.name, one, grid[:, None]))
    for k, name in enumerate(own, start=state_dim(assets)):
        grid = _grid(np.concatenate([some[:, k + len(own) * i] for i in range(assets)]))
        if grid is None:
            constant.append(name)
        else:
            found.append(_asked(policy, some, assets, name, slice(k, k + 1), grid[:, None], stride=len(own)))
    held = _held(policy, some, assets)
    return Behaviour(
        features=tuple(sorted(found, key=lambda each: -each.reach)),
        constant=tuple(constant),
        held=held,
        band=(held.mean[0], held.mean[-1]),
        states=len(some),
    )


def _grid(seen: FloatArray) -> FloatArray | None:
    """From the 1st to the 99th percentile of what was seen; from end to end where that is one value."""
    low, high = np.percentile(seen, (1.0, 99.0))
    if high - low <= FLAT:
        low, high = seen.min(), seen.max()
    return np.linspace(low, high, POINTS) if high - low > FLAT else None


def _asked(
    policy: DecidesBatch,
    some: FloatArray,
    assets: int,
    name: str,
    columns: slice,
    values: FloatArray,
    labels: Sequence[str] = (),
    *,
    stride: int = WIDTH,
) -> Dependence:
    """The answer over `values` (G, columns), each asset's own in turn and then all of them together.

    Args:
        stride: from an asset's columns to those of the next one.
    """
    answers = []
    for i in range(assets):
        block = slice(columns.start + stride * i, columns.stop + stride * i)
        varied = np.repeat(some[None], len(values), axis=0)  # (G, N, F)
        varied[:, :, block] = values[:, None]
        answers.append(_multipliers(policy, varied)[..., i])
    return _dependence(
        name, values[:, 0] if not labels else np.arange(len(labels), dtype=float), labels, np.hstack(answers)
    )


def _held(policy: DecidesBatch, some: FloatArray, assets: int) -> Dependence:
    """Wanted over held, both as multiples of the base position, on the side that Layer 2 has."""
    grid = np.linspace(0.0, MAX_MULTIPLIER, HELD)
    answers = []
    for i in range(assets):
        sell, hold, buy = (some[:, ACTION.start + WIDTH * i + k] for k in range(3))
        side = np.where(buy > sell, 1.0, np.where(sell > 0.5, -1.0, some[:, POSITION_SIDE + WIDTH * i]))
        rows = some[(buy > 0.5) | ((hold > 0.5) & (side > 0.0))]
        rows = rows if len(rows) else some
        varied = np.repeat(rows[None], len(grid), axis=0)
        varied[:, :, POSITION_SIZE + WIDTH * i] = grid[:, None] / MAX_MULTIPLIER
        varied[:, :, POSITION_SIDE + WIDTH * i] = np.sign(grid)[:, None]
        answers.append(_multipliers(policy, varied)[..., i])
    return _dependence("held", grid, (), np.hstack(answers))


def _multipliers(policy: DecidesBatch, varied: FloatArray) -> FloatArray:
    """(G, N, A) answers to states (G, N, F)."""
    count, states, width = varied.shape
    answers, _ = policy.decide_batch(varied.reshape(count * states, width))
    return np.asarray(answers, float).reshape(count, states, -1)


def _dependence(name: str, x: FloatArray, labels: Sequence[str], answers: FloatArray) -> Dependence:
    low, high = np.percentile(answers, MIDDLE, axis=1)
    parts = {"mean": answers.mean(axis=1), "low": low, "high": high}
    return Dependence(
        name=name,
        x=tuple(x.tolist()),
        labels=tuple(labels),
        **{key: tuple(values.tolist()) for key, values in parts.items()},
    )
