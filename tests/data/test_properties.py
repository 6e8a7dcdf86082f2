"""Parsing and slicing of time under random input."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.data import HEADER, START, bars_at, row
from himari_rl.data.audit import audit_files
from himari_rl.data.sources import load_bars
from himari_rl.data.splits import Fold, folds, later, train_test
from himari_rl.data.table import write_bars
from himari_rl.errors import ConfigError, DataError
from himari_rl.schema import HOUR_MS, Bars, Layer2

PRICE = st.floats(1e-8, 1e9)


@st.composite
def any_bars(draw: st.DrawFn) -> Bars:
    """Bars of every optional kind on a grid with gaps."""
    steps = draw(st.lists(st.sampled_from([1, 1, 1, 2, 5]), min_size=1, max_size=12).filter(lambda s: s.count(1) >= 7))
    hours = np.cumsum([0, *steps]).tolist()
    rows = len(hours)
    four = np.array([sorted(draw(st.tuples(PRICE, PRICE, PRICE, PRICE))) for _ in range(rows)])
    numbers = st.lists(st.floats(0.0, 1.0), min_size=rows, max_size=rows).map(np.array)
    columns: dict[str, object] = {
        "low": four[:, 0],
        "open": four[:, 1],
        "close": four[:, 2],
        "high": four[:, 3],
        "volume": draw(numbers),
        "synthetic": draw(st.booleans()),
        "funding_rate": draw(st.none() | numbers),
    }
    if draw(st.booleans()):
        columns["signals"] = Layer2(
            action=np.array(draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=rows, max_size=rows)), np.int64),
            confidence=draw(numbers),
            tier=np.array(draw(st.lists(st.integers(1, 4), min_size=rows, max_size=rows)), np.int64),
            cascade_risk=draw(numbers),
            supplied=True,
        )
    if draw(st.booleans()):
        anything = st.floats(allow_nan=True, allow_infinity=True)
        columns["extra"] = {"mood": np.array(draw(st.lists(anything, min_size=rows, max_size=rows)))}
    return bars_at(hours, **columns)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
@given(bars=any_bars())
@settings(max_examples=25, deadline=None)
def test_bars_written_and_read_again_are_the_same_bars(ending: str, bars: Bars) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"BTC-USD_1h.{ending}"
        write_bars(bars, path)
        again = load_bars(path)
        assert again.fingerprint == bars.fingerprint
        assert (again.symbol, again.interval_ms, again.synthetic) == (bars.symbol, bars.interval_ms, bars.synthetic)
        assert (again.signals is None) == (bars.signals is None)


CELL = st.sampled_from(
    ["", "1", "-1", "nan", "1e400", "x", '"', "2024-01-01", "\x00", "é", "1704067200", "99999999999999999999"]
)
LINES = st.lists(st.lists(CELL | st.text(max_size=6), max_size=8).map(",".join), max_size=5)


@given(lines=LINES, start=st.integers(0, 3), header=st.sampled_from([HEADER, HEADER + ",mood", "", "timestamp"]))
@example(lines=["99999999999999999999,1,1,1,1,1"], start=0, header=HEADER)  # more than 64 bits: once a warning
@settings(max_examples=150, deadline=None)
def test_no_csv_text_whatever_gives_another_error_than_a_data_error(lines: list[str], start: int, header: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "BTC-USD_1h.csv"
        path.write_text("\n".join([header, *[row(hour) for hour in range(start)], *lines]), encoding="utf-8")
        try:
            usable, message = len(load_bars(path)) > 1, ""
        except DataError as error:
            usable, message = False, str(error)
        assert "\n" not in message
        assert [report.usable for report in audit_files(path)] == [usable]  # the audit and load_bars never differ


@given(data=st.binary(max_size=200), name=st.sampled_from(["a_1h.csv", "a_1h.csv.gz", "a_1h.parquet"]))
@settings(max_examples=60, deadline=None)
def test_no_bytes_whatever_give_another_error_than_a_data_error(data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        with pytest.raises(DataError):
            load_bars(Path(folder) / name)


@given(
    hours=st.lists(st.integers(1, 40), min_size=50, max_size=120),
    train=st.sampled_from(["5d", "2w", "1mo", "100h"]),
    test=st.sampled_from(["1d", "7d", "30h"]),
    step=st.none() | st.sampled_from(["1d", "10h"]),
    purge=st.integers(0, 30),
    embargo=st.integers(0, 10),
    anchored=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_no_fold_trains_on_rows_that_touch_its_test_rows(
    hours: list[int], train: str, test: str, step: str | None, purge: int, embargo: int, anchored: bool
) -> None:
    bars = bars_at(np.cumsum(hours).tolist())
    try:
        made = list(
            folds(bars, train=train, test=test, step=step, purge_bars=purge, embargo_bars=embargo, anchored=anchored)
        )
    except DataError:
        assert bars.timestamp[-1] - bars.timestamp[0] < 40 * 24 * HOUR_MS  # 1mo + 7d is the longest pair
        return
    for fold in made:
        fitted, judged = fold.cut(bars)
        assert fold.test.start - fold.train.stop >= purge + embargo
        assert fitted.timestamp[-1] < judged.timestamp[0]
        assert judged.timestamp[-1] - judged.timestamp[0] < later(0, test)
        assert len(fitted) >= 1
        assert len(judged) >= 1
    if step is None:  # test spans tile the history: no row is judged twice
        rows = [index for fold in made for index in range(fold.test.start, fold.test.stop)]
        assert len(rows) == len(set(rows))


def test_a_fold_that_overlaps_cannot_be_made() -> None:
    """The negative control: the property above could fail only if such a fold could exist."""
    assert Fold(train=slice(0, 5), test=slice(5, 6))
    for train, test in ((slice(0, 6), slice(5, 8)), (slice(0, 0), slice(1, 2)), (slice(6, 8), slice(0, 3))):
        with pytest.raises(ConfigError):
            Fold(train=train, test=test)


def test_folds_by_hand_over_ten_days() -> None:
    bars = bars_at(list(range(240)))
    made = list(folds(bars, train="4d", test="2d", purge_bars=3, embargo_bars=1))
    assert made == [
        Fold(train=slice(0, 93), test=slice(97, 144)),
        Fold(train=slice(48, 141), test=slice(145, 192)),
        Fold(train=slice(96, 189), test=slice(193, 240)),
    ]
    grown = list(folds(bars, train="4d", test="2d", purge_bars=0, anchored=True))
    assert [fold.train for fold in grown] == [slice(0, 96), slice(0, 144), slice(0, 192)]


def test_months_are_calendar_months_and_keep_to_their_last_day() -> None:
    january_31 = START + 30 * 24 * HOUR_MS
    assert later(january_31, "1mo") - january_31 == 29 * 24 * HOUR_MS  # to 29 February 2024
    assert later(january_31, "1mo", 2) - january_31 == 60 * 24 * HOUR_MS  # to 31 March
    assert later(START, "1y") - START == 366 * 24 * HOUR_MS
    for span in ("", "0d", "1 month", "-1d", "1.5d", "mo"):
        with pytest.raises(ConfigError, match="cannot be read"):
            later(0, span)


def test_monthly_tests_tile_the_history_even_from_the_31st() -> None:
    """From 31 January the borders are 31 March, 30 April, 31 May: no day is left out or judged twice."""
    bars = bars_at([24 * day for day in range(30, 400)])
    made = list(folds(bars, train="2mo", test="1mo", purge_bars=0))
    assert len(made) == 10  # they end on 30 April 2024 ... 31 January 2025; the bars on 3 February
    for before, after in pairwise(made):
        assert before.test.stop == after.test.start


@given(rows=st.integers(1, 400), fraction=st.floats(0.01, 0.99), purge=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_train_and_test_never_share_a_row_and_keep_their_gap(rows: int, fraction: float, purge: int) -> None:
    bars = bars_at(list(range(rows)))
    try:
        train, test = train_test(bars, fraction, purge)
    except DataError:
        assert rows - round(rows * fraction) <= purge or round(rows * fraction) < 1
        return
    assert len(test) == round(rows * fraction)
    assert test.timestamp[-1] == bars.timestamp[-1]
    assert test.timestamp[0] - train.timestamp[-1] == (purge + 1) * HOUR_MS
    assert train.timestamp[0] == bars.timestamp[0]
