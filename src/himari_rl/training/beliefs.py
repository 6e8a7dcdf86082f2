"""What to believe about the drift before training on it: a prior that makes the one-liner right, and evidence.

A net that is trained on the noisy return of four thousand bars fits the noise. This module replaces the return by a
drift that is deterministic given the history: d_t (P_t + s_t D_t), where

    P_t  prior by reverse optimisation (Black & Litterman 1992): the drift under which the anchor b_t is optimal
    D_t  evidence: a regression of what the prior leaves unexplained on scores of the state (training/directions.py)

Numpy only; nothing here draws a random number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from himari_rl.features import contract
from himari_rl.policy.beliefs import TARGET_VOLATILITY, Beliefs, anchor, moments, own_columns_of
from himari_rl.policy.clock import MarketPath
from himari_rl.policy.evidence import (
    TINY,
    Evidence,
    RawColumns,
    Scores,
    bent_forms,
    design,
    relative_variance,
    seen,
    standardise,
)
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.schema import FloatArray, IntArray
from himari_rl.training.directions import Direction, believed_directions, border_levels, fit_variance

HORIZON = 12  # bars ahead whose squared returns stand for the variance
KNOTS = 63
LARGEST = 8.0  # of a standardised return
LINEAR_PENALTY = 4.0  # garrote k: a column with |t| below sqrt(k) = 2 is not believed
BENT_PENALTY = 10.0  # 57 directions: a laxer one believes one to three false columns a fold
STEP_PENALTY = 12.0  # a step also chose its place: with 10 a fit of noise believes .1 of them, with 12 .05
PART = 8_192  # bars whose covariances are made at once: of fifty assets they are 160 MB
MOST_ROWS = 400_000  # of the regression: its columns are 560 bytes a row, several times over
USUAL_DAYS = 30  # at the end of training, whose slow volatility a policy without memory expects


@dataclass(frozen=True, kw_only=True)
class Prior:
    """How strongly Layer 2 is trusted before any evidence. The same constants for every market."""

    trust: float = 1.5  # f: Layer 2's side is worth so many times what the anchor asks for
    aversion: float = 7.7  # a = 1 + risk_aversion of the utility
    bars_per_year: float = 8760.0

    @property
    def sharpe_a_year(self) -> float:
        """S' = .15 a: the annual Sharpe ratio that makes the anchor optimal; also tau, the prior's own deviation.

        2 S', or that below the prior only, shows sooner that Layer 2 is worthless, and cost BTC 6 % a year (on the
        folds of docs/beliefs.md).
        """
        return TARGET_VOLATILITY * self.aversion

    @property
    def sharpe_a_bar(self) -> float:
        """S = S' / sqrt(year)."""
        return self.sharpe_a_year / math.sqrt(self.bars_per_year)

    @property
    def drift(self) -> float:
        """f S: the prior's drift a bar in units of the slow volatility."""
        return self.trust * self.sharpe_a_bar


def future_variance(returns: FloatArray, horizon: int = HORIZON) -> FloatArray:
    """(D,) or (D, A, A): mean of R^2, or of R R', over the next `horizon` bars; fewer at the end.

    Knows the future: a training target, never an input.
    """
    squares = returns**2 if returns.ndim == 1 else returns[:, :, None] * returns[:, None, :]
    total = np.concatenate([np.zeros((1, *squares.shape[1:])), np.cumsum(squares, axis=0)])
    end = np.minimum(np.arange(len(returns)) + horizon, len(returns))
    start = np.arange(len(returns))
    count = (end - start).reshape(-1, *[1] * (squares.ndim - 1))
    return np.asarray((total[end] - total[start]) / count)


def prior_drift(prior: Prior, variance: FloatArray, base: FloatArray, anchor: FloatArray) -> FloatArray:
    """P_t along each asset's own side, (D,) or (D, A): f a v |w_b|, or f a d (Cov w_b) for a portfolio.

    Args:
        variance: (D,) or (D, A, A) of `future_variance`.
        base: (D,) or (D, A) direction * max_position_pct.
        anchor: (D,) or (D, A) multiplier of the one-liner.
    """
    wanted = base * anchor
    strength = prior.trust * prior.aversion
    if base.ndim == 1:
        return np.asarray(strength * variance * np.abs(wanted))
    return np.asarray(strength * np.einsum("tij,tj->ti", variance, wanted) * np.sign(base))


class Rows(NamedTuple):
    """Active rows of one asset: what was seen, and what came of it."""

    seen: RawColumns
    side: FloatArray  # (n,) +1 or -1
    earned: FloatArray  # (n,) R, open to open
    slow: FloatArray  # (n,) slow volatility, positive
    wanted: FloatArray  # (n,) |w_b| of the anchor
    day: IntArray  # (n,) UTC day
    net_column: FloatArray = np.zeros(0)  # (n,) standardised drift of a net with memory, out of fold; empty without one

    def every(self, step: int) -> Rows:
        """Every `step`-th row."""
        side, earned, slow, net_column = (leaf[::step] for leaf in (self.side, self.earned, self.slow, self.net_column))
        return Rows(self.seen.every(step), side, earned, slow, self.wanted[::step], self.day[::step], net_column)

    def target(self, prior: Prior, root: FloatArray | float = 1.0) -> FloatArray:
        """(n,) what the prior leaves unexplained, in units of root times the slow volatility.

        (d R - f a R^2 |w_b|) / (root s), where root^2 = h is the variance that the state tells, in units of s^2.
        """
        left = self.side * self.earned - prior.trust * prior.aversion * self.earned**2 * self.wanted
        return np.clip(left / (root * self.slow), -LARGEST, LARGEST)


class Fit(NamedTuple):
    """Evidence, and how it came about."""

    evidence: Evidence
    directions: tuple[Direction, ...]
    net_coefficient: float = 0.0  # coefficient of the column of a net with memory


def fit_scores(parts: Sequence[RawColumns]) -> Scores:
    """Knots of the continuous columns at equally spaced ranks of all given rows, and moments of the two-valued ones."""
    normal = NormalDist()
    rank = (np.arange(KNOTS) + 0.5) / KNOTS
    level = np.array([normal.inv_cdf(p) for p in rank.tolist()])
    knots, levels, centre, scale = [], [], [], []
    whole = np.concatenate([np.column_stack([part.continuous, part.discrete]) for part in parts])
    continuous = parts[0].continuous.shape[1]
    for j in range(whole.shape[1]):
        column = whole[:, j] if len(whole) else np.zeros(1)
        centre.append(float(column.mean()))
        scale.append(float(column.std()) or 1.0)
        if j >= continuous:
            continue
        if np.ptp(column) <= 1e-12 or len(np.unique(column)) <= 2:
            knots.append(())
            levels.append(())
            continue
        at = np.quantile(column, rank)
        unique, place = np.unique(at, return_inverse=True)  # equal values share the mean of their scores
        shared = np.bincount(place, weights=level) / np.bincount(place)
        knots.append(tuple(unique.tolist()))
        levels.append(tuple(shared.tolist()))
    return Scores(knots=tuple(knots), levels=tuple(levels), centre=tuple(centre), scale=tuple(scale))


def fit_evidence(parts: Sequence[Rows], prior: Prior) -> Fit:
    """Regresses what the prior leaves unexplained on the state, rows of all assets pooled.

    Rows count by the variance that the state tells, h s^2 (weighted least squares). The prior's own shape h comes
    first: how much of the prior is true? Then, one after the other, what explains most (training/directions.py), each
    judged by itself, its error clustered by UTC day over all assets, and the share g_j that is believed:

        shape   g_0 = tau^2 / (tau^2 + se^2), a normal posterior with tau = S' a year
        1, (side) and linear  g_j = max(0, 1 - 4 / t_j^2)
        bent, and last a net's out-of-fold drift (training/drift_net.py)  g_j = max(0, 1 - 10 / t_j^2); steps 12
    """
    scores = fit_scores([part.seen for part in parts])
    if not sum(len(part.day) for part in parts):  # nowhere a position and a volatility
        columns = len(bent_forms(scores.continuous))
        blank, width = np.zeros(columns), 1 + (parts[0].seen.side is not None) + len(scores.centre) + columns
        return Fit(_evidence(scores, blank, blank, (0.0,) * width, 1.0, 1.0, ()), ())
    linear = np.concatenate([scores.linear(part.seen) for part in parts])
    slow, earned = (np.concatenate(leaf) for leaf in zip(*((part.slow, part.earned) for part in parts), strict=True))
    gamma = fit_variance(linear, (earned / slow) ** 2)
    root = np.sqrt(relative_variance(linear, gamma))
    ends = np.cumsum([len(part.day) for part in parts])[:-1]
    target = np.concatenate([part.target(prior, own) for part, own in zip(parts, np.split(root, ends), strict=True)])
    deviation = float(target.std())
    if deviation > 0.0:
        levels = border_levels(linear[:, : scores.continuous], target / deviation, 1.0 / root)
        scores = scores.model_copy(update={"borders": tuple(tuple(each) for each in levels.tolist())})
    bent = scores.bent(linear)
    centre, spread = bent.mean(axis=0), bent.std(axis=0)
    spread = np.where(spread > 1e-9, spread, 0.0)
    side = None if parts[0].seen.side is None else np.concatenate([part.side for part in parts])
    standardise(bent, centre, spread)
    x = design(linear, side, bent, gamma)
    known, first = x.shape[1], x.shape[1] - bent.shape[1]
    del bent
    net_column = np.concatenate([part.net_column for part in parts])
    if net_column.size:
        x = np.column_stack([x, net_column])
    x /= root[:, None]
    if deviation <= 0.0:
        return Fit(_evidence(scores, centre, spread, (0.0,) * known, 1.0, 1.0, gamma), ())
    day = np.concatenate([part.day for part in parts])
    penalty = np.full(x.shape[1], BENT_PENALTY)
    penalty[:first] = LINEAR_PENALTY
    penalty[first : first + len(scores.borders)] = STEP_PENALTY
    tau = prior.sharpe_a_year / (deviation * math.sqrt(prior.bars_per_year / len(day)))
    found, coefficients = believed_directions(x, target / deviation, day, penalty, tau, net=net_column.size > 0)
    doubt = 1.0 - (found[0].kept if found else 0.0)
    told = [levels if coefficients[first + j] else () for j, levels in enumerate(scores.borders)]
    scores = scores.model_copy(update={"borders": tuple(told)})  # of those that are believed
    evidence = _evidence(scores, centre, spread, tuple(coefficients[:known].tolist()), deviation, doubt, gamma)
    return Fit(evidence, found, float(coefficients[-1]) if net_column.size else 0.0)


def _evidence(
    scores: Scores,
    centre: FloatArray,
    spread: FloatArray,
    coefficients: tuple[float, ...],
    deviation: float,
    doubt: float,
    variance: tuple[float, ...],
) -> Evidence:
    return Evidence(
        scores=scores,
        bent_centre=tuple(centre.tolist()),
        bent_scale=tuple(spread.tolist()),
        coefficients=coefficients,
        deviation=deviation,
        doubt=doubt,
        variance=variance,
    )


class ObservedPath(NamedTuple):
    """One history of an asset or a panel."""

    rows: FloatArray  # (D, F) market rows of the decisions
    path: MarketPath
    day: IntArray  # (D,) UTC day


class BelievedPath(NamedTuple):
    """One history with its beliefs."""

    rows: FloatArray  # (D, F + 3 A) market rows and the policy's belief columns
    drift: FloatArray  # (D, A) believed return of the next bar, less the funding paid
    risk: FloatArray  # (D, A, A) aversion x doubt x covariance


def fit_beliefs(
    histories: Sequence[ObservedPath], ledger: LedgerConfig, prior: Prior, others: Sequence[ObservedPath] = ()
) -> Beliefs:
    """What the training rows of one asset or a panel teach.

    Args:
        histories: stretches of the same symbols in order of time.
        others: of other symbols, evidence as well.
    """
    parts = thinned([part for history in (*histories, *others) for part in active_rows(history, ledger, prior)])
    last = histories[-1].rows
    assets = np.asarray(histories[-1].path.base).reshape(len(last), -1).shape[1]
    slow = moments(last, assets, shorts=False).slow
    recent = np.log(np.maximum(slow[-round(prior.bars_per_year / 365.0 * USUAL_DAYS) :], TINY)).mean(axis=0)
    return Beliefs(
        evidence=fit_evidence(parts, prior).evidence,
        prior_drift=prior.drift,
        bars_per_year=prior.bars_per_year,
        max_position_pct=ledger.max_position_pct,
        usual=tuple(np.exp(recent).tolist()),
        shorts=ledger.allow_short,
    )


def thinned(parts: Sequence[Rows], most: int = MOST_ROWS) -> list[Rows]:
    """The parts, or every k-th row of each where they have more rows than that together; of own features fewer, as
    each makes more columns."""
    columns = parts[0].seen.continuous.shape[1]
    most = most * len(bent_forms()) // len(bent_forms(columns))
    step = -(-sum(len(part.day) for part in parts) // most)
    if step <= 1:
        return list(parts)
    return [part.every(step) for part in parts]


def active_rows(history: ObservedPath, ledger: LedgerConfig, prior: Prior) -> list[Rows]:
    """The rows of each asset at which a position is possible and a volatility known."""
    rows, path = history.rows, history.path
    base, earned = (np.asarray(x).reshape(len(rows), -1) for x in (path.base, path.moves.to_open))
    assets = base.shape[1]
    moment = moments(rows, assets, shorts=ledger.allow_short)
    slow = moment.slow
    size = anchor(slow, ledger.max_position_pct, prior.bars_per_year, moment.correlation)
    parts = []
    ends = own_columns_of(rows, assets)
    for a in range(assets):
        active = (base[:, a] != 0.0) & (slow[:, a] > 0.0)
        side = np.sign(base[active, a])
        block = rows[active, contract.WIDTH * a : contract.WIDTH * (a + 1)]
        parts.append(
            Rows(
                seen=seen(block, slow[active, a], side if ledger.allow_short else None, rows[active, ends[a]]),
                side=side,
                earned=earned[active, a],
                slow=slow[active, a],
                wanted=np.abs(base[active, a]) * size[active, a],
                day=history.day[active],
            )
        )
    return parts


def believed_path(
    rows: FloatArray, path: MarketPath, beliefs: Beliefs, ledger: LedgerConfig, prior: Prior
) -> BelievedPath:
    """Rows that the net reads and coefficients that the `believed` reward pays, of one history."""
    moves = path.moves
    base, earned, funding = (np.asarray(x).reshape(len(rows), -1) for x in (path.base, moves.to_open, moves.funding))
    assets = base.shape[1]
    moment = moments(rows, assets, shorts=ledger.allow_short)
    evidence = beliefs.drifts(rows, moment)
    columns = beliefs.spoken(moment, evidence)
    size = columns[:, :assets]
    doubt = np.stack([doubt_factor(prior, beliefs.evidence, evidence[:, a]) for a in range(assets)], axis=1)
    prior_part, risk = np.empty_like(base), np.empty((len(rows), assets, assets))
    for first in range(0, len(rows), PART):
        part = slice(first, first + PART)
        covariance = future_variance(earned[first : first + PART + HORIZON])[:PART]
        prior_part[part] = prior_drift(prior, covariance, base[part], size[part])
        root = np.sqrt(doubt[part] * prior.aversion)
        risk[part] = covariance * root[:, :, None] * root[:, None, :]
    return BelievedPath(
        rows=np.column_stack([rows, columns]),
        # funding is no belief: it is paid as it comes
        drift=np.sign(base) * (prior_part + moment.slow * evidence) - funding,
        risk=risk,
    )


def doubt_factor(prior: Prior, evidence: Evidence, drift: FloatArray) -> FloatArray:
    """(T,) lambda_t >= 1 on the risk term: the doubt of the prior holds where it speaks, and fades where evidence does.

    lambda_t = 1 + (f - 1) (1 - g_0) f S / (f S + max(D_t, 0)): evidence against the prior takes no doubt away.
    """
    return 1.0 + (prior.trust - 1.0) * evidence.doubt * prior.drift / (prior.drift + np.maximum(drift, 0.0))
