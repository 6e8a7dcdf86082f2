"""Bars from files: what is in the file comes out, or one line says why not."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers import calls_of
from helpers.data import HEADER, START, bars_at, csv_file, row, shared
from himari_rl.data.checks import require_rows
from himari_rl.data.funding import attach_funding
from himari_rl.data.sources import load_bars
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.data.table import write_bars
from himari_rl.errors import DataError
from himari_rl.schema import HOUR_MS

_SAME_NUMBERS = [(0.0, float("nan")), (-0.0, -float("nan"))]  # equal to a reader, different in their bytes
GOOD = [row(hour) for hour in range(4)]


def test_a_csv_row_becomes_a_bar_that_opens_at_its_utc_timestamp(tmp_path: Path) -> None:
    bars = load_bars(csv_file(tmp_path, *GOOD))
    assert bars.symbol == "BTC-USD"
    assert bars.interval_ms == HOUR_MS
    assert bars.timestamp.tolist() == [START + HOUR_MS * hour for hour in range(4)]
    first = (bars.open[0], bars.high[0], bars.low[0], bars.close[0], bars.volume[0])
    assert first == (10.0, 12.0, 9.0, 11.0, 5.0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2024-01-01T00:00:00Z", "2024-01-01T01:00:00Z"),
        ("2024-01-01 00:00:00", "2024-01-01 01:00:00"),
        ("2024-01-01T02:00:00+02:00", "2024-01-01T03:00:00+02:00"),
        ("2024-01-01T00:00:00.000+00:00", "2024-01-01T01:00:00.000+00:00"),
        ("1704067200", "1704070800"),
        ("1704067200000", "1704070800000"),
        ("1704067200000000", "1704070800000000"),
        ("1704067200.0", "1704070800.0"),
    ],
)
def test_every_usual_form_of_time_is_the_same_moment(tmp_path: Path, first: str, second: str) -> None:
    bars = load_bars(csv_file(tmp_path, f"{first},10,12,9,11,5", f"{second},10,12,9,11,5"))
    assert bars.timestamp.tolist() == [START, START + HOUR_MS]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Zurich", None])
def test_a_parquet_timestamp_of_any_unit_and_zone_is_the_same_moment(
    tmp_path: Path, unit: str, zone: str | None
) -> None:
    times = (
        pa.array([START, START + HOUR_MS], pa.timestamp("ms")).cast(pa.timestamp(unit)).cast(pa.timestamp(unit, zone))
    )
    if zone is not None:  # Arrow reads the naive numbers as UTC; the zone is only how they are shown
        assert times[0].value == START * {"s": 0.001, "ms": 1, "us": 1000, "ns": 1_000_000}[unit]
    columns = {"timestamp": times} | {name: pa.array([10.0, 10.0]) for name in HEADER.split(",")[1:]}
    pq.write_table(pa.table(columns), tmp_path / "BTC-USD_1h.parquet")
    assert load_bars(tmp_path / "BTC-USD_1h.parquet").timestamp.tolist() == [START, START + HOUR_MS]


def test_a_gap_stays_a_gap_and_a_bar_without_volume_stays_and_is_not_tradable(tmp_path: Path) -> None:
    bars = load_bars(csv_file(tmp_path, row(0), row(1), row(7, "10,10,10,10,0"), row(8)))
    assert ((bars.timestamp - START) // HOUR_MS).tolist() == [0, 1, 7, 8]
    assert bars.tradable.tolist() == [True, True, False, True]


def test_layer_2_funding_and_other_columns_come_along(tmp_path: Path) -> None:
    header = HEADER + ",signal_action,signal_confidence,signal_tier,cascade_risk,funding_rate,mood,note"
    said = [("STRONG_BUY", "0.9", "T1"), ("sell", "0.4", "T4"), ("HOLD", "0", "2"), ("-1", "1", "3")]
    rows = [f"{row(i)},{a},{c},{t},0.25,0.0001,{i / 2},hello" for i, (a, c, t) in enumerate(said)]
    bars = load_bars(csv_file(tmp_path, *rows, header=header))
    assert bars.signals is not None
    assert bars.signals.supplied
    assert bars.signals.action.tolist() == [1, -1, 0, -1]
    assert bars.signals.confidence.tolist() == [0.9, 0.4, 0.0, 1.0]
    assert bars.signals.tier.tolist() == [1, 4, 2, 3]
    assert bars.signals.cascade_risk.tolist() == [0.25] * 4
    assert bars.funding_rate is not None
    assert bars.funding_rate.tolist() == [0.0001] * 4
    assert {name: column.tolist() for name, column in bars.extra.items()} == {"mood": [0.0, 0.5, 1.0, 1.5]}


BAD_FILES = {
    "missing column": (["2024-01-01T00:00:00Z,1,1,1,1"], "timestamp,open,high,low,close", "no column volume"),
    "unsorted": ([row(1), row(0)], HEADER, "row 2 (2024-01-01T00:00Z): is earlier than the row before it"),
    "duplicate": ([row(0), row(1), row(1)], HEADER, "row 3 (2024-01-01T01:00Z): has the timestamp of the row before"),
    "nan": ([row(0), row(1, "10,12,9,nan,5")], HEADER, "row 2 (2024-01-01T01:00Z): close is nan"),
    "empty cell": ([row(0), row(1, "10,12,9,,5")], HEADER, "row 2 (2024-01-01T01:00Z): close is ''"),
    "a word": ([row(0), row(1, "ten,12,9,11,5")], HEADER, "row 2 (2024-01-01T01:00Z): open is 'ten'"),
    "infinite": ([row(0), row(1, "10,inf,9,11,5")], HEADER, "row 2 (2024-01-01T01:00Z): high is inf"),
    "negative price": ([row(0, "10,12,-9,11,5"), row(1)], HEADER, "row 1 (2024-01-01T00:00Z): low is -9"),
    "zero price": ([row(0, "0,12,0,11,5"), row(1)], HEADER, "open is 0; expected a price above 0"),
    "negative volume": ([row(0, "10,12,9,11,-5"), row(1)], HEADER, "volume is -5"),
    "high below low": ([row(0), row(1, "10,9,12,10,5")], HEADER, "high 9 is below low 12"),
    "close outside": ([row(0), row(1, "10,12,9,13,5")], HEADER, "close 13 is outside 9..12"),
    "open outside": ([row(0), row(1, "8,12,9,10,5")], HEADER, "open 8 is outside 9..12"),
    "no time": ([row(0), "yesterday,10,12,9,11,5"], HEADER, "row 2 (no time): the timestamp is 'yesterday'"),
    "an old epoch": (["12,10,12,9,11,5", "13,10,12,9,11,5"], HEADER, "row 1 (no time): the timestamp is '12'"),
    "one row": ([row(0)], HEADER, "1 row: an interval cannot be told; expected at least 2 rows"),
    "no rows": ([], HEADER, "a header but no rows"),
    "ragged": ([row(0), "2024-01-01T01:00:00Z,10,12"], HEADER, "cannot be read as CSV"),
    "half a grid": ([*GOOD, "2024-01-01T04:30:00Z,10,12,9,11,5"], HEADER, "1 of 5 rows are off the 1h grid"),
    "days after hours": (
        [*[row(h) for h in range(24)], *[row(24 * d) for d in range(2, 14)]],
        HEADER,
        "a run of 1d bars from 2024-01-03T00:00Z",
    ),
    "half of Layer 2": ([f"{r},BUY" for r in GOOD], HEADER + ",signal_action", "but not signal_confidence"),
    "two symbols": ([f"{row(0)},BTC", f"{row(1)},ETH"], HEADER + ",symbol", "mixes 2 symbols (BTC, ETH)"),
    "twice the column": ([f"{r},1" for r in GOOD], HEADER + ",Open", "the column open twice"),
    "funding without a number": ([f"{r}," for r in GOOD], HEADER + ",funding_rate", "0 where nothing settles"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_gets_one_line_with_file_row_and_cure(tmp_path: Path, name: str) -> None:
    rows, header, expected = BAD_FILES[name]
    path = csv_file(tmp_path, *rows, header=header)
    with pytest.raises(DataError) as caught:
        load_bars(path)
    message = str(caught.value)
    assert expected in message
    assert str(path) in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


def test_the_same_rows_without_the_fault_are_taken(tmp_path: Path) -> None:
    """The negative control of every case above: what they have in common is no reason to refuse."""
    assert len(load_bars(csv_file(tmp_path, *GOOD))) == 4


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("BTC-USD_1h.csv", b"", "is empty (0 bytes)"),
        ("BTC-USD_1h.parquet", b"", "is empty (0 bytes)"),
        ("BTC-USD_1h.parquet", b"PAR1 no more", "cannot be read as Parquet"),
        ("BTC-USD_1h.csv.gz", b"not gzip", "cannot be read as CSV"),
        (
            "BTC-USD_1h.csv.gz",
            gzip.compress("\n".join([HEADER, *GOOD]).encode(), mtime=0)[:-9],
            "cannot be read as CSV",
        ),
        ("BTC-USD_1h.csv", b"\xff\xfe\x00\x01", "cannot be read as CSV"),
        ("BTC-USD_1h.xlsx", b"PK", "is of no known kind"),
    ],
)
def test_a_file_that_is_no_file_of_bars_is_refused(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"BTC-USD_1h") as caught:
        load_bars(tmp_path / name)
    assert expected in str(caught.value)


def test_a_flipped_bit_in_a_parquet_file_of_ours_never_gives_other_bars(tmp_path: Path) -> None:
    path = tmp_path / "BTC-USD_1h.parquet"
    write_bars(bars_at(list(range(200))), path)
    whole, truth, refused = path.read_bytes(), bars_at(list(range(200))).fingerprint, 0
    places = range(40, len(whole) // 2, 97)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            assert load_bars(path).fingerprint == truth  # a byte that carries nothing
        except DataError:
            refused += 1
    assert refused > len(places) / 2


def test_a_missing_path_and_an_empty_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_bars(tmp_path / "no.csv")
    with pytest.raises(DataError, match="has no bar files"):
        load_bars(tmp_path)
    with pytest.raises(DataError, match="no data was named"):
        load_bars([])


def test_several_files_are_joined_in_time_order_whatever_the_order_given(tmp_path: Path) -> None:
    late = csv_file(tmp_path, row(5), row(6), name="BTC-USD_1h_late.csv")
    early = csv_file(tmp_path, *GOOD, name="BTC-USD_1h_early.csv")
    bars = load_bars([late, early])
    assert ((bars.timestamp - START) // HOUR_MS).tolist() == [0, 1, 2, 3, 5, 6]
    assert load_bars(tmp_path).fingerprint == bars.fingerprint


def test_files_that_overlap_or_differ_are_refused(tmp_path: Path) -> None:
    one = csv_file(tmp_path, *GOOD, name="BTC-USD_1h_1.csv")
    with pytest.raises(DataError, match="files that do not overlap"):
        load_bars([one, csv_file(tmp_path, row(3), row(4), name="BTC-USD_1h_2.csv")])
    other = csv_file(tmp_path, f"{row(5)},1", f"{row(6)},1", name="BTC-USD_1h_3.csv", header=HEADER + ",mood")
    with pytest.raises(DataError, match="differ in mood"):
        load_bars([one, other])


def test_a_folder_of_several_data_sets_asks_which_one(tmp_path: Path) -> None:
    for name in ("BTC-USD_1h.csv", "BTC-USD_1d.csv", "ETH-USD_1h.csv", "BTC-USD_funding_8h.csv"):
        step = 24 if "1d" in name else 1
        csv_file(tmp_path, *[row(step * i) for i in range(3)], name=name)
    with pytest.raises(DataError, match=r"2 symbols in the data \(BTC-USD, ETH-USD\)"):
        load_bars(tmp_path)
    with pytest.raises(DataError, match=r"2 intervals in the data \(1d, 1h\)"):
        load_bars(tmp_path, symbol="BTC-USD")
    with pytest.raises(DataError, match="no file of SOL-USD; expected one of BTC-USD, ETH-USD"):
        load_bars(tmp_path, symbol="SOL-USD")
    assert load_bars(tmp_path, symbol="btc/usd", interval="1d").interval_ms == 24 * HOUR_MS
    assert load_bars(tmp_path, symbol="ETH-USD").symbol == "ETH-USD"
    csv_file(tmp_path, *GOOD, name="ETH-USD_1h.csv.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(DataError, match="hold the same bars twice"):
        load_bars(tmp_path, symbol="ETH-USD")


def test_a_single_file_of_another_symbol_or_interval_is_refused_not_renamed(tmp_path: Path) -> None:
    path = csv_file(tmp_path, *GOOD)
    with pytest.raises(DataError, match="no file of ETH-USD"):
        load_bars(path, symbol="ETH-USD")
    unnamed = csv_file(tmp_path, *GOOD, name="mine.csv")
    assert load_bars(unnamed, symbol="eth/usd").symbol == "ETH-USD"
    with pytest.raises(DataError, match="holds 1h bars; expected 1d bars"):
        load_bars(unnamed, interval="1d")


def test_too_few_bars_are_refused_with_the_reason() -> None:
    require_rows(bars_at([0, 1, 2]), 3, "for one decision")
    with pytest.raises(DataError, match="by hand has 3 bars; expected at least 4 for one decision and more"):
        require_rows(bars_at([0, 1, 2]), 4, "for one decision and more")


def test_a_feed_that_stands_still_is_refused(tmp_path: Path) -> None:
    good = synthetic_bars(200, 0)
    flat = np.full(200, 100.0)
    still = replace(good, open=flat, high=flat, low=flat, close=flat)
    for bars, words in ((still, "every one of the 200 closes"), (replace(good, volume=np.zeros(200)), "has a volume")):
        write_bars(bars, tmp_path / "bars.parquet")
        with pytest.raises(DataError, match=words):
            load_bars(tmp_path / "bars.parquet")
        write_bars(bars[:50], tmp_path / "bars.parquet")  # the control: a halt of fifty hours is a fact of a market
        assert len(load_bars(tmp_path / "bars.parquet")) == 50


def test_the_fingerprint_changes_with_any_cell_and_with_nothing_else() -> None:
    bars = bars_at([0, 1, 2])
    assert bars.fingerprint == bars_at([0, 1, 2], source="elsewhere", symbol="ETH-USD").fingerprint
    changed = [
        bars_at([0, 1, 3]),
        bars_at([0, 1, 2], volume=np.array([1.0, 1.0, 1.0 + 1e-15])),
        bars_at([0, 1, 2], funding_rate=np.zeros(3)),
        bars_at([0, 1, 2], extra={"mood": np.zeros(3)}),
        bars_at([0, 1, 2], synthetic=True),
        bars_at([0, 1, 2], open=bars.close, close=bars.open),
    ]
    assert len({other.fingerprint for other in [bars, *changed]}) == 7
    one, other = (bars_at([0, 1, 2], extra={"mood": np.array([zero, nan, 1.0])}) for zero, nan in _SAME_NUMBERS)
    assert one.fingerprint == other.fingerprint


def _funding_file(folder: Path, hours: list[float], rates: list[float]) -> Path:
    path = folder / "BTC-USD_funding_8h.csv"
    lines = [f"{int(START + h * HOUR_MS)},{r}" for h, r in zip(hours, rates, strict=True)]
    path.write_text("\n".join(["timestamp,funding_rate", *lines]) + "\n")
    return path


def test_a_settlement_goes_to_the_first_bar_that_opens_at_or_after_it(tmp_path: Path) -> None:
    bars = bars_at([0, 1, 7, 10, 11, 17])  # bars 8 and 9 are missing: the settlement of hour 8 is paid at 10
    path = _funding_file(tmp_path, [0, 8, 16], [0.1, 0.2, 0.3])
    funded = attach_funding(bars, path)
    assert funded.funding_rate is not None
    assert funded.funding_rate.tolist() == [0.1, 0.0, 0.0, 0.2, 0.0, 0.3]


def test_settlements_that_meet_one_bar_add_up_and_clock_jitter_is_cut(tmp_path: Path) -> None:
    path = _funding_file(tmp_path, [0, 8, 16.000001, 24], [0.1, 0.2, 0.3, 0.4])  # hour 16 is 3.6 ms late
    funded = attach_funding(bars_at([0, 1, 16, 20, 24]), path)
    assert funded.funding_rate is not None
    assert funded.funding_rate == pytest.approx([0.1, 0.0, 0.5, 0.0, 0.4])


def test_bars_without_known_funding_are_refused_or_trimmed(tmp_path: Path) -> None:
    path = _funding_file(tmp_path, [8, 16], [0.1, 0.2])
    bars = bars_at(list(range(40)))
    with pytest.raises(DataError, match="covers 2024-01-01T08:00Z"):
        attach_funding(bars, path)
    trimmed = attach_funding(bars, path, trim=True)
    assert ((trimmed.timestamp - START) // HOUR_MS).tolist() == list(range(1, 24))  # the next settlement is unknown
    holed = _funding_file(tmp_path, [0, 8, 24, 32], [0.1] * 4)
    with pytest.raises(DataError, match="no settlement between 2024-01-01T08:00Z and 2024-01-02T00:00Z"):
        attach_funding(bars, holed)


def test_seven_years_of_real_hours_load_by_whole_columns_and_not_row_by_row() -> None:
    path = shared("binance-spot/BTC-USDT_1h.parquet")
    bars = load_bars(path)
    assert calls_of(lambda: load_bars(path)) < len(bars) / 20  # in calls, not in seconds
    assert len(bars) == 63_406
    assert bars.fingerprint == load_bars(shared("binance-spot/BTC-USDT_1h.csv.gz")).fingerprint


@pytest.mark.parametrize("second", ["", ",,,,,", "a,b,c,d,e,f"])
@pytest.mark.parametrize("third", ["", "\n", "x"])
def test_lines_of_nothing_below_the_header_are_a_data_error(tmp_path: Path, second: str, third: str) -> None:
    path = tmp_path / "BTC-USD_1h.csv"
    path.write_text(f"timestamp,open,high,low,close,volume\n{second}\n{third}\n")
    with pytest.raises(DataError):
        load_bars(path)
