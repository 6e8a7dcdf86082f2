"""One bar at a time gives the numbers of the whole history at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.features import START_MS, make_bars
from himari_rl.errors import DataError
from himari_rl.features.encoder import StateEncoder
from himari_rl.features.indicators import rolling_sum
from himari_rl.features.live import UNDO_DEPTH, Bar, LiveEncoder, LivePanel, LiveReference, RollingSum, Signal
from himari_rl.features.signals import reference_signals
from himari_rl.schema import HOUR_MS, Bars

INTERVALS = st.sampled_from([60_000, 15 * 60_000, HOUR_MS, 4 * HOUR_MS, 24 * HOUR_MS])


def bar(bars: Bars, row: int) -> Bar:
    return Bar(int(bars.timestamp[row]), float(bars.close[row]))


def signal(bars: Bars, row: int) -> Signal | None:
    said = bars.signals
    if said is None:
        return None
    return Signal(
        int(said.action[row]), float(said.confidence[row]), int(said.tier[row]), float(said.cascade_risk[row])
    )


def replay(bars: Bars) -> np.ndarray:
    live = LiveEncoder(bars.interval_ms)
    return np.array([live.update(bar(bars, row), signal(bars, row)) for row in range(len(bars))])


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1), gaps=st.sampled_from([0.0, 0.2, 0.7]), interval_ms=INTERVALS, signals=st.booleans()
)
def test_live_rows_equal_batch_rows(seed: int, gaps: float, interval_ms: int, signals: bool) -> None:
    bars = make_bars(150, seed, gaps=gaps, interval_ms=interval_ms, signals=signals, sigma=0.03)
    np.testing.assert_allclose(replay(bars), StateEncoder().market_rows(bars), atol=1e-12)


def test_live_rows_equal_batch_rows_after_a_price_that_was_absurd_for_one_bar() -> None:
    bars = make_bars(200, 3)
    close = bars.close.copy()
    close[50] *= 1e9
    bars = replace(bars, close=close)
    np.testing.assert_allclose(replay(bars), StateEncoder().market_rows(bars), atol=1e-12)
    quiet = StateEncoder().market_rows(make_bars(200, 3))
    np.testing.assert_allclose(replay(bars)[72:, 13], quiet[72:, 13], atol=1e-12)  # 21 bars later it is forgotten


def test_the_live_reference_signal_equals_the_batch_one_over_its_whole_memory() -> None:
    bars = make_bars(1700, 5, gaps=0.05, sigma=0.02)
    live, batch = LiveReference(HOUR_MS), reference_signals(bars)
    said = [live.update(bar(bars, row)) for row in range(len(bars))]
    assert [s.action for s in said] == batch.action.tolist()
    assert [s.tier for s in said] == batch.tier.tolist()
    assert len(set(batch.action.tolist())) == 3
    assert len(set(batch.tier.tolist())) == 4
    np.testing.assert_allclose([s.confidence for s in said], batch.confidence, atol=1e-12)
    np.testing.assert_allclose([s.cascade_risk for s in said], batch.cascade_risk, atol=1e-12)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), gaps=st.sampled_from([0.0, 0.1, 0.4]))
def test_live_panel_rows_equal_batch_panel_rows(seed: int, gaps: float) -> None:
    symbols = ("A", "B", "C")
    panel = [make_bars(260, seed + asset, gaps=gaps, signals=asset == 0) for asset in range(3)]
    panel[2] = panel[2][20:]
    clock, expected = StateEncoder(symbols).panel_rows(panel)
    live = LivePanel(symbols, HOUR_MS)
    at = [{int(time): row for row, time in enumerate(bars.timestamp)} for bars in panel]
    for t, time in enumerate(clock.tolist()):
        closed = {
            symbol: (bar(bars, rows[time]), signal(bars, rows[time]))
            for symbol, bars, rows in zip(symbols, panel, at, strict=True)
            if time in rows
        }
        np.testing.assert_allclose(live.update(closed), expected[t], atol=1e-12)
    assert gaps > 0.3 or np.abs(expected[:, 48:51]).max(axis=0).min() > 0  # the correlations were really compared


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.integers(1, 25))
def test_live_sums_make_the_same_additions_as_batch_sums(values: list[float], window: int) -> None:
    live = RollingSum(window, 1)
    found = [float(live.update(np.array([value]))[0]) for value in values]
    np.testing.assert_array_equal(found, rolling_sum(np.array(values), window))


@pytest.mark.parametrize(
    ("again", "message"),
    [
        (Bar(START_MS, 100.0), "came after bar"),
        (Bar(START_MS - HOUR_MS, 100.0), "came after bar"),
        (Bar(START_MS + HOUR_MS, 0.0), "close of bar"),
        (Bar(START_MS + HOUR_MS, float("nan")), "close of bar"),
        (Bar(START_MS + HOUR_MS, float("inf")), "close of bar"),
    ],
)
def test_a_bar_that_repeats_goes_back_or_has_no_price_is_refused_and_leaves_no_trace(again: Bar, message: str) -> None:
    live, other = LiveEncoder(HOUR_MS), LiveEncoder(HOUR_MS)
    for encoder in (live, other):
        encoder.update(Bar(START_MS, 100.0))
    with pytest.raises(DataError, match=message):
        live.update(again)
    after = Bar(START_MS + HOUR_MS, 101.0)
    np.testing.assert_array_equal(live.update(after), other.update(after))


def test_a_live_signal_out_of_range_is_refused_and_leaves_no_trace() -> None:
    live = LiveEncoder(HOUR_MS)
    with pytest.raises(DataError, match="signal tier"):
        live.update(Bar(START_MS, 100.0), Signal(1, 0.5, 5, 0.0))
    live.update(Bar(START_MS, 100.0), Signal(1, 0.5, 4, 0.0))


@pytest.mark.parametrize(
    "closed",
    [
        {},
        {"X": (Bar(START_MS, 1.0), None)},
        {"A": (Bar(START_MS, 1.0), None), "B": (Bar(START_MS + HOUR_MS, 1.0), None)},
    ],
    ids=["nothing", "unknown asset", "two times"],
)
def test_a_panel_update_of_no_unknown_or_unequal_bars_is_refused(closed) -> None:
    with pytest.raises(DataError, match="one update per bar time"):
        LivePanel(("A", "B"), HOUR_MS).update(closed)


def test_a_panel_update_with_one_bad_bar_leaves_every_asset_as_it_was() -> None:
    live, other = LivePanel(("A", "B"), HOUR_MS), LivePanel(("A", "B"), HOUR_MS)
    for panel in (live, other):
        panel.update({symbol: (Bar(START_MS, 100.0), None) for symbol in "AB"})
    after = Bar(START_MS + HOUR_MS, 101.0)
    with pytest.raises(DataError, match="close of bar"):
        live.update({"A": (after, None), "B": (after._replace(close=-1.0), None)})
    good = dict.fromkeys("AB", (after, None))
    np.testing.assert_array_equal(live.update(good), other.update(good))


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 2**32 - 1),
    gaps=st.sampled_from([0.0, 0.3]),
    reference=st.booleans(),
    interval_ms=st.sampled_from([15 * 60_000, HOUR_MS, 24 * HOUR_MS]),
)
def test_a_bar_taken_back_leaves_no_trace_to_the_last_bit(
    seed: int, gaps: float, reference: bool, interval_ms: int
) -> None:
    """Other bars come and are taken back before each right one; the rows are the batch encoder's all the same."""
    rng = np.random.default_rng(seed)
    symbols = ("A", "B")
    panel = [make_bars(220, seed + i, gaps=gaps, signals=not reference, interval_ms=interval_ms) for i in range(2)]
    clock, expected = StateEncoder(symbols).panel_rows(panel)
    live, straight = (LivePanel(symbols, interval_ms, reference=reference) for _ in range(2))
    at = [{int(time): row for row, time in enumerate(bars.timestamp)} for bars in panel]
    for t, time in enumerate(clock.tolist()):
        closed = {
            symbol: (bar(bars, rows[time]), signal(bars, rows[time]))
            for symbol, bars, rows in zip(symbols, panel, at, strict=True)
            if time in rows
        }
        wrong = rng.integers(UNDO_DEPTH + 1)
        for k in range(wrong):
            live.update(
                {s: (Bar(b.timestamp + k * interval_ms, b.close * 1.5), said) for s, (b, said) in closed.items()}
            )
        for _ in range(wrong):
            live.undo()
        found = live.update(closed)
        np.testing.assert_array_equal(found, straight.update(closed))
        np.testing.assert_allclose(found, expected[t], atol=1e-12)


def test_without_the_undo_the_wrong_bars_would_be_seen() -> None:
    """The negative control."""
    bars = make_bars(40, 1)
    live = LivePanel(("A",), HOUR_MS)
    for row in range(30):
        live.update({"A": (bar(bars, row), None)})
    live.update({"A": (bar(bars, 30)._replace(close=float(bars.close[30]) * 1.5), None)})
    found = live.update({"A": (bar(bars, 31), None)})
    assert abs(found - StateEncoder().market_rows(bars)[31]).max() > 0.01


def test_no_more_is_taken_back_than_was_kept() -> None:
    live = LivePanel(("A",), HOUR_MS)
    for row in range(5):
        live.update({"A": (Bar(START_MS + row * HOUR_MS, 100.0), None)})
    for _ in range(UNDO_DEPTH):
        live.undo()
    with pytest.raises(IndexError):
        live.undo()


def test_without_a_reference_every_bar_needs_its_signal() -> None:
    live = LiveEncoder(HOUR_MS, reference=False)
    with pytest.raises(DataError, match="has no signal"):
        live.update(Bar(START_MS, 100.0))
    assert live.update(Bar(START_MS, 100.0), Signal(1, 0.5, 4, 0.0))[0] == 0.5


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 8), gaps=st.sampled_from([0.0, 0.3]), signals=st.booleans())
def test_live_rows_with_own_features_equal_batch_rows(seed: int, count: int, gaps: float, signals: bool) -> None:
    bars, own = with_own(make_bars(90, seed, gaps=gaps, signals=signals), seed, count), names(count)
    live = LiveEncoder(bars.interval_ms, own=own)
    rows = np.array([live.update(own_bar(bars, row), signal(bars, row)) for row in range(len(bars))])
    np.testing.assert_allclose(rows, StateEncoder(("A",), own).market_rows(bars), atol=1e-12)
    np.testing.assert_array_equal(rows[:, 16:], np.column_stack([bars.extra[name] for name in own]).clip(-1e9, 1e9))


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 3), gaps=st.sampled_from([0.0, 0.3]))
def test_live_panel_rows_with_own_features_equal_batch_panel_rows(seed: int, count: int, gaps: float) -> None:
    symbols, own = ("A", "B", "C"), names(count)
    panel = [with_own(make_bars(200, seed + k, gaps=gaps), seed + k, count) for k in range(3)]
    panel[2] = panel[2][20:]
    clock, expected = StateEncoder(symbols, own).panel_rows(panel)
    live = LivePanel(symbols, HOUR_MS, own=own)
    at = [{int(time): row for row, time in enumerate(bars.timestamp)} for bars in panel]
    found = []
    for time in clock.tolist():
        now = {s: (b, r[time]) for s, b, r in zip(symbols, panel, at, strict=True) if time in r}
        found.append(live.update({s: (own_bar(bars, row), signal(bars, row)) for s, (bars, row) in now.items()}))
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert expected.shape[1] == 52 + 3 * count
    live.undo()
    last = clock.tolist()[-1]
    again = {
        s: (own_bar(b, r[last]), signal(b, r[last])) for s, b, r in zip(symbols, panel, at, strict=True) if last in r
    }
    np.testing.assert_allclose(live.update(again), expected[-1], atol=1e-9)


def test_a_bar_without_the_encoder_s_features_is_refused_and_changes_nothing() -> None:
    bars = with_own(make_bars(3, 0), 0, 2)
    live = LiveEncoder(HOUR_MS, own=names(2))
    live.update(own_bar(bars, 0))
    for wrong in ((), (1.0,), (1.0, 2.0, 3.0), (1.0, float("nan"))):
        with pytest.raises(DataError, match="finite numbers for f0, f1"):
            live.update(bar(bars, 1)._replace(own=wrong))
    with pytest.raises(DataError, match="finite numbers for no feature"):
        LiveEncoder(HOUR_MS).update(own_bar(bars, 0))
    np.testing.assert_array_equal(live.update(own_bar(bars, 1))[16:], [bars.extra[name][1] for name in names(2)])


def names(count: int) -> tuple[str, ...]:
    return tuple(f"f{k}" for k in range(count))


def with_own(bars: Bars, seed: int, count: int) -> Bars:
    rng = np.random.default_rng(seed)
    return replace(
        bars, extra={name: 10.0 ** rng.integers(-3, 11) * rng.normal(size=len(bars)) for name in names(count)}
    )


def own_bar(bars: Bars, row: int) -> Bar:
    return bar(bars, row)._replace(own=tuple(float(column[row]) for column in bars.extra.values()))
