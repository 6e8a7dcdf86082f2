"""PSR, deflated Sharpe ratio and PBO against an independent implementation, the PyPI package sharpebench (0.28.0).

Its PSR is that of independent returns, so the memory of the sample is set aside here. It skips where it is not
installed: pip install sharpebench.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from himari_rl.evaluation import statistics
from himari_rl.evaluation.statistics import Moments, block_length, dependence, resampled_means
from himari_rl.experiments.overfitting import backtest_overfitting

CLOSE = 1e-6


@pytest.fixture(scope="module")
def peer() -> Any:
    return pytest.importorskip("sharpebench", reason="the package sharpebench is not installed")


def track(seed: int) -> tuple[list[float], Moments]:
    """Returns with fat tails, and their moments as if they were independent."""
    returns = 0.01 * np.random.default_rng(seed).standard_t(5, 800) + 0.0005 * seed
    return returns.tolist(), replace(statistics.moments(returns), dependence=1.0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("benchmark", [0.0, 0.02, -0.01])
def test_psr_is_the_peers(peer: Any, seed: int, benchmark: float) -> None:
    returns, of = track(seed)
    theirs = peer.probabilistic_sharpe_ratio(returns, benchmark)
    assert statistics.probabilistic_sharpe(of, benchmark) == pytest.approx(theirs, abs=CLOSE)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("trials", [1, 2, 10, 1000])
def test_dsr_is_the_peers(peer: Any, seed: int, trials: int) -> None:
    returns, of = track(seed)
    theirs = peer.deflated_sharpe_ratio(returns, trials, trials_sr_std=0.03)
    assert statistics.deflated_sharpe(of, trials, 0.03**2) == pytest.approx(theirs, abs=CLOSE)


@pytest.mark.parametrize("blocks", [4, 8, 10])
def test_pbo_is_the_peers(peer: Any, blocks: int) -> None:
    returns = np.random.default_rng(blocks).standard_normal((400, 12))
    theirs = peer.probability_of_backtest_overfitting(returns.tolist(), blocks)
    assert backtest_overfitting(returns, blocks).probability == pytest.approx(theirs, abs=CLOSE)


def autoregression(phi: float, rows: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(rows)
    path = [0.0]
    for each in noise.tolist():
        path.append(phi * path[-1] + each)
    return np.array(path[1:])


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("rows", [300, 3000])
def test_the_block_length_is_archs(phi: float, rows: int) -> None:
    bootstrap = pytest.importorskip("arch.bootstrap")
    path = autoregression(phi, rows)
    theirs = max(1.0, float(bootstrap.optimal_block_length(path)["stationary"].max()))
    assert block_length(path) == pytest.approx(theirs, rel=1e-9)


def test_resampled_means_have_the_long_run_error_of_an_autoregression() -> None:
    """An AR(.6) of variance 1 / (1 - .36) has a mean of variance 1 / ((1 - .6)^2 n)."""
    path = autoregression(0.6, 20_000)
    draws = resampled_means(path[:, None], 0, block=block_length(path))
    assert draws.std() == pytest.approx(1.0 / 0.4 / np.sqrt(20_000), rel=0.12)
    assert draws.mean() == pytest.approx(path.mean(), abs=draws.std() / 10)


def test_memory_nearly_doubles_the_variance_of_a_sharpe_ratio_and_none_does_not() -> None:
    assert dependence(autoregression(0.3, 40_000)) == pytest.approx(1.3 / 0.7, rel=0.08)
    assert dependence(autoregression(0.0, 40_000)) == pytest.approx(1.0, abs=0.08)
    assert dependence(autoregression(-0.5, 40_000)) == 1.0  # never surer than independent returns
