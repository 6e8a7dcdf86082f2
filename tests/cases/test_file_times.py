"""Times as people's files have them: rounded, local, in two units, a little off the grid. The lines of the table again.

What is read comes back to the last bit; a cure that is followed gives the right bars or the next refusal.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.data import HEADER, START, shared
from helpers.layouts import NAMES, at, frame, iso, klines, lines, local, market, refused, same, text, write
from himari_rl.data.audit import audit_files
from himari_rl.data.local_clock import CLOCKS, changes, merged_hour
from himari_rl.data.sources import load_bars
from himari_rl.errors import DataError
from himari_rl.schema import HOUR_MS

MINUTE, DAY = 60_000, 86_400_000


# --- times -----------------------------------------------------------------------------------------------


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
def test_coarse_bars_of_a_local_clock_are_refused_where_itchanges(tmp_path: Path, step: int, zone: str) -> None:
    bars = market(900, start=at("2024-01-01"), step=step)
    days = pd.date_range("2024-01-01", periods=900, tz=zone).tz_convert("UTC")
    moved = local(bars, zone) if step < DAY else list(days)
    refused(write(tmp_path, lines(moved, bars)), "clocks change")


def test_an_honest_market_is_never_suspected_of_a_local_clock() -> None:
    """Hours of Binance around every Sunday on which some clock goes back, as a file of 800 hours each."""
    for name in ("BTC-USDT_1h.parquet", "SOL-USDT_1h.parquet"):
        bars = load_bars(shared(f"binance-spot/{name}"))
        span = (int(bars.timestamp[0]), int(bars.timestamp[-1]))
        for sunday in sorted({change // DAY for clock in CLOCKS for change in changes(clock.autumn, *span)}):
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
    refused(write(tmp_path, lines(iso(bars), bars)[::-1]), "is earlier than the row before it")  # ours is not turned


@pytest.mark.parametrize("decimals", [10, 6, 5, 2])
def test_excels_day_numbers_are_read_to_the_second_or_refused(tmp_path: Path, decimals: int) -> None:
    bars = market()
    days = [f"{t / DAY + 25_569:.{decimals}f}" for t in bars.timestamp.tolist()]
    path = write(tmp_path, lines(days, bars))
    if decimals >= 5:  # 0.86 s
        assert same(load_bars(path), bars)
    else:
        refused(path)


# --- the grid --------------------------------------------------------------------------------------------


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


def test_a_late_row_among_times_of_closes_is_no_reason_to_take_them_for_opens(tmp_path: Path) -> None:
    bars = market(800)
    times = bars.timestamp + HOUR_MS - 1
    times[100] += 50_000
    assert same(load_bars(write(tmp_path, lines(times.tolist(), bars))), bars)


def test_times_that_jitter_are_read_on_their_minute(tmp_path: Path) -> None:
    bars = market(300)
    jitter = np.random.default_rng(0).integers(-400, 900, 300)
    found = load_bars(write(tmp_path, lines((bars.timestamp + jitter).tolist(), bars)))
    assert same(found, bars)
    assert any("jitter" in note for note in found.notes)
