"""Bins: some values of a column know the next bar, though the column as a whole hardly correlates with it.

A repainted low is marked before the rise, a repainted high before the fall, and the many rows between say nothing. So
rows are sorted into 20 quantile bins of the column: F_0 compares the bins' next returns, F_1 those one bar later. An
alarm is a large F_0 of which nothing is left one bar later, unless the column itself forgets as fast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from himari_rl.schema import BoolArray, FloatArray, IntArray

BINS = 20
F_ALARM = 15.0
F_LEFT = 0.15
SHARE = 0.01  # of the variance between the bins: with many bars, real and useless effects have a large F
CHI_EXCESS = 25.0  # F of few bins is noisier: F = 15 of two bins is a t of 3.9 only
SHORT_MEMORY = 0.25


@dataclass(frozen=True, kw_only=True)
class BinTest:
    """F of the bins with the next return, and with the one after it."""

    now: float
    later: float
    memory: float  # autocorrelation of the bin's mean return, one bar
    alarm: bool


def bin_test(column: FloatArray, known: BoolArray, y: FloatArray) -> BinTest:
    """F_0, F_1 and the alarm. All arrays (n,); y the return that row t earns."""
    group = np.full(len(column), -1, np.int64)
    group[known] = quantile_bins(column[known])
    now, means = f_statistic(group, y)
    later, _ = f_statistic(group[:-1], y[1:])
    said = np.where(group >= 0, means[group], 0.0)
    pairs = (group[1:] >= 0) & (group[:-1] >= 0)
    power = float(np.mean(said[group >= 0] ** 2))
    memory = float(np.mean(said[1:][pairs] * said[:-1][pairs])) / power if power > 0.0 and pairs.any() else 0.0
    freedom = max(len(means) - 1, 1)
    expected = 1.0 + (now - 1.0) * memory**2  # if the next bin says the next return
    error = np.sqrt(2.0 * (freedom + 2.0 * freedom * max(expected - 1.0, 0.0))) / freedom
    fades_too_fast = abs(memory) < SHORT_MEMORY or later + 3.0 * error < expected
    strong = now > F_ALARM and (now - 1.0) * np.sqrt(freedom / 2.0) > CHI_EXCESS
    strong = strong and (now - 1.0) * freedom > SHARE * int(known.sum())
    return BinTest(now=now, later=later, memory=memory, alarm=bool(strong and later < F_LEFT * now and fades_too_fast))


def quantile_bins(values: FloatArray, bins: int = BINS) -> IntArray:
    """(n,) the bin of each value; equal values share one, so that a column of few values has as many bins."""
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins))
    found = np.searchsorted(edges, values, side="left")
    return np.unique(found, return_inverse=True)[1].astype(np.int64)


def f_statistic(group: IntArray, y: FloatArray) -> tuple[float, FloatArray]:
    """One-way analysis of variance: F, and each group's mean less the mean of all. Rows of group -1 are left out."""
    rows = group >= 0
    g, v = group[rows], y[rows] - y[rows].mean()
    count = np.bincount(g)
    means = np.bincount(g, v) / np.maximum(count, 1)
    between, total = float(np.sum(count * means**2)), float(np.sum(v**2))
    groups = len(count)
    if groups < 2 or total <= between or len(v) <= groups:
        return 0.0, means
    return (between / (groups - 1)) / ((total - between) / (len(v) - groups)), means
