"""Did a number's size change? Two measures of drift.py on the logarithm of a window's mean size: `size` and `step`.

`size` holds it against the sizes of training's windows. But a market's volatility wanders over its own factor of three
within a year, so a level says little about a factor of three; that it tripled *against the bars just before* says more.
`step` compares the window with what the bars before it forecast: a matched filter (the linear discriminant of a lasting
step, Fisher 1936) on block means,

    blocks   3/4 and 1/4 window before; four quarters of the window itself
    score    w' (blocks - their training mean), w = S^-1 d / (d' S^-1 d), d = 0 before and 1 in the window,
             S the blocks' covariance over all training positions

so that a step of size s raises the score by s, whatever the market did before, and a storm that is half over by the end
of the window, or one that had already begun, raises it by less. On hourly bars the score of log |return| has a standard
deviation of .27 where the window's level alone has .4: a factor of three is 4 of them instead of 2.7.

Limits are LIMITS standard deviations to either side. Those of a step are training's together with PRIOR years of a
market that is known (hours of bitcoin and ether before 2022), as one calm year tells little of the next. Those of a
size reach at least as far as training did, and farther by WANDER times what its level wandered between its parts.

Tried without gain (docs/runner.md says what this one finds): logarithms before means, the loudest day of a window left
out, one-sided limits by the tail of training's largest windows, differences without weights. Each finds a third of the
size more often and alarms in years whose weekends, or storms, are not those of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from himari_rl.policy.manifest_part import ManifestPart
from himari_rl.schema import HOUR_MS, YEAR_MS, FloatArray

LOG_SIZE, MEAN = "log_size", "mean"
CHANNELS = {"momentum_1h": LOG_SIZE, "momentum_4h": LOG_SIZE, "volatility": LOG_SIZE, "signal_confidence": MEAN}
"""What is looked at of a number: the logarithm of its mean size, or its mean. Numbers with few values have no entry."""
SUPERSEDED, BESIDE_WEEK = frozenset({"momentum_1h", "momentum_4h", "volatility"}), 1.2
"""Numbers whose step has so much wider a limit where drift_week.py can look at the returns themselves."""
LIMITS = {LOG_SIZE: 4.0, MEAN: 5.0}  # standard deviations; a confidence has the fatter tails
WIDER = {"volatility": 1.15}  # of a step: one storm stays in twenty of its values
PRIOR, KNOWN = 1.0, {"momentum_1h": 0.28, "momentum_4h": 0.33, "volatility": 0.29}
"""Years, and the standard deviations of steps of the logarithm."""
PARTS, WANDER = 8, 2.0  # of training, between whose means a level wanders, and how much of that is added
FLOOR = 1e-3  # of training's mean size: where a feed dies, its log size is low, not minus infinity
SHRINK = 0.05  # of the covariance towards its diagonal: blocks are alike
STEPS = np.array([0.0, 0.0, 1.0, 1.0, 1.0, 1.0])  # of each block, where the window is another than the one before

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Score(ManifestPart):
    """A weighted sum, and how far training's strayed from their mean."""

    weights: tuple[Finite, ...]
    centre: Finite
    lowest: Finite  # below 0
    highest: Finite

    def strayed(self, blocks: FloatArray) -> FloatArray:
        """(M,) of (M, K) in units of the limit on its side, so that 1 is the limit."""
        score = blocks @ np.array(self.weights) - self.centre
        strayed: FloatArray = np.maximum(score / self.highest, score / self.lowest)
        return strayed


class SizeReference(ManifestPart):
    """One number's two scores, fitted on training."""

    channel: str
    floor: Finite
    size: Score  # of the window's mean
    step: Score  # of the six blocks, the oldest first


def base_name(name: str) -> str:
    """A number's name without the symbol before it."""
    return name.rpartition(".")[2]


def block_lengths(window: int) -> tuple[int, ...]:
    """Bars of each block, the oldest first; together two windows."""
    quarter = window // 4
    return (window - quarter, quarter, window - 3 * quarter, quarter, quarter, quarter)


def block_means(values: FloatArray, lengths: Sequence[int]) -> FloatArray:
    """(N - sum + 1, K): of each position in (N,) values the means of K blocks, one after the other."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    count = len(values) - sum(lengths) + 1
    found, at = np.empty((count, len(lengths))), 0
    for k, length in enumerate(lengths):
        found[:, k] = (total[at + length : at + length + count] - total[at : at + count]) / length
        at += length
    return found


def _seen(values: FloatArray, channel: str, floor: float, lengths: Sequence[int]) -> FloatArray:
    means = block_means(np.abs(values) if channel == LOG_SIZE else values, lengths)
    # a difference of cumulated sums may miss 0 by a last bit
    return np.log(np.maximum(means, 0.0) + floor) if channel == LOG_SIZE else means


def _size(level: FloatArray, most: float) -> Score:
    """Of every window's level (M,); at `most` standard deviations."""
    centre = float(level.mean())
    wander = WANDER * float(np.std([part.mean() for part in np.array_split(level, PARTS)]))
    most *= float(level.std())
    down, up = (max(most, float(away.max())) + wander for away in (centre - level, level - centre))
    return Score(weights=(1.0,), centre=centre, lowest=-down, highest=up)


def step_weights(blocks: FloatArray) -> FloatArray | None:
    """The matched filter of a step against the noise of `blocks` (N, B): weights (B,), 1 for a step of 1; None where a
    block never moves."""
    covariance = np.cov(blocks.T)
    spread = np.diag(covariance)
    if not (spread > 0.0).all():
        return None
    weights: FloatArray = np.linalg.solve((1.0 - SHRINK) * covariance + SHRINK * np.diag(spread), STEPS)
    weights /= weights @ STEPS
    return weights


def fit_size(name: str, values: FloatArray, window: int, interval_ms: int = HOUR_MS) -> SizeReference | None:
    """The scores of one number's training values (N,), in the order of time; None where nothing can step."""
    channel = CHANNELS.get(base_name(name))
    floor = FLOOR * float(np.abs(values).mean())
    if channel is None or (values == values[0]).all():
        return None
    blocks = _seen(values, channel, floor, block_lengths(window))
    weights = step_weights(blocks)
    if weights is None:
        return None
    level = _seen(values, channel, floor, (window,))
    base, years = base_name(name), len(values) * interval_ms / YEAR_MS
    scores = blocks @ weights
    limit = LIMITS[channel] * WIDER.get(base, 1.0) * _with_prior(base, float(scores.std()), years)
    step = Score(weights=tuple(weights.tolist()), centre=float(scores.mean()), lowest=-limit, highest=limit)
    return SizeReference(channel=channel, floor=floor, size=_size(level, LIMITS[channel]), step=step)


def _with_prior(base: str, deviation: float, years: float) -> float:
    known = KNOWN.get(base)
    if known is None:
        return deviation
    return float(np.sqrt((years * deviation**2 + PRIOR * known**2) / (years + PRIOR)))


class SizeScores:
    """The scores of several numbers; those without a reference are 0 always.

    Args:
        references: of each number, in order.
    """

    def __init__(self, references: Sequence[SizeReference | None], window: int) -> None:
        self._references = references
        self._lengths = {"size": (window,), "step": block_lengths(window)}

    def size(self, values: FloatArray) -> FloatArray:
        """(N - W + 1, F) of (N, F), 1 at the limit."""
        return self._strayed(values, "size")

    def step(self, values: FloatArray) -> FloatArray:
        """(N - 2 W + 1, F) of (N, F), 1 at the limit."""
        return self._strayed(values, "step")

    def _strayed(self, values: FloatArray, measure: str) -> FloatArray:
        lengths = self._lengths[measure]
        found = np.zeros((len(values) - sum(lengths) + 1, values.shape[1]))
        for f, known in enumerate(self._references):
            if known is not None:
                score = known.size if measure == "size" else known.step
                found[:, f] = score.strayed(_seen(values[:, f], known.channel, known.floor, lengths))
        return found
