"""No feature knows the future, and the check that says so can fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.features import make_bars
from himari_rl.errors import ConfigError, LookAheadError
from himari_rl.features.causality import check_prefix_invariance, noise_after
from himari_rl.features.encoder import FEATURES, StateEncoder
from himari_rl.features.signals import reference_signals
from himari_rl.schema import HOUR_MS, Bars, direction


def next_return(bars: Bars) -> np.ndarray:
    out = np.zeros(len(bars))
    out[:-1] = bars.close[1:] / bars.close[:-1] - 1.0
    return out


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    gaps=st.sampled_from([0.0, 0.3]),
    signals=st.booleans(),
    interval_ms=st.sampled_from([60_000, HOUR_MS, 24 * HOUR_MS]),
)
def test_every_market_feature_is_prefix_invariant(seed: int, gaps: float, signals: bool, interval_ms: int) -> None:
    bars = make_bars(300, seed, gaps=gaps, signals=signals, interval_ms=interval_ms)
    check_prefix_invariance(StateEncoder().market_rows, bars, np.random.default_rng(seed), names=FEATURES)


def test_the_reference_signal_and_the_direction_from_it_are_prefix_invariant() -> None:
    def columns(bars: Bars) -> np.ndarray:
        said = reference_signals(bars)
        side = direction(said.action, allow_short=True)
        return np.stack([said.action, said.confidence, said.tier, said.cascade_risk, side], axis=1)

    check_prefix_invariance(columns, make_bars(1500, 3, sigma=0.02), np.random.default_rng(0), cuts=30)


def test_the_correlations_of_a_panel_are_prefix_invariant() -> None:
    encoder = StateEncoder(("A", "B"))

    def rows(bars: Bars) -> np.ndarray:
        rest = np.random.default_rng(5).normal(0, 0.01, 600)[: len(bars)]
        other = replace(bars, close=np.sqrt(bars.close) * np.exp(rest.cumsum()))
        return encoder.panel_rows([bars, other])[1]

    check_prefix_invariance(rows, make_bars(600, 4), np.random.default_rng(0), names=encoder.names)


def test_a_feature_made_of_the_next_return_is_caught_and_named() -> None:
    def leaking(bars: Bars) -> np.ndarray:
        rows = StateEncoder().market_rows(bars)
        rows[:, FEATURES.index("momentum_4h")] = next_return(bars)
        return rows

    with pytest.raises(LookAheadError, match=r"momentum_4h at row \d+ was .* becomes") as caught:
        check_prefix_invariance(leaking, make_bars(200, 1), np.random.default_rng(0), names=FEATURES)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("rho", [0.001, 0.05, 0.3, 1.0])
def test_a_leak_of_any_strength_is_caught(rho: float) -> None:
    def leaking(bars: Bars) -> np.ndarray:
        return rho * next_return(bars) + np.sqrt(1 - rho**2) * bars.extra["z"]

    with pytest.raises(LookAheadError, match=r"column 0 at row"):
        check_prefix_invariance(leaking, make_bars(400, 2), np.random.default_rng(0))


@pytest.mark.parametrize(
    "leak",
    [
        lambda bars: (bars.close - bars.close.mean()) / bars.close.std(),
        lambda bars: np.convolve(bars.close, np.ones(3) / 3, mode="same"),
        lambda bars: np.where(np.arange(len(bars)) < len(bars) - 1, 0.0, 1.0),
        lambda bars: np.append(bars.volume[1:], 0.0),
        lambda bars: np.append(bars.funding_rate[1:], 0.0),
        lambda bars: np.append(bars.signals.confidence[1:], 0.0),
        lambda bars: np.append(bars.high[1:] - bars.low[1:], 0.0),
    ],
    ids=["whole-sample score", "centred window", "knows the end", "volume", "funding", "signal", "range"],
)
def test_every_kind_of_leak_is_caught(leak) -> None:
    with pytest.raises(LookAheadError):
        check_prefix_invariance(leak, make_bars(300, 7, signals=True), np.random.default_rng(0))


def test_a_leak_over_many_bars_is_caught_at_the_rows_it_touches() -> None:
    def leaking(bars: Bars) -> np.ndarray:
        return np.concatenate([bars.close[30:], np.zeros(min(30, len(bars)))])

    with pytest.raises(LookAheadError):
        check_prefix_invariance(leaking, make_bars(300, 7), np.random.default_rng(0))


def test_a_leak_that_sleeps_in_these_bars_is_woken_by_the_noise() -> None:
    def leaking(bars: Bars) -> np.ndarray:
        return np.append(bars.volume[1:], 1.0)  # every volume here is 1, so that cutting rows off changes nothing

    with pytest.raises(LookAheadError, match="replaced by noise"):
        check_prefix_invariance(leaking, make_bars(300, 7), np.random.default_rng(0))


def test_missing_values_that_stay_missing_are_not_a_leak() -> None:
    def early_nan(bars: Bars) -> np.ndarray:
        return np.where(np.arange(len(bars)) < 10, np.nan, bars.close)

    check_prefix_invariance(early_nan, make_bars(100), np.random.default_rng(0))


def test_noise_replaces_every_later_number_and_no_earlier_one() -> None:
    bars = make_bars(100, 1, signals=True)
    noisy = noise_after(bars, 60, np.random.default_rng(0))
    for name in ("open", "high", "low", "close", "volume", "funding_rate"):
        before, after = getattr(bars, name), getattr(noisy, name)
        assert (before[:61] == after[:61]).all(), name
        assert (before[61:] != after[61:]).all(), name
    assert (noisy.extra["z"][61:] != bars.extra["z"][61:]).all()
    assert (noisy.signals.action[61:] != bars.signals.action[61:]).any()
    assert (noisy.low <= np.minimum(noisy.open, noisy.close)).all()
    assert (noisy.high >= np.maximum(noisy.open, noisy.close)).all()
    assert bars.close[61] == make_bars(100, 1, signals=True).close[61]  # the original is left alone


def test_features_that_drop_rows_and_histories_of_one_bar_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"shape \(99,\) for 100 bars"):
        check_prefix_invariance(lambda bars: bars.close[1:], make_bars(100), np.random.default_rng(0))
    with pytest.raises(ConfigError, match="asked of 1 bars"):
        check_prefix_invariance(lambda bars: bars.close, make_bars(1), np.random.default_rng(0))
