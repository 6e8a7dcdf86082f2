"""What a bar of Layer 2 and of the market says about the drift beyond the prior: scores, nonlinear forms, evidence.

    raw columns -> standard normal scores z -> linear and nonlinear columns -> D_t, a drift in slow volatilities a bar

Fitted in training/beliefs.py; numpy only, so that server, backtest and training read the same number.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np

from himari_rl.features import contract
from himari_rl.policy.manifest_part import ManifestPart
from himari_rl.schema import FloatArray

STEP = 1.625  # where a step stands whose border is not told, in standard deviations; one on either side
PLACES = tuple(round(0.85 + 0.025 * k, 3) for k in range(59))  # where a border may lie: from the outer 20 % to 1 %
HINGES = (0.842, 1.645)
TINY = 1e-12
MOST_LOG_VARIANCE = 3.0  # h beyond the training rows is not extrapolated without end


class RawColumns(NamedTuple):
    """What the evidence looks at, raw: one row a bar."""

    continuous: FloatArray  # (T, 6) confidence, cascade risk, momenta and volatility over the slow one, its logarithm;
    # and own features: (T, 6 + K), or with a side (T, 6 + 2 K), along it as well
    discrete: FloatArray  # (T, 5) HOLD and the four tiers
    side: FloatArray | None  # (T,) +1 or -1 where shorts are allowed

    def every(self, step: int) -> RawColumns:
        """Every `step`-th bar."""
        side = None if self.side is None else self.side[::step]
        return RawColumns(self.continuous[::step], self.discrete[::step], side)


CONTINUOUS = ("confidence", "cascade_risk", "momentum_1h / s", "momentum_4h / s", "log(volatility / s)", "log s")
DISCRETE = ("hold", "tier_1", "tier_2", "tier_3", "tier_4")


def continuous_columns(own: int, shorts: bool) -> int:
    """How many continuous columns the evidence looks at, of an asset with `own` features."""
    return len(CONTINUOUS) + own * (2 if shorts else 1)


def seen(
    rows: FloatArray, slow: FloatArray, side: FloatArray | None = None, own: FloatArray | None = None
) -> RawColumns:
    """The raw columns of market rows (T, 16) of one asset.

    Args:
        slow: (T,) slow volatility, positive.
        side: (T,) direction of the base position, given where shorts are allowed: momenta then count along it.
        own: (T, K) its own features, which may say where the price goes or how good a signal is: where shorts are
            allowed they count along the side as well as by themselves.
    """
    told = [] if own is None or not own.shape[1] else [own] if side is None else [own, own * side[:, None]]
    table = contract.ASSET_FEATURES
    along = 1.0 if side is None else side
    volatility = rows[:, contract.VOLATILITY] * contract.VOLATILITY_SCALE
    scale = np.maximum(slow, TINY)
    return RawColumns(
        continuous=np.column_stack(
            [
                rows[:, contract.CONFIDENCE],
                rows[:, contract.CASCADE_RISK],
                rows[:, contract.MOMENTUM_1H] * table[contract.MOMENTUM_1H].full_scale / scale * along,
                rows[:, contract.MOMENTUM_4H] * table[contract.MOMENTUM_4H].full_scale / scale * along,
                np.log(np.maximum(volatility, TINY) / scale),
                np.log(scale),
                *told,
            ]
        ),
        discrete=np.column_stack([rows[:, contract.ACTION_HOLD], rows[:, contract.TIER]]),
        side=side,
    )


class Scores(ManifestPart):
    """Standardised columns of what is seen: rank-normal scores by knots, two-valued columns as they are.

    Beyond the outermost knot a score stays at it: what was never seen is not extrapolated. An edge has a border, and
    where it lies the bars tell with an error, so a step is the mean over its posterior: at each of PLACES, how sure it
    is that the border lies before it.
    """

    knots: tuple[tuple[float, ...], ...]  # of each continuous column; empty where it takes two values or fewer
    levels: tuple[tuple[float, ...], ...]  # normal scores of those knots
    centre: tuple[float, ...]  # of the two-valued continuous columns, then of the discrete ones
    scale: tuple[float, ...]
    borders: tuple[tuple[float, ...], ...] = ()  # of each step in its order; empty: a sharp one at STEP

    @property
    def continuous(self) -> int:
        """How many of the columns are continuous: six, and those of own features."""
        return len(self.knots)

    def linear(self, raw: RawColumns) -> FloatArray:
        """(T, 11 or more) scores."""
        columns = []
        for j, column in enumerate([*raw.continuous.T, *raw.discrete.T]):
            if j < len(self.knots) and self.knots[j]:
                columns.append(np.interp(column, self.knots[j], self.levels[j]))
            else:
                columns.append((column - self.centre[j]) / self.scale[j])
        return np.column_stack(columns)

    def bent(self, linear: FloatArray) -> FloatArray:
        """(T, 57 or more) nonlinear columns of the continuous scores: steps, hinges, squares, products."""
        count = self.continuous
        z = linear[:, :count]  # all of them at once: a served answer has one row, and calls are what it costs
        steps = np.concatenate([z > STEP, -z > STEP], axis=1, dtype=np.float64)
        for j, levels in enumerate(self.borders):
            if levels:
                steps[:, j] = bent_forms(count)[j].column(z, levels)
        hinges = [np.maximum(sign * z - at, 0.0) for at in HINGES for sign in (1.0, -1.0)]
        first, second = _pairs(count)
        return np.concatenate([steps, *hinges, z * z, z[:, first] * z[:, second]], axis=1, dtype=np.float64)


class Form(NamedTuple):
    """One nonlinear column: 1 beyond a border, how far beyond a point, or the product of two scores."""

    kind: Literal["step", "hinge", "product"]
    first: int  # which of the continuous columns
    second: int = 0
    sign: float = 1.0
    at: float = 0.0

    def column(self, z: FloatArray, levels: Sequence[float] = ()) -> FloatArray:
        """(T,) of scores (T, 6 or more).

        Args:
            levels: of a step, how sure its border lies before each of PLACES.
        """
        if self.kind == "product":
            return np.asarray(z[:, self.first] * z[:, self.second])
        along = self.sign * z[:, self.first]
        if self.kind == "hinge":
            return np.asarray(np.maximum(along - self.at, 0.0))
        return np.asarray(np.interp(along, PLACES, levels) if levels else (along > self.at).astype(np.float64))

    @property
    def name(self) -> str:
        first, second = _column_name(self.first), _column_name(self.second)
        if self.kind == "product":
            return f"({first})^2" if self.first == self.second else f"({first}) x ({second})"
        if self.kind == "step":
            return f"{first} {'above' if self.sign > 0 else 'below'} its border"
        return f"hinge of {first} at {self.sign * self.at:+g}"


def _column_name(column: int) -> str:
    return CONTINUOUS[column] if column < len(CONTINUOUS) else f"own feature {column - len(CONTINUOUS) + 1}"


@cache
def _pairs(count: int) -> tuple[list[int], list[int]]:
    """First and second score of each product of two of so many."""
    every = list(combinations(range(count), 2))
    return [first for first, _ in every], [second for _, second in every]


@cache
def bent_forms(count: int = len(CONTINUOUS)) -> tuple[Form, ...]:
    """The nonlinear columns of so many continuous ones in their order, one by one; `Scores.bent` makes all of them."""
    every = range(count)
    forms = [Form("step", j, sign=sign, at=STEP) for sign in (1.0, -1.0) for j in every]
    forms += [Form("hinge", j, sign=sign, at=at) for at in HINGES for sign in (1.0, -1.0) for j in every]
    forms += [Form("product", j, j) for j in every]
    return (*forms, *(Form("product", i, j) for i, j in zip(*_pairs(count), strict=True)))


class Evidence(ManifestPart):
    """What the training rows say about the drift beyond the prior; travels in the bundle.

    D_t = (c_0 h_t + c' phi_t) deviation    drift a bar = d_t (P_t + s_t D_t)
    h_t = exp(gamma_0 + gamma' z_t)         E[R^2] / s^2 as the state tells it: the shape of the prior, P_t ~ h_t s_t
    """

    scores: Scores
    bent_centre: tuple[float, ...]
    bent_scale: tuple[float, ...]  # 0 where the column has no spread on the training rows
    coefficients: tuple[float, ...]  # (prior's shape), 1, (side), linear, bent
    deviation: float
    doubt: float  # 1 - g_0: how much of the evidence on the prior itself is still doubted
    variance: tuple[float, ...] = ()  # gamma of h: constant, linear; none is h = 1 and no column of it

    def design(self, raw: RawColumns) -> FloatArray:
        """(T, K) (prior's shape), 1, (side), linear and bent columns."""
        linear = self.scores.linear(raw)
        bent = self.scores.bent(linear)
        standardise(bent, np.array(self.bent_centre), np.array(self.bent_scale))
        return design(linear, raw.side, bent, self.variance)

    def drift(self, raw: RawColumns) -> FloatArray:
        """(T,) D_t in units of the slow volatility a bar, along the base position's side."""
        linear, known = self.scores.linear(raw), np.array(self.coefficients)
        believed = np.zeros(len(linear))
        if self.variance:
            believed, known = known[0] * relative_variance(linear, self.variance), known[1:]
        bent = known[-len(bent_forms(self.scores.continuous)) :]
        believed += known[0] + linear @ known[-len(bent) - linear.shape[1] : -len(bent)]
        if raw.side is not None:
            believed += known[1] * raw.side
        if bent.any():  # most histories teach none of them, and they are most of the work
            scale = np.array(self.bent_scale)
            slope = bent / np.where(scale > 0.0, scale, np.inf)
            believed += self.scores.bent(linear) @ slope - np.array(self.bent_centre) @ slope
        return believed * self.deviation


def relative_variance(linear: FloatArray, gamma: Sequence[float]) -> FloatArray:
    """(T,) h = exp(gamma_0 + gamma' z) of linear scores (T, K), at most a factor of e^3 from 1; 1 without a gamma."""
    if not gamma:
        return np.ones(len(linear))
    told = gamma[0] + linear @ np.array(gamma[1:])
    return np.asarray(np.exp(np.clip(told, -MOST_LOG_VARIANCE, MOST_LOG_VARIANCE)))


def standardise(bent: FloatArray, centre: FloatArray, scale: FloatArray) -> None:
    """Writes over bent columns what they are less their mean in deviations: of minutes they are a gigabyte. 0 where a
    column had no spread on the training rows."""
    even = scale <= 0.0
    bent -= centre
    bent /= np.where(even, 1.0, scale)
    bent[:, even] = 0.0


def design(linear: FloatArray, side: FloatArray | None, bent: FloatArray, variance: Sequence[float]) -> FloatArray:
    """(T, K) columns in their order: (prior's shape), 1, (side), linear, bent."""
    shape = [relative_variance(linear, variance)] if variance else []
    return np.column_stack([*shape, np.ones(len(linear)), *([] if side is None else [side]), linear, bent])
