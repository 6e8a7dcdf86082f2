"""The market numbers from the closes that the windows reach: those of the batch encoder, after any history."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from himari_rl.data.synthetic import synthetic_bars
from himari_rl.features import contract
from himari_rl.features.contract import WIDTH, state_dim
from himari_rl.features.encoder import StateEncoder, account_columns, account_numbers, concentration, herfindahl
from himari_rl.features.indicators import correlation_from_sums, correlation_terms
from himari_rl.features.window import CloseWindow, _needed, correlations, returns_and_one
from himari_rl.schema import DAY_MS, HOUR_MS, MINUTE_MS, Bars, FloatArray

START = 1_700_000_000_000 // DAY_MS * DAY_MS
MARKET = [contract.MOMENTUM_1H, contract.MOMENTUM_4H, contract.VOLATILITY]


def bars_of(seed: int, rows: Sequence[int], interval_ms: int) -> Bars:
    """Bars at some rows of a clock."""
    from dataclasses import replace

    whole = synthetic_bars(max(rows) + 1, seed)
    picked = np.array(rows)
    return replace(
        whole,
        timestamp=START + picked * interval_ms,
        interval_ms=interval_ms,
        **{name: getattr(whole, name)[picked] for name in ("open", "high", "low", "close", "volume")},
        signals=None,
    )


def market_of(state: FloatArray, assets: int) -> FloatArray:
    """Momenta, volatilities and correlations alone."""
    own = [WIDTH * asset + column for asset in range(assets) for column in MARKET]
    return state[[*own, *range(WIDTH * assets, state_dim(assets) - (assets > 1))]]


def as_bars(bars: Bars, end: int) -> tuple[list[int], list[float]]:
    return bars.timestamp[:end].tolist(), bars.close[:end].tolist()


@pytest.mark.parametrize("interval_ms", [MINUTE_MS, HOUR_MS, DAY_MS])
@pytest.mark.parametrize("assets", [1, 3])
def test_bar_by_bar_it_is_the_batch_encoder(assets: int, interval_ms: int) -> None:
    rows, warm = 420, 300
    panel = [bars_of(seed, range(rows), interval_ms) for seed in range(assets)]
    _, expected = StateEncoder(tuple("abc"[:assets])).panel_rows(panel)
    window = CloseWindow.of([as_bars(bars, warm) for bars in panel])
    for row in range(warm, rows):
        window = window.then(START + row * interval_ms, [float(bars.close[row]) for bars in panel])
        found = market_of(np.array(window.numbers(state_dim(assets), interval_ms)), assets)
        np.testing.assert_allclose(found, market_of(expected[row], assets), atol=1e-12)
    assert np.ptp(found) > 0.0


@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([MINUTE_MS, HOUR_MS]))
def test_with_bars_missing_anywhere(seed: int, assets: int, interval_ms: int) -> None:
    """Some assets lack some bars, all of them have the newest; the history is longer than what is kept of it."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(60, 400))
    panel = []
    for asset in range(assets):
        here = [*np.flatnonzero(rng.uniform(size=rows) < rng.uniform(0.5, 1.0)).tolist(), rows]
        panel.append(bars_of(seed + asset, here, interval_ms))
    _, expected = StateEncoder(tuple("abc"[:assets])).panel_rows(panel)
    window = CloseWindow.of([as_bars(bars, -1) for bars in panel])
    window = window.then(START + rows * interval_ms, [float(bars.close[-1]) for bars in panel])
    found = market_of(np.array(window.numbers(state_dim(assets), interval_ms)), assets)
    np.testing.assert_allclose(found, market_of(expected[-1], assets), atol=1e-12)


def test_the_last_bar_again_takes_its_place_and_the_window_before_stays() -> None:
    bars = bars_of(0, range(40), HOUR_MS)
    before = CloseWindow.of([as_bars(bars, 39)])
    end, close = int(bars.timestamp[39]), float(bars.close[39])
    first = before.then(end, [close])
    other = first.then(end, [close * 1.1])
    assert other.numbers(WIDTH, HOUR_MS)[contract.VOLATILITY] != first.numbers(WIDTH, HOUR_MS)[contract.VOLATILITY]
    assert other.then(end, [close]).numbers(WIDTH, HOUR_MS) == first.numbers(WIDTH, HOUR_MS)
    assert before.timestamp == int(bars.timestamp[38])


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 170), st.booleans())
def test_without_a_missing_return_the_correlations_are_the_general_ones(
    seed: int, assets: int, rows: int, still: bool
) -> None:
    """One matrix product instead of six sums a pair; what does not move is exactly 0."""
    rng = np.random.default_rng(seed)
    moves = rng.normal(size=(rows, assets)) * 10.0 ** rng.integers(-6, 0)
    moves[:, 0] *= not still
    closes = 100.0 * np.exp(np.vstack([np.zeros(assets), moves]).cumsum(axis=0))
    returns = closes[1:] / closes[:-1] - 1.0
    pairs = np.array(list(combinations(range(assets), 2)))
    first, second = pairs.T
    window = contract.CORRELATION.window
    general = correlation_from_sums(correlation_terms(returns[:, first], returns[:, second]).sum(axis=0), window)
    quick = np.array(correlations(returns_and_one(np.ascontiguousarray(closes.T))))
    np.testing.assert_allclose(quick, general, rtol=0.0, atol=1e-12)
    assert (np.count_nonzero(quick) == 0) == (2 * rows < window or (still and assets == 2))
    assert (quick[general == 0.0] == 0.0).all()


def test_two_windows_after_one_do_not_disturb_each_other() -> None:
    """A bar that was refused late leaves its row behind; the next one is written over it."""
    bars = bars_of(0, range(60), HOUR_MS)
    times, closes = as_bars(bars, 60)
    window = CloseWindow.of([(times[:40], closes[:40])])
    for row in range(40, 60):
        refused = window.then(times[row], [closes[row] * 1.5])
        before = window.numbers(WIDTH, HOUR_MS)
        window.then(times[row] + HOUR_MS, [1.0])
        assert window.numbers(WIDTH, HOUR_MS) == before
        window = window.then(times[row], [closes[row]])
        assert window.numbers(WIDTH, HOUR_MS) != refused.then(times[row], [closes[row] * 1.5]).numbers(WIDTH, HOUR_MS)
        anew = CloseWindow.of([(times[: row + 1], closes[: row + 1])])
        assert window.numbers(WIDTH, HOUR_MS) == anew.numbers(WIDTH, HOUR_MS)


def test_closes_that_stand_still_have_no_volatility() -> None:
    window = CloseWindow.of([([START + row * HOUR_MS for row in range(30)], [7.3] * 30)])
    assert window.numbers(WIDTH, HOUR_MS)[contract.VOLATILITY] == 0.0


@pytest.mark.parametrize(("assets", "interval_ms"), [(1, MINUTE_MS), (1, HOUR_MS), (3, MINUTE_MS), (3, HOUR_MS)])
def test_what_is_kept_is_bounded_whatever_the_history(assets: int, interval_ms: int) -> None:
    """16 KB a session. The control: a thousand rows of three assets are twice that."""
    rows = 1_000
    histories = [
        [bars_of(seed, range(rows), interval_ms) for seed in range(assets)],
        [bars_of(seed, range(seed * 300, rows, 1 + 7 * seed), interval_ms) for seed in range(assets)],
    ]
    for panel in histories:
        window = CloseWindow.of([as_bars(bars, len(bars.close)) for bars in panel])
        for row in range(rows, rows + 200):
            window = window.then(START + row * interval_ms, [100.0 + row] * assets)
            assert 8 * (len(window.times) + len(window.closes)) < 12_000
    assert rows * 8 * (3 + 1) > 2 * 12_000


@given(st.floats(-3.0, 3.0), st.floats(-2.0, 2.0), st.floats(0.0, 1.0), st.floats(0.01, 2.0))
def test_an_account_in_plain_numbers_is_the_encoders(exposure: float, pnl: float, wins: float, unit: float) -> None:
    columns = account_columns(*(np.array([value]) for value in (exposure, pnl, wins)), unit)
    assert account_numbers(exposure, pnl, wins, unit) == tuple(float(column[0]) for column in columns)


@given(st.lists(st.floats(-2.0, 2.0), min_size=2, max_size=12))
def test_a_concentration_in_plain_numbers_is_the_encoders(exposures: list[float]) -> None:
    assert concentration(exposures) == pytest.approx(float(herfindahl(np.array(exposures))), rel=1e-14, abs=1e-300)


@pytest.mark.parametrize(("assets", "interval_ms"), [(1, MINUTE_MS), (1, HOUR_MS), (3, MINUTE_MS), (3, HOUR_MS)])
def test_what_is_kept_of_whole_bars_is_what_is_kept_of_any(assets: int, interval_ms: int) -> None:
    """The control: fewer bars than were there."""
    window = CloseWindow.of([as_bars(bars_of(seed, range(600), interval_ms), 600) for seed in range(assets)])
    for row in range(600, 620):
        window = window.then(START + row * interval_ms, [100.0 + row] * assets)
    quick, general = window._newest(), _needed(*window._columns())
    assert quick == general
    assert quick.filled < window.filled
