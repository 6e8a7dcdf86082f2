"""Panels: what was not recorded is carried and never traded, what cannot be aligned is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers import shared_data
from helpers.envs import MIDNIGHT_MS, bars_of, random_bars
from himari_rl.data.panel import load_panel, panel_of
from himari_rl.data.splits import train_test
from himari_rl.data.synthetic_panel import synthetic_panel
from himari_rl.data.table import write_bars
from himari_rl.errors import ConfigError, DataError
from himari_rl.features.causality import noise_after
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.clock import decisions_of
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.schema import HOUR_MS, Bars

LEDGER = LedgerConfig()


def named(symbol: str, rows: int, start: int = 0, **changes: object) -> Bars:
    opens = 100.0 + np.arange(rows, dtype=float)
    stamps = MIDNIGHT_MS + HOUR_MS * (start + np.arange(rows, dtype=np.int64))
    return bars_of(opens, symbol=symbol, **({"timestamp": stamps} | changes))


def without(bars: Bars, *rows: int) -> Bars:
    keep = np.setdiff1d(np.arange(len(bars)), rows)
    return bars[keep]  # type: ignore[index]


def test_a_missing_bar_is_worth_the_last_close_and_cannot_be_traded() -> None:
    panel = panel_of([named("A", 8), without(named("B", 8), 3, 4)])
    prices, whole = panel.prices(), named("B", 8)
    assert prices.tradable[:, 1].tolist() == [True, True, True, False, False, True, True, True]
    assert prices.tradable[:, 0].all()
    assert prices.open[3:5, 1].tolist() == prices.close[3:5, 1].tolist() == [whole.close[2]] * 2
    assert prices.open[5, 1] == whole.open[5]


def test_a_bar_without_volume_keeps_its_price_and_cannot_be_traded() -> None:
    bars = named("B", 6, volume=np.array([1.0, 1, 0, 1, 1, 1]))
    prices = panel_of([named("A", 6), bars]).prices()
    assert prices.tradable[:, 1].tolist() == [True, True, False, True, True, True]
    assert prices.close[2, 1] == bars.close[2]


def test_the_span_runs_from_the_latest_listing_to_the_earliest_end() -> None:
    panel = panel_of([named("A", 60), named("B", 40, start=10)])
    assert panel.timestamp[0] == MIDNIGHT_MS + 10 * HOUR_MS
    assert panel.timestamp[-1] == MIDNIGHT_MS + 49 * HOUR_MS
    assert len(panel) == 40


def test_history_before_a_late_listing_feeds_the_older_assets_features() -> None:
    old = random_bars(200, 1, symbol="A")
    late = random_bars(200, 2, symbol="B")[100:]
    encoder = StateEncoder(("A", "B"))
    rows, _ = decisions_of(panel_of([old, late]), encoder, LEDGER)
    assert rows[0, :16] == pytest.approx(StateEncoder(("A",)).market_rows(old)[100])
    assert rows[0, 13] > 0.0  # a volatility, known from A's own past
    assert rows[0, 16 + 13] == 0.0


def test_funding_is_paid_at_its_settlements_and_by_its_own_asset() -> None:
    rates = np.where(np.arange(24) % 8 == 0, 1e-4, np.nan)
    panel = panel_of([named("A", 24, funding_rate=rates), without(named("B", 24), 8)])
    funding = panel.prices().funding_rate
    assert np.flatnonzero(funding[:, 0]).tolist() == [0, 8, 16]
    assert not funding[:, 1].any()


def test_funding_is_not_paid_again_while_a_bar_is_missing() -> None:
    rates = np.where(np.arange(24) == 8, 1e-4, 0.0)
    panel = panel_of([named("A", 24), without(named("B", 24, funding_rate=rates), 9, 10)])
    assert np.flatnonzero(panel.prices().funding_rate[:, 1]).tolist() == [8]


def test_no_row_of_a_panel_knows_the_future() -> None:
    panel = panel_of([random_bars(120, a, gaps=0.1, symbol=f"S{a}") for a in range(3)])
    encoder, rng = StateEncoder(panel.symbols), np.random.default_rng(0)
    before, _ = decisions_of(panel, encoder, LEDGER)
    for t in (30, 60, 90):
        cut = [int(np.searchsorted(b.timestamp, panel.timestamp[t], side="right")) - 1 for b in panel.bars]
        noisy = panel_of([noise_after(b, row, rng) for b, row in zip(panel.bars, cut, strict=True)])
        after, _ = decisions_of(noisy, encoder, LEDGER)
        assert np.array_equal(before[: t + 1], after[: t + 1])
        assert not np.array_equal(before[t + 1 :], after[t + 1 :])


def test_a_cut_panel_sees_its_past_and_nothing_after_its_end() -> None:
    panel = panel_of([random_bars(120, a, symbol=f"S{a}") for a in range(2)])
    train, test = train_test(panel, 0.25, purge_bars=10)
    assert (len(train), len(test)) == (80, 30)
    assert max(int(b.timestamp[-1]) for b in train.bars) == train.end < test.start - 9 * HOUR_MS
    whole, _ = decisions_of(panel, StateEncoder(panel.symbols), LEDGER)
    own, _ = decisions_of(test, StateEncoder(panel.symbols), LEDGER)
    assert np.array_equal(own, whole[90:])


@pytest.mark.parametrize(
    ("parts", "error", "words"),
    [
        ([named("A", 5)], ConfigError, "2 to 100"),
        ([named("A", 5), named("A", 5)], ConfigError, "2 to 100 different"),
        ([named(f"S{a}", 5) for a in range(101)], ConfigError, "101 symbols"),
        ([named("A", 5), named("SOL-USD", 5)[5:]], DataError, "SOL-USD has no bars"),
        ([named("A", 5), named("B", 5, start=9)], DataError, "B starts .* A ends"),
        ([named("A", 5), named("B", 5, synthetic=False)], DataError, "A is synthetic"),
        ([named("A", 5), named("B", 5, interval_ms=2 * HOUR_MS)], DataError, "1h bars and B has 2h bars"),
    ],
    ids=["one", "twice", "too many", "empty", "apart", "mixed", "intervals"],
)
def test_what_makes_no_panel_is_refused_by_name(parts, error, words) -> None:
    with pytest.raises(error, match=words):
        panel_of(parts)


def test_bars_off_each_others_grid_are_refused() -> None:
    late = named("B", 5)
    with pytest.raises(DataError, match="one grid"):
        panel_of([named("A", 5), replace(late, timestamp=late.timestamp + 1_800_000)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for bars in synthetic_panel(("A-USD", "B-USD"), 100, seed=1).bars:
        write_bars(bars, tmp_path / f"{bars.symbol}_1h.parquet")
    return tmp_path


def test_a_folder_gives_the_symbols_in_the_order_asked_for(folder: Path) -> None:
    assert load_panel(folder, ["B-USD", "A-USD"]).symbols == ("B-USD", "A-USD")
    one, other = (load_panel(folder, order) for order in (["A-USD", "B-USD"], ["B-USD", "A-USD"]))
    assert one.fingerprint != other.fingerprint


def test_a_symbol_without_a_file_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match="no data of SOL-USD; expected files of A-USD, B-USD"):
        load_panel(folder, ["A-USD", "SOL-USD"])


def test_the_same_bars_in_two_formats_are_one_file_and_different_ones_are_refused(folder: Path) -> None:
    bars = load_panel(folder, ["A-USD", "B-USD"]).bars[0]
    write_bars(bars, folder / "A-USD_1h.csv")
    assert len(load_panel(folder, ["A-USD", "B-USD"])) == 100
    write_bars(replace(bars, volume=bars.volume + 1.0), folder / "A-USD_1h.csv")
    with pytest.raises(DataError, match="differ"):
        load_panel(folder, ["A-USD", "B-USD"])


def test_eight_hourly_funding_lands_on_the_hours_it_settles(folder: Path) -> None:
    panel = load_panel(folder, ["A-USD", "B-USD"])
    settled = panel.timestamp[0] + 8 * HOUR_MS * np.arange(13)
    for symbol in panel.symbols:
        table = pd.DataFrame({"timestamp": pd.to_datetime(settled, unit="ms", utc=True), "funding_rate": 1e-4})
        table.to_parquet(folder / f"{symbol}_funding_8h.parquet")
    funding = load_panel(folder, ["A-USD", "B-USD"], funding=folder).prices().funding_rate
    assert np.flatnonzero(funding[:, 1]).tolist() == list(range(0, 100, 8))
    (folder / "B-USD_funding_8h.parquet").unlink()
    with pytest.raises(DataError, match="0 funding files of B-USD"):
        load_panel(folder, ["A-USD", "B-USD"], funding=folder)


def test_the_real_series_begin_with_the_late_listing() -> None:
    folder = shared_data("binance-spot")
    panel = load_panel(folder, ["BTC-USDT", "ETH-USDT", "SOL-USDT"])
    assert pd.Timestamp(panel.start, unit="ms") == pd.Timestamp("2020-08-11 06:00")
    assert panel.interval_ms == HOUR_MS
    assert not panel.prices().tradable.all()  # outages and placeholders


@pytest.mark.parametrize("asked", [0.0, 0.6, 0.95])
def test_synthetic_returns_have_the_correlation_asked_for(asked: float) -> None:
    closes = synthetic_panel(("A", "B", "C"), 60_000, seed=3, correlation=asked).prices().close
    found = np.corrcoef(np.diff(np.log(closes), axis=0).T)
    assert found[np.triu_indices(3, 1)] == pytest.approx(np.full(3, asked), abs=0.03)


def test_synthetic_correlations_may_differ_by_pair_and_the_encoder_sees_them() -> None:
    asked = np.array([[1.0, 0.8, -0.3], [0.8, 1.0, 0.1], [-0.3, 0.1, 1.0]])
    panel = synthetic_panel(("A", "B", "C"), 20_000, seed=4, correlation=asked)
    rows, _ = decisions_of(panel, StateEncoder(panel.symbols), LEDGER)
    closes = panel.prices().close[5000 - 168 : 5001]
    windowed = np.corrcoef((closes[1:] / closes[:-1] - 1.0).T)[np.triu_indices(3, 1)]
    assert rows[5000, 48:51] == pytest.approx(windowed, abs=1e-9)
    assert rows[1000:, 48:51].mean(axis=0) == pytest.approx([0.8, -0.3, 0.1], abs=0.06)


def test_an_impossible_correlation_is_refused() -> None:
    with pytest.raises(ConfigError, match="positive semi-definite"):
        synthetic_panel(("A", "B", "C"), 100, seed=0, correlation=-0.9)
