"""The sixteen numbers, their order and scale, and the hash that stands for them."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.features import keep_rows, make_bars, scalar_correlation, scalar_momentum, scalar_volatility, with_close
from himari_rl.errors import ConfigError, DataError
from himari_rl.features import contract
from himari_rl.features.encoder import (
    ACCOUNT_COLUMNS,
    FEATURES,
    MARKET_COLUMNS,
    StateEncoder,
    account_columns,
    herfindahl,
    write_account,
)
from himari_rl.features.signals import reference_signals
from himari_rl.features.validation import validate_state
from himari_rl.policy.account import WIN_WINDOW
from himari_rl.policy.risk import RiskLimits
from himari_rl.schema import BUY, HOLD, HOUR_MS, MAX_MULTIPLIER, SELL, Layer2

THREE = ("BTC-USD", "ETH-USD", "SOL-USD")


def test_the_sixteen_numbers_stand_in_the_published_order() -> None:
    assert FEATURES == (
        "signal_confidence", "action_sell", "action_hold", "action_buy", "tier_1", "tier_2", "tier_3", "tier_4",
        "position_size", "position_side", "unrealised_pnl", "momentum_1h", "momentum_4h", "volatility", "win_rate",
        "cascade_risk",
    )  # fmt: skip
    assert ACCOUNT_COLUMNS == (8, 9, 10, 14)
    assert MARKET_COLUMNS == (0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 15)


def test_a_state_has_16_numbers_for_one_asset_and_52_for_three() -> None:
    assert [contract.state_dim(assets) for assets in (1, 2, 3, 4)] == [16, 34, 52, 71]
    encoder = StateEncoder(THREE)
    assert encoder.state_dim == len(encoder.names) == len(set(encoder.names)) == 52
    assert encoder.names[16:18] == ("ETH-USD.signal_confidence", "ETH-USD.action_sell")
    assert encoder.names[48:] == (
        "correlation.BTC-USD.ETH-USD", "correlation.BTC-USD.SOL-USD", "correlation.ETH-USD.SOL-USD", "herfindahl",
    )  # fmt: skip
    assert StateEncoder(("BTC-USD",)).names == FEATURES


@pytest.mark.parametrize("symbols", [(), ("A", "A"), ("A", "")])
def test_assets_without_a_name_of_their_own_are_refused(symbols: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="different, non-empty symbols"):
        StateEncoder(symbols)


def test_market_rows_are_the_definitions_scaled_and_clipped() -> None:
    bars = make_bars(120, 3, gaps=0.2, signals=True, sigma=0.04)
    rows = StateEncoder().market_rows(bars)
    said = bars.signals
    for t in range(len(bars)):
        expected = np.zeros(16)
        expected[0] = said.confidence[t]
        expected[{SELL: 1, HOLD: 2, BUY: 3}[int(said.action[t])]] = 1
        expected[3 + said.tier[t]] = 1
        expected[11] = min(1, max(-1, scalar_momentum(bars, t, HOUR_MS) * 100 / 10))  # per cent / 10
        expected[12] = min(1, max(-1, scalar_momentum(bars, t, 4 * HOUR_MS) * 100 / 20))
        expected[13] = min(1, scalar_volatility(bars, t) / 0.1)
        expected[15] = said.cascade_risk[t]
        np.testing.assert_allclose(rows[t], expected, atol=1e-12)


def test_a_crash_and_a_rally_are_clipped_at_one() -> None:
    rows = StateEncoder().market_rows(with_close([100.0, 50.0, 200.0, 50.0, 200.0] * 6))
    assert rows[1, 11] == -1.0
    assert rows[2, 11] == 1.0
    assert rows[-1, 13] == 1.0


def test_bars_without_layer_2_take_the_reference_signal_and_say_so() -> None:
    bars = make_bars(900, 1, sigma=0.02)
    said = reference_signals(bars)
    assert said.supplied is False
    np.testing.assert_array_equal(
        StateEncoder().market_rows(bars), StateEncoder().market_rows(replace(bars, signals=said))
    )


@pytest.mark.parametrize(
    ("field", "value"), [("action", 2), ("tier", 5), ("tier", 0), ("confidence", np.nan), ("cascade_risk", 1.5)]
)
def test_a_signal_out_of_range_is_refused_instead_of_landing_in_another_column(field: str, value: float) -> None:
    bars = make_bars(30, signals=True)
    column = getattr(bars.signals, field).copy()
    column[7] = value
    broken = replace(bars, signals=replace(bars.signals, **{field: column}))
    with pytest.raises(DataError, match=f"signal {field} at row 7 is"):
        StateEncoder().market_rows(broken)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_account_columns_are_the_same_arithmetic_on_numpy_and_torch(library: str, dtype: str) -> None:
    xp = pytest.importorskip(library)
    make = xp.tensor if library == "torch" else xp.array
    values = [
        make(column, dtype=getattr(xp, dtype))
        for column in ([0.0, 0.5, -1.0, 1.5], [0.0, 0.25, -0.5, -0.9], [0.5, 0.0, 1.0, 0.3])
    ]
    columns = account_columns(*values, 0.5)
    assert all(column.dtype == values[0].dtype for column in columns)
    for found, expected in zip(
        columns, ([0, 0.5, 1, 1], [0, 1, -1, 1], [0, 0.5, -1, -1], [0.5, 0, 1, 0.3]), strict=True
    ):
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-6)


def test_the_largest_position_the_limits_allow_is_size_one_and_no_smaller_one_is() -> None:
    sizes = account_columns(np.array([0.5, 0.999, 1.0]), np.zeros(3), np.zeros(3), 0.5)[0]
    np.testing.assert_allclose(sizes, [0.5, 0.999, 1.0])
    table = contract.ASSET_FEATURES
    assert table[contract.POSITION_SIZE].full_scale == MAX_MULTIPLIER == RiskLimits().normal_cap
    assert table[contract.WIN_RATE].window == WIN_WINDOW


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_the_herfindahl_index_runs_from_evenly_spread_to_all_in_one(library: str) -> None:
    xp = pytest.importorskip(library)
    make = xp.tensor if library == "torch" else xp.array
    books = [[0.2, 0.2, 0.2], [0.0, -0.7, 0.0], [0.0, 0.0, 0.0], [0.3, -0.1, 0.0], [1e-200, 0.0, 0.0]]
    found = herfindahl(make(books, dtype=xp.float64))
    np.testing.assert_allclose(np.asarray(found), [1 / 3, 1.0, 0.0, 0.75**2 + 0.25**2, 1.0])


def test_the_account_is_written_where_the_contract_says() -> None:
    state = np.full((2, 52), 7.0)
    exposure = np.array([[0.5, -0.25, 0.0], [0.0, 0.0, 0.0]])
    write_account(state, exposure, exposure / 10, np.full((2, 3), 0.4), 0.5)
    touched = sorted([asset * 16 + column for asset in range(3) for column in ACCOUNT_COLUMNS] + [51])
    assert sorted({int(column) for column in np.argwhere(state != 7.0)[:, 1]}) == touched
    np.testing.assert_allclose(state[0, [8, 9, 10, 14, 24, 25, 26]], [0.5, 1, 0.1, 0.4, 0.25, -1, -0.05])
    np.testing.assert_allclose(state[:, 51], [(2 / 3) ** 2 + (1 / 3) ** 2, 0.0])


def test_a_panel_stands_on_the_union_of_its_clocks_and_its_states_are_valid() -> None:
    panel = [make_bars(500, seed, gaps=0.1, symbol=symbol) for seed, symbol in enumerate(THREE)]
    panel[2] = panel[2][50:]  # listed later
    encoder = StateEncoder(THREE)
    clock, rows = encoder.panel_rows(panel)
    assert clock.tolist() == sorted(set().union(*(bars.timestamp.tolist() for bars in panel)))
    moves = np.full((len(clock), 3), np.nan)
    for asset, bars in enumerate(panel):
        own = encoder.market_rows(bars)
        at = {int(time): row for row, time in enumerate(bars.timestamp)}
        latest = None
        for t, time in enumerate(clock):
            latest = at.get(int(time), latest)
            if latest is None:
                assert rows[t, asset * 16 : asset * 16 + 16].tolist() == [0, 0, 1, 0, 0, 0, 0, 1, *[0] * 8]
            else:
                np.testing.assert_array_equal(rows[t, asset * 16 : asset * 16 + 16], own[latest])
            if t and int(time) in at and int(clock[t - 1]) in at:
                moves[t, asset] = bars.close[at[int(time)]] / bars.close[at[int(time)] - 1] - 1
    for column, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)], start=48):
        for t in range(0, len(clock), 23):
            assert rows[t, column] == pytest.approx(scalar_correlation(moves[:, i], moves[:, j], t, 168), abs=1e-9)
    write_account(rows, np.full((len(clock), 3), 0.1), np.zeros((len(clock), 3)), np.full((len(clock), 3), 0.5), 0.5)
    validate_state(rows, 52, THREE)


def test_a_panel_of_other_assets_or_intervals_is_refused() -> None:
    encoder = StateEncoder(("A", "B"))
    with pytest.raises(DataError, match="the panel has 1 assets"):
        encoder.panel_rows([make_bars(10)])
    with pytest.raises(DataError, match="one interval"):
        encoder.panel_rows([make_bars(10), make_bars(10, interval_ms=60_000)])


def test_a_panel_of_one_is_its_market_rows() -> None:
    bars = keep_rows(make_bars(60), np.arange(60) % 7 != 0)
    np.testing.assert_array_equal(StateEncoder().panel_rows([bars])[1], StateEncoder().market_rows(bars))


def test_the_schema_hash_is_the_same_in_every_process_and_for_every_single_asset() -> None:
    code = "from himari_rl.features.encoder import StateEncoder as E; print(E().schema_hash, E(('A', 'B')).schema_hash)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert printed == [StateEncoder().schema_hash, StateEncoder(("A", "B")).schema_hash]
    assert re.fullmatch("[0-9a-f]{12}", printed[0])
    assert StateEncoder(("BTC-USD",)).schema_hash == StateEncoder(("ETH-USD",)).schema_hash == printed[0]
    assert len({StateEncoder(s).schema_hash for s in (("A",), ("A", "B"), ("B", "A"), ("A", "C"), THREE)}) == 5


@pytest.mark.parametrize(
    ("column", "change"),
    [
        (11, {"name": "momentum_2h"}),
        (11, {"window": 2 * HOUR_MS}),
        (12, {"full_scale": 0.1}),
        (13, {"window": 24}),
        (10, {"lower": -2.0}),
        (0, {"upper": 2.0}),
    ],
)
def test_the_schema_hash_changes_when_any_name_range_scale_or_window_does(monkeypatch, column: int, change) -> None:
    before = StateEncoder().schema_hash
    table = list(contract.ASSET_FEATURES)
    table[column] = table[column]._replace(**change)
    monkeypatch.setattr(contract, "ASSET_FEATURES", tuple(table))
    assert StateEncoder().schema_hash != before


def test_the_schema_hash_changes_with_the_order_and_with_the_correlation_window(monkeypatch) -> None:
    before = StateEncoder().schema_hash, StateEncoder(THREE).schema_hash
    table = contract.ASSET_FEATURES
    monkeypatch.setattr(contract, "ASSET_FEATURES", (table[1], table[0], *table[2:]))
    assert StateEncoder().schema_hash != before[0]
    monkeypatch.setattr(contract, "ASSET_FEATURES", table)
    monkeypatch.setattr(contract, "CORRELATION", contract.CORRELATION._replace(window=24))
    assert StateEncoder().schema_hash == before[0]
    assert StateEncoder(THREE).schema_hash != before[1]


def test_the_table_is_what_the_encoder_computes_from(monkeypatch) -> None:
    bars = make_bars(80, 2)
    before = StateEncoder().market_rows(bars)
    table = list(contract.ASSET_FEATURES)
    table[13] = table[13]._replace(full_scale=0.05)
    monkeypatch.setattr(contract, "ASSET_FEATURES", tuple(table))
    np.testing.assert_allclose(StateEncoder().market_rows(bars)[:, 13], 2 * before[:, 13])


def test_the_page_about_the_features_lists_them_as_the_contract_does() -> None:
    page = (Path(__file__).parents[2] / "docs" / "features.md").read_text()
    listed = re.findall(r"^\| \d+ \| `(\w+)` \|.*\| (\[[-\d, ]+\]|\{[-\d, ]+\}) \|", page, re.M)
    one_hot = (*range(1, 8),)
    expected = []
    for column, feature in enumerate(contract.ASSET_FEATURES):
        values = "{0, 1}" if column in one_hot else "{-1, 0, 1}" if column == contract.POSITION_SIDE else None
        expected.append((feature.name, values or f"[{feature.lower:g}, {feature.upper:g}]"))
    assert listed == expected


def test_layer_2_slices_keep_where_they_came_from() -> None:
    said = make_bars(10, signals=True).signals
    assert isinstance(said, Layer2)
    assert StateEncoder().market_rows(make_bars(10, signals=True)[:4]).shape == (4, 16)
