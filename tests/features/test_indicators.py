"""Each indicator against its scalar definition, at the edges where histories begin, break and stand still."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.features import make_bars, scalar_correlation, scalar_momentum, scalar_volatility, with_close
from himari_rl.features.indicators import (
    bar_returns,
    momentum,
    panel_correlations,
    ratio_to_past,
    rolling_sum,
    volatility,
)
from himari_rl.schema import HOUR_MS

MINUTE_MS, DAY_MS = 60_000, 24 * HOUR_MS


@given(st.lists(st.integers(-1000, 1000), max_size=60), st.integers(1, 70))
def test_a_rolling_sum_is_the_sum_of_the_last_rows(values: list[int], window: int) -> None:
    expected = [sum(values[max(0, row - window + 1) : row + 1]) for row in range(len(values))]
    assert rolling_sum(np.array(values, dtype=float), window).tolist() == expected


def test_an_absurd_value_leaves_no_trace_once_it_has_left_the_window() -> None:
    values = np.full(100, 1e-9)
    values[10] = 1e18
    assert rolling_sum(values, 5)[20] == pytest.approx(5e-9, rel=1e-12)
    running = values.cumsum()  # negative control: a difference of running totals does keep the trace
    assert running[20] - running[15] != pytest.approx(5e-9, rel=0.5)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    gaps=st.sampled_from([0.0, 0.1, 0.6]),
    interval_ms=st.sampled_from([MINUTE_MS, 15 * MINUTE_MS, HOUR_MS, 2 * HOUR_MS, DAY_MS]),
    horizon_ms=st.sampled_from([HOUR_MS, 4 * HOUR_MS]),
)
def test_momentum_agrees_with_its_scalar_definition(seed: int, gaps: float, interval_ms: int, horizon_ms: int) -> None:
    bars = make_bars(90, seed, gaps=gaps, interval_ms=interval_ms)
    expected = [scalar_momentum(bars, row, horizon_ms) for row in range(len(bars))]
    np.testing.assert_allclose(momentum(bars.timestamp, bars.close, horizon_ms, interval_ms), expected, atol=1e-12)


def test_momentum_counts_hours_and_not_rows() -> None:
    minutes = with_close(np.linspace(100.0, 200.0, 241), interval_ms=MINUTE_MS)
    assert momentum(minutes.timestamp, minutes.close, 4 * HOUR_MS, MINUTE_MS)[240] == pytest.approx(1.0)
    assert momentum(minutes.timestamp, minutes.close, HOUR_MS, MINUTE_MS)[240] == pytest.approx(200 / 175 - 1)
    assert momentum(minutes.timestamp, minutes.close, HOUR_MS, MINUTE_MS)[59] == 0.0  # an hour is not reached yet


def test_momentum_over_an_outage_is_measured_from_the_last_price_before_it() -> None:
    hours = np.array([0, 1, 7, 8]) * HOUR_MS
    bars = with_close([100.0, 110.0, 121.0, 133.1], timestamp=hours)
    np.testing.assert_allclose(momentum(hours, bars.close, HOUR_MS, HOUR_MS), [0.0, 0.1, 0.1, 0.1])
    np.testing.assert_allclose(momentum(hours, bars.close, 4 * HOUR_MS, HOUR_MS), [0.0, 0.0, 0.1, 133.1 / 110 - 1])


def test_bars_longer_than_the_horizon_have_no_momentum_over_it() -> None:
    days = make_bars(50, interval_ms=DAY_MS)
    assert not momentum(days.timestamp, days.close, HOUR_MS, DAY_MS).any()
    assert momentum(days.timestamp, days.close, DAY_MS, DAY_MS)[1:].all()  # negative control: a day's they do have
    assert (ratio_to_past(days.timestamp, days.close, HOUR_MS, DAY_MS) == 1.0).all()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), gaps=st.sampled_from([0.0, 0.3]), rows=st.integers(1, 80))
def test_volatility_agrees_with_its_scalar_definition(seed: int, gaps: float, rows: int) -> None:
    bars = make_bars(rows, seed, gaps=gaps)
    expected = [scalar_volatility(bars, row) for row in range(len(bars))]
    np.testing.assert_allclose(volatility(bars.close, 20), expected, rtol=1e-9, atol=1e-14)


def test_volatility_of_alternating_returns_is_their_size() -> None:
    up = np.tile([1.02, 0.98], 30).cumprod()
    assert volatility(up, 20)[20:] == pytest.approx(0.02)  # population: +-2 % around 0; the sample one is .0205
    assert not volatility(up, 20)[:20].any()


def test_a_price_without_movement_or_with_steady_growth_has_no_volatility() -> None:
    assert not volatility(np.full(60, 31_415.9), 20).any()
    assert not volatility(1.01 ** np.arange(60), 20).any()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), lost=st.sampled_from([0.0, 0.2, 0.7]), window=st.integers(4, 30))
def test_correlations_agree_with_their_scalar_definition(seed: int, lost: float, window: int) -> None:
    rng = np.random.default_rng(seed)
    returns = rng.normal(size=(70, 3)) @ np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 1.0]]) * 0.01
    returns[rng.random(returns.shape) < lost] = np.nan
    found = panel_correlations(returns, window)
    for column, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
        expected = [scalar_correlation(returns[:, i], returns[:, j], row, window) for row in range(70)]
        np.testing.assert_allclose(found[:, column], expected, atol=1e-8)


def test_correlation_is_one_of_twins_minus_one_of_mirrors_and_none_of_a_pegged_price() -> None:
    moves = np.random.default_rng(1).normal(0, 0.01, 400)
    found = panel_correlations(np.stack([moves, 2 * moves, -moves, np.zeros(400)], axis=1))
    np.testing.assert_allclose(found[83:], np.tile([1.0, -1.0, 0.0, -1.0, 0.0, 0.0], (317, 1)), atol=1e-12)
    assert not found[:83].any()  # fewer than half of 168 pairs


def test_returns_start_at_zero_and_follow_the_rows() -> None:
    np.testing.assert_allclose(bar_returns(np.array([100.0, 110.0, 99.0])), [0.0, 0.1, -0.1])
    assert bar_returns(np.array([])).shape == (0,)
