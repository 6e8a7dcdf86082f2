"""How much risk the portfolio takes away: 1 - its volatility over the weighted sum of its assets' volatilities."""

from __future__ import annotations

import numpy as np

from himari_rl.evaluation import statistics
from himari_rl.evaluation.portfolio import diversification_ratio
from himari_rl.evaluation.statistics import Interval
from himari_rl.schema import FloatArray

REPLICATIONS = 400
SEED = 5  # of the draws


def risk_taken_away(exposure: FloatArray, asset_return: FloatArray) -> Interval:
    """Share of risk, from the mean exposure and the covariance of returns, both (D, A).

    It is 1 - 1 / the diversification ratio of Choueifaty (2008): 0 is one asset, 1 - 1/sqrt(A) so many independent
    ones of equal risk. The interval resamples the bars in blocks; the mean exposure stays.
    """
    weights = exposure.mean(axis=0)
    count = asset_return.shape[1]
    pairs = np.triu_indices(count)
    columns = np.hstack([asset_return, asset_return[:, pairs[0]] * asset_return[:, pairs[1]]])
    block = statistics.block_length(asset_return**2)
    draws = statistics.resampled_means(columns, SEED, replications=REPLICATIONS, block=block)

    def reduction(means: FloatArray) -> float:
        covariance = np.empty((count, count))
        covariance[pairs] = means[count:]
        covariance.T[pairs] = means[count:]
        covariance -= np.outer(means[:count], means[:count])
        return 1.0 - 1.0 / diversification_ratio(weights, covariance)

    return statistics.interval(reduction(columns.mean(axis=0)), np.array([reduction(each) for each in draws]))
