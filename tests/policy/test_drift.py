"""Drift: the measures are their definitions, a limit is what training did, and what changed is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from himari_rl.data.synthetic import synthetic_bars
from himari_rl.errors import BundleError
from himari_rl.features.contract import FEATURES, MARKET_COLUMNS
from himari_rl.features.encoder import StateEncoder
from himari_rl.features.signals import with_signals
from himari_rl.policy.drift import (
    EMPTY,
    PROBABILITIES,
    WINDOW,
    DriftMonitor,
    DriftSpec,
    _Reference,
    fit_drift,
    longest_run,
)

YEAR = 8_760
WARM = 240


def columns(rows: int, seed: int, **market: float) -> dict[str, np.ndarray]:
    """Market features of artificial bars."""
    bars = with_signals(synthetic_bars(rows + WARM, seed, **market))
    table = StateEncoder((bars.symbol,)).market_rows(bars)[WARM:]
    return {FEATURES[c]: table[:, c].astype(np.float64) for c in MARKET_COLUMNS}


@pytest.fixture(scope="module")
def spec() -> DriftSpec:
    found = fit_drift(columns(2 * YEAR, 0))
    assert found is not None
    return found


def watched(spec: DriftSpec, met: dict[str, np.ndarray], rows: int) -> list[set[str]]:
    """Names that stray, bar by bar."""
    monitor = DriftMonitor(spec)
    return [{each.feature for each in monitor.add({name: float(v[t]) for name, v in met.items()})} for t in range(rows)]


def test_psi_and_distance_are_their_definitions() -> None:
    """Training 0 .. 999: deciles at 99.9, 199.8, ...; a window of 100 values that all lie at 949.5 +- 0.5."""
    training = np.arange(1_000.0)
    quantiles = np.quantile(training, PROBABILITIES)
    window = 949.0 + (np.arange(100) % 2)
    psi, distance = _Reference(quantiles[None]).strayed(window[None, :, None])
    share = dict(zip(PROBABILITIES[1:], np.diff(PROBABILITIES), strict=True))
    empty, none = EMPTY / 100, EMPTY / 1_000
    expected = 0.0
    for end, q in share.items():
        p = {0.95: 0.5, 0.99: 0.5}.get(end, empty)  # 949 is below the quantile 949.05, 950 above it
        expected += (p - q) * np.log(p / q)
    expected += 2.0 * (empty - none) * np.log(empty / none)  # beyond either end
    assert psi[0, 0] == pytest.approx(expected, rel=1e-9)
    scale = np.sqrt((1_000.0**2 - 1.0) / 12.0)
    assert distance[0, 0] == pytest.approx(np.abs(training - 949.5).mean() / scale, rel=0.02)


def test_the_training_distribution_itself_is_no_drift() -> None:
    training = np.random.default_rng(0).normal(size=20_000)
    reference = _Reference(np.quantile(training, PROBABILITIES)[None])
    psi, distance = reference.strayed(np.random.default_rng(1).normal(size=(1, 20_000, 1)))
    assert psi[0, 0] < 0.01
    assert distance[0, 0] < 0.03


def test_runs_are_counted() -> None:
    assert longest_run(np.array([1.0, 1, 2, 2, 2, 3, 2, 2])) == 3
    assert longest_run(np.array([1.0, 2, 3])) == 1
    assert longest_run(np.ones(5)) == 0  # it never moved: to stand still is not drift


@pytest.mark.parametrize("volatility", [0.05, 0.6, 6.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_another_volatility_is_named_within_a_hundred_bars(spec: DriftSpec, volatility: float, seed: int) -> None:
    """Trained at 0.6 a year, whose own regimes and clusters reach from a quarter to three times of that."""
    found = watched(spec, columns(300, seed, annual_volatility=volatility), WINDOW)
    named = set().union(*found)
    assert bool(named & {"volatility", "momentum_1h", "momentum_4h"}) == (volatility != 0.6)


@pytest.mark.parametrize("name", ["signal_confidence", "volatility", "momentum_1h", "momentum_4h", "cascade_risk"])
def test_a_shifted_input_is_named_within_a_hundred_bars(spec: DriftSpec, name: str) -> None:
    met = columns(300, 1)
    feature = spec.features[name]
    wide = feature.quantiles[-1] - feature.quantiles[0] or 1.0
    shifted = met | {name: met[name] + wide}
    before, after = DriftMonitor(spec), []
    for t in range(150):
        assert not before.add({key: float(v[t]) for key, v in met.items()})
    for t in range(150, 150 + WINDOW):
        after.append([each.feature for each in before.add({key: float(v[t]) for key, v in shifted.items()})])
    assert after[-1][0] == name
    assert {each for found in after for each in found} == {name}


def test_a_dead_feed_is_named_within_a_hundred_bars(spec: DriftSpec) -> None:
    """The last close comes again and again: momenta are zero, the volatility after 20 bars."""
    bars = synthetic_bars(WARM + 300, 1)
    dead = bars.close.copy()
    dead[WARM + 150 :] = dead[WARM + 150]
    table = StateEncoder((bars.symbol,)).market_rows(with_signals(replace(bars, close=dead)))[WARM:]
    met = {FEATURES[c]: table[:, c].astype(np.float64) for c in MARKET_COLUMNS}
    found = watched(spec, met, 150 + WINDOW)
    first = next(t for t, names in enumerate(found) if names)
    assert 150 <= first < 150 + 40
    assert set().union(*found) >= {"momentum_1h", "momentum_4h", "volatility"}


@pytest.mark.parametrize("seed", [4, 5, 6])
def test_a_year_like_training_s_has_at_most_one_day_in_a_hundred(spec: DriftSpec, seed: int) -> None:
    """The monitor's own measures, of every fourth window."""
    names = list(spec.features)
    values = np.column_stack([columns(YEAR, seed)[name] for name in names])
    reference = _Reference(np.array([spec.features[name].quantiles for name in names]))
    psi_limit = np.array([spec.features[name].psi_limit for name in names])
    distance_limit = np.array([spec.features[name].distance_limit for name in names])
    days = set()
    starts = np.arange(0, YEAR - WINDOW + 1, 4)
    for part in np.array_split(starts, 50):
        psi, distance = reference.strayed(values[part[:, None] + np.arange(WINDOW)])
        strayed = ((psi > psi_limit) | (distance > distance_limit)).any(axis=1)
        days |= set(((part[strayed] + WINDOW) // 24).tolist())
    assert len(days) <= 0.01 * YEAR / 24
    for name in names:  # and no value stood still for longer than is allowed
        longest = spec.features[name].longest_run
        assert longest == 0 or longest_run(values[:, names.index(name)]) <= max(2 * longest, 12)


def test_a_value_that_is_often_stood_at_may_be_for_longer_than_one_that_is_not() -> None:
    """A confidence at its bound for ten bars at most: 37 there are drift, 13 at any other value are."""
    rng = np.random.default_rng(0)
    values = rng.uniform(size=3_000)
    for start in range(0, 3_000, 100):
        values[start : start + 10] = 1.0
    found = fit_drift({"signal_confidence": values})
    assert found is not None
    assert (found.features["signal_confidence"].longest_run, found.features["signal_confidence"].longest_elsewhere) == (
        10,
        1,
    )

    def bars_until_named(value: float) -> int:
        monitor = DriftMonitor(found)
        for each in values[:150]:
            assert not monitor.add({"signal_confidence": float(each)})
        for bars in range(1, 80):
            if any(each.measure == "run" for each in monitor.add({"signal_confidence": value})):
                return bars
        return 0

    assert (bars_until_named(1.0), bars_until_named(0.4)) == (37, 13)


def test_too_few_rows_say_nothing_and_no_number_is_refused() -> None:
    assert fit_drift({"x": np.arange(10.0 * WINDOW - 1.0)}) is None
    with pytest.raises(BundleError, match="not finite"):
        fit_drift({"x": np.full(2_000, np.nan)})
