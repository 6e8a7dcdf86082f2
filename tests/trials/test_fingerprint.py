"""A price path is itself under every name, scale, interval and clock, and is no other asset's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data import START, shared
from himari_rl.data.panel import panel_of
from himari_rl.data.sources import load_bars
from himari_rl.schema import DAY_MS, HOUR_MS, MINUTE_MS, Bars, FloatArray
from himari_rl.trials.fingerprint import MIN_RETURNS, any_same, decoded, paths_of, same_path, sketch

DAYS = 120


def market(seed: int, correlation: float = 0.0, days: int = DAYS, interval_ms: int = HOUR_MS) -> Bars:
    """A random walk of returns with 4 % a day in heavy tails, correlated with the one of seed 0."""
    count = days * DAY_MS // interval_ms
    common, own = (np.random.default_rng(each).standard_t(4, count) for each in (0, 1000 + seed))
    moves = 0.04 / np.sqrt(DAY_MS / interval_ms * 2.0) * (correlation * common + np.sqrt(1 - correlation**2) * own)
    return bars_of(100.0 * np.exp(np.cumsum(moves)), interval_ms)


def bars_of(close: FloatArray, interval_ms: int = HOUR_MS, start: int = START) -> Bars:
    times = start + interval_ms * np.arange(len(close))
    return Bars(
        symbol="BTC-USDT", timestamp=times, open=close, high=close, low=close, close=close, volume=np.ones(len(close)),
        interval_ms=interval_ms, source="by hand",
    )  # fmt: skip


def rows(bars: Bars, kept: np.ndarray) -> Bars:
    columns = ("timestamp", "open", "high", "low", "close", "volume")
    return replace(bars, **{name: getattr(bars, name)[kept] for name in columns})


def same(one: Bars, other: Bars) -> bool | None:
    return same_path(*(paths_of(bars)[0] for bars in (one, other)))


WHOLE = market(0, 1.0)


@settings(max_examples=40)
@given(
    first=st.integers(0, 60 * 24),
    length=st.integers(20 * 24, 60 * 24),
    scale=st.floats(1e-9, 1e9),
    hours=st.integers(-12, 14),
    dropped=st.floats(0.0, 0.5),
    flipped=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_part_of_a_path_renamed_rescaled_thinned_or_in_another_zone_is_itself(
    first: int, length: int, scale: float, hours: int, dropped: float, flipped: bool, seed: int
) -> None:
    kept = np.random.default_rng(seed).random(length) >= dropped
    part = rows(WHOLE[first : first + length], kept)
    price = scale / part.close if flipped else scale * part.close
    told = replace(part, close=price, timestamp=part.timestamp + hours * HOUR_MS, symbol="X", source="elsewhere")
    assert same(told, WHOLE) is True
    assert same(WHOLE, told) is True


@settings(max_examples=40)
@given(
    seed=st.integers(1, 2**31),
    correlation=st.floats(0.0, 0.9),
    days=st.integers(5, DAYS),
    hours=st.integers(-14, 14),
)
def test_another_asset_is_another_path_however_much_they_move_together(
    seed: int, correlation: float, days: int, hours: int
) -> None:
    """Two assets of correlation .9, which is more than BTC and ETH have."""
    other = market(seed, correlation)
    moved = replace(other, timestamp=other.timestamp + hours * HOUR_MS)
    assert same(moved[: days * 24], WHOLE[: days * 24]) is False


def test_the_day_candles_of_an_hourly_path_are_that_path() -> None:
    for begins in (0, 8, 16):  # an exchange's day may begin at 16:00
        daily = bars_of(WHOLE.close[begins + 23 :: 24], DAY_MS, START + begins * HOUR_MS)
        assert same(daily, WHOLE) is True
    other = market(3, 0.8)
    assert same(bars_of(other.close[23::24], DAY_MS), WHOLE) is False


def test_another_exchanges_quotes_are_the_same_path() -> None:
    """Five basis points of its own, moving back to the other's price."""
    own = 5e-4 * np.random.default_rng(7).standard_normal(len(WHOLE))
    assert same(replace(WHOLE, close=WHOLE.close * np.exp(own)), WHOLE) is True


def test_one_slipped_decimal_and_a_redenomination_do_not_hide_an_asset() -> None:
    broken = WHOLE.close.copy()
    broken[500:503] *= 100.0
    broken[1500:] /= 1000.0
    assert same(replace(WHOLE, close=broken), WHOLE) is True


@pytest.mark.parametrize("minutes", [60, 600, 3000])
def test_a_short_span_is_known_by_its_minutes(minutes: int) -> None:
    mine, other = market(0, 1.0, 3, MINUTE_MS), market(5, 0.8, 3, MINUTE_MS)
    assert same(mine[100 : 100 + minutes], mine[:4000]) is True
    assert same(other[100 : 100 + minutes], mine[:4000]) is False


def test_too_little_in_common_is_no_answer() -> None:
    assert same(WHOLE[:200], WHOLE[200:400]) is None
    assert same(WHOLE[: MIN_RETURNS - 1], WHOLE) is None
    flat = replace(WHOLE, close=np.ones(len(WHOLE)))
    assert same(flat, flat) is None
    assert same(flat, WHOLE) is None
    assert any_same([], paths_of(WHOLE)) is None


def test_a_panel_is_its_assets_within_its_span() -> None:
    other = replace(market(9), symbol="ETH-USDT")
    panel = panel_of([WHOLE, other])
    assert any_same(paths_of(panel), paths_of(WHOLE)) is True
    assert any_same(paths_of(panel), paths_of(market(11))) is False
    late = panel[len(panel) - 48 :]
    assert decoded(paths_of(late)[0]).mark[0] == late.timestamp[0] // HOUR_MS * (HOUR_MS // MINUTE_MS) + 60
    assert any_same(paths_of(late), paths_of(WHOLE[:1000])) is None


def test_a_sketch_gives_the_prices_back_to_an_eighth_of_a_median_return() -> None:
    path = decoded(sketch(WHOLE, int(WHOLE.timestamp[0]), int(WHOLE.timestamp[-1])))
    moves = np.diff(np.log(WHOLE.close))
    step = np.median(np.abs(moves)) / 4.0
    true = (np.log(WHOLE.close) - np.log(WHOLE.close[0])) / step
    assert np.abs(path.level - true).max() <= 0.5 + 1e-9
    np.testing.assert_array_equal(path.mark, WHOLE.timestamp // HOUR_MS + 1)
    assert len(paths_of(WHOLE)[0]) < 2 * len(WHOLE)


PLACES = {"binance-spot": "USDT", "binance-perp": "USDT-PERP", "coinbase": "USD"}


@pytest.mark.parametrize("days", [3, 30, 180])
def test_on_recorded_bars_an_asset_is_itself_at_every_exchange_and_no_other(days: int) -> None:
    found = {}
    for place, quote in PLACES.items():
        for asset in ("BTC", "ETH", "SOL"):
            bars = load_bars([shared(f"{place}/{asset}-{quote}_1h.parquet")], None)
            begin = int(np.datetime64("2024-08-01", "ms").astype(np.int64))
            start, stop = np.searchsorted(bars.timestamp, [begin, begin + days * DAY_MS])
            found[asset, place] = paths_of(bars[int(start) : int(stop)])[0]
    answers = {(a, b): same_path(found[a], found[b]) for a in found for b in found}
    assert answers == {(a, b): a[0] == b[0] for a, b in answers}
