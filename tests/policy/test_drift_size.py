"""Size and step: the scores are their definitions, and what they find that a level alone does not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from himari_rl.data.synthetic import synthetic_bars
from himari_rl.features.contract import FEATURES, MARKET_COLUMNS
from himari_rl.features.encoder import StateEncoder
from himari_rl.features.signals import with_signals
from himari_rl.policy.drift import WINDOW, DriftMonitor, DriftSpec, _Reference, fit_drift
from himari_rl.policy.drift_size import MEAN_LOG, SizeScores, _parts, fit_size, return_level
from himari_rl.schema import HOUR_MS, Bars, FloatArray

YEAR, WARM = 8_760, 240
STARTS = range(600, 6_700, 550)
MAGNITUDES = {"momentum_1h", "momentum_4h", "volatility"}


def table(bars: Bars) -> FloatArray:
    return StateEncoder((bars.symbol,)).market_rows(with_signals(bars))[WARM:]


def columns(bars: Bars) -> dict[str, FloatArray]:
    rows = table(bars)
    return {FEATURES[c]: rows[:, c].astype(np.float64) for c in MARKET_COLUMNS}


def scaled(bars: Bars, factor: float, start: int) -> Bars:
    """Every move of the log price is so much larger from `start` on."""
    by = np.where(np.arange(len(bars.close)) >= start, factor, 1.0)
    last = np.concatenate([bars.open[:1], bars.close[:-1]])
    moved = by * np.log(bars.close / last)
    close = bars.open[0] * np.exp(np.cumsum(moved))
    before = np.concatenate([bars.open[:1], close[:-1]])
    opened, high, low = (before * (x / last) ** by for x in (bars.open, bars.high, bars.low))
    return replace(bars, open=opened, high=high, low=low, close=close)


@pytest.fixture(scope="module")
def spec() -> DriftSpec:
    """Of one training year."""
    found = fit_drift(columns(synthetic_bars(YEAR + WARM, 0)))
    assert found is not None
    return found


def test_the_scores_are_their_definitions() -> None:
    rng = np.random.default_rng(0)
    training = rng.normal(size=5_000) * np.exp(0.4 * np.repeat(rng.normal(size=50), 100))
    known = fit_size("momentum_1h", training, 20, HOUR_MS, 1)
    assert known is not None
    assert known.channel == MEAN_LOG
    assert known.floor == pytest.approx(0.1 * np.median(np.abs(training)))
    values = rng.normal(size=45)
    logs = [math.log(abs(value) + known.floor) for value in values]
    scores = SizeScores([known], 20)
    size, step = scores.size(values[:, None])[:, 0], scores.step(values[:, None])[:, 0]
    assert (len(size), len(step)) == (26, 6)
    for t in range(len(step)):
        blocks, at = [], t
        for length in (15, 5, 5, 5, 5, 5):
            blocks.append(sum(logs[at : at + length]) / length)
            at += length
        quiet = sum(sorted(blocks[2:])[:3]) / 3.0
        score = quiet - known.step.weights[0] * blocks[0] - known.step.weights[1] * blocks[1] - known.step.centre
        assert step[t] == pytest.approx(score / (known.step.highest if score > 0 else known.step.lowest), rel=1e-9)
    for t in range(len(size)):
        score = sum(logs[t : t + 20]) / 20.0 - known.size.centre
        assert size[t] == pytest.approx(score / (known.size.highest if score > 0 else known.size.lowest), rel=1e-9)


def test_the_forecast_of_a_window_is_the_least_squares_of_the_blocks_before_it() -> None:
    """Of a random walk of the log size the newest block tells most; of white noise none tells anything."""
    rng = np.random.default_rng(1)
    walk = np.exp(np.cumsum(rng.normal(0.0, 0.02, 60_000))) * rng.normal(size=60_000)
    noise = rng.normal(size=60_000)
    wandering, still = (fit_size("momentum_1h", x, WINDOW, HOUR_MS, 1) for x in (walk, noise))
    assert wandering is not None
    assert still is not None
    old, new = wandering.step.weights
    assert new / 25.0 > old / 75.0 > 0.0  # bar by bar
    assert old + new == pytest.approx(1.0, abs=0.1)
    assert max(map(abs, still.step.weights)) < 0.1


def test_a_return_level_is_the_tail_s_own() -> None:
    """Exponential scores, one in every window not 0: once in n windows the largest exceeds log n."""
    scores = np.zeros((20_000, 10))
    scores[:, 3] = np.random.default_rng(2).exponential(size=20_000)
    for windows in (100.0, 1_000.0):
        assert return_level(scores.ravel(), 10, windows) == pytest.approx(math.log(windows), rel=0.05)
    assert return_level(scores.ravel(), 10, 1.0) == pytest.approx(math.log(5.0), rel=0.05)  # no less than the threshold


def test_numbers_that_are_watched_together_alarm_each_more_rarely_and_so_does_a_short_training() -> None:
    training = np.random.default_rng(3).standard_t(4, size=20_000)
    found = [fit_size("momentum_1h", training[:n], WINDOW, HOUR_MS, many) for n, many in ((20_000, 1), (20_000, 3))]
    assert all(known is not None for known in found)
    limits = [known.step.highest for known in found if known is not None]
    # so many times rarer is the logarithm of it, in units of the tail's mean excess
    judged, before = _parts(np.log(np.abs(training) + found[0].floor), MEAN_LOG, WINDOW)  # type: ignore[union-attr]  # known
    score = judged - before @ np.array(found[0].step.weights) - found[0].step.centre  # type: ignore[union-attr]  # known
    largest = score[: len(score) // WINDOW * WINDOW].reshape(-1, WINDOW).max(axis=1)
    excess = (largest[largest > np.quantile(largest, 0.8)] - np.quantile(largest, 0.8)).mean()
    assert limits[1] - limits[0] == pytest.approx(excess * math.log(3.0), rel=1e-6)


def test_one_loud_day_is_no_step_and_four_are(spec: DriftSpec) -> None:
    """Of noise of one size: a single day of five times the size counts a little, four days whole."""
    known = spec.features["momentum_1h"].size
    assert known is not None
    rng = np.random.default_rng(4)
    scores = SizeScores([known], WINDOW)
    raised = []
    for loud in (range(0), range(150, 175), range(100, 200)):
        values = 0.05 * rng.normal(size=(200, 200))
        values[:, list(loud)] *= 5.0
        raised.append(float(np.mean([scores.step(row[:, None])[0, 0] for row in values])))
    assert raised[1] - raised[0] < 0.25 * (raised[2] - raised[0])


def test_what_never_moved_and_what_has_few_values_has_no_score() -> None:
    assert fit_size("volatility", np.zeros(5_000), WINDOW, HOUR_MS, 1) is None
    assert fit_size("volatility", np.full(5_000, 0.5), WINDOW, HOUR_MS, 1) is None
    assert fit_size("tier_1", np.random.default_rng(0).random(5_000), WINDOW, HOUR_MS, 1) is None
    assert fit_size("BTC-USDT.volatility", np.random.default_rng(0).random(5_000), WINDOW, HOUR_MS, 1) is not None


def named(spec: DriftSpec, bars: Bars, start: int) -> bool:
    """Whether a magnitude is named within a hundred bars from `start`, and none on the bar before."""
    monitor, met = DriftMonitor(spec), columns(bars[start - 2 * WINDOW - WARM : start + WINDOW])
    found: list[set[str]] = []
    for t in range(3 * WINDOW):
        found.append({each.feature for each in monitor.add({name: float(v[t]) for name, v in met.items()})})
    return not found[2 * WINDOW - 1] and bool(set().union(*found[2 * WINDOW :]) & MAGNITUDES)


@pytest.mark.parametrize(("factor", "least"), [(5.0, 0.9), (0.2, 0.9), (3.0, 0.5), (1 / 3, 0.7)])
def test_a_volatility_that_changes_is_named_within_a_hundred_bars(spec: DriftSpec, factor: float, least: float) -> None:
    """After one training year whose own storms have three times the volatility of its quiet weeks."""
    bars = synthetic_bars(7_000, 31)
    assert np.mean([named(spec, scaled(bars, factor, start), start) for start in STARTS]) >= least


def test_a_volatility_that_does_not_change_is_not_named(spec: DriftSpec) -> None:
    bars = synthetic_bars(7_000, 31)
    assert np.mean([named(spec, bars, start) for start in STARTS]) <= 0.05


def test_years_like_the_training_year_alarm_on_less_than_one_day_in_a_hundred(spec: DriftSpec) -> None:
    """All measures together, every second bar, mean of six years; the sum over features counts each day once."""
    names = list(spec.features)
    features = [spec.features[name] for name in names]
    reference = _Reference(np.array([feature.quantiles for feature in features]))
    limits = [np.array([getattr(feature, f"{name}_limit") for feature in features]) for name in ("psi", "distance")]
    scores = SizeScores([feature.size for feature in features], WINDOW)
    shares = []
    for seed in range(40, 46):
        values = np.column_stack(list(columns(synthetic_bars(YEAR + WARM, seed)).values()))
        ends = np.arange(2 * WINDOW - 1, YEAR, 2)
        strayed = (scores.step(values)[ends - 2 * WINDOW + 1] > 1.0).any(axis=1)
        strayed |= (scores.size(values)[ends - WINDOW + 1] > 1.0).any(axis=1)
        for part in np.array_split(np.arange(len(ends)), 60):
            windows = values[(ends[part] - WINDOW + 1)[:, None] + np.arange(WINDOW)]
            for measure, limit in zip(reference.strayed(windows), limits, strict=True):
                strayed[part] |= (measure > limit).any(axis=1)
        shares.append(len(set((ends[strayed] // 24).tolist())) * 24 / YEAR)
    assert np.mean(shares) <= 0.01
    assert max(shares) <= 0.03
