"""Drift: are the numbers that a policy meets still those that it was trained on? Names the feature where they are not.

Of every number (market features, multipliers, confidence) the manifest has the training distribution and, as hours
remember the hours before, how far a window of `window` bars strayed from it within the training data itself:

    psi        population stability index: sum over bins of (p - q) log(p / q); bins at the training quantiles and one
               beyond either end
    distance   Wasserstein-1 distance of the window to the training distribution, in its standard deviations
    run        bars in a row with the very same value: a feed that has died

An alarm is one of them beyond the largest of training, times a margin. The account's own features are left out: they
are what the policy did, not what it met.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from himari_rl.errors import BundleError
from himari_rl.policy.manifest_part import ManifestPart
from himari_rl.schema import FloatArray

WINDOW = 100
MARGIN = 1.2  # of psi and distance: the next year's worst window is a little worse than those before
MARGIN_PSI, MARGIN_DISTANCE = 0.5, 0.1  # and so much, where training hardly strayed at all
RUN_MARGIN = 2.0
LEAST_RUN = 12  # bars: fewer equal ones in a row are chance in a number with few values
PROBABILITIES = (0.0, 0.001, 0.01, 0.05, *(i / 10 for i in range(1, 10)), 0.95, 0.99, 0.999, 1.0)
EMPTY = 0.5  # observations that an empty bin counts as
PSI, DISTANCE, RUN = "psi", "distance", "run"

Finite = Annotated[float, Field(allow_inf_nan=False)]
_WEIGHTS = np.diff(np.concatenate([[0.0], 0.5 * (np.array(PROBABILITIES)[1:] + np.array(PROBABILITIES)[:-1]), [1.0]]))


class DriftFeature(ManifestPart):
    """The training distribution of one number, and how far windows of training strayed from it."""

    quantiles: tuple[Finite, ...]  # at PROBABILITIES
    psi: Finite
    distance: Finite
    run: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _increasing(self) -> DriftFeature:
        q = self.quantiles
        if len(q) != len(PROBABILITIES) or any(b < a for a, b in zip(q, q[1:], strict=False)):
            raise ValueError(f"{len(PROBABILITIES)} quantiles that increase")
        return self


class DriftSpec(ManifestPart):
    """What drift is measured against."""

    window: Annotated[int, Field(ge=10)]
    rows: Annotated[int, Field(ge=1)]  # training rows that it was read from
    features: dict[str, DriftFeature]


class Strayed(NamedTuple):
    """One number that is no longer as in training."""

    feature: str
    measure: str  # psi, distance or run
    value: float
    limit: float

    def __str__(self) -> str:
        what = {PSI: "PSI", DISTANCE: "distance", RUN: "equal bars in a row"}[self.measure]
        return f"{self.feature}: {what} {self.value:.3g}, training at most {self.limit:.3g}"


class _Reference:
    """Training distributions as arrays; leaves (F, ...)."""

    def __init__(self, quantiles: FloatArray) -> None:
        self.quantiles = quantiles  # (F, P)
        spread = (np.square(quantiles - _mean(quantiles)[:, None]) @ _WEIGHTS) ** 0.5
        span = quantiles[:, -1] - quantiles[:, 0]
        # a number that never moved has no scale but its own size
        self.scale = np.where(spread > 0.0, spread, np.where(span > 0.0, span, np.maximum(np.abs(quantiles[:, 0]), 1.0)))
        shares = np.concatenate([[0.0], np.diff(PROBABILITIES), [0.0]])
        self._shares = np.zeros((len(quantiles), len(shares)))
        for row, edges in zip(self._shares, quantiles, strict=True):
            # equal quantiles are one edge: what lies between them belongs to the bin that ends there
            np.add.at(row, np.searchsorted(edges, np.append(edges, np.inf), side="left"), shares)
        ends = np.ones((len(quantiles), 1), bool)
        self._used = np.concatenate([ends, np.diff(quantiles, axis=1) > 0.0, ends], axis=1)

    def strayed(self, windows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """PSI and distance (M, F) of windows (M, W, F)."""
        many, count, features = windows.shape
        points = np.array(PROBABILITIES) * (count - 1)
        low = points.astype(int)
        part = (points - low)[None, :, None]
        ordered = np.sort(windows, axis=1)
        seen = ordered[:, low] * (1.0 - part) + ordered[:, np.minimum(low + 1, count - 1)] * part  # (M, P, F)
        distance = np.einsum("mpf,p->mf", np.abs(seen - self.quantiles.T), _WEIGHTS) / self.scale
        bins = (windows[..., None] > self.quantiles).sum(axis=-1)  # (M, W, F): edges below each value
        width = self._shares.shape[1]
        place = (np.arange(many)[:, None, None] * features + np.arange(features)) * width
        counts = np.bincount((bins + place).ravel(), minlength=many * features * width)
        p = np.maximum(counts.reshape(many, features, width), EMPTY) / count
        q = np.maximum(self._shares, EMPTY / (10.0 * count))
        psi: FloatArray = np.where(self._used, (p - q) * np.log(p / q), 0.0).sum(axis=-1)
        return psi, distance


def _mean(quantiles: FloatArray) -> FloatArray:
    found: FloatArray = quantiles @ _WEIGHTS
    return found


def fit_drift(columns: Mapping[str, FloatArray], window: int = WINDOW) -> DriftSpec | None:
    """The reference that goes into a manifest; None where there are fewer rows than ten windows.

    Args:
        columns: each number's values (N,) in the order of time.

    Raises:
        BundleError: a value is not finite.
    """
    rows = len(next(iter(columns.values())))
    if rows < 10 * window:
        return None
    values = np.column_stack([np.asarray(column, np.float64) for column in columns.values()])
    if not np.isfinite(values).all():
        raise BundleError("cannot fit a drift reference on values that are not finite", "finite training states")
    quantiles = np.maximum.accumulate(np.quantile(values, PROBABILITIES, axis=0), axis=0).T
    reference = _Reference(np.ascontiguousarray(quantiles))
    stride = max(1, window // 5)
    starts = np.arange(0, rows - window + 1, stride)
    psi, distance = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for part in np.array_split(starts, max(1, len(starts) // 50)):
        found = reference.strayed(values[part[:, None] + np.arange(window)])
        psi, distance = np.maximum(psi, found[0].max(axis=0)), np.maximum(distance, found[1].max(axis=0))
    features = {
        name: DriftFeature(
            quantiles=tuple(quantiles[f].tolist()),
            psi=float(psi[f]),
            distance=float(distance[f]),
            run=longest_run(values[:, f]),
        )
        for f, name in enumerate(columns)
    }
    return DriftSpec(window=window, rows=rows, features=features)


def longest_run(values: FloatArray) -> int:
    """The most equal values in a row of (N,)."""
    changes = np.flatnonzero(np.diff(values) != 0.0)
    return int(np.diff(np.concatenate([[-1], changes, [len(values) - 1]])).max())


class DriftMonitor:
    """The newest window of one account, against its policy's training."""

    def __init__(self, spec: DriftSpec) -> None:
        self.names = tuple(spec.features)
        features = list(spec.features.values())
        self._reference = _Reference(np.array([feature.quantiles for feature in features]))
        self._window: deque[list[float]] = deque(maxlen=spec.window)
        self._runs = np.zeros(len(features), int)
        self._limits = {
            PSI: MARGIN * np.array([feature.psi for feature in features]) + MARGIN_PSI,
            DISTANCE: MARGIN * np.array([feature.distance for feature in features]) + MARGIN_DISTANCE,
            RUN: np.array([max(RUN_MARGIN * feature.run, float(LEAST_RUN)) for feature in features]),
        }
        whole = np.array([feature.run >= spec.rows for feature in features])
        self._limits[RUN][whole] = np.inf  # it never moved in training either
        self.values = {name: np.zeros(len(features)) for name in (PSI, DISTANCE, RUN)}
        """The measures of the newest window, (F,) each; 0 before it is full."""

    def add(self, numbers: Mapping[str, float]) -> list[Strayed]:
        """Takes one bar; what strays now, the farthest beyond its limit first."""
        values = [numbers[name] for name in self.names]
        if self._window:
            same = np.array(values) == np.array(self._window[-1])
            self._runs = np.where(same, self._runs + 1, 1)
        else:
            self._runs = np.ones(len(values), int)
        self._window.append(values)
        self.values[RUN] = self._runs.astype(np.float64)
        if len(self._window) == self._window.maxlen:
            psi, distance = self._reference.strayed(np.array(self._window)[None])
            self.values[PSI], self.values[DISTANCE] = psi[0], distance[0]
        found = []
        for measure, limits in self._limits.items():
            beyond = self.values[measure] > np.maximum(limits, 1e-9)
            for f in np.flatnonzero(beyond).tolist():
                found.append(Strayed(self.names[f], measure, float(self.values[measure][f]), float(limits[f])))
        return sorted(found, key=lambda each: each.value / max(each.limit, 1e-9), reverse=True)

    def fill(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Takes bars of before, as after a restart."""
        for row in rows:
            self.add(row)
