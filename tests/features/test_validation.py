"""What cannot be a state is refused with its field, its value and the cure; what can be is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from himari_rl.errors import StateError
from himari_rl.features.contract import FEATURES, state_dim
from himari_rl.features.validation import validate_state

GOOD = [0.8, 0, 0, 1, 0, 1, 0, 0, 0.5, 1.0, -0.1, 0.02, -0.3, 0.05, 0.5, 0.1]
THREE = ("BTC-USD", "ETH-USD", "SOL-USD")
GOOD_52 = [*GOOD * 3, 0.9, -0.2, 0.0, 1 / 3]


def changed(column: int, value: object, state: list[float] = GOOD) -> list:
    return [*state[:column], value, *state[column + 1 :]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_good_states_pass_in_every_form(dtype: str) -> None:
    for state, symbols in ((GOOD, ()), (GOOD_52, THREE)):
        validate_state(state, len(state), symbols)
        validate_state(tuple(state), len(state), list(symbols))
        validate_state(np.array(state, dtype=dtype), len(state))
        validate_state(np.array([state] * 3, dtype=dtype), len(state), symbols)
    validate_state([np.float32(value) for value in GOOD])


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (GOOD[:15], r"bundle expects 16 features, the request has 15 \(missing: cascade_risk\); send all 16"),
        (GOOD[:3], r"has 3 \(missing: action_buy, tier_1, tier_2 and 10 more\)"),
        ([], r"has 0 \(missing: signal_confidence"),
        ([*GOOD, 0.0], r"has 17 \(1 too many after cascade_risk\)"),
        (changed(13, float("nan")), r"volatility is nan; expected a finite number in \[0, 1\]"),
        (changed(11, float("-inf")), r"momentum_1h is -inf; expected a finite number in \[-1, 1\]"),
        (changed(0, 1.5), r"signal_confidence is 1.5; expected a number in \[0, 1\]"),
        (changed(0, 10**400), r"signal_confidence is 1000"),
        (changed(14, None), r"win_rate is None; expected a number"),
        (changed(14, "0.5"), r"win_rate is '0.5'; expected a number"),
        (changed(14, [0.5]), r"win_rate is \[0.5\]; expected a number"),
        (
            changed(2, 1),
            r"action one-hot is \[0, 1, 1\]; expected exactly one 1 .* action_sell, action_hold, action_buy",
        ),
        (changed(3, 0), r"action one-hot is \[0, 0, 0\]"),
        (changed(5, 0.5), r"tier one-hot is \[0, 0.5, 0, 0\]"),
        (changed(9, 0.5), r"position_side is 0.5; expected -1, 0 or 1"),
        (None, "the state is None"),
        ("0.5", "the state is '0.5'"),
        ({"state": 1}, "the state is {'state': 1}"),
        (np.array(0.5), "the state is 0.5"),
        (np.zeros((2, 2, 2)), "one list too many: it holds 2 lists"),
        (np.array([changed(9, 0.5)]), "row 0: position_side is 0.5"),
        (np.array([GOOD, changed(3, 0.0)]), r"row 1: action one-hot is \[0, 0, 0\]"),
        (np.array([GOOD[:15]]), "row 0: bundle expects 16 features, the request has 15"),
        (np.array([GOOD, changed(13, np.nan)]), "row 1: volatility is nan"),
    ],
)
def test_a_broken_state_is_refused_with_field_value_and_cure(state: object, message: str) -> None:
    with pytest.raises(StateError, match=message) as caught:
        validate_state(state, 16)
    assert caught.value.cure


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (19, 0.0, r"ETH-USD.action one-hot is \[0, 0, 0\]"),
        (32 + 13, -0.1, r"SOL-USD.volatility is -0.1"),
        (48, 1.01, r"correlation.BTC-USD.ETH-USD is 1.01; expected a number in \[-1, 1\]"),
        (51, -0.01, r"herfindahl is -0.01; expected a number in \[0, 1\]"),
        (25, 0.5, r"ETH-USD.position_side is 0.5"),
    ],
)
def test_a_broken_state_of_three_assets_names_the_asset(column: int, value: float, message: str) -> None:
    state = changed(column, value, GOOD_52)
    with pytest.raises(StateError, match=message):
        validate_state(state, 52, THREE)
    with pytest.raises(StateError, match=message):
        validate_state(np.array([GOOD_52, state]), 52, THREE)
    with pytest.raises(StateError, match=r"asset_|correlation|herfindahl"):
        validate_state(state, 52)


def test_rounding_at_a_bound_passes_and_more_than_rounding_does_not() -> None:
    for column, edge in ((0, 1.0), (11, -1.0), (3, 1.0), (1, 0.0), (9, 1.0)):
        for sign in (-1, 1):
            validate_state(changed(column, edge + sign * 9e-7))
            validate_state(np.array([changed(column, edge + sign * 9e-7)]))
        with pytest.raises(StateError):
            validate_state(changed(column, edge + 1e-4 * (1 if edge >= 0 else -1)))


def test_a_dimension_that_no_number_of_assets_has_is_refused() -> None:
    with pytest.raises(StateError, match="no number of assets has a state of 17 numbers"):
        validate_state(GOOD, 17)
    with pytest.raises(StateError, match="3 symbols make a state of 52 numbers"):
        validate_state(GOOD, 16, THREE)


@given(st.lists(st.floats(width=64) | st.sampled_from([0.0, 1.0]), min_size=14, max_size=18))
def test_one_state_and_a_batch_of_it_are_judged_alike(state: list[float]) -> None:
    def refused(candidate: object) -> bool:
        try:
            validate_state(candidate, 16)
        except StateError:
            return True
        return False

    one = refused(state)
    assert one == refused(np.array([state])) == refused(np.array(state)) == refused(tuple(state))


@given(column=st.integers(0, 15), value=st.floats(-1.5, 1.5))
def test_the_fast_path_and_the_explanation_agree(column: int, value: float) -> None:
    lower = -1.0 if FEATURES[column] in ("position_side", "unrealised_pnl", "momentum_1h", "momentum_4h") else 0.0
    whole = column in (1, 2, 3, 4, 5, 6, 7)
    good = lower - 1e-6 <= value <= 1 + 1e-6
    if whole:
        good = abs(value - GOOD[column]) <= 1e-6
    if FEATURES[column] == "position_side":
        good = min(abs(value - side) for side in (-1, 0, 1)) <= 1e-6
    if good:
        validate_state(changed(column, value))
    else:
        with pytest.raises(StateError, match=FEATURES[column].split("_")[0]):
            validate_state(changed(column, value))


def test_dimensions_are_told_apart_by_their_length_alone() -> None:
    for assets in (1, 2, 5, 8):
        pairs = assets * (assets - 1) // 2
        validate_state([*GOOD * assets, *([0.0] * (pairs + 1) if assets > 1 else [])], state_dim(assets))
