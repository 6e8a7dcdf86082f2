"""The statistics against the published values, and against noise."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest

from himari_rl.errors import ConfigError, DataError
from himari_rl.evaluation import statistics
from himari_rl.evaluation.statistics import Moments

LEVEL = 0.95
WORLDS, ROWS = 250, 1000


def test_psr_is_the_published_one() -> None:
    """Bailey & Lopez de Prado (2012): two years of months at an annual Sharpe ratio of 1.585."""
    track = Moments(24, 1.585 / math.sqrt(12.0), -2.448, 10.164)
    assert statistics.probabilistic_sharpe(track) == pytest.approx(0.9132343, abs=5e-8)


@pytest.mark.parametrize(("trials", "value"), [(100, 2.5306029), (10, 1.5745983), (1, 0.0)])
def test_the_expected_maximum_is_the_published_one(trials: int, value: float) -> None:
    assert statistics.expected_maximum(trials) == pytest.approx(value, abs=5e-8)


def test_the_expected_maximum_is_that_of_simulated_normals() -> None:
    draws = np.random.default_rng(0).normal(size=(20_000, 100)).max(axis=1)
    assert statistics.expected_maximum(100) == pytest.approx(draws.mean(), abs=0.03)  # the formula is asymptotic


def test_dsr_is_the_published_one() -> None:
    """Bailey & Lopez de Prado (2014), per-day moments of five years."""
    track = Moments(1250, 2.5 / math.sqrt(250.0), -3.0, 10.0)
    hurdle = math.sqrt(0.5 / 250.0) * statistics.expected_maximum(100)
    assert hurdle == pytest.approx(0.11317, abs=5e-6)
    assert statistics.deflated_sharpe(track, 100, 0.5 / 250.0) == pytest.approx(0.9003968, abs=5e-8)


@pytest.mark.parametrize(("per_year", "years"), [(250, 2.73), (52, 2.83), (12, 3.24)])
def test_the_minimum_track_record_is_the_published_one(per_year: int, years: float) -> None:
    track = Moments(0, 2.0 / math.sqrt(per_year))
    periods = statistics.minimum_track_record(track, 1.0 / math.sqrt(per_year), 0.95)
    assert periods / per_year == pytest.approx(years, abs=0.005)


def test_a_track_record_of_the_minimum_length_has_exactly_the_confidence() -> None:
    track = Moments(0, 0.05, -0.7, 6.0)
    periods = statistics.minimum_track_record(track, 0.01, 0.9)
    z = (track.sharpe - 0.01) * math.sqrt(periods - 1) / math.sqrt(1 + 0.7 * 0.05 + 5 / 4 * 0.05**2)
    assert statistics.NORMAL.cdf(z) == pytest.approx(0.9, abs=1e-12)


def test_no_track_record_establishes_a_sharpe_ratio_below_the_benchmark() -> None:
    assert statistics.minimum_track_record(Moments(100, 0.01), 0.01) == math.inf


def test_moments_are_those_of_a_hand_computed_series() -> None:
    found = statistics.moments(np.array([1.0, 1.0, 1.0, 5.0]))  # mean 2, squares 1 1 1 9
    assert found.count == 4
    assert found.sharpe == pytest.approx(2.0 / 2.0)  # deviation with n - 1: sqrt(12 / 3)
    assert found.skew == pytest.approx((-3.0 + 27.0) / 4.0 / 3.0**1.5)
    assert found.kurtosis == pytest.approx((3.0 + 81.0) / 4.0 / 9.0)


def test_an_account_that_never_moves_has_no_sharpe_ratio_to_speak_of() -> None:
    assert statistics.probabilistic_sharpe(statistics.moments(np.zeros(50))) == 0.5


def test_a_constant_return_is_refused() -> None:
    with pytest.raises(DataError, match=r"every bar returns 0\.01"):
        statistics.moments(np.full(50, 0.01))


def test_fewer_than_one_trial_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 trials"):
        statistics.expected_maximum(0)


def passes(returns: np.ndarray, annualised_by: float = 1.0) -> float:
    """Share of the columns of returns (T, K) whose PSR reaches 95 %."""
    tracks = [statistics.moments(column) for column in returns.T]
    wrong = [replace(track, sharpe=track.sharpe * math.sqrt(annualised_by)) for track in tracks]
    return float(np.mean([statistics.probabilistic_sharpe(track) >= LEVEL for track in wrong]))


def test_five_per_cent_of_noise_passes_the_psr() -> None:
    noise = np.random.default_rng(1).normal(size=(1000, 2000))
    assert passes(noise) == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 2000))


def test_an_annualised_ratio_with_a_count_of_bars_passes_almost_half_of_noise() -> None:
    """The earlier system's mistake, rebuilt: it shows that the test above can fail."""
    noise = np.random.default_rng(1).normal(size=(1000, 2000))
    assert passes(noise, annualised_by=252.0) == pytest.approx(0.45, abs=0.05)


def test_the_deflated_ratio_refuses_the_best_of_fifty_noises_and_the_plain_one_does_not() -> None:
    rng = np.random.default_rng(2)
    best = []
    for _ in range(200):
        noise = rng.normal(size=(500, 50))
        ratios = noise.mean(axis=0) / noise.std(axis=0, ddof=1)
        best.append((statistics.moments(noise[:, ratios.argmax()]), float(ratios.var(ddof=1))))
    plain = np.mean([statistics.probabilistic_sharpe(track) >= LEVEL for track, _ in best])
    deflated = np.mean([statistics.deflated_sharpe(track, 50, variance) >= LEVEL for track, variance in best])
    assert plain > 0.85
    assert deflated <= 0.05


def autoregressive(rng: np.random.Generator, rows: int, phi: float) -> np.ndarray:
    shocks = rng.normal(size=rows)
    shocks[0] /= math.sqrt(1.0 - phi**2)  # in its stationary law from the start
    return np.array(list(accumulate(shocks.tolist(), lambda last, shock: phi * last + shock)))


def coverage(phi: float, block: float | None) -> float:
    """Share of the worlds of mean 0 whose 95 % interval holds 0."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(WORLDS):
        series = autoregressive(rng, ROWS, phi)[:, None]
        draws = statistics.resample(series, lambda rows: rows.mean(axis=0), rng, replications=200, block=block)
        found = statistics.interval(float(series.mean()), draws[:, 0])
        held += found.lower <= 0.0 <= found.upper
    return held / WORLDS


def test_the_interval_of_a_mean_covers_the_truth_95_times_in_100() -> None:
    """Short records are covered a little less: the bootstrap's standard error is 6 % small at 1,000 rows."""
    assert 0.91 <= coverage(0.3, None) <= 0.98


def test_resampling_single_bars_of_an_autocorrelated_series_does_not() -> None:
    assert coverage(0.6, 1.0) < 0.80


def test_the_block_length_is_the_automatic_one_and_at_least_one_bar() -> None:
    from arch.bootstrap import optimal_block_length

    rng = np.random.default_rng(4)
    slow, fast = autoregressive(rng, 2000, 0.8), rng.normal(size=2000)
    expected = float(optimal_block_length(slow)["stationary"].iloc[0])
    assert expected > 5.0
    assert statistics.block_length(np.column_stack([fast, slow, np.zeros(2000)])) == pytest.approx(expected)
    assert statistics.block_length(np.zeros(100)) == 1.0


def test_pairs_stay_paired_in_every_resample() -> None:
    series = np.random.default_rng(5).normal(size=(200, 1)) + np.array([[0.0, 1.0]])
    draws = statistics.resample(
        series, lambda rows: np.ptp(rows[:, 1] - rows[:, 0], keepdims=True), np.random.default_rng(0), replications=50
    )
    assert draws.max() < 1e-12


def test_the_standard_error_of_an_independent_mean_is_sigma_over_root_n() -> None:
    series = np.random.default_rng(6).normal(size=2000)
    found = statistics.mean_interval(series, np.random.default_rng(0), replications=2000)
    assert found.standard_error == pytest.approx(series.std() / math.sqrt(2000), rel=0.08)
    assert found.upper - found.lower == pytest.approx(2 * 1.96 * series.std() / math.sqrt(2000), rel=0.1)


def test_one_seed_gives_one_interval_and_another_seed_another() -> None:
    series = np.random.default_rng(7).normal(size=300)
    first, again, other = (
        statistics.mean_interval(series, np.random.default_rng(seed), replications=200) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_an_interval_changes_its_unit_and_not_its_meaning() -> None:
    found = statistics.interval(1.0, np.array([-1.0, 0.0, 1.0, 2.0, 3.0]), 0.5)
    assert (found.lower, found.upper, found.positive) == (0.0, 2.0, 0.7)
    year = found.scaled(10.0)
    assert (year.estimate, year.lower, year.upper, year.positive) == (10.0, 0.0, 20.0, 0.7)
    assert year.standard_error == pytest.approx(10.0 * found.standard_error)
