"""The lines of the table of files: each layout that people have comes out as its bars, or a refusal whose cure works.

The inputs are written here in the layout named, so the truth is known. Where the shared files of the cases lie
beside the data, they run too.
"""

from __future__ import annotations

import itertools
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data import START, shared
from helpers.layouts import NAMES, READ, frame, headed, iso, klines, lines, local, market, text
from himari_rl.data.audit import audit_files
from himari_rl.data.layouts import table_lines
from himari_rl.data.local_clock import merged_hour
from himari_rl.data.sources import load_bars
from himari_rl.errors import DataError
from himari_rl.schema import HOUR_MS, Bars

HEADER = "timestamp,open,high,low,close,volume"
MINUTE, DAY = 60_000, 86_400_000


def same(found: Bars, truth: Bars) -> bool:
    """The same times, prices and volumes, to the last bit."""
    return (
        len(found) == len(truth)
        and bool((found.timestamp == truth.timestamp).all())
        and all(bool((getattr(found, name) == getattr(truth, name)).all()) for name in NAMES)
    )


def write(folder: Path, rows: list[str], header: str = HEADER, name: str = "BTC-USDT_x.csv") -> Path:
    return text(folder / name, headed(header, rows))


def refused(path: Path, *words: str) -> DataError:
    """The refusal, the same in the audit."""
    with pytest.raises(DataError) as caught:
        load_bars(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    (report,) = audit_files(path)
    assert not report.usable
    assert report.problems[0] == message
    return caught.value


def at(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


# --- read -----------------------------------------------------------------------------------------------------------


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


# --- which column is which --------------------------------------------------------------------------------------------


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


# --- times --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [("s", "ms"), ("ms", "us"), ("us", "ns"), ("ms", "s")])
def test_a_unit_that_changes_is_named_with_both_units_and_the_row_and_splitting_there_cures(
    tmp_path: Path, before: str, after: str
) -> None:
    bars, at_row = market(), 150
    size = {"s": 0.001, "ms": 1, "us": 1000, "ns": 10**6}
    times = [int(t * size[before if row < at_row else after]) for row, t in enumerate(bars.timestamp.tolist())]
    rows = lines(times, bars)
    refused(write(tmp_path, rows), f"in {before} up to row {at_row}", f"in {after} from row {at_row + 1}")
    parts = [
        write(tmp_path, rows[:at_row], name="BTC-USDT_1h_a.csv"),
        write(tmp_path, rows[at_row:], name="BTC-USDT_1h_b.csv"),
    ]
    assert same(load_bars(parts), bars)


def test_binance_klines_of_two_units_are_split_and_joined(tmp_path: Path) -> None:
    bars = market()
    both = [*klines(bars[:150]), *klines(bars[150:], 1000)]
    refused(text(tmp_path / "k_1h.csv", "\n".join(both)), "in ms up to row 150 and in us from row 151 on")
    parts = [text(tmp_path / f"K_1h_{n}.csv", "\n".join(p)) for n, p in enumerate((both[:150], both[150:]))]
    assert same(load_bars(parts), bars)


@pytest.mark.parametrize("step", [MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR_MS, 4 * HOUR_MS, DAY])
@pytest.mark.parametrize("size", [0.001, 1, 1000], ids=["s", "ms", "us"])
@pytest.mark.parametrize("digits", [2, 3, 4, 5, 6, 7])
def test_rounded_times_are_refused_and_so_are_they_without_duplicates(
    tmp_path: Path, step: int, size: float, digits: int
) -> None:
    """1.70407E+12 and what is left of it when the duplicates, or the exponents, are taken away."""
    bars = market(300, step=step)
    for show in (str, lambda cell: str(int(float(cell)))):
        times = [show(f"{t * size:.{digits}E}") for t in bars.timestamp.tolist()]
        rows = lines(times, bars)
        seen: set[str] = set()
        once = [row for row, t in zip(rows, times, strict=True) if not (t in seen or seen.add(t))]
        for kept in (rows, once):
            try:
                assert same(load_bars(write(tmp_path, kept)), bars)  # enough digits were left for this interval
            except DataError as error:
                if len(kept) == len(rows):
                    assert "keep one row" not in str(error)  # noqa: PT017


def test_the_spreadsheets_own_form_is_named(tmp_path: Path) -> None:
    rows = lines([f"{t:.5E}" for t in market().timestamp.tolist()], market())
    refused(write(tmp_path, rows), "rounded by a spreadsheet", "10,000 s", "do not drop rows")
    grid = lines((10_000_000 * (START // 10_000_000 + np.arange(400))).tolist(), market())
    refused(write(tmp_path, grid), "10,000 s")


@pytest.mark.parametrize("step", [MINUTE, 5 * MINUTE, HOUR_MS, 4 * HOUR_MS])
@pytest.mark.parametrize("size", [0.001, 1, 1000, 10**6], ids=["s", "ms", "us", "ns"])
def test_times_held_as_float32_are_named_with_and_without_their_duplicates(
    tmp_path: Path, step: int, size: float
) -> None:
    bars = market(300, step=step)
    held = np.array(bars.timestamp * size, np.float32)
    _, first = np.unique(held, return_index=True)
    for rows in (np.arange(300), first):
        refused(write(tmp_path, lines([f"{held[row]:.0f}" for row in rows], bars[: len(rows)])), "float32")
    table = pa.table({"timestamp": pa.array(held)} | {name: pa.array(getattr(bars, name)) for name in NAMES})
    pq.write_table(table, tmp_path / "BTC_x.parquet")
    refused(tmp_path / "BTC_x.parquet", "float32")


def test_days_that_float32_can_hold_are_read(tmp_path: Path) -> None:
    """The negative control: 86,400 s is a multiple of 128 s."""
    bars = market(100, step=DAY)
    assert same(load_bars(write(tmp_path, lines((bars.timestamp // 1000).tolist(), bars))), bars)


ZONES = {
    "Europe/Berlin": ("2024-10-15", "2024-03-20"),
    "Europe/London": ("2023-10-20", "2023-03-15"),
    "Europe/Helsinki": ("2022-10-20", "2022-03-15"),
    "America/New_York": ("2024-10-25", "2024-03-01"),
    "America/Los_Angeles": ("2021-10-25", "2021-03-01"),
    "Australia/Sydney": ("2024-03-28", "2024-09-28"),
    "Pacific/Auckland": ("2023-03-25", "2023-09-15"),
}


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("step", [15 * MINUTE, HOUR_MS], ids=["15m", "1h"])
def test_an_hour_that_stands_there_twice_is_local_time_and_dropping_it_is_no_cure(
    tmp_path: Path, zone: str, step: int
) -> None:
    bars = market(700 * HOUR_MS // step, start=at(ZONES[zone][0]), step=step, seed=2)
    shown = local(bars, zone)
    rows = lines(shown, bars)
    forms = {
        "as it is": rows,
        "sorted": [row for _, row in sorted(zip(shown, rows, strict=True), key=lambda pair: str(pair[0]))],
        "first kept": [row for n, row in enumerate(rows) if shown[n] not in shown[max(0, n - 9) : n]],
        "last kept": [row for n, row in enumerate(rows) if shown[n] not in shown[n + 1 : n + 10]],
    }
    for kept in forms.values():
        refused(write(tmp_path, kept), "local time")
    when = frame(bars)["when"].dt.tz_convert(zone)
    assert same(load_bars(write(tmp_path, lines([str(t) for t in when], bars))), bars)  # the cure: with the offset


@pytest.mark.parametrize("zone", ZONES)
def test_a_lone_gap_where_clocks_go_forward_is_one_line(tmp_path: Path, zone: str) -> None:
    bars = market(700, start=at(ZONES[zone][1]))
    found = load_bars(write(tmp_path, lines(local(bars, zone), bars)))
    assert sum("looks like local time" in note for note in found.notes) == 1
    utc = load_bars(write(tmp_path, lines(iso(bars), bars)))  # the control
    assert utc.notes == ()


@pytest.mark.parametrize(("step", "zone"), [(4 * HOUR_MS, "Europe/Berlin"), (DAY, "America/New_York")])
def test_coarse_bars_of_a_local_clock_are_refused_where_it_changes(tmp_path: Path, step: int, zone: str) -> None:
    bars = market(900, start=at("2024-01-01"), step=step)
    days = pd.date_range("2024-01-01", periods=900, tz=zone).tz_convert("UTC")
    moved = local(bars, zone) if step < DAY else list(days)
    refused(write(tmp_path, lines(moved, bars)), "clocks change")


def test_an_honest_market_is_never_suspected_of_a_local_clock() -> None:
    """Hours of Binance around every Sunday on which some clock goes back, as a file of 800 hours each."""
    from himari_rl.data.local_clock import CLOCKS, _changes

    for name in ("BTC-USDT_1h.parquet", "SOL-USDT_1h.parquet"):
        bars = load_bars(shared(f"binance-spot/{name}"))
        span = (int(bars.timestamp[0]), int(bars.timestamp[-1]))
        for sunday in sorted({change // DAY for clock in CLOCKS for change in _changes(clock.autumn, *span)}):
            middle = int(np.searchsorted(bars.timestamp, sunday * DAY))
            some = bars[max(0, middle - 400) : middle + 400]
            assert merged_hour(some.timestamp, some.open, some.close, HOUR_MS) is None


def test_times_in_1970_are_an_epoch_read_in_a_wrong_unit(tmp_path: Path) -> None:
    bars = market()
    made = frame(bars).assign(timestamp=pd.to_datetime(bars.timestamp, unit="us"))[["timestamp", *NAMES]]
    made.to_parquet(tmp_path / "BTC_x.parquet")
    refused(tmp_path / "BTC_x.parquet", "1970", "wrong unit")


def test_dates_that_allow_both_orders_are_refused_and_iso_cures(tmp_path: Path) -> None:
    bars = market(10, start=at("2024-03-03"))
    refused(write(tmp_path, lines(iso(bars, "%d/%m/%Y %H:%M"), bars)), "allows both")
    assert same(load_bars(write(tmp_path, lines(iso(bars), bars))), bars)


def test_a_spreadsheet_of_a_decimal_comma_is_told_as_well(tmp_path: Path) -> None:
    bars, header = market(), HEADER.replace(",", ";")
    times = [f"{t:.5E}".replace(".", ",") for t in bars.timestamp.tolist()]
    refused(write(tmp_path, lines(times, bars, mark=";"), header), "rounded by a spreadsheet")
    days = [f"{t / DAY + 25_569:.9f}".replace(".", ",") for t in bars.timestamp.tolist()]
    rows = [row.replace(".", ",") for row in lines(days, bars, mark=";")]
    assert same(load_bars(write(tmp_path, rows, header)), bars)


def test_times_that_no_row_tells_are_no_rows_to_drop(tmp_path: Path) -> None:
    lost = refused(write(tmp_path, lines(["00:00.0"] * 400, market())), "the timestamp is '00:00.0'")
    assert "drop" not in lost.cure
    one = lines(iso(market()), market())
    assert "drop" in refused(write(tmp_path, ["soon," + one[0].split(",", 1)[1], *one[1:]])).cure  # the control


def test_two_columns_of_times_are_told_by_which_one_rises(tmp_path: Path) -> None:
    bars = market()
    days = iso(bars, "%Y-%m-%d")
    rows = [f"{d},{row}" for d, row in zip(days, lines(bars.timestamp.tolist(), bars), strict=True)]
    assert same(load_bars(write(tmp_path, rows, "date,time,open,high,low,close,volume")), bars)
    later = iso(market(start=START + DAY))
    rows = [f"{d},{row}" for d, row in zip(later, lines(bars.timestamp.tolist(), bars), strict=True)]
    refused(write(tmp_path, rows, "date,time,open,high,low,close,volume"), "tell different times")


def test_a_foreign_layout_that_has_its_newest_row_first_is_read_from_its_end(tmp_path: Path) -> None:
    """CryptoDataDownload's file: a line with its address, then the newest bar first."""
    bars = market()
    rows = [
        f"{t},{when},BTC/USDT,{row.split(',', 1)[1]},{v!r},7"
        for t, when, row, v in zip(
            bars.timestamp.tolist(), iso(bars), lines(iso(bars), bars, NAMES[:4]), bars.volume.tolist(), strict=True
        )
    ]
    header = "https://www.CryptoDataDownload.com\nunix,date,symbol,open,high,low,close,Volume BTC,Volume USDT"
    found = load_bars(write(tmp_path, rows[::-1], header))
    assert same(found, bars)
    assert any("newest row first" in note for note in found.notes)
    refused(write(tmp_path, lines(iso(bars), bars)[::-1]), "is earlier than the row before it; ")  # ours is not turned


@pytest.mark.parametrize("decimals", [10, 6, 5, 2])
def test_excels_day_numbers_are_read_to_the_second_or_refused(tmp_path: Path, decimals: int) -> None:
    bars = market()
    days = [f"{t / DAY + 25_569:.{decimals}f}" for t in bars.timestamp.tolist()]
    path = write(tmp_path, lines(days, bars))
    if decimals >= 5:  # 0.86 s
        assert same(load_bars(path), bars)
    else:
        refused(path)


# --- the grid -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [MINUTE, HOUR_MS], ids=["1m", "1h"])
@pytest.mark.parametrize("part", [0.003, 0.226, 0.47, 0.9])
def test_one_late_row_is_kept_on_its_grid_place_and_said(tmp_path: Path, step: int, part: float) -> None:
    bars = market(800, step=step)
    times = bars.timestamp.copy()
    times[350] += int(part * step)
    found = load_bars(write(tmp_path, lines(times.tolist(), bars)))
    assert same(found, bars)
    assert any("row 351" in note and "late" in note and "grid place" in note for note in found.notes)


def test_rows_that_overrun_their_place_are_left_out_and_said(tmp_path: Path) -> None:
    """Binance's 2018-02-09: an outage, then opens at 28 minutes past, each an hour long."""
    bars = market(880)
    times = bars.timestamp.copy()
    times[350:360] += 1_694_789
    found = load_bars(write(tmp_path, lines(times.tolist(), bars)))
    keep = np.r_[0:350, 359:880]  # the last of them ends where the grid goes on
    assert (found.timestamp == bars.timestamp[keep]).all()
    assert (found.close == bars.close[keep]).all()
    assert any("10 rows open off the grid" in n and "1 kept" in n and "9 left out" in n for n in found.notes)


def test_a_row_between_two_places_is_left_out_and_many_are_two_intervals(tmp_path: Path) -> None:
    bars = market(800)
    rows = lines(bars.timestamp.tolist(), bars)
    extra = f"{START + 350 * HOUR_MS + 1_800_000},1,1,1,1,1"
    found = load_bars(write(tmp_path, [*rows[:351], extra, *rows[351:]]))
    assert same(found, bars)
    assert any("left out" in note for note in found.notes)
    half = market(40, step=HOUR_MS // 2, start=START + 800 * HOUR_MS)
    refused(write(tmp_path, [*rows, *lines(half.timestamp.tolist(), half)]), "mixes intervals")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6])
def test_minutes_without_trades_are_gaps(tmp_path: Path, share: float) -> None:
    bars = market(3000, step=MINUTE)
    keep = np.random.default_rng(3).random(3000) >= share
    keep[1000:1030] = np.arange(30) % 2 == 0  # a run of fifteen steps of two minutes
    rows = [row for row, kept in zip(lines(iso(bars), bars), keep, strict=True) if kept]
    path = write(tmp_path, rows)
    found = load_bars(path)
    assert found.interval_ms == MINUTE
    assert (found.timestamp == bars.timestamp[keep]).all()
    (report,) = audit_files(path)
    span = int((found.timestamp[-1] - found.timestamp[0]) // MINUTE) + 1
    assert report.missing_bars == span - len(found)


@pytest.mark.parametrize(("first", "then"), [(HOUR_MS, DAY), (HOUR_MS, 4 * HOUR_MS), (MINUTE, 5 * MINUTE)])
def test_bars_of_another_interval_are_no_gaps(tmp_path: Path, first: int, then: int) -> None:
    """The negative control of the minutes above."""
    one = market(480, step=first)
    two = market(80, step=then, start=(int(one.timestamp[-1]) // then + 1) * then)
    refused(write(tmp_path, lines(iso(one), one) + lines(iso(two), two)), "mixes intervals", "a run of")


@pytest.mark.parametrize("early", [1, 1000])
@pytest.mark.parametrize("step", [MINUTE, HOUR_MS, DAY])
def test_times_of_closes_are_read_at_the_open_that_they_mean(tmp_path: Path, early: int, step: int) -> None:
    bars = market(200, step=step)
    found = load_bars(write(tmp_path, lines((bars.timestamp + step - early).tolist(), bars)))
    assert same(found, bars)
    assert any("close" in note for note in found.notes)


def test_times_that_jitter_are_read_on_their_minute(tmp_path: Path) -> None:
    bars = market(300)
    jitter = np.random.default_rng(0).integers(-400, 900, 300)
    found = load_bars(write(tmp_path, lines((bars.timestamp + jitter).tolist(), bars)))
    assert same(found, bars)
    assert any("jitter" in note for note in found.notes)


# --- rows -----------------------------------------------------------------------------------------------------------------


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


# --- frames ---------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
def test_a_frame_of_other_names_and_zones_is_the_same_bars(zone: str) -> None:
    bars = market()
    made = frame(bars).assign(date=lambda f: f["when"].dt.tz_convert(zone)).drop(columns=["t", "when"])
    assert same(Bars.from_frame(made), bars)
    assert same(Bars.from_frame(made.set_index("date")), bars)
    short = made.rename(columns={"open": "o", "high": "h", "low": "l", "close": "c", "volume": "v", "date": "t"})
    assert same(Bars.from_frame(short), bars)


# --- folders, documents, files as they are ----------------------------------------------------------------------------------


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
    root = Path(os.environ.get("HIMARI_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data")).parent
    path, right = root / "cases" / "files" / name, SHARED[name]
    if not path.exists():
        pytest.skip(f"no shared cases: {path}")
    if isinstance(right, str):
        refused(path, right)
        return
    found = load_bars(path)
    assert len(found) == right
    assert (found.timestamp % MINUTE == 0).all()
