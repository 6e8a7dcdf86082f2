"""The lines of the table of files: each layout that people have comes out as its bars, or a refusal whose cure works.

The inputs are written here in the layout named, so the truth is known. Where the shared files of the cases lie
beside the data, they run too.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import shared_case
from helpers.data import HEADER
from helpers.layouts import NAMES, READ, at, frame, headed, iso, lines, market, refused, same, text, write
from himari_rl.data.audit import audit_files
from himari_rl.data.layouts import table_lines
from himari_rl.data.sources import load_bars
from himari_rl.errors import DataError
from himari_rl.schema import HOUR_MS, Bars

MINUTE, DAY = 60_000, 86_400_000


# --- read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("step", [MINUTE, 15 * MINUTE, HOUR_MS, DAY], ids=["1m", "15m", "1h", "1d"])
def test_a_layout_that_is_read_comes_back_to_the_last_bit(tmp_path: Path, name: str, step: int) -> None:
    bars = market(400, step=step, seed=step % 97, start=at("2021-06-28"))
    path = READ[name](bars, tmp_path)
    path = path.rename(path.with_name(path.name.replace("1h", "x")))
    found = load_bars(path)
    assert same(found, bars)
    assert found.interval_ms == step
    (report,) = audit_files(path)
    assert report.usable


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Binance, us", "Binance klines without a header; times in microseconds"),
        ("Coinbase JSON", "Coinbase candles"),
        ("MetaTrader", "MetaTrader export; volume from <TICKVOL>"),
        ("German dates", "delimited by semicolons; dates as day.month.year; decimal commas"),
        ("US dates", "dates as month/day/year"),
        ("close stamped", "each bar's close"),
        ("empty rows", "2 empty rows at the end left out"),
        ("comment lines", "2 comment lines above the header left out"),
        ("yfinance rows", "yfinance's 3 header rows, of BTC-USDT"),
    ],
)
def test_one_line_says_what_a_file_was_taken_for(tmp_path: Path, name: str, words: str) -> None:
    notes = load_bars(READ[name](market(), tmp_path)).notes
    assert any(words in note for note in notes)
    assert all("\n" not in note for note in notes)


def test_our_own_files_need_no_word(tmp_path: Path) -> None:
    assert load_bars(write(tmp_path, lines(iso(market()), market()))).notes == ()


@given(
    name=st.sampled_from(sorted(set(READ) - {"thousands", "yfinance pairs", "pandas index"})),
    seed=st.integers(0, 10_000),
    rows=st.integers(60, 200),
    step=st.sampled_from([MINUTE, 5 * MINUTE, 30 * MINUTE, HOUR_MS, 4 * HOUR_MS, DAY]),
    start=st.integers(at("2018-01-01") // DAY, at("2025-06-01") // DAY),
    price=st.sampled_from([0.51, 27.0, 3_100.0, 64_000.0, 118_000.0]),
)
@settings(max_examples=60, deadline=None)
def test_any_layout_of_any_bars_gives_these_bars_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, name: str, seed: int, rows: int, step: int, start: int, price: float
) -> None:
    bars = market(rows, start=start * DAY, step=step, seed=seed, price=price)
    path = READ[name](bars, tmp_path_factory.mktemp("any"))
    path = path.rename(path.with_name(path.name.replace("1h", "x")))
    try:
        found = load_bars(path)
    except DataError as error:
        # too few days to tell month from day, and no grid that tells it either
        assert "allows both" in str(error)  # noqa: PT017 - most examples are read
        return
    assert same(found, bars)


@given(unit=st.sampled_from([1e-3, 1, 10**3, 10**6]), start=st.integers(946_684_800, 4_000_000_000))
@settings(max_examples=40, deadline=None)
def test_the_unit_of_an_epoch_is_told_by_its_size(
    tmp_path_factory: pytest.TempPathFactory, unit: float, start: int
) -> None:
    bars = market(30, start=start // 3600 * HOUR_MS)
    times = [int(t // 1000) if unit < 1 else t * int(unit) for t in bars.timestamp.tolist()]
    assert same(load_bars(write(tmp_path_factory.mktemp("unit"), lines(times, bars))), bars)


@given(minutes=st.integers(-12 * 4, 14 * 4).map(lambda quarters: 15 * quarters), compact=st.booleans())
@settings(max_examples=30, deadline=None)
def test_an_offset_is_taken_off(tmp_path_factory: pytest.TempPathFactory, minutes: int, compact: bool) -> None:
    bars = market(30)
    sign, size = "+" if minutes >= 0 else "-", abs(minutes)
    offset = f"{sign}{size // 60:02}{'' if compact else ':'}{size % 60:02}"
    shown = pd.to_datetime(bars.timestamp + minutes * MINUTE, unit="ms").strftime("%Y-%m-%dT%H:%M:%S")
    path = write(tmp_path_factory.mktemp("zone"), lines([f"{t}{offset}" for t in shown], bars))
    assert same(load_bars(path), bars)


def test_a_foreign_column_twice_is_set_aside_and_named_and_one_of_ours_is_refused(tmp_path: Path) -> None:
    bars = market()
    rows = [f"{row},1,2" for row in lines(iso(bars), bars)]
    found = load_bars(write(tmp_path, rows, HEADER + ",mood,Mood"))
    assert same(found, bars)
    assert "mood" not in found.extra
    assert any("twice: mood" in note for note in found.notes)
    refused(write(tmp_path, rows, HEADER + ",mood,Close"), "the column close twice")


def test_a_column_named_for_the_open_goes_before_the_close_and_two_that_differ_are_refused(tmp_path: Path) -> None:
    bars = market()
    both = [f"{o},{row}" for o, row in zip(iso(bars), lines((bars.timestamp + HOUR_MS).tolist(), bars), strict=True)]
    assert same(load_bars(write(tmp_path, both, "open_time," + HEADER)), bars)
    off = [f"{o},{row}" for o, row in zip(iso(bars), lines((bars.timestamp + 7 * DAY).tolist(), bars), strict=True)]
    refused(write(tmp_path, off, "open_time," + HEADER), "open_time and timestamp, which tell different times")
    refused(write(tmp_path, lines(iso(bars), bars), HEADER.replace("timestamp", "Local time")), "in UTC")


# --- which column is which -------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [o for o in itertools.permutations(NAMES[:4]) if o != NAMES[:4]], ids="-".join)
@pytest.mark.parametrize("seed", [0, 1])
def test_swapped_columns_are_named_and_the_cure_gives_the_right_bars(
    tmp_path: Path, order: tuple[str, ...], seed: int
) -> None:
    bars = market(seed=seed)
    rows = lines(iso(bars), bars, (*order, "volume"))  # what stands there; the header says open,high,low,close
    refused(write(tmp_path, rows), "swapped")
    cured = load_bars(write(tmp_path, rows, ",".join(["timestamp", *order, "volume"])))
    assert same(cured, bars)


@pytest.mark.parametrize("order", list(itertools.permutations(NAMES[:4])), ids="-".join)
def test_candles_without_names_are_never_taken_for_another_order(tmp_path: Path, order: tuple[str, ...]) -> None:
    bars = market()
    path = text(tmp_path / "BTC_x.csv", "\n".join(lines(iso(bars), bars, (*order, "volume"))))
    try:
        assert same(load_bars(path), bars)
    except DataError as error:
        assert "no header line" in str(error) or "swapped" in str(error)  # noqa: PT017
    else:
        assert order in {NAMES[:4], ("low", "high", "open", "close"), ("open", "close", "high", "low")}


def test_a_few_broken_rows_are_no_swapped_columns(tmp_path: Path) -> None:
    rows = lines(iso(market()), market())
    rows[7] = rows[7].split(",")[0] + ",110455.28,110136.53,109850.81,110000.0,1"
    refused(write(tmp_path, rows), "row 8", "open 110455.28 is outside 109850.81..110136.53")


# --- rows ------------------------------------------------------------------------------------------------


def test_four_ulp_are_rounding_and_a_cent_is_not(tmp_path: Path) -> None:
    bars = market()
    rows = lines(iso(bars), bars)
    when, _, _, low, _, volume = rows[5].split(",")
    close = 42_500.1 * 1.0001
    high = float(np.nextafter(close, 0.0))
    rows[5] = f"{when},{close!r},{high!r},{low},{close!r},{volume}"
    assert load_bars(write(tmp_path, rows)).high[5] == high
    rows[5] = f"{when},{close!r},{close - 1e-9!r},{low},{close!r},{volume}"
    error = refused(write(tmp_path, rows), repr(close))
    found = error.found.split()
    assert repr(close - 1e-9) in found[-1] or repr(close - 1e-9) in error.found


def test_a_bar_still_open_and_then_complete_is_said_and_keeping_the_last_cures(tmp_path: Path) -> None:
    bars = market()
    rows = lines(bars.timestamp.tolist(), bars)
    part = ",".join([str(bars.timestamp[200]), *[repr(float(bars.open[200]))] * 4, "0.5"])
    refused(write(tmp_path, [*rows[:200], part, *rows[200:]]), "row 202", "still open", "keep the last row")
    assert same(load_bars(write(tmp_path, rows)), bars)  # the last of each
    refused(write(tmp_path, [*rows[:201], part, *rows[201:]]), "keep the first row")
    refused(write(tmp_path, [*rows[:201], rows[200], *rows[201:]]), "keep one row of each")
    other = rows[100].split(",", 1)[1]
    refused(write(tmp_path, [*rows[:201], f"{bars.timestamp[200]},{other}", *rows[201:]]), "contradict")


def test_a_comment_or_half_a_row_between_the_bars_is_named_with_its_row(tmp_path: Path) -> None:
    bars = market()
    rows = lines(iso(bars), bars)
    refused(write(tmp_path, [*rows[:9], "# maintenance", *rows[9:]]), "row 10 is a comment", "delete that line")
    refused(write(tmp_path, [*rows[:9], "2024-01-01,1,2", *rows[9:]]), "row 10 has 3 cells, not 6")
    titled = text(tmp_path / "BTC_x.csv", "My export of BTC\n" + headed(HEADER, rows))
    refused(titled, "line 1 is no header", "the header is line 2", "delete the lines before it")


def test_numbers_that_allow_both_marks_are_refused_and_the_cure_gives_the_bars(tmp_path: Path) -> None:
    times = iso(market(60))
    both = [f"{t};42,100;42,300;42,000;42,200;1,500" for t in times]
    refused(write(tmp_path, both, HEADER.replace(",", ";")), "'42,100'", "decimals or for thousands")
    points = [row.replace(",", ".") for row in both]
    refused(write(tmp_path, points, HEADER.replace(",", ";")), "'42.100'", "decimals or for thousands")
    plain = [row.replace(",", "").replace(";", ",") for row in both]
    assert load_bars(write(tmp_path, plain)).close[0] == 42_200.0


# --- frames ----------------------------------------------------------------------------------------------


def test_a_frame_of_yfinance_is_read_for_one_ticker_and_refused_for_two() -> None:
    bars = market()
    plain = frame(bars).set_index("when")[list(NAMES)].rename(columns=str.title)
    one = pd.concat({"BTC-USD": plain}, axis=1)
    for made in (one, one.swaplevel(axis=1)):
        found = Bars.from_frame(made)
        assert same(found, bars)
        assert found.symbol == "BTC-USD"
    two = pd.concat({"BTC-USD": plain, "ETH-USD": plain}, axis=1).swaplevel(axis=1)
    with pytest.raises(DataError, match=r"2 tickers .*multi_level_index=False"):
        Bars.from_frame(two)
    assert same(Bars.from_frame(two.xs("ETH-USD", axis=1, level=1)), bars)  # the cure


@pytest.mark.parametrize("name", ["Alpaca", "Kraken", "Bybit", "columns", "lines"])
def test_what_an_exchange_answers_is_read_as_it_comes(tmp_path: Path, name: str) -> None:
    bars = market()
    cells = list(zip(*(getattr(bars, column).tolist() for column in NAMES), strict=True))
    times = bars.timestamp.tolist()
    objects = [
        {"t": f"{when.replace(' ', 'T')}Z", **dict(zip("ohlcv", row, strict=True)), "n": 1, "vw": row[3]}
        for when, row in zip(map(str, iso(bars)), cells, strict=True)
    ]
    kraken = [[t // 1000, *map(str, row[:4]), "1.0", str(row[4]), 3] for t, row in zip(times, cells, strict=True)]
    bybit = [[str(t), *map(str, row), "9"] for t, row in zip(times, cells, strict=True)]
    answer = {
        "Alpaca": {"bars": {"BTC/USD": objects}, "next_page_token": None},
        "Kraken": {"error": [], "result": {"XXBTZUSD": kraken, "last": 7}},
        "Bybit": {"retCode": 0, "result": {"symbol": "BTCUSDT", "list": bybit[::-1]}},
        "columns": {"t": [t // 1000 for t in times], "s": "ok"}
        | {key: [row[place] for row in cells] for place, key in enumerate("ohlcv")},
    }
    document = "\n".join(map(json.dumps, objects)) if name == "lines" else json.dumps(answer[name])
    assert same(load_bars(text(tmp_path / f"BTC_x.json{'l' * (name == 'lines')}", document)), bars)


def test_rows_that_end_in_a_delimiter_and_digits_of_day_and_hour_are_read(tmp_path: Path) -> None:
    bars = market()
    assert same(load_bars(write(tmp_path, [f"{row}," for row in lines(iso(bars), bars)])), bars)
    rows = [f"{d},{row}" for d, row in zip(iso(bars, "%Y%m%d"), lines(iso(bars, "%H%M%S"), bars), strict=True)]
    assert same(load_bars(write(tmp_path, rows, "<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>")), bars)


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
def test_a_frame_of_other_names_and_zones_is_the_same_bars(zone: str) -> None:
    bars = market()
    made = frame(bars).assign(date=lambda f: f["when"].dt.tz_convert(zone)).drop(columns=["t", "when"])
    assert same(Bars.from_frame(made), bars)
    assert same(Bars.from_frame(made.set_index("date")), bars)
    short = made.rename(columns={"open": "o", "high": "h", "low": "l", "close": "c", "volume": "v", "date": "t"})
    assert same(Bars.from_frame(short), bars)


# --- folders, documents, files as they are ---------------------------------------------------------------


def test_a_folder_takes_the_new_endings_and_leaves_reports_alone(tmp_path: Path) -> None:
    bars = market()
    READ["feather"](bars[:100], tmp_path)
    (tmp_path / "evaluation.json").write_text('{"open": [1], "close": [2]}')
    (tmp_path / "notes.txt").write_text("nothing")
    assert len(load_bars(tmp_path)) == 100
    with pytest.raises(DataError, match="unzip it"):
        load_bars(text(tmp_path / "BTCUSDT-1h-2024-01.zip", "PK"))


def test_the_page_lists_every_layout_as_the_code_knows_it() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8").splitlines()
    wanted = table_lines()
    start = page.index(wanted[0])
    assert page[start : start + len(wanted)] == wanted


SHARED = {
    "BTCUSDT-1h-2024-12.csv": 288,
    "BTCUSDT-1h-2025-01.csv.gz": 700,
    "binance_headed_open_time.csv.gz": 700,
    "binance_ms_us_concat_headed.csv": "in ms up to row 150 and in us from row 151",
    "BTCUSD_H1_mt5.csv.gz": 880,
    "yf_multiheader.csv.gz": 880,
    "yf_multiindex.parquet": 880,
    "ccxt_ohlcv.json": 500,
    "coinbase_candles.json": 500,
    "coinbase_wrong_header.csv": "hold low, high, open, close",
    "excel_semicolon.csv": 880,
    "excel_utf16.csv.gz": 880,
    "excel_us_dates.csv": 880,
    "excel_trailing_rows.csv": 880,
    "thousands.csv.gz": 880,
    "excel_sci_ms.csv": "rounded by a spreadsheet",
    "excel_sci_ms_dedup.csv": "rounded by a spreadsheet",
    "dst_berlin_fallback.csv": "local time (Berlin)",
    "dst_berlin_fallback_dedup.csv": "local time (Berlin)",
    "dst_berlin_spring.csv": 880,
    "dst_berlin_offsets.csv.gz": 880,
    "pandas_tz_newyork.parquet": 880,
    "binance_offgrid_one.csv": 880,
    "binance_offgrid_2018.csv": 871,
    "sparse_1m.csv": 880,
    "close_stamped.csv": 880,
    "adjusted_1ulp.csv": 880,
    "btc_100k_cents.csv.gz": "open 110455.28 is outside 109850.81..110136.53",
    "epoch_f32_s.csv": "float32",
    "usdc_usdt.csv": 880,
    "zero_volume_run.csv": 880,
    "alpaca_bars.csv.gz": 880,
    "polygon_aggs.csv.gz": 880,
    "ccxt_partial_then_full.csv": "still open, then the same bar complete",
    "freqtrade_date.parquet": 880,
    "pandas_unnamed_index.parquet": 880,
    "base_1h.csv": 880,
}


@pytest.mark.parametrize("name", SHARED)
def test_the_shared_file_gives_its_bars_or_the_refusal(name: str) -> None:
    path, right = shared_case("files", name), SHARED[name]
    if isinstance(right, str):
        refused(path, right)
        return
    found = load_bars(path)
    assert len(found) == right
    assert (found.timestamp % MINUTE == 0).all()
