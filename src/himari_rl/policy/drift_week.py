"""Did the size of a market's moves step, for good? Two measures that know the hour of the week: `rise` and `fall`.

A week of hours has quiet nights and weekends, which a step of drift_size.py takes for falls, and storms, which begin
with a shock and die down within a day or two. Each move is held against the usual size of its hour of the week, and

    rise   the least of the window's four quarters above what the window before forecast (least squares on its blocks):
           a step that stays raises all four, a storm the first ones
    fall   the matched filter of drift_size.py on means of the logarithm, as a quiet market lacks its small moves too

Limits are LIMITS standard deviations of training's, together with PRIOR years of a market that is known (hours of
bitcoin and ether before 2022). Only what moves with the bars is looked at so: returns of one hour.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from himari_rl.policy.drift_size import PRIOR, base_name, block_lengths, block_means, step_weights
from himari_rl.policy.manifest_part import ManifestPart
from himari_rl.schema import DAY_MS, HOUR_MS, YEAR_MS, FloatArray, IntArray

WATCHED = ("momentum_1h",)
LIMITS, KNOWN = (2.95, 3.2), (0.311, 0.267)
"""Of a rise and a fall: standard deviations, and those of the known market."""
HOURS = 7 * 24
BEFORE = 2  # blocks of the window before
FLOOR, LOG_FLOOR = 1e-3, 0.05  # of training's mean size

Finite = Annotated[float, Field(allow_inf_nan=False)]


class WeekReference(ManifestPart):
    """What training knows of one number's size by the hour of the week, and the two measures' limits."""

    usual: tuple[Finite, ...]  # (168,) size of each hour of the week, over the week's mean; Monday's first hour first
    mean: Finite  # size of what was divided by it
    forecast: tuple[Finite, ...]  # constant, and the weight of each block before
    weights: tuple[Finite, ...]  # of the fall's blocks
    centre: Finite
    rise_limit: Finite
    fall_limit: Finite

    def scores(self, values: FloatArray, times: IntArray, window: int) -> tuple[FloatArray, FloatArray]:
        """Rise and fall (N - 2 W + 1,) of values (N,) at opening times (N,), 1 at the limit."""
        sizes = np.abs(values) / np.array(self.usual)[hours_of_week(times)]
        rise, fall = _scores(sizes, self.mean, np.array(self.forecast), np.array(self.weights), window)
        return rise / self.rise_limit, (self.centre - fall) / self.fall_limit


def hours_of_week(times: IntArray) -> IntArray:
    """The hour of the week, from Monday 00:00 UTC, of opening times in ms."""
    return (times // HOUR_MS - 4 * DAY_MS // HOUR_MS) % HOURS  # 1970 began on a Thursday


def _scores(
    sizes: FloatArray, mean: float, forecast: FloatArray, weights: FloatArray, window: int
) -> tuple[FloatArray, FloatArray]:
    lengths = block_lengths(window)
    means = np.log(np.maximum(block_means(sizes, lengths), 0.0) + FLOOR * mean)
    above = means[:, BEFORE:].min(axis=1) - forecast[0] - means[:, :BEFORE] @ forecast[1:]
    return above, block_means(np.log(sizes + LOG_FLOOR * mean), lengths) @ weights


def fit_week(name: str, values: FloatArray, times: IntArray, window: int, interval_ms: int) -> WeekReference | None:
    """Of one number's training values (N,) at opening times (N,); None where it is not watched, or never moves."""
    sizes = np.abs(values)
    mean = float(sizes.mean())
    if base_name(name) not in WATCHED or mean == 0.0 or interval_ms > HOUR_MS:
        return None
    hours, logs = hours_of_week(times), np.log(sizes + FLOOR * mean)
    counts = np.bincount(hours, minlength=HOURS)
    if not counts.all():
        return None
    level = np.bincount(hours, logs, HOURS) / counts
    level = 0.25 * np.roll(level, 1) + 0.5 * level + 0.25 * np.roll(level, -1)
    usual = np.exp(level - level.mean())
    sizes = sizes / usual[hours]
    mean, lengths = float(sizes.mean()), block_lengths(window)
    means = np.log(np.maximum(block_means(sizes, lengths), 0.0) + FLOOR * mean)
    before = np.column_stack([np.ones(len(means)), means[:, :BEFORE]])
    forecast = np.linalg.lstsq(before, means[:, BEFORE:].mean(axis=1), rcond=None)[0]
    blocks = block_means(np.log(sizes + LOG_FLOOR * mean), lengths)
    weights = step_weights(blocks)
    if weights is None:
        return None
    rise, fall = _scores(sizes, mean, forecast, weights, window)
    years = len(values) * interval_ms / YEAR_MS
    limits = [
        limit * float(np.sqrt((years * each.var() + PRIOR * known**2) / (years + PRIOR)))
        for limit, known, each in zip(LIMITS, KNOWN, (rise, fall), strict=True)
    ]
    return WeekReference(
        usual=tuple(usual.tolist()),
        mean=mean,
        forecast=tuple(forecast.tolist()),
        weights=tuple(weights.tolist()),
        centre=float(fall.mean()),
        rise_limit=limits[0],
        fall_limit=limits[1],
    )
