"""Beliefs at decision time: from a state, and one remembered number an asset, to what the network reads besides.

    memory of one asset      [s^2, (last direction), (h, c)]              s slow volatility a bar, (h, c) of a drift net
    of a portfolio           [s^2 (A), (last directions (A)), rho]        rho slow mean correlation of the pairs

A memory of zeros is none: the policy then expects its usual volatility, moved a little by the one at hand.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from himari_rl.features import contract
from himari_rl.policy.beliefs import (
    CORRELATION_HALF_LIFE,
    LARGEST_DRIFT,
    SLOW_HALF_LIFE,
    SMALLEST_DRIFT,
    STATELESS_WEIGHT,
    TARGET_VOLATILITY,
    Beliefs,
    Remembered,
    expected,
    joint_share,
    moments,
    pair_correlation,
    volatilities,
)
from himari_rl.policy.drift_net import DriftRunner
from himari_rl.policy.evidence import DISCRETE, MOST_LOG_VARIANCE, PLACES, TINY, Evidence, bent_forms
from himari_rl.schema import MAX_MULTIPLIER, FloatArray

LOOKBACK = 10 * SLOW_HALF_LIFE
"""Bars after which nothing is left of what a memory began with."""
_SLOW_KEEP = 0.5 ** (1.0 / SLOW_HALF_LIFE)
_CORRELATION_KEEP = 0.5 ** (1.0 / CORRELATION_HALF_LIFE)
_SCALE_1H = contract.ASSET_FEATURES[contract.MOMENTUM_1H].full_scale
_SCALE_4H = contract.ASSET_FEATURES[contract.MOMENTUM_4H].full_scale


class ScalarEvidence:
    """`Evidence` of one state in plain numbers: what has no coefficient is not computed."""

    def __init__(self, evidence: Evidence, *, shorts: bool) -> None:
        coefficients = np.array(evidence.coefficients) * evidence.deviation
        self._of_shape = 0.0
        if evidence.variance:
            self._of_shape, coefficients = float(coefficients[0]), coefficients[1:]
        first = 2 if shorts else 1
        scores, smooth = evidence.scores, evidence.scores.continuous
        linear = coefficients[first : first + smooth + len(DISCRETE)]
        scale = np.array(evidence.bent_scale)
        bent = np.where(scale > 0.0, coefficients[first + len(linear) :] / np.where(scale > 0.0, scale, 1.0), 0.0)
        constant = float(coefficients[0]) - float(bent @ np.array(evidence.bent_centre))
        self._knots = [
            (list(scores.knots[j]), list(scores.levels[j]), scores.centre[j], scores.scale[j]) for j in range(smooth)
        ]
        self._linear = linear[:smooth].tolist()
        # a discrete column is two-valued: its coefficient counts where it is 1, and its centre is a constant
        per_unit = linear[smooth:] / np.array(scores.scale[smooth:])
        self._discrete = per_unit.tolist()
        centres = np.array(scores.centre[smooth:])
        self._constant = constant - float(per_unit @ centres)
        gamma = np.array(evidence.variance or (0.0,) * (1 + len(linear)))
        of_shape = gamma[1 + smooth :] / np.array(scores.scale[smooth:])
        self._log_shape = float(gamma[0] - of_shape @ centres)
        self._shape = gamma[1 : 1 + smooth].tolist()
        self._shape_discrete = of_shape.tolist()
        self._side = float(coefficients[1]) if shorts else 0.0
        borders = [*scores.borders, *[()] * (len(bent) - len(scores.borders))]
        self._bent = [
            (form, levels, float(value))
            for form, levels, value in zip(bent_forms(smooth), borders, bent, strict=True)
            if value
        ]
        asked = {i for form, _, _ in self._bent for i in (form.first, form.second)}
        asked |= set(np.flatnonzero(linear).tolist())
        asked |= set(np.flatnonzero(gamma[1:]).tolist())
        self._moments = list(zip(scores.centre[smooth:], scores.scale[smooth:], strict=True))
        self._asked = sorted(i for i in asked if i < smooth)

    def scores(self, continuous: Sequence[float], discrete: Sequence[float]) -> list[float]:
        """The linear scores, all of them."""
        first = [self._score(j, value) for j, value in enumerate(continuous)]
        return first + [(x - centre) / scale for x, (centre, scale) in zip(discrete, self._moments, strict=True)]

    def _score(self, j: int, value: float) -> float:
        knots, levels, centre, scale = self._knots[j]
        return interpolated(value, knots, levels) if knots else (value - centre) / scale

    def drift(self, continuous: Sequence[float], discrete: Sequence[float], side: float) -> float:
        """D_t of one asset."""
        z = [0.0] * len(self._knots)
        total: float = self._constant + self._side * side
        told = self._log_shape
        for j in self._asked:
            z[j] = self._score(j, continuous[j])
            total += self._linear[j] * z[j]
            told += self._shape[j] * z[j]
        for value, coefficient, of_shape in zip(discrete, self._discrete, self._shape_discrete, strict=True):
            total += coefficient * value
            told += of_shape * value
        total += self._of_shape * math.exp(min(max(told, -MOST_LOG_VARIANCE), MOST_LOG_VARIANCE))
        for form, levels, coefficient in self._bent:
            along = form.sign * z[form.first]
            if form.kind == "product":
                total += coefficient * along * z[form.second]
            elif levels:
                total += coefficient * interpolated(along, PLACES, levels)
            elif along > form.at:
                total += coefficient * (1.0 if form.kind == "step" else along - form.at)
        return total


def interpolated(x: float, knots: Sequence[float], levels: Sequence[float]) -> float:
    """np.interp for one number."""
    if not x > knots[0]:
        return levels[0]
    if x >= knots[-1]:
        return levels[-1]
    right = bisect_right(knots, x)
    left = right - 1
    share = (x - knots[left]) / (knots[right] - knots[left])
    return levels[left] + share * (levels[right] - levels[left])


class Believer:
    """The beliefs of one bundle, ready to answer."""

    def __init__(self, beliefs: Beliefs, assets: int) -> None:
        self._beliefs, self._assets = beliefs, assets
        self._usual = np.array(beliefs.usual)
        self._net = None if beliefs.drift_net is None else DriftRunner(beliefs.drift_net)
        self._plain = assets * (2 if beliefs.shorts else 1) + (1 if assets > 1 else 0)
        self.memory_size = self._plain + (0 if self._net is None else self._net.memory_size)
        self._target = TARGET_VOLATILITY / math.sqrt(beliefs.bars_per_year) / beliefs.max_position_pct
        self._evidence = ScalarEvidence(beliefs.evidence, shorts=beliefs.shorts)
        self._own = [(end.start, end.stop) for end in contract.own_columns(assets, beliefs.own)] if beliefs.own else []

    def history(self, rows: NDArray[np.floating]) -> FloatArray:
        """(T, 3 A) belief columns of market rows (T, F) in order of time, from no memory."""
        seen = np.asarray(rows, np.float64)
        moment = moments(seen, self._assets, shorts=self._beliefs.shorts, usual=self._usual)
        return self._beliefs.columns(seen, moment)

    def advance(self, rows: NDArray[np.floating], memory: NDArray[np.floating]) -> tuple[FloatArray, FloatArray]:
        """(B, 3 A) belief columns of states (B, F), and the memory (B, S) after them."""
        states, kept, assets = np.asarray(rows, np.float64), np.asarray(memory, np.float64), self._assets
        fast, before = volatilities(states, assets), kept[:, :assets]
        remembered = before > 0.0
        carried = _SLOW_KEEP * before + (1.0 - _SLOW_KEEP) * fast**2
        squared = np.where(remembered, carried, expected(fast, self._usual) ** 2)
        after, side, correlation = [squared], None, None
        if self._beliefs.shorts:
            side = self._side(states, kept[:, assets : 2 * assets])
            after.append(side)
        if assets > 1:
            now = pair_correlation(states, assets)
            mixed = _CORRELATION_KEEP * kept[:, -1] + (1.0 - _CORRELATION_KEEP) * now
            correlation = np.where(remembered.all(axis=1), mixed, now)
            after.append(correlation[:, None])
        moment, net_drift = Remembered(np.sqrt(squared), correlation, side), None
        if self._net is not None:
            net_drift, remembers = self._net.advance(self._beliefs.scores(states, moment), kept[:, self._plain :])
            after.append(remembers)
        columns = self._beliefs.columns(states, moment, net_drift)
        return columns, np.concatenate(after, axis=1)

    def one(self, values: Sequence[float], memory: Sequence[float]) -> tuple[list[float], list[float]]:
        """`advance` for one state of plain numbers: 3 A belief columns, and the memory after it."""
        assets, beliefs = self._assets, self._beliefs
        squared, sides, correlation = [], [], None
        for a in range(assets):
            fast = values[contract.WIDTH * a + contract.VOLATILITY] * contract.VOLATILITY_SCALE
            if memory[a] > 0.0:
                squared.append(_SLOW_KEEP * memory[a] + (1.0 - _SLOW_KEEP) * fast * fast)
            else:
                usual = beliefs.usual[a]
                slow = usual**STATELESS_WEIGHT * fast ** (1.0 - STATELESS_WEIGHT) if fast > 0.0 else usual
                squared.append(slow * slow)
            if beliefs.shorts:
                base = contract.WIDTH * a
                asked = values[base + contract.ACTION_BUY] - values[base + contract.ACTION_SELL]
                sides.append(asked or memory[assets + a] or 1.0)
        if assets > 1:
            pairs = values[contract.WIDTH * assets : contract.state_dim(assets) - 1]
            now = sum(pairs) / len(pairs)
            remembered = all(memory[a] > 0.0 for a in range(assets))
            correlation = _CORRELATION_KEEP * memory[-1] + (1.0 - _CORRELATION_KEEP) * now if remembered else now
        size, spoken, believed = [], [], []
        remembers: list[float] = []
        share = 1.0 if correlation is None else joint_share(assets, correlation)
        for a in range(assets):
            slow = math.sqrt(squared[a])
            own, along = values[contract.WIDTH * a : contract.WIDTH * (a + 1)], sides[a] if sides else 1.0
            if slow <= 0.0:
                if self._net is not None:
                    _, remembers = self._net.one([0.0] * self._net.inputs, memory[self._plain :])
                size.append(1.0)
                spoken.append(0.0)
                believed.append(1.0)
                continue
            wanted = self._target / slow * share
            size.append(wanted if wanted < MAX_MULTIPLIER else MAX_MULTIPLIER)
            spoken.append(math.log(slow))
            ratio = max(own[contract.VOLATILITY] * contract.VOLATILITY_SCALE, TINY) / slow
            continuous: tuple[float, ...] = (
                own[contract.CONFIDENCE],
                own[contract.CASCADE_RISK],
                own[contract.MOMENTUM_1H] * _SCALE_1H / slow * along,
                own[contract.MOMENTUM_4H] * _SCALE_4H / slow * along,
                math.log(ratio),
                spoken[-1],
            )
            if self._own:
                told = tuple(values[self._own[a][0] : self._own[a][1]])
                continuous += told if not sides else (*told, *(value * along for value in told))
            discrete = (own[contract.ACTION_HOLD], *own[contract.TIER])
            drift = self._evidence.drift(continuous, discrete, along)
            if self._net is not None:
                read = self._evidence.scores(continuous, discrete) + ([along] if sides else [])
                net_drift, remembers = self._net.one(read, memory[self._plain :])
                drift += net_drift
            units = 1.0 + drift / beliefs.prior_drift
            believed.append(min(max(units, SMALLEST_DRIFT), LARGEST_DRIFT))
        after = [*squared, *sides, *([] if correlation is None else [correlation]), *remembers]
        return [*size, *spoken, *believed], after

    def _side(self, states: FloatArray, before: FloatArray) -> FloatArray:
        """(B, A) the direction asked for now; on HOLD the remembered one, else +1."""
        blocks = states[:, : contract.WIDTH * self._assets].reshape(len(states), self._assets, contract.WIDTH)
        asked = blocks[..., contract.ACTION_BUY] - blocks[..., contract.ACTION_SELL]
        return np.where(asked != 0.0, asked, np.where(before != 0.0, before, 1.0))
