"""The probability of backtest overfitting on noise, on a planted edge, and where it is 1 by construction."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from himari_rl.errors import DataError
from himari_rl.experiments.overfitting import backtest_overfitting

ROWS, CONFIGURATIONS, BLOCKS = 1000, 200, 12


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(ROWS, CONFIGURATIONS))


def test_noise_gives_the_published_probability_on_average() -> None:
    """.48 +- .16 over matrices: never judge by one."""
    found = [backtest_overfitting(noise(seed), BLOCKS).probability for seed in range(16)]
    assert np.mean(found) == pytest.approx(0.48, abs=4 * 0.16 / 4)
    assert np.std(found, ddof=1) == pytest.approx(0.16, abs=0.08)


def test_a_planted_edge_is_not_overfitting() -> None:
    planted = noise(0)
    planted[:, :20] += 0.15
    found = backtest_overfitting(planted, BLOCKS)
    assert found.probability < 0.01
    assert found.out_of_sample.mean() > 0.1


def test_columns_of_mean_zero_are_overfitting_by_construction() -> None:
    """What a half wins, the other half loses: the winner is last every time."""
    kept = noise(1)[: ROWS // BLOCKS * BLOCKS]
    standard = (kept - kept.mean(axis=0)) / kept.std(axis=0)
    found = backtest_overfitting(standard, BLOCKS)
    assert (found.probability, found.loss) == (1.0, 1.0)
    assert (found.in_sample > 0.0).all()


def test_it_agrees_with_a_split_by_split_computation() -> None:
    returns = np.random.default_rng(2).normal(size=(40, 5))
    blocks = np.split(returns, 4)
    logits = []
    for chosen in combinations(range(4), 2):
        inside = np.concatenate([blocks[b] for b in chosen])
        outside = np.concatenate([blocks[b] for b in range(4) if b not in chosen])
        winner = int(np.argmax(inside.mean(0) / inside.std(0)))
        ratios = outside.mean(0) / outside.std(0)
        rank = 1 + int((ratios < ratios[winner]).sum())
        logits.append(np.log(rank / 6 / (1 - rank / 6)))
    found = backtest_overfitting(returns, 4)
    np.testing.assert_allclose(found.logits, logits, atol=1e-12)
    assert found.probability == np.mean(np.array(logits) <= 0)


def test_rows_that_fill_no_block_are_the_oldest() -> None:
    returns = np.random.default_rng(3).normal(size=(42, 5))
    np.testing.assert_array_equal(backtest_overfitting(returns, 4).logits, backtest_overfitting(returns[2:], 4).logits)


@pytest.mark.parametrize(("shape", "blocks"), [((100, 1), 4), ((100, 5), 5), ((7, 5), 4), ((100, 5), 0)])
def test_what_cannot_be_split_is_refused(shape: tuple[int, int], blocks: int) -> None:
    with pytest.raises(DataError, match="even number of blocks"):
        backtest_overfitting(np.ones(shape), blocks)
