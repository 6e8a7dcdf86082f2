"""Drift: are the numbers that a policy meets still those that it was trained on? Names the feature where they are not.

Of every number (market features, multipliers, confidence) the manifest has the training distribution and, as hours
remember the hours before, how far a window of `window` bars strayed from it within the training data itself:

    psi        population stability index: sum over bins of (p - q) log(p / q); bins at the training quantiles and one
               beyond either end
    distance   Wasserstein-1 distance of the window to the training distribution, in its standard deviations
    run        bars in a row with the very same value: a feed that has died
    size       its size, or its mean, in units of the limit (drift_size.py)
    step       the same against the window before: what changed from one bar to the next, and stays
    rise, fall of the size of returns, by the hour of the week, where training's times are known (drift_week.py)

An alarm is one of them beyond the largest of training, with a margin for what training happened not to meet: the less
it has seen, and the less alike its parts are, the wider; sizes have limits of their own. A value that a number often
stands at (an action, a tier, a confidence at its bound) is stood at for long in other years than training's too. The
account's own features are left out: they are what the policy did, not what it met.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from himari_rl.errors import BundleError
from himari_rl.policy.drift_size import BESIDE_WEEK, SUPERSEDED, SizeReference, SizeScores, base_name, fit_size
from himari_rl.policy.drift_week import WATCHED, WeekReference, fit_week
from himari_rl.policy.manifest_part import ManifestPart
from himari_rl.schema import HOUR_MS, FloatArray, IntArray

WINDOW = 100
MARGIN = 1.75  # of psi and distance: the next year's worst window is worse than those before, of a dozen numbers one's
MARGIN_OF = {"momentum_1h": 1.5, "momentum_4h": 1.5, "volatility": 2.5}  # where a crash stays in twenty values
MARGIN_PSI, MARGIN_DISTANCE = 0.8, 0.1  # and so much, where training hardly strayed at all
PARTS = 8  # of the training data: how much their worst windows differ is added, once at ENOUGH rows, more at fewer
ENOUGH = 20_000
RUN_MARGIN, OFTEN_MARGIN = 2.0, 3.0  # of the longest run of training; at a value that it often stands at
LEAST_RUN = 12  # bars: fewer equal ones in a row are chance in a number with few values
PROBABILITIES = (0.0, 0.001, 0.01, 0.05, *(i / 10 for i in range(1, 10)), 0.95, 0.99, 0.999, 1.0)
EMPTY = 0.5  # observations that an empty bin counts as
PSI, DISTANCE, RUN, SIZE, STEP, RISE, FALL = "psi", "distance", "run", "size", "step", "rise", "fall"
MEASURES = {
    PSI: "PSI",
    DISTANCE: "distance",
    RUN: "equal bars in a row",
    SIZE: "size in units of the limit",
    STEP: "step against the bars before, in units of the limit",
    RISE: "size rose for good, in units of the limit",
    FALL: "size fell for good, in units of the limit",
}

Finite = Annotated[float, Field(allow_inf_nan=False)]
_WEIGHTS = np.diff(np.concatenate([[0.0], 0.5 * (np.array(PROBABILITIES)[1:] + np.array(PROBABILITIES)[:-1]), [1.0]]))


class DriftFeature(ManifestPart):
    """The training distribution of one number, and how far windows of training strayed from it."""

    quantiles: tuple[Finite, ...]  # at PROBABILITIES
    psi_limit: Finite
    distance_limit: Finite
    longest_run: Annotated[int, Field(ge=0)]  # 0: it never moved
    longest_elsewhere: Annotated[int, Field(ge=0)] | None = None  # of values that it does not often stand at
    size: SizeReference | None = None  # older bundles, and numbers with few values: none
    week: WeekReference | None = None  # returns, where training's times are known

    @model_validator(mode="after")
    def _increasing(self) -> DriftFeature:
        q = self.quantiles
        if len(q) != len(PROBABILITIES) or any(b < a for a, b in pairwise(q)):
            raise ValueError(f"{len(PROBABILITIES)} quantiles that increase")
        return self


class DriftSpec(ManifestPart):
    """What drift is measured against."""

    window: Annotated[int, Field(ge=10)]
    features: dict[str, DriftFeature]


class Strayed(NamedTuple):
    """One number that is no longer as in training."""

    feature: str
    measure: str  # one of MEASURES
    value: float
    limit: float

    def __str__(self) -> str:
        what = MEASURES[self.measure]
        return f"{self.feature}: {what} {self.value:.3g}, training at most {self.limit:.3g}"


class _Reference:
    """Training distributions as arrays; leaves (F, ...)."""

    def __init__(self, quantiles: FloatArray) -> None:
        self.quantiles = quantiles  # (F, P)
        spread = (np.square(quantiles - _mean(quantiles)[:, None]) @ _WEIGHTS) ** 0.5
        span = quantiles[:, -1] - quantiles[:, 0]
        # a number that never moved has no scale but its own size
        self.scale = np.where(
            spread > 0.0, spread, np.where(span > 0.0, span, np.maximum(np.abs(quantiles[:, 0]), 1.0))
        )
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
        bins = np.zeros(windows.shape, np.int64)  # edges below each value
        for edges in self.quantiles.T:
            bins += windows > edges
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


def fit_drift(
    columns: Mapping[str, FloatArray],
    window: int = WINDOW,
    interval_ms: int = HOUR_MS,
    times: IntArray | None = None,
) -> DriftSpec | None:
    """The reference that goes into a manifest; None where there are fewer rows than ten windows.

    Args:
        columns: each number's values (N,) in the order of time.
        interval_ms: of the bars, as what is rare is so in years.
        times: (N,) opening times, ms UTC; None: nothing is known of the hour of the week.

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
    strayed: tuple[list[FloatArray], list[FloatArray]] = ([], [])
    for part in np.array_split(starts, max(1, len(starts) // 50)):
        for kept, found in zip(strayed, reference.strayed(values[part[:, None] + np.arange(window)]), strict=True):
            kept.append(found)
    more = (ENOUGH / rows) ** 0.5
    margins = np.array([MARGIN_OF.get(base_name(name), MARGIN) for name in columns])
    psi, distance = (_limit(np.concatenate(each), more, margins) for each in strayed)
    features = {
        name: DriftFeature(
            quantiles=tuple(quantiles[f].tolist()),
            psi_limit=float(psi[f]) + MARGIN_PSI,
            distance_limit=float(distance[f]) + MARGIN_DISTANCE,
            longest_run=longest_run(values[:, f]),
            longest_elsewhere=longest_run(values[:, f], often_at(quantiles[f])),
            size=fit_size(name, values[:, f], window, interval_ms),
            week=None if times is None else fit_week(name, values[:, f], times, window, interval_ms),
        )
        for f, name in enumerate(columns)
    }
    return DriftSpec(window=window, features=features)


def _limit(strayed: FloatArray, more: float, margins: FloatArray) -> FloatArray:
    """(F,) from the windows' (M, F)."""
    worst = np.array([part.max(axis=0) for part in np.array_split(strayed, PARTS)])
    found: FloatArray = margins * worst.max(axis=0) + more * worst.std(axis=0)
    return found


def often_at(quantiles: FloatArray) -> FloatArray:
    """Values that a number often stands at: its lowest, its highest, and any that is two of its quantiles (P,)."""
    twice = quantiles[1:][np.diff(quantiles) == 0.0]
    return np.unique([quantiles[0], quantiles[-1], *twice])


def longest_run(values: FloatArray, but_at: FloatArray | None = None) -> int:
    """The most equal values in a row of (N,), but at some values; 0 where all are equal, or at those."""
    if (values == values[0]).all():
        return 0
    ends = np.append(np.flatnonzero(np.diff(values) != 0.0), len(values) - 1)
    lengths = np.diff(np.concatenate([[-1], ends]))
    kept = lengths if but_at is None else lengths[~np.isin(values[ends], but_at)]
    return int(kept.max(initial=0))


ANSWER_CONFIDENCE = "confidence"


def multiplier_name(symbol: str) -> str:
    """What a symbol's multiplier is called."""
    return f"multiplier.{symbol}"


class DriftMonitor:
    """The newest window of one account, against its policy's training.

    Args:
        answers: True watches multipliers and confidence, False the features; each comes when it comes.
    """

    def __init__(self, spec: DriftSpec, *, answers: bool = False) -> None:
        own = {
            name: feature
            for name, feature in spec.features.items()
            if answers == (name == ANSWER_CONFIDENCE or name.startswith("multiplier."))
        }
        self.names = tuple(own)
        features = list(own.values())
        self._reference = _Reference(np.array([feature.quantiles for feature in features]))
        self._sizes = SizeScores([feature.size for feature in features], spec.window)
        self._size = spec.window
        self._window: deque[list[float]] = deque(maxlen=2 * spec.window)  # a step is seen against the window before
        self._times: deque[int | None] = deque(maxlen=2 * spec.window)
        self._weeks = {f: feature.week for f, feature in enumerate(features) if feature.week is not None}
        known = {name.removesuffix(WATCHED[0]) for name, feature in own.items() if feature.week is not None}
        stepped = [name.removesuffix(base) in known and base in SUPERSEDED for name, base in self._bases()]
        self._runs = np.zeros(len(features), int)
        self._often = [often_at(np.array(feature.quantiles)) for feature in features]
        self._limits = {
            PSI: np.array([feature.psi_limit for feature in features]),
            DISTANCE: np.array([feature.distance_limit for feature in features]),
            RUN: np.array([_run_limits(feature)[0] for feature in features]),
            SIZE: np.ones(len(features)),
            STEP: np.where(stepped, BESIDE_WEEK, 1.0),
            RISE: np.ones(len(features)),
            FALL: np.ones(len(features)),
        }
        self._run_limits = [_run_limits(feature) for feature in features]
        self.values = {name: np.zeros(len(features)) for name in self._limits}
        """The measures of the newest window, (F,) each; 0 before it is full."""

    def _bases(self) -> list[tuple[str, str]]:
        return [(name, base_name(name)) for name in self.names]

    def add(self, numbers: Mapping[str, float], timestamp: int | None = None) -> list[Strayed]:
        """Takes one bar, opened at `timestamp` (ms UTC); what strays now, the farthest beyond its limit first."""
        values = [numbers[name] for name in self.names]
        same = np.array(values) == np.array(self._window[-1] if self._window else [np.nan] * len(values))
        self._runs = np.where(same, self._runs + 1, 1)
        for f in np.flatnonzero(~same).tolist():
            self._limits[RUN][f] = self._run_limits[f][int(values[f] in self._often[f])]
        self._window.append(values)
        self._times.append(timestamp)
        self.values[RUN] = self._runs.astype(np.float64)
        if len(self._window) >= self._size:
            kept = np.array(self._window)
            psi, distance = self._reference.strayed(kept[None, -self._size :])
            self.values[PSI], self.values[DISTANCE] = psi[0], distance[0]
            self.values[SIZE] = self._sizes.size(kept[-self._size :])[0]
            if len(kept) == 2 * self._size:
                self.values[STEP] = self._sizes.step(kept)[0]
                self._by_week(kept)
        found = []
        for measure, limits in self._limits.items():
            beyond = self.values[measure] > limits
            for f in np.flatnonzero(beyond).tolist():
                found.append(Strayed(self.names[f], measure, float(self.values[measure][f]), float(limits[f])))
        return sorted(found, key=lambda each: each.value / each.limit, reverse=True)

    def _by_week(self, kept: FloatArray) -> None:
        if None in self._times:
            return
        times = np.array(self._times, np.int64)
        for f, week in self._weeks.items():
            rise, fall = week.scores(kept[:, f], times, self._size)
            self.values[RISE][f], self.values[FALL][f] = rise[0], fall[0]

    def fill(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Takes bars of before, as after a restart."""
        for row in rows:
            self.add(row)

    def numbers(self) -> list[tuple[str, str, float, float]]:
        """Name, measure, value and limit of everything watched."""
        return [
            (name, measure, float(self.values[measure][f]), float(limits[f]))
            for measure, limits in self._limits.items()
            for f, name in enumerate(self.names)
        ]


def _run_limits(feature: DriftFeature) -> tuple[float, float]:
    """Bars in a row at any value, and at one that it often stands at."""
    if not feature.longest_run:
        return np.inf, np.inf
    if feature.longest_elsewhere is None:  # older bundles
        limit = max(RUN_MARGIN * feature.longest_run, float(LEAST_RUN))
        return limit, limit
    elsewhere = max(RUN_MARGIN * feature.longest_elsewhere, float(LEAST_RUN))
    return elsewhere, max(OFTEN_MARGIN * feature.longest_run, OFTEN_MARGIN * LEAST_RUN, elsewhere)
