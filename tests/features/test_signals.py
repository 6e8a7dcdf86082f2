"""The reference signal follows trends it could have known, and direction remembers the last opinion."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.features import make_bars, with_close
from himari_rl.data.panel import panel_of
from himari_rl.features.signals import reference_signals, signals_of, with_signals
from himari_rl.schema import BUY, HOLD, HOUR_MS, SELL, direction


def trend(drift: float, rows: int = 1000) -> np.ndarray:
    """A path whose log-return alternates around `drift` by one per cent."""
    return 100 * np.exp((drift + 0.01 * (-1.0) ** np.arange(rows)).cumsum())


def test_a_rising_market_is_bought_a_falling_one_sold_and_a_still_one_held() -> None:
    for drift, action in ((0.002, BUY), (-0.002, SELL), (0.0, HOLD)):
        said = reference_signals(with_close(trend(drift)))
        assert said.action[-1] == action
        assert said.supplied is False
        assert (said.confidence[-1] > 0.5) == (action != HOLD)


def test_the_signal_agrees_with_its_scalar_definition() -> None:
    bars = make_bars(900, 2, gaps=0.1, sigma=0.02)
    said = reference_signals(bars)
    for row in (0, 10, 30, 200, 700, len(bars) - 1):
        moves = [math.log(bars.close[i] / bars.close[i - 1]) for i in range(max(1, row - 671), row + 1)]
        z = {}
        for hours in (24, 72, 168, 672):
            past = [i for i in range(row + 1) if bars.timestamp[i] <= bars.timestamp[row] - hours * HOUR_MS]
            z[hours] = 0.0
            if past and len(moves) >= 20:
                z[hours] = math.log(bars.close[row] / bars.close[past[-1]]) / (np.std(moves) * math.sqrt(hours))
        score = sum(min(2, max(-2, value)) / 2 for value in z.values()) / 4
        action = HOLD if abs(score) < 0.1 else BUY if score > 0 else SELL
        tier = 4 - sum(abs(score) >= floor for floor in (0.25, 0.5, 0.75))
        assert (said.action[row], said.tier[row]) == (action, tier)
        assert said.confidence[row] == pytest.approx(abs(score), abs=1e-9)
        assert said.cascade_risk[row] == pytest.approx(min(1, max(0, -z[24] / 5)), abs=1e-9)


def test_everything_the_signal_says_is_in_range() -> None:
    said = reference_signals(make_bars(3000, 8, sigma=0.05))
    assert set(said.action.tolist()) == {SELL, HOLD, BUY}
    assert set(said.tier.tolist()) == {1, 2, 3, 4}
    for column in (said.confidence, said.cascade_risk):
        assert column.min() >= 0.0
        assert column.max() <= 1.0


def test_a_day_of_five_sigmas_down_is_full_cascade_risk_and_the_same_day_up_is_none() -> None:
    calm = trend(0.0, 700)
    fall = calm[-1] * np.exp(-0.06 * np.arange(1, 9))
    rise = calm[-1] * np.exp(0.06 * np.arange(1, 9))
    assert reference_signals(with_close(np.concatenate([calm, fall]))).cascade_risk[-1] == 1.0
    assert reference_signals(with_close(np.concatenate([calm, rise]))).cascade_risk[-1] == 0.0


@pytest.mark.parametrize("close", [[100.0], [100.0] * 800, list(100 * 1.001 ** np.arange(15))])
def test_no_history_or_no_movement_gives_no_opinion(close: list[float]) -> None:
    said = reference_signals(with_close(close))
    assert not said.action.any()
    assert not said.confidence.any()
    assert not said.cascade_risk.any()
    assert (said.tier == 4).all()


def test_daily_bars_have_signals_too() -> None:
    said = reference_signals(make_bars(400, 3, interval_ms=24 * HOUR_MS, sigma=0.04))
    assert set(said.action.tolist()) == {SELL, HOLD, BUY}
    assert said.cascade_risk.max() > 0.2


def test_direction_keeps_the_last_opinion_through_hold() -> None:
    action = np.array([HOLD, BUY, HOLD, SELL, HOLD, HOLD, BUY])
    assert direction(action, allow_short=True).tolist() == [0, 1, 1, -1, -1, -1, 1]
    assert direction(action, allow_short=False).tolist() == [0, 1, 1, 0, 0, 0, 1]
    assert direction(np.array([], dtype=np.int64), allow_short=True).shape == (0,)


@given(st.lists(st.sampled_from([SELL, HOLD, BUY]), max_size=40), st.booleans())
def test_direction_agrees_with_a_loop(actions: list[int], allow_short: bool) -> None:
    side, expected = 0, []
    for action in actions:
        if action != HOLD:
            side = action if action == BUY or allow_short else 0
        expected.append(side)
    assert direction(np.array(actions, dtype=np.int64), allow_short).tolist() == expected


def test_signals_are_the_datas_own_where_it_has_them_and_else_ours_which_says_so() -> None:
    own, none = make_bars(400, 3, signals=True), make_bars(400, 3)
    assert signals_of(own) is own.signals
    settled = with_signals(none)
    np.testing.assert_array_equal(signals_of(settled).confidence, reference_signals(none).confidence)
    assert (own.signals_supplied, none.signals_supplied, settled.signals_supplied) == (True, False, False)
    panel = with_signals(panel_of([replace(own, symbol="A"), replace(none, symbol="B")]))
    assert [bars.signals is not None for bars in panel.each] == [True, True]
    assert not panel.signals_supplied


def test_a_slice_resolved_before_is_another_history_than_one_resolved_after() -> None:
    bars = make_bars(400, 3)
    before, after = signals_of(with_signals(bars)[200:]), signals_of(bars[200:])
    assert after.confidence[:20].tolist() == [0.0] * 20  # a slice starts cold
    assert (before.confidence[:20] > 0.0).any()
