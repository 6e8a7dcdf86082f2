"""Orthogonal directions of a regression: which columns are independent, their Q and R, and errors clustered by day."""

from __future__ import annotations

import math

import numpy as np

from himari_rl.schema import FloatArray, IntArray

NULL = 1e-5  # of sqrt(n): below it a direction is numerically none


def independent(x: FloatArray) -> IntArray:
    """Columns of (n, K) that are not, numerically, a combination of the columns before them; the first ones win.

    By a Cholesky decomposition of X'X which leaves those out: its pivots are the squares of R's diagonal, known to
    some 1e-7 sqrt(n), where a column that is one is at NULL sqrt(n) or above.
    """
    gram, smallest = x.T @ x, NULL**2 * len(x)
    r, column = np.zeros_like(gram), list[int]()
    for j in range(len(gram)):
        k = len(column)
        before = np.linalg.solve(r[:k, :k].T, gram[column, j])
        left = float(gram[j, j] - before @ before)
        if left > smallest and k < len(x):  # no more directions than rows
            r[:k, k], r[k, k] = before, math.sqrt(left)
            column.append(j)
    return np.array(column, int)


def positive_qr(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Q and R with a positive diagonal, or a one-sided rule would be upside down (LAPACK's signs are arbitrary).

    CholeskyQR2 (Yamamoto, Nakatsukasa, Yanagisawa & Fukaya 2015, ETNA 44): twice Q = X R^-1 with R'R = X'X, orthogonal
    to rounding for columns as `independent` leaves them. Products of large matrices, a quarter of Householder's time.
    """
    q, first = _cholesky_qr(x)
    q, second = _cholesky_qr(q)
    return q, second @ first


def _cholesky_qr(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    r: FloatArray = np.asarray(np.linalg.cholesky(x.T @ x).T, np.float64)
    return x @ np.linalg.inv(r), r


def clustered(q: FloatArray, residual: FloatArray, day: IntArray) -> tuple[FloatArray, FloatArray]:
    """Standard errors (K,) of Q'y clustered by day, and how many days each direction effectively rests on."""
    order = np.argsort(day, kind="stable")
    start = np.flatnonzero(np.r_[True, np.diff(day[order]) != 0])
    score = np.add.reduceat(q[order] * residual[order, None], start, axis=0)
    weight = np.add.reduceat(q[order] ** 2, start, axis=0)
    return np.sqrt((score**2).sum(axis=0)), 1.0 / (weight**2).sum(axis=0)
