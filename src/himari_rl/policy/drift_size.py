"""Did a number's size change? Two measures of drift.py on the mean logarithm of its size: `size` and `step`.

`size` holds a window against the windows of training. But a market's volatility wanders over its own factor of three
within a year, so a level says little about a factor of three; that it tripled *against the bars just before* says more:

    channel   log(|x| + floor), bar by bar: a mean of logarithms is not carried away by one large bar, as the logarithm
              of a mean is
    forecast  least squares on the means of 3/4 and 1/4 window before (a market that was quiet stays so for a while)
    step      the mean of the three quietest quarters of the window less its forecast. A market's own storms come with
              one loud day and abate; what was multiplied is louder on every day, so the loudest does not count

Limits are one-sided, as a market grows loud much faster than it falls silent: training's largest of every window, their
upper fifth with an exponential tail (peaks over threshold; Coles 2001, "An Introduction to Statistical Modeling of
Extreme Values", ch. 4), carried on to what is met once in RETURNS years. Half a year's more where training was one year
alone. What a level can wander between the parts of training is added to the limits of `size`.

On real hours nature itself triples so often that, at one alarm a year, a threefold volatility is found in some 60 % of
places, a third in 90, five times and a fifth in 98 (docs/runner.md); no statistic of sizes was found that does better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from himari_rl.policy.manifest_part import ManifestPart
from himari_rl.schema import HOUR_MS, YEAR_MS, FloatArray

MEAN_LOG, MEAN = "mean_log", "mean"
CHANNELS = {"momentum_1h": MEAN_LOG, "momentum_4h": MEAN_LOG, "volatility": MEAN_LOG, "signal_confidence": MEAN}
"""What is looked at of a number: its mean logarithm, or its mean. Numbers with few values have no entry."""
RETURNS = {"momentum_1h": 0.75, "momentum_4h": 3.0, "volatility": 6.0, "signal_confidence": 6.0}
"""Years of hours between two false alarms of a step, were the tail exact. The first carries the power; the others are
the same moves again, smoothed, and would alarm as often for less."""
SIZE_RETURN = 5.0
WARY = 0.5  # years: a training of one year alone is trusted half as much again as an endless one
UPPER = 0.2  # of the windows' largest are above the threshold of the tail
PARTS = 8  # of the training data, between whose means a level wanders
FLOOR = 0.1  # of training's median size: a bar that did not move has a size, and a dead feed has none
QUARTERS, QUIETEST = 4, 3
EVERY = 5  # positions of training that the forecast is fitted on

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Score(ManifestPart):
    """A number less a weighted sum, and how far training's strayed from their mean."""

    weights: tuple[Finite, ...]
    centre: Finite
    lowest: Finite  # below 0
    highest: Finite

    def strayed(self, value: FloatArray, before: FloatArray) -> FloatArray:
        """(M,) of values (M,) after blocks (M, K), in units of the limit on its side, so that 1 is the limit."""
        score = value - before @ np.array(self.weights) - self.centre
        strayed: FloatArray = np.maximum(score / self.highest, score / self.lowest)
        return strayed


class SizeReference(ManifestPart):
    """One number's two scores, fitted on training."""

    channel: str
    floor: Finite
    size: Score  # of the window's mean
    step: Score  # of its quietest quarters, after the two blocks before it, the oldest first


def base_name(name: str) -> str:
    """A number's name without the symbol before it."""
    return name.rpartition(".")[2]


def block_means(values: FloatArray, lengths: Sequence[int]) -> FloatArray:
    """(N - sum + 1, K): of each position in (N,) values the means of K blocks, one after the other."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    starts = np.arange(len(values) - sum(lengths) + 1)
    found, at = [], 0
    for length in lengths:
        found.append((total[starts + at + length] - total[starts + at]) / length)
        at += length
    return np.column_stack(found)


def _seen(values: FloatArray, channel: str, floor: float) -> FloatArray:
    return np.log(np.abs(values) + floor) if channel == MEAN_LOG else values


def _parts(seen: FloatArray, channel: str, window: int) -> tuple[FloatArray, FloatArray]:
    """Of every two windows in a row: what is judged (M,), and the blocks before it (M, 2)."""
    quarter = window // QUARTERS
    lengths = (window - quarter, quarter, window - (QUARTERS - 1) * quarter, *(QUARTERS - 1) * (quarter,))
    blocks = block_means(seen, lengths)
    quarters = np.sort(blocks[:, 2:], axis=1)
    return quarters[:, : QUIETEST if channel == MEAN_LOG else QUARTERS].mean(axis=1), blocks[:, :2]


def return_level(scores: FloatArray, window: int, windows: float) -> float:
    """The value that the largest of a window exceeds once in so many windows, by the tail of (N,) scores."""
    whole = len(scores) // window * window
    largest = scores[:whole].reshape(-1, window).max(axis=1)
    threshold = float(np.quantile(largest, 1.0 - UPPER))
    beyond = largest[largest > threshold] - threshold
    excess = float(beyond.mean()) if len(beyond) else 0.0
    return threshold + excess * math.log(max(UPPER * windows, 1.0))


def fit_size(name: str, values: FloatArray, window: int, interval_ms: int, alike: int) -> SizeReference | None:
    """The scores of one number's training values (N,), in the order of time; None where nothing can step.

    Args:
        alike: numbers of this kind that are watched together, as of several symbols: each alarms so much more rarely.
    """
    base = base_name(name)
    channel = CHANNELS.get(base)
    if channel is None or (values == values[0]).all():
        return None
    size = np.abs(values)
    floor = max(FLOOR * float(np.median(size)), 1e-3 * float(size.mean()))
    seen = _seen(values, channel, floor)
    judged, before = _parts(seen, channel, window)
    terms = np.column_stack([before, np.ones(len(before))])[::EVERY]
    weights = np.linalg.lstsq(terms, judged[::EVERY], rcond=None)[0][:2]
    # windows a year: of hours, also where bars are slower, as their alarms are days as well
    a_year = max(YEAR_MS / max(interval_ms, 1), YEAR_MS / HOUR_MS) / window
    wary = alike * (1.0 + WARY * a_year * window / len(values))
    level = block_means(seen, (window,))[:, 0]
    parts = np.array([part.mean() for part in np.array_split(level, PARTS)])
    return SizeReference(
        channel=channel,
        floor=floor,
        size=_score(level, (), np.zeros((len(level), 0)), window, wary * SIZE_RETURN * a_year, float(parts.std())),
        step=_score(judged, tuple(weights.tolist()), before, window, wary * RETURNS[base] * a_year),
    )


def _score(
    value: FloatArray, weights: tuple[float, ...], before: FloatArray, window: int, windows: float, wander: float = 0.0
) -> Score:
    """With limits; those of a level (`wander`) reach at least as far as training itself did."""
    score = value - before @ np.array(weights)
    centre = float(score.mean())
    sides = []
    for away in (centre - score, score - centre):
        limit = return_level(away, window, windows) + wander
        sides.append(max(limit, float(away.max()) if wander else 0.0, 1e-12))
    return Score(weights=weights, centre=centre, lowest=-sides[0], highest=sides[1])


class SizeScores:
    """The scores of several numbers; those without a reference are 0 always.

    Args:
        references: of each number, in order.
    """

    def __init__(self, references: Sequence[SizeReference | None], window: int) -> None:
        # the first bundles with sizes had them on the logarithm of means, in six weights: no longer looked at
        self._references = [
            known if known is not None and len(known.step.weights) == 2 else None for known in references
        ]
        self._window = window

    def size(self, values: FloatArray) -> FloatArray:
        """(N - W + 1, F) of (N, F), 1 at the limit."""
        found = np.zeros((len(values) - self._window + 1, values.shape[1]))
        for f, known in enumerate(self._references):
            if known is not None:
                level = block_means(_seen(values[:, f], known.channel, known.floor), (self._window,))[:, 0]
                found[:, f] = known.size.strayed(level, np.zeros((len(level), 0)))
        return found

    def step(self, values: FloatArray) -> FloatArray:
        """(N - 2 W + 1, F) of (N, F), 1 at the limit."""
        found = np.zeros((len(values) - 2 * self._window + 1, values.shape[1]))
        for f, known in enumerate(self._references):
            if known is not None:
                seen = _seen(values[:, f], known.channel, known.floor)
                found[:, f] = known.step.strayed(*_parts(seen, known.channel, self._window))
        return found
