"""Every defect of an OHLCV file, alone and in every combination of two: refused by name, or the file's own rows.

Nothing is ever filled, changed or made up: each bar that is read stands in the file, number for number; a row that came
late keeps its numbers and gets the time of its place (data/grid.py says so).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest

from himari_rl.data.sources import load_bars
from himari_rl.errors import DataError
from himari_rl.schema import HOUR_MS

START, ROWS = 1_704_067_200_000, 120
Rows = list[list[str]]
Defect = Callable[[Rows], None]


def sound() -> Rows:
    """A file's rows: timestamp, open, high, low, close, volume; prices that go up and down by a few per mille."""
    rows = []
    for hour in range(ROWS):
        price = 100.0 + (hour * 37 % 23) / 10.0
        cells = (price, price + 1.0, price - 1.0, price + 0.5, 5.0 + hour % 7)
        rows.append([str(START + hour * HOUR_MS), *map(repr, cells)])
    return rows


def cell(row: int, column: int, text: str) -> Defect:
    """One cell has another text."""

    def make(rows: Rows) -> None:
        rows[row][column] = text

    return make


def row_again(row: int, **change: str) -> Defect:
    """A row stands twice."""

    def make(rows: Rows) -> None:
        again = list(rows[row])
        again[4] = change.get("close", again[4])
        rows.insert(row + 1, again)

    return make


def swapped(first: int, second: int) -> Defect:
    """Two rows have changed places."""

    def make(rows: Rows) -> None:
        rows[first], rows[second] = rows[second], rows[first]

    return make


def without(*gone: int) -> Defect:
    """Rows are missing."""

    def make(rows: Rows) -> None:
        times = {str(START + row * HOUR_MS) for row in gone}
        rows[:] = [row for row in rows if row[0] not in times]

    return make


def short(row: int) -> Defect:
    """A row ends after four cells."""

    def make(rows: Rows) -> None:
        del rows[row][4:]

    return make


REFUSED: dict[str, Defect] = {
    "close is nan": cell(31, 4, "nan"),
    "close is missing": cell(33, 4, ""),
    "open is text": cell(35, 1, "n/a"),
    "price below zero": cell(37, 3, "-1.0"),
    "price of zero": cell(39, 3, "0.0"),
    "high below low": cell(41, 2, "1.0"),
    "close above high": cell(43, 4, "150.0"),
    "infinite high": cell(45, 2, "inf"),
    "volume below zero": cell(47, 5, "-5.0"),
    "volume is nan": cell(49, 5, "nan"),
    "time is text": cell(51, 0, "soon"),
    "time is missing": cell(53, 0, ""),
    "time in seconds": cell(57, 0, str((START + 57 * HOUR_MS) // 1000)),
    "a row twice, another close": row_again(61, close="100.9"),
    "half a row": short(67),
    "decimal comma": cell(69, 4, '"101,5"'),
    "1e308": cell(71, 2, "1e309"),
}
HANDLED: dict[str, Defect] = {
    "a gap of one bar": without(81),
    "a gap of five bars": without(91, 92, 93, 94, 95),
    "a row that came late": cell(55, 0, str(START + 55 * HOUR_MS + 1_500_000)),
    "no trade": cell(97, 5, "0.0"),
}
READ: dict[str, Defect] = {"two rows swapped": swapped(63, 65), "a row twice": row_again(59)}
"""Read or refused, as the readers choose to say; never filled."""
DEFECTS = REFUSED | HANDLED | READ


def written(folder: Path, *defects: str) -> tuple[Path, set[tuple[float, ...]]]:
    """The file, and the rows in it that are whole numbers of a bar."""
    rows = sound()
    for name in defects:
        DEFECTS[name](rows)
    file = folder / "BTC-USD_1h.csv"
    file.write_text("\n".join(["timestamp,open,high,low,close,volume", *map(",".join, rows)]) + "\n")
    there = set()
    for row in rows:
        try:
            there.add((int(row[0]) // HOUR_MS * HOUR_MS, *map(float, row[1:])))
        except ValueError:
            continue
    return file, there


def outcome(folder: Path, *defects: str) -> str:
    """ "refused" or "read"; anything that is read stands in the file."""
    file, there = written(folder, *defects)
    try:
        bars = load_bars(str(file))
    except DataError as refusal:
        said = str(refusal)
    else:
        said = ""
    if said:
        assert "\n" not in said
        assert file.name in said, said
        return "refused"
    numbers = (bars.timestamp, bars.open, bars.high, bars.low, bars.close, bars.volume)
    read = list(zip(*(column.tolist() for column in numbers), strict=True))
    assert set(read) <= there, "a bar was made up"
    assert len(read) == len(set(read)) >= ROWS - 10
    return "read"


def test_a_sound_file_is_read_whole(tmp_path: Path) -> None:
    assert outcome(tmp_path) == "read"
    assert len(written(tmp_path)[1]) == ROWS


@pytest.mark.parametrize("name", DEFECTS)
def test_one_defect(tmp_path: Path, name: str) -> None:
    found = outcome(tmp_path, name)
    if name not in READ:
        assert found == ("refused" if name in REFUSED else "read")


@pytest.mark.parametrize("first", DEFECTS)
def test_two_defects_are_no_better_than_one(tmp_path: Path, first: str) -> None:
    """Neither hides the other: with one that is refused alone, both are."""
    for pair in permutations(DEFECTS, 2):
        if pair[0] == first:
            found = outcome(tmp_path, *pair)
            if not REFUSED.keys().isdisjoint(pair):
                assert found == "refused", pair
            elif HANDLED.keys() >= set(pair):
                assert found == "read", pair


def test_there_are_four_hundred_combinations_and_a_made_up_bar_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(list(permutations(DEFECTS, 2))) >= 400
    real = load_bars

    def filled(path: str) -> object:
        bars = real(path)
        bars.close[5] += 1e-9
        return bars

    monkeypatch.setitem(globals(), "load_bars", filled)
    with pytest.raises(AssertionError, match="made up"):
        outcome(tmp_path)
