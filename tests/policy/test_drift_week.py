"""Rise and fall: the scores are their definitions, the week's rhythm is none of them, and what they find."""

from __future__ import annotations

import math

import numpy as np
import pytest

from himari_rl.features.contract import FEATURES, MARKET_COLUMNS
from himari_rl.policy.drift import FALL, RISE, STEP, WINDOW, DriftMonitor, DriftSpec, fit_drift
from himari_rl.policy.drift_size import BESIDE_WEEK, block_lengths
from himari_rl.policy.drift_week import FLOOR, HOURS, LOG_FLOOR, WeekReference, fit_week, hours_of_week
from himari_rl.schema import HOUR_MS, FloatArray, IntArray

MONDAY = 345_600_000  # 1970-01-05T00:00Z
YEARS = 2 * 8_760


def weekly(seed: int, count: int, first: int = 0, storms: bool = True) -> tuple[FloatArray, IntArray]:
    """Returns whose quiet weekends have a third of the size, and whose storms die down within a day; their times."""
    rng, bars = np.random.default_rng(seed), np.arange(first, first + count)
    size = np.where(bars % HOURS >= 120, 1 / 3, 1.0) * (1.0 + 0.5 * np.sin(2 * np.pi * bars / 24))
    if storms:
        for begin in range(150, count, 700):
            size[begin : begin + 72] *= 1.0 + 4.0 * np.exp(-np.arange(len(size[begin : begin + 72])) / 12.0)
    return 0.005 * size * rng.standard_t(4, count), MONDAY + HOUR_MS * bars.astype(np.int64)


@pytest.fixture(scope="module")
def known() -> WeekReference:
    found = fit_week("BTC-USDT.momentum_1h", *weekly(0, YEARS), WINDOW, HOUR_MS)
    assert found is not None
    return found


def test_the_week_begins_on_monday_at_midnight() -> None:
    assert hours_of_week(np.array([MONDAY, MONDAY + HOUR_MS, MONDAY - 1, MONDAY + HOURS * HOUR_MS])).tolist() == [
        0,
        1,
        HOURS - 1,
        0,
    ]


def test_the_scores_are_their_definitions(known: WeekReference) -> None:
    values, times = weekly(1, 2 * WINDOW + 3, first=50)
    rise, fall = known.scores(values, times, WINDOW)
    assert len(rise) == len(fall) == 4
    for t in range(4):
        at, means, logs = t, [], []
        for length in block_lengths(WINDOW):
            part = [abs(values[i]) / known.usual[(50 + i) % HOURS] for i in range(at, at + length)]
            means.append(math.log(sum(part) / length + FLOOR * known.mean))
            logs.append(sum(math.log(size + LOG_FLOOR * known.mean) for size in part) / length)
            at += length
        forecast = known.forecast[0] + sum(w * m for w, m in zip(known.forecast[1:], means[:2], strict=True))
        assert rise[t] == pytest.approx((min(means[2:]) - forecast) / known.rise_limit, rel=1e-9)
        score = sum(w * each for w, each in zip(known.weights, logs, strict=True))
        assert fall[t] == pytest.approx((known.centre - score) / known.fall_limit, rel=1e-9)


def test_weekends_and_storms_that_die_down_are_neither_and_a_step_that_stays_is(known: WeekReference) -> None:
    values, times = weekly(2, YEARS, first=YEARS)
    rise, fall = known.scores(values, times, WINDOW)
    assert np.mean(rise > 1.0) <= 0.002
    assert np.mean(fall > 1.0) <= 0.002
    named = {3.0: 0, 1 / 3: 0}
    starts = range(500, YEARS - WINDOW, 437)
    for start in starts:
        around = slice(start - WINDOW, start + WINDOW)
        for factor in named:
            changed = values[around] * np.where(np.arange(2 * WINDOW) >= WINDOW, factor, 1.0)
            found = known.scores(changed, times[around], WINDOW)
            named[factor] += bool(found[0 if factor > 1.0 else 1][0] > 1.0)
    assert min(named.values()) >= 0.6 * len(starts)


def test_what_is_not_watched_never_moves_or_has_no_hours_has_no_reference() -> None:
    values, times = weekly(0, 5_000)
    assert fit_week("volatility", values, times, WINDOW, HOUR_MS) is None
    assert fit_week("momentum_1h", np.zeros(5_000), times, WINDOW, HOUR_MS) is None
    assert fit_week("momentum_1h", values, times, WINDOW, 24 * HOUR_MS) is None
    assert fit_week("momentum_1h", values[:100], times[:100], WINDOW, HOUR_MS) is None  # hours that never came


@pytest.fixture(scope="module")
def spec() -> DriftSpec:
    values, times = weekly(0, YEARS)
    rng = np.random.default_rng(9)
    columns = {FEATURES[c]: rng.uniform(size=YEARS) for c in MARKET_COLUMNS} | {"momentum_1h": values}
    found = fit_drift(columns, times=times)
    assert found is not None
    return found


def test_a_monitor_that_is_told_the_times_names_the_returns(spec: DriftSpec) -> None:
    """Without times it has no week; with them the step of the same number has a wider limit."""
    values, times = weekly(3, 3 * WINDOW, first=YEARS, storms=False)
    values[2 * WINDOW :] /= 4.0
    for told in (True, False):
        monitor, rng, found = DriftMonitor(spec), np.random.default_rng(8), set()
        for value, time in zip(values.tolist(), times.tolist(), strict=True):
            row = {name: float(rng.uniform()) for name in spec.features} | {"momentum_1h": value}
            found |= {(each.feature, each.measure) for each in monitor.add(row, time if told else None)}
        assert (("momentum_1h", FALL) in found) is told
        assert ("momentum_1h", RISE) not in found
    limits = {(name, measure): limit for name, measure, _, limit in monitor.numbers()}
    assert limits["momentum_1h", STEP] == limits["volatility", STEP] == BESIDE_WEEK
    assert limits["signal_confidence", STEP] == 1.0
