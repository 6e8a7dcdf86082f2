"""What a policy may believe about the next bars, from the state alone: slow volatility, anchor, evidence.

    slow volatility  s_t^2 = exponentially weighted mean of (feature 14)^2, half-life one week of hourly bars
    anchor           b_t = the multiplier that holds 15 % annual volatility: the one-liner any policy has to beat
    drift            d_t (P_t + s_t D_t): a prior that makes the anchor right, and D_t, what the evidence adds to it

The prior is reverse optimisation (Black & Litterman 1992, "Global portfolio optimization"): the drift under which the
anchor is the optimal position. D_t is policy/evidence.py's; nothing but numpy is needed here, so that server, backtest
and training read the same number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from pydantic import model_validator

from himari_rl.features import contract
from himari_rl.policy.drift_net import DriftNet, DriftRunner
from himari_rl.policy.evidence import CONTINUOUS, DISCRETE, Evidence, continuous_columns, seen
from himari_rl.policy.manifest_part import ManifestPart
from himari_rl.schema import MAX_MULTIPLIER, FloatArray

TARGET_VOLATILITY = 0.15  # a year
SLOW_HALF_LIFE = 168  # bars
CORRELATION_HALF_LIFE = 720  # bars
LARGEST_DRIFT = 8.0  # of the believed drift, in units of the prior's
SMALLEST_DRIFT = -4.0
STATELESS_WEIGHT = 0.7  # of the usual volatility, where nothing is remembered

_PART = 100_000  # bars whose columns are made at once
_BLOCK = 2048  # rows of one closed-form block of the moving average: its weights stay below 1e4


def moving_average(values: FloatArray, half_life: float, first: float | None = None) -> FloatArray:
    """Exponentially weighted mean of (T, ...) that starts at its first row: m_t = k m_{t-1} + (1 - k) x_t.

    Args:
        first: the mean before the first row; the row itself if not given.
    """
    keep = 0.5 ** (1.0 / half_life)
    out = np.empty_like(values, dtype=np.float64)
    mean = np.asarray(values[0] if first is None else first, np.float64)
    for start in range(0, len(values), _BLOCK):
        part = values[start : start + _BLOCK]
        power = keep ** np.arange(1, len(part) + 1, dtype=np.float64).reshape(-1, *[1] * (values.ndim - 1))
        out[start : start + len(part)] = power * (mean + (1.0 - keep) * np.cumsum(part / power, axis=0))
        mean = out[start + len(part) - 1]
    return out


def slow_volatility(volatility: FloatArray, half_life: float = SLOW_HALF_LIFE) -> FloatArray:
    """(T,) slow volatility a bar; 0 before the first bar of which a volatility is known.

    Args:
        volatility: (T,) standard deviation of the last bars' returns, feature 14 in its own unit.
    """
    known = np.flatnonzero(volatility > 0.0)
    out = np.zeros(len(volatility))
    if known.size:
        out[known[0] :] = np.sqrt(moving_average(volatility[known[0] :] ** 2, half_life))
    return out


def anchor(
    slow: FloatArray, max_position_pct: float, bars_per_year: float, correlation: FloatArray | None = None
) -> FloatArray:
    """The multiplier in [0, 2] that holds TARGET_VOLATILITY a year; 1.0 where no volatility is known.

    Args:
        slow: (T,) or (T, A) slow volatility a bar.
        correlation: (T,) mean correlation of the pairs, for a portfolio: every asset's share of one target,
            1 / sqrt(A (1 + (A - 1) rho)).
    """
    known = slow > 0.0
    size = TARGET_VOLATILITY / np.sqrt(bars_per_year) / (max_position_pct * np.where(known, slow, 1.0))
    if slow.ndim == 2 and slow.shape[1] > 1:
        assets = slow.shape[1]
        rho = np.zeros(len(slow)) if correlation is None else correlation
        size = size * np.asarray(joint_share(assets, rho))[:, None]
    return np.where(known, np.minimum(size, MAX_MULTIPLIER), 1.0)


def joint_share(assets: int, correlation: Any) -> Any:
    """1 / sqrt(A (1 + (A - 1) rho)), what each asset may use of a common target; a number, or (T,) numpy."""
    joint = assets * (1.0 + (assets - 1) * correlation)
    return (joint * (joint > 1.0 / assets) + (joint <= 1.0 / assets) / assets) ** -0.5  # rho > -1 / (A - 1)


class Beliefs(ManifestPart):
    """Everything a policy needs to turn its state into anchor, slow volatility and believed drift."""

    evidence: Evidence
    prior_drift: float  # f S: the prior's drift a bar in units of the slow volatility
    bars_per_year: float
    max_position_pct: float
    usual: tuple[float, ...]  # (A,) slow volatility of the last training days, geometric mean
    shorts: bool
    drift_net: DriftNet | None = None  # of one asset; what it answers is added to the evidence's drift

    @property
    def own(self) -> int:
        """Features of its own that stand at the end of a state, of each asset, and that the evidence looks at."""
        return (self.evidence.scores.continuous - len(CONTINUOUS)) // (2 if self.shorts else 1)

    def columns(self, rows: FloatArray, moment: Remembered, net_drift: FloatArray | None = None) -> FloatArray:
        """(T, 3 A): anchors, logarithms of the slow volatilities, believed drifts of market rows (T, F).

        Args:
            net_drift: (T,) answers of the drift net; None takes the rows for a history in order of time.
        """
        return self.spoken(moment, self.drifts(rows, moment, net_drift))

    def spoken(self, moment: Remembered, drift: FloatArray) -> FloatArray:
        """`columns` where the drifts (T, A) are known."""
        slow = moment.slow
        size = anchor(slow, self.max_position_pct, self.bars_per_year, moment.correlation)
        logarithm = np.log(np.where(slow > 0.0, slow, 1.0))
        return np.column_stack([size, logarithm, believed_input(drift, self.prior_drift)])

    def drifts(self, rows: FloatArray, moment: Remembered, net_drift: FloatArray | None = None) -> FloatArray:
        """(T, A) D_t of every asset, the drift net's answers included; 0 while a slow volatility is unknown."""
        found = np.column_stack([self.drift(rows, moment, a) for a in range(moment.slow.shape[1])])
        if self.drift_net is None:
            return found
        if net_drift is None:
            net_drift = DriftRunner(self.drift_net).history(self.scores(rows, moment))
        return found + np.where(moment.slow > 0.0, net_drift[:, None], 0.0)

    def scores(self, rows: FloatArray, moment: Remembered) -> FloatArray:
        """(T, 11 or more) what a drift net reads of one asset: linear scores, and with shorts the side; zeros while its
        slow volatility is unknown."""
        own = moment.slow[:, 0]
        side = None if moment.side is None else moment.side[:, 0]
        raw = seen(rows[:, : contract.WIDTH], np.where(own > 0.0, own, 1.0), side, self._own(rows, 0, 1))
        linear = self.evidence.scores.linear(raw)
        found = linear if side is None else np.column_stack([linear, side])
        return np.where(own[:, None] > 0.0, found, 0.0)

    def drift(self, rows: FloatArray, moment: Remembered, asset: int) -> FloatArray:
        """(T,) D_t of one asset by its evidence alone; 0 while its slow volatility is unknown."""
        starts = range(0, max(1, len(rows)), _PART)  # seventy columns of all bars at once are gigabytes
        parts = [self._drift(rows[a : a + _PART], moment.part(a, a + _PART), asset) for a in starts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _drift(self, rows: FloatArray, moment: Remembered, asset: int) -> FloatArray:
        block = rows[:, contract.WIDTH * asset : contract.WIDTH * (asset + 1)]
        own = moment.slow[:, asset]
        side = None if moment.side is None else moment.side[:, asset]
        told = self._own(rows, asset, moment.slow.shape[1])
        raw = seen(block, np.where(own > 0.0, own, 1.0), side, told)
        return np.where(own > 0.0, self.evidence.drift(raw), 0.0)

    def _own(self, rows: FloatArray, asset: int, assets: int) -> FloatArray | None:
        """(T, K) own features of one asset, where there are any."""
        return rows[:, contract.own_columns(assets, self.own)[asset]] if self.own else None

    @model_validator(mode="after")
    def _a_net_fits(self) -> Beliefs:
        columns = self.evidence.scores.continuous
        if columns != continuous_columns(self.own, self.shorts):
            raise ValueError(f"evidence of {columns} columns, not {len(CONTINUOUS)} and those of own features")
        reads = columns + len(DISCRETE) + self.shorts
        if self.drift_net is not None and (len(self.usual) != 1 or self.drift_net.inputs != reads):
            raise ValueError(f"a drift net of {self.drift_net.inputs} inputs beside {len(self.usual)} assets")
        return self


class Remembered(NamedTuple):
    """What has to be remembered between two bars, at each of T bars."""

    slow: FloatArray  # (T, A) slow volatility a bar; 0 while unknown
    correlation: FloatArray | None = None  # (T,) slow mean correlation of the pairs; None for one asset
    side: FloatArray | None = None  # (T, A) direction that Layer 2 last asked for; None without shorts

    def part(self, first: int, end: int) -> Remembered:
        """Some of the bars."""
        correlation = None if self.correlation is None else self.correlation[first:end]
        side = None if self.side is None else self.side[first:end]
        return Remembered(self.slow[first:end], correlation, side)


def moments(rows: FloatArray, assets: int, *, shorts: bool, usual: FloatArray | None = None) -> Remembered:
    """What is remembered along a history of market rows (T, F).

    Args:
        shorts: whether directions matter.
        usual: (A,) slow volatility that a fresh policy expects; None starts at the first one seen, as training does.
    """
    fast = volatilities(rows, assets)
    if usual is None:
        slow = np.column_stack([slow_volatility(column) for column in fast.T])
    else:
        first = expected(fast[:1], usual)
        later = moving_average(fast[1:] ** 2, SLOW_HALF_LIFE, first[0] ** 2)
        slow = np.sqrt(np.concatenate([first**2, later]))
    correlation = None if assets == 1 else moving_average(pair_correlation(rows, assets), CORRELATION_HALF_LIFE)
    return Remembered(slow, correlation, last_direction(rows, assets) if shorts else None)


def expected(fast: FloatArray, usual: FloatArray) -> FloatArray:
    """(B, A) slow volatility without memory: mostly the usual one, a little the one at hand."""
    return np.where(fast > 0.0, usual**STATELESS_WEIGHT * fast ** (1.0 - STATELESS_WEIGHT), usual)


def last_direction(rows: FloatArray, assets: int) -> FloatArray:
    """(T, A) +1 or -1 as Layer 2 last asked; +1 before it asked for anything."""
    blocks = rows[:, : contract.WIDTH * assets].reshape(len(rows), assets, contract.WIDTH)
    asked = blocks[..., contract.ACTION_BUY] - blocks[..., contract.ACTION_SELL]
    when = np.where(asked != 0.0, np.arange(len(rows))[:, None], -1)
    last = np.maximum.accumulate(when, axis=0)
    return np.where(last >= 0, np.take_along_axis(asked, np.maximum(last, 0), axis=0), 1.0)


def own_columns_of(rows: FloatArray, assets: int) -> tuple[slice, ...]:
    """Where each asset's own features stand in market rows (T, F)."""
    return contract.own_columns(assets, (rows.shape[1] - contract.state_dim(assets)) // assets)


def pair_correlation(rows: FloatArray, assets: int) -> FloatArray:
    """(T,) mean correlation of the pairs in market rows (T, F)."""
    pairs: FloatArray = rows[:, contract.WIDTH * assets : contract.state_dim(assets) - 1].mean(axis=1)
    return pairs


def volatilities(rows: FloatArray, assets: int) -> FloatArray:
    """(T, A) feature 14 of market rows (T, F) in its own unit."""
    return rows[:, contract.VOLATILITY : contract.WIDTH * assets : contract.WIDTH] * contract.VOLATILITY_SCALE


def believed_input(drift: FloatArray, prior_drift: float) -> FloatArray:
    """(T,) the believed drift in units of the prior's, e_t in [-4, 8]; 1 where the evidence says nothing.

    Args:
        prior_drift: f S, the prior's drift in units of the slow volatility a bar.
    """
    return np.clip(1.0 + drift / prior_drift, SMALLEST_DRIFT, LARGEST_DRIFT)
