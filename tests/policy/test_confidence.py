"""Confidence comes from the training states and the ensemble, and moves the right way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import shared_data
from helpers.bundle import make_bundle, make_manifest, valid_state, valid_states
from himari_rl.data.sources import load_bars
from himari_rl.data.splits import train_test
from himari_rl.errors import BundleError
from himari_rl.features.contract import MARKET_COLUMNS
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.confidence import Confidence, fit
from himari_rl.policy.manifest import ConfidenceSpec
from himari_rl.policy.runtime import load_policy

# P(D >= d) of this calibration is 1 - d on [0, 1]: a uniform distance
UNIFORM = Confidence(ConfidenceSpec(probabilities=(0.0, 0.5, 1.0), distance_quantiles=(0.0, 0.5, 1.0), spread_half=0.1))
sizes = st.floats(0.0, 10.0)


@pytest.mark.parametrize(
    ("distance", "share"), [(0.0, 1.0), (0.25, 0.75), (0.5, 0.5), (0.9, 0.1), (1.0, 0.0), (7.0, 0.0)]
)
def test_familiarity_is_the_share_of_training_states_at_least_as_far_out(distance: float, share: float) -> None:
    assert UNIFORM(distance, 0.0) == pytest.approx(share)


@pytest.mark.parametrize(("spread", "factor"), [(0.0, 1.0), (0.1, 0.5), (0.3, 0.25), (0.9, 0.1)])
def test_a_spread_of_spread_half_halves_the_confidence(spread: float, factor: float) -> None:
    assert UNIFORM(0.0, spread) == pytest.approx(factor)


@given(sizes, sizes, sizes)
def test_confidence_is_a_share_and_falls_with_distance_and_with_spread(near: float, far: float, spread: float) -> None:
    near, far = sorted((near, far))
    assert 0.0 <= UNIFORM(far, spread) <= UNIFORM(near, spread) <= 1.0
    assert UNIFORM(spread, far) <= UNIFORM(spread, near)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=30), sizes)
def test_tied_quantiles_divide_nothing_by_zero(column: list[float], distance: float) -> None:
    confidence = Confidence(fit(np.array(column)[:, None], np.ones(1)))
    assert 0.0 <= confidence(distance, 0.0) <= 1.0


def test_familiarity_is_uniform_over_the_training_states() -> None:
    """Ten thousand draws: the share with familiarity below p is p, within four standard errors."""
    rng = np.random.default_rng(0)
    confidence = Confidence(fit(rng.standard_normal((20_000, 16)), np.ones(16)))
    fresh = np.square(rng.standard_normal((10_000, 16))).mean(axis=1)
    shares = np.array([confidence(d, 0.0) for d in fresh])
    for p in (0.01, 0.05, 0.5, 0.95):
        assert abs((shares < p).mean() - p) < 4 * np.sqrt(p * (1 - p) / 10_000 + p * (1 - p) / 20_000)
    assert abs(np.mean([d > confidence.outside for d in fresh]) - 0.001) < 4 * np.sqrt(0.001 / 10_000 + 0.001 / 20_000)


def test_hidden_features_do_not_dilute_the_distance() -> None:
    """Mean over the kept features: sixteen columns of which four are kept, all 1: the distance is 1, not 1/4."""
    keep = np.repeat([1.0, 0.0], [4, 12])
    assert fit(np.tile(keep, (10, 1)), keep).distance_quantiles == (1.0,) * len(
        fit(np.ones((1, 1)), np.ones(1)).probabilities
    )


@pytest.mark.parametrize("states", [np.zeros((0, 16)), np.zeros(16), np.full((2, 16), np.nan)])
def test_a_calibration_on_nothing_is_refused(states: np.ndarray) -> None:
    with pytest.raises(BundleError, match="cannot fit a confidence"):
        fit(states, np.ones(16))
    with pytest.raises(BundleError, match="cannot fit a confidence"):
        fit(np.zeros((2, 16)), np.zeros(16))


@pytest.mark.parametrize(
    ("p", "q"),
    [([0.0, 1.0], [1.0, 0.5]), ([0.0, 0.5], [0.0, 1.0]), ([0.0, 0.5, 0.5, 1.0], [0.0] * 4), ([0.0, 1.0], [0.0])],
)
def test_a_calibration_that_does_not_increase_is_refused(p: list[float], q: list[float]) -> None:
    with pytest.raises(BundleError, match=r"confidence: Value error, probabilities"):
        make_manifest(confidence={"probabilities": p, "distance_quantiles": q, "spread_half": 0.1})


def test_a_strange_state_is_flagged_and_an_ordinary_one_is_not(tmp_path) -> None:  # type: ignore[no-untyped-def]
    policy = load_policy(make_bundle(tmp_path))
    ordinary = policy.decide(valid_states(1, seed=1)[0])  # one of the states the calibration saw
    strange = valid_state()
    strange[10:14] = [1.0, 1.0, 1.0, 1.0]
    outside = policy.decide(strange)
    assert not ordinary.out_of_distribution
    assert outside.out_of_distribution
    assert outside.confidence < 0.001 < ordinary.confidence


def test_confidence_is_calibrated_on_real_bars_that_were_held_out() -> None:
    """Hourly BTC-USDT, the last fifth held out: the share of its states with confidence below p is p within .12.

    The control: the same states with three times their momentum and volatility, which are not ordinary any more.
    """
    train, test = train_test(load_bars(shared_data("binance-spot", "BTC-USDT_1h.parquet")), 0.2)
    encoder, keep = StateEncoder((train.symbol,)), np.isin(np.arange(16), MARKET_COLUMNS).astype(float)
    rows, fresh = encoder.market_rows(train), encoder.market_rows(test)
    mean, std = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    confidence = Confidence(fit((rows - mean) / std * keep, keep))

    def furthest_from_uniform(states: np.ndarray) -> float:
        distances = (np.square((states - mean) / std) @ keep) / keep.sum()
        found = np.array([confidence(float(distance), 0.0) for distance in distances])
        return max(abs(float((found < p).mean()) - p) for p in np.arange(0.01, 1.0, 0.01))

    assert len(fresh) > 10_000
    assert furthest_from_uniform(rows) < 0.03
    assert furthest_from_uniform(fresh) < 0.12
    wild = fresh.copy()
    wild[:, 11:14] *= 3.0
    assert furthest_from_uniform(wild) > 0.3


def test_confidence_means_what_it_says_on_held_out_states() -> None:
    """Skewed, dependent features, normalised with the training half's own mean and deviation, as the trainer does.

    On the other half the share of states with confidence below p is p, for a policy of one member: that is the meaning.
    The control: states of twice the volatility, where it is far above p.
    """
    rng = np.random.default_rng(5)

    def market(rows: int, scale: float = 1.0) -> np.ndarray:
        common = rng.standard_t(5, (rows, 1))
        return np.hstack([common + rng.standard_normal((rows, 6)), rng.exponential(scale, (rows, 6))]) * scale

    train, fresh, wild = market(20_000), market(20_000), market(20_000, 2.0)
    mean, std = train.mean(axis=0), train.std(axis=0)
    confidence = Confidence(fit((train - mean) / std, np.ones(12)))

    def share_below(states: np.ndarray, p: float) -> float:
        distance = np.square((states - mean) / std).mean(axis=1)
        return float(np.mean([confidence(d, 0.0) < p for d in distance]))

    for p in (0.01, 0.05, 0.1, 0.5, 0.9):
        error = 4 * np.sqrt(2 * p * (1 - p) / 20_000) + 0.005  # two samples of 20,000, and straight lines between knots
        assert abs(share_below(fresh, p) - p) < error, p
        assert share_below(wild, p) > 1.05 * p + error
