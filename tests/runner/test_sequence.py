"""The confidence sequence: its boundary is Robbins' mixture, it looks only back, and peeking stops few."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from himari_rl.errors import ConfigError
from himari_rl.runner.config import AbConfig
from himari_rl.runner.sequence import (
    GROUPS,
    bars_to_show,
    confidence_sequence,
    long_run_variance,
    mixture_boundary,
    mixture_rho,
)

QUICK = AbConfig(block_bars=4, min_blocks=10, horizon_bars=1_000)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_at_the_boundary_the_mixture_s_likelihood_ratio_is_one_in_alpha(alpha: float) -> None:
    """Of N(0, 1 / rho) for the mean, against 0: sqrt(rho / (n + rho)) exp(S^2 / (2 (n + rho))); Ville's inequality."""
    for n in (1.0, 50.0, 20_000.0):
        rho = mixture_rho(700.0, alpha)
        s = float(mixture_boundary(np.array(n), rho, alpha))
        ratio = math.sqrt(rho / (n + rho)) * math.exp(s * s / (2.0 * (n + rho)))
        assert ratio == pytest.approx(1.0 / alpha, rel=1e-9)


def test_the_mixture_is_narrowest_where_it_was_asked_to_be() -> None:
    n, best = np.array(700.0), mixture_rho(700.0, 0.05)
    at = [float(mixture_boundary(n, factor * best, 0.05)) for factor in (0.99, 1.0, 1.01)]
    assert at[1] < min(at[0], at[2])


def test_the_boundary_is_that_of_the_package_confseq() -> None:
    """Its rho is an approximation of ours, v / (2 log(1/a) + log(1 + 2 log(1/a))): it is asked for our rho."""
    boundaries = pytest.importorskip("confseq.boundaries", reason="the peer confseq is not installed")
    alpha, rho = 0.05, mixture_rho(8_760.0, 0.05)
    known = 2.0 * math.log(1.0 / alpha) + math.log1p(2.0 * math.log(1.0 / alpha))
    for n in (10.0, 720.0, 8_760.0, 1e6):
        theirs = boundaries.normal_mixture_bound(n, alpha, rho * known, alpha, False)
        assert float(mixture_boundary(np.array(n), rho, alpha)) == pytest.approx(float(theirs), rel=1e-9)


def variance_twin(blocks: np.ndarray, k: int) -> float:
    """Of the first k blocks, by the words of the docstring."""
    found = 0.0
    for size in (1, 2, 4, 8, 16, 32):
        m = k // size
        if m < GROUPS:
            continue
        x = [float(blocks[i * size : (i + 1) * size].mean()) for i in range(m)]
        mean = sum(x) / m
        variance = sum((each - mean) ** 2 for each in x) / (m - 1)
        covariance = sum((a - mean) * (b - mean) for a, b in pairwise(x)) / (m - 1)
        found = max(found, size * (variance + 2.0 * max(covariance, 0.0)))
    return found


def test_the_long_run_variance_is_the_largest_of_its_scales() -> None:
    rng = np.random.default_rng(3)
    blocks = rng.normal(size=400)
    for t in range(1, 400):
        blocks[t] += 0.7 * blocks[t - 1]
    found = long_run_variance(blocks[None])[0]
    for k in (10, 11, 57, 160, 333, 400):
        assert found[k - 1] == pytest.approx(variance_twin(blocks, k), rel=1e-9)
    assert found[-1] > 4.0 * blocks.var()  # of AR(0.7) it is (1 + 0.7) / (1 - 0.7) = 5.7 variances
    assert (found[: GROUPS - 1] == 0.0).all()


def test_what_comes_later_changes_nothing_that_was_said() -> None:
    rng = np.random.default_rng(4)
    series = rng.standard_t(3.0, 2_000)
    before = confidence_sequence(series[:1_000], QUICK)
    series[1_000:] += 5.0
    after = confidence_sequence(series, QUICK)
    np.testing.assert_array_equal(before.mean, after.mean[:250])
    np.testing.assert_array_equal(before.half_width, after.half_width[:250])
    assert not np.array_equal(before.mean, after.mean[250:])


def test_many_series_at_once_are_each_of_them() -> None:
    rng = np.random.default_rng(5)
    many = rng.normal(0.05, 1.0, (3, 1_203))
    together = confidence_sequence(many, QUICK)
    for row in range(3):
        alone = confidence_sequence(many[row], QUICK)
        np.testing.assert_allclose(together.half_width[row], alone.half_width, rtol=1e-12)
        assert together.first[0][row] == alone.first[0]


def test_peeking_stops_few_without_a_difference_and_many_by_a_fixed_interval() -> None:
    """The negative control: 1.96 standard errors, looked at as often. benchmarks/ab_sequence.py has the whole of it."""
    rng = np.random.default_rng(6)
    noise = rng.standard_t(3.0, (200, 6_000))
    config = AbConfig()
    bars, _ = confidence_sequence(noise, config).first
    n = np.arange(1, 6_001)
    error = np.sqrt((noise * noise).cumsum(axis=1)) / n
    naive = (np.abs(noise.cumsum(axis=1) / n) > 1.96 * error)[:, 720:].any(axis=1)
    assert np.isfinite(bars).mean() <= 0.05
    assert naive.mean() > 0.15


def test_the_plan_s_power_is_what_simulations_find() -> None:
    rng, config = np.random.default_rng(7), AbConfig(horizon_bars=2_000)
    n = bars_to_show(0.1, 1.0, config)
    bars, sign = confidence_sequence(rng.normal(0.1, 1.0, (400, 2 * math.ceil(n))), config).first
    assert 0.65 < (bars <= n).mean() < 0.9  # 0.8, less what the estimated variance costs
    assert (sign[np.isfinite(bars)] > 0).all()
    assert math.isinf(bars_to_show(0.0, 1.0, config))
    assert bars_to_show(1e9, 1.0, config) == config.min_blocks * config.block_bars


def test_policies_that_decide_alike_are_never_told_apart() -> None:
    assert math.isinf(float(confidence_sequence(np.zeros(5_000), QUICK).first[0]))
    assert confidence_sequence(np.zeros(3), QUICK).first[0] == np.inf


def test_a_config_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="alpha"):
        AbConfig(alpha=0.0)
    with pytest.raises(ConfigError, match="min_blocks"):
        AbConfig(min_blocks=2)
