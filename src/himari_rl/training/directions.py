"""Which columns of a regression are believed, and how much of each: forward selection, every step shrunk by itself.

    the first column                  always, by a normal posterior: g = tau^2 / (tau^2 + se^2)
    then, again and again, of what is left of every column after those before it (q, of length 1)
                                      the one of which g (q'y)^2 is the greatest, g = max(0, 1 - k se^2 / (q'y)^2)
    a net's drift, when nothing else is believed any more, and only with the sign that the net gave it

The non-negative garrote (Breiman 1995, "Better subset regression using the nonnegative garrote", Technometrics 37(4))
with k a column, standard errors clustered by UTC day (Liang & Zeger 1986). In a fixed order a straight line is fitted
to a step before the step is, and as each is believed by its own share, the line is never taken back in full.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from himari_rl.policy.evidence import MOST_LOG_VARIANCE, PLACES, TINY
from himari_rl.schema import FloatArray, IntArray

MIN_DAYS = 20.0  # effective days of a direction
TOLERANCE = 0.1  # of a column's length: with less of it left, the columns before it say the same
NULL = 1e-5  # of sqrt(n): below it a column is numerically none
MOST_SQUARE = 64.0  # of a return in units of its usual variance
STEPS = 12


class Direction(NamedTuple):
    """One column, orthogonal to those before it."""

    column: int
    estimate: float  # q'y
    error: float  # clustered by day
    days: float  # effective
    kept: float  # g in [0, 1]

    @property
    def t(self) -> float:
        return self.estimate / self.error if self.error > 0.0 else 0.0


class Judged(NamedTuple):
    """Of several columns, each alone and of length 1 (q)."""

    estimate: FloatArray  # q'y
    error: FloatArray  # of it, clustered by day
    days: FloatArray  # on which it effectively rests


class Remains:
    """What is left of columns and of y after the directions taken so far, summed over each day.

    A direction is taken by reading the rows once. Everything else is known of the days: the products of what is left
    of a column with q and with y follow from those of the whole column.
    """

    def __init__(self, x: FloatArray, y: FloatArray, day: IntArray) -> None:
        order = np.argsort(day, kind="stable")
        if (np.diff(order) != 1).any():
            x, y, day = x[order], y[order], day[order]
        start = np.flatnonzero(np.r_[True, np.diff(day) != 0]).tolist()
        days = [slice(*ends) for ends in pairwise([*start, len(x)])]
        self._days = [x[rows] for rows in days]  # read one at a time: a day stays in the cache
        self._square = np.array([np.einsum("ij,ij->j", rows, rows) for rows in self._days])
        self._product = np.array([y[rows] @ x[rows] for rows in days])
        self.combination = np.eye(x.shape[1])  # row j: what is left of column j, of all columns

    def norm(self) -> FloatArray:
        """(K,) length of what is left of each column."""
        return np.asarray(np.sqrt(np.maximum(self._square.sum(axis=0), 0.0)))

    def judged(self, columns: IntArray) -> Judged:
        """What is left of each of these columns, fitted alone to what is left of y."""
        square, product = self._square[:, columns], self._product[:, columns]
        squared = square.sum(axis=0)
        weight, norm = square / squared, np.sqrt(squared)
        estimate = product.sum(axis=0) / norm
        score = product / norm - estimate * weight
        return Judged(estimate, np.sqrt((score**2).sum(axis=0)), 1.0 / (weight**2).sum(axis=0))

    def take(self, j: int) -> None:
        """Takes the direction of what is left of column j out of all columns and out of y."""
        norm = float(self.norm()[j])
        unit = self.combination[j] / norm
        with_x = np.array([(rows @ unit) @ rows for rows in self._days])
        along = with_x @ self.combination.T  # q times what is left of every column
        own, with_y = along[:, j] / norm, self._product[:, j] / norm
        share, estimate = along.sum(axis=0), float(with_y.sum())
        self._square += np.outer(own, share**2) - 2.0 * share * along
        self._product += estimate * (np.outer(own, share) - along) - np.outer(with_y, share)
        self.combination -= np.outer(share, unit)


def believed_directions(
    x: FloatArray, y: FloatArray, day: IntArray, penalty: FloatArray, tau: float, *, net: bool = False
) -> tuple[tuple[Direction, ...], FloatArray]:
    """The directions in their order, and the coefficients (K,) of the columns.

    Args:
        x: (n, K) columns. y: (n,) of unit deviation. day: (n,) UTC day.
        penalty: (K,) k of each column; the first one's is not asked for.
        tau: prior deviation of the first column's q'y.
        net: whether the last column is a net's drift: judged when nothing else is believed any more, its direction
            told even if it is not believed.
    """
    remains = Remains(x, y, day)
    smallest = np.maximum(NULL * math.sqrt(len(x)), TOLERANCE * remains.norm())
    coefficients = np.zeros(x.shape[1])
    found: list[Direction] = []

    def take(judged: Judged, i: int, j: int, kept: float) -> None:
        estimate, error, days = (float(leaf[i]) for leaf in judged)
        found.append(Direction(j, estimate, error, days, kept))
        coefficients[:] += kept * estimate / remains.norm()[j] * remains.combination[j]
        remains.take(j)

    free = np.ones(x.shape[1], bool)
    free[len(free) - net :] = False
    while (each := np.flatnonzero(free & (remains.norm() > smallest))).size:
        if found:
            judged = remains.judged(each)
            kept = _garrote(judged, penalty[each])
        else:
            judged = remains.judged(each[:1])
            kept = tau**2 / (tau**2 + judged.error**2)
        best = int(np.argmax(kept * judged.estimate**2))
        if found and kept[best] <= 0.0:
            break
        j = int(each[best])
        take(judged, best, j, float(kept[best]))
        free[j] = False
    last = x.shape[1] - 1
    if net and remains.norm()[last] > smallest[last]:
        judged = remains.judged(np.array([last]))
        # a net that is wrong out of fold has learned nothing: it is not believed upside down
        share = float(_garrote(judged, penalty[[last]])[0]) if judged.estimate[0] > 0.0 else 0.0
        take(judged, 0, last, share)
    return tuple(found), coefficients


def _garrote(judged: Judged, penalty: FloatArray) -> FloatArray:
    kept = np.maximum(0.0, 1.0 - penalty * judged.error**2 / np.maximum(judged.estimate**2, TINY))
    return np.where(judged.days >= MIN_DAYS, kept, 0.0)


def fit_variance(linear: FloatArray, squares: FloatArray) -> tuple[float, ...]:
    """gamma of E[squares] = exp(gamma_0 + gamma' z): Fisher scoring of a gamma law with a logarithmic link.

    Args:
        linear: (n, K) scores.
        squares: (n,) squared returns in units of the slow variance.
    """
    x = np.column_stack([np.ones(len(linear)), linear])
    y = np.minimum(squares, MOST_SQUARE)
    gamma = np.zeros(x.shape[1])
    gamma[0] = math.log(max(float(y.mean()), TINY))
    inverse = np.linalg.pinv(x.T @ x, rcond=1e-9, hermitian=True)  # the tiers sum to one
    for _ in range(STEPS):
        told = np.clip(x @ gamma, -MOST_LOG_VARIANCE, MOST_LOG_VARIANCE)
        gamma = gamma + inverse @ (x.T @ (y / np.exp(told) - 1.0))
    return tuple(gamma.tolist())


def border_levels(z: FloatArray, y: FloatArray, one: FloatArray) -> FloatArray:
    """(2 K, P) how sure it is that the border of each step lies before each of PLACES: upper sides, then lower ones.

    The posterior of a change of the mean at one place, by a uniform prior (Smith 1975, "A Bayesian approach to
    inference about a change-point in a sequence of random variables", Biometrika 62). Two years of hours tell the place
    of an edge of .3 sigma within a hundred bars or so, and each bar that is wrongly counted to it costs two trades.

    Args:
        z: (n, K) scores. y: (n,) of unit deviation. one: (n,) the constant's column: 1, weighted as y is.
    """
    middle = 0.5 * (np.array(PLACES[1:]) + np.array(PLACES[:-1]))
    square = one**2
    whole = float(square.sum())
    product = one * (y - one * (float(one @ y) / whole))
    levels = []
    for sign in (1.0, -1.0):
        for column in z.T:
            place = np.searchsorted(middle, sign * column)  # places before it
            beyond, total = (
                np.cumsum(np.bincount(place, part, len(PLACES))[:0:-1])[::-1] for part in (square, product)
            )
            told = (beyond > MIN_DAYS) & (whole - beyond > MIN_DAYS)
            weight = np.where(told, total**2 / np.maximum(beyond * (1.0 - beyond / whole), TINY), 0.0)
            chance = np.exp(0.5 * (weight - weight.max()))
            levels.append(np.r_[0.0, np.cumsum(chance / chance.sum())])
    return np.array(levels)
