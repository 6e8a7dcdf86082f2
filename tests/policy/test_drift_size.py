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
from himari_rl.policy.drift_size import LOG_SIZE, SizeScores, block_lengths, fit_size
from himari_rl.schema import Bars, FloatArray

YEAR, WARM = 8_760, 240
STARTS = range(600, 6_700, 300)
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
    known = fit_size("momentum_1h", training, 20)
    assert known is not None
    assert (known.channel, block_lengths(20)) == (LOG_SIZE, (15, 5, 5, 5, 5, 5))
    values = rng.normal(size=45)
    scores = SizeScores([known], 20)
    size, step = scores.size(values[:, None])[:, 0], scores.step(values[:, None])[:, 0]
    assert (len(size), len(step)) == (26, 6)
    for t in range(len(step)):
        blocks, at = [], t
        for length in (15, 5, 5, 5, 5, 5):
            mean = sum(abs(values[i]) for i in range(at, at + length)) / length
            blocks.append(math.log(mean + known.floor))
            at += length
        score = sum(w * b for w, b in zip(known.step.weights, blocks, strict=True)) - known.step.centre
        assert step[t] == pytest.approx(score / (known.step.highest if score > 0 else known.step.lowest), rel=1e-9)
    for t in range(len(size)):
        score = math.log(np.abs(values[t : t + 20]).mean() + known.floor) - known.size.centre
        assert size[t] == pytest.approx(score / (known.size.highest if score > 0 else known.size.lowest), rel=1e-9)


def test_a_lasting_step_counts_whole_and_one_that_is_over_or_began_before_counts_less(spec: DriftSpec) -> None:
    """In units of its own logarithm: a block of so many times the size adds its weight times the logarithm."""
    for name in MAGNITUDES:
        known = spec.features[name].size
        assert known is not None
        steps = {"lasting": (0, 0, 1, 1, 1, 1), "over": (0, 0, 1, 1, 0, 0), "before": (1, 1, 1, 1, 1, 1)}
        raised = {what: float(np.dot(known.step.weights, step)) for what, step in steps.items()}
        assert raised["lasting"] == pytest.approx(1.0)
        assert max(raised["over"], raised["before"]) < 0.75


def test_what_never_moved_and_what_has_few_values_has_no_score() -> None:
    assert fit_size("volatility", np.zeros(5_000), WINDOW) is None
    assert fit_size("volatility", np.full(5_000, 0.5), WINDOW) is None
    assert fit_size("tier_1", np.random.default_rng(0).random(5_000), WINDOW) is None
    assert fit_size("BTC-USDT.volatility", np.random.default_rng(0).random(5_000), WINDOW) is not None


def named(spec: DriftSpec, bars: Bars, start: int) -> bool:
    """Whether a magnitude is named within a hundred bars from `start`, and none on the bar before."""
    monitor, met = DriftMonitor(spec), columns(bars[start - 2 * WINDOW - WARM : start + WINDOW])
    found: list[set[str]] = []
    for t in range(3 * WINDOW):
        found.append({each.feature for each in monitor.add({name: float(v[t]) for name, v in met.items()})})
    return not found[2 * WINDOW - 1] and bool(set().union(*found[2 * WINDOW :]) & MAGNITUDES)


@pytest.mark.parametrize(("factor", "least"), [(5.0, 0.9), (0.2, 0.9), (3.0, 0.2), (1 / 3, 0.2)])
def test_a_volatility_that_changes_is_named_within_a_hundred_bars(spec: DriftSpec, factor: float, least: float) -> None:
    """After one training year whose own storms have three times the volatility of its quiet weeks. Threefold changes
    are named every third to second time, fivefold ones nearly always."""
    bars = synthetic_bars(7_000, 31)
    share = np.mean([named(spec, scaled(bars, factor, start), start) for start in STARTS])
    assert share >= least


def test_one_that_does_not_change_is_not_named(spec: DriftSpec) -> None:
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
