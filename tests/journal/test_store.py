"""Entries are durable, once for a bar and chained: what another hand did to them is named."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from helpers import PATIENCE_S
from himari_rl.cli import main
from himari_rl.errors import StorageError
from himari_rl.journal.entry import DECISION, HALT, REJECTION, Entry, entry_of
from himari_rl.journal.export import export
from himari_rl.journal.store import open_journal
from himari_rl.schema import HOUR_MS

START = 1_704_067_200_000


def decision(hour: int, multiplier: float = 1.0, symbol: str = "BTC-USDT") -> Entry:
    body = {"multiplier": multiplier, "source": "local_model", "cause": "", "version": "v", "size_usd": 10.0}
    return entry_of(DECISION, body, strategy="s", symbol=symbol, bar=START + hour * HOUR_MS)


def execute(place: Path, *statements: str) -> None:
    with closing(sqlite3.connect(place, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def five(place: Path) -> None:
    with open_journal(place) as journal:
        journal.append([decision(hour, 0.5 + hour / 10) for hour in range(5)])
        assert journal.verify() == 5


def test_it_gives_back_what_was_written(tmp_path: Path) -> None:
    five(tmp_path / "j.sqlite")
    with open_journal(tmp_path / "j.sqlite") as journal:
        assert [row.entry.said["multiplier"] for row in journal.entries()] == [0.5, 0.6, 0.7, 0.8, 0.9]
        found = journal.decided("s", "BTC-USDT", START + 2 * HOUR_MS)
        assert found is not None
        assert found.number == 3
        assert journal.decided("s", "ETH-USDT", START) is None
        assert [row.number for row in journal.newest(2)] == [4, 5]
        assert [row.number for row in journal.entries(after=3)] == [4, 5]


def test_a_bar_is_decided_once(tmp_path: Path) -> None:
    with open_journal(tmp_path / "j.sqlite") as journal:
        journal.append([decision(0, 0.25)])
        again, other = journal.append([decision(0, 2.0), decision(0, symbol="ETH-USDT")])
        assert again.earlier is not None
        assert (again.number, again.earlier.said["multiplier"]) == (1, 0.25)
        assert other.earlier is None
        journal.append([entry_of(REJECTION, {"reason": "repeated"}, strategy="s", symbol="BTC-USDT", bar=START)] * 2)
        assert journal.verify() == 4  # what is no decision may be there as often as it happens


def test_several_entries_are_written_all_or_none(tmp_path: Path) -> None:
    with open_journal(tmp_path / "j.sqlite") as journal:
        broken = decision(1)._replace(body=None)  # type: ignore[arg-type]  # the database refuses it
        with pytest.raises(StorageError, match="NOT NULL"):
            journal.append([decision(0), broken])
        assert len(journal) == 0
        assert journal.verify() == 0


def test_a_number_that_is_none_is_refused_before_it_is_written() -> None:
    with pytest.raises(StorageError, match="cannot be journalled"):
        entry_of(DECISION, {"multiplier": float("nan")})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["UPDATE entries SET body = replace(body, '0.7', '0.8') WHERE number = 3"], "row 3 was changed"),
        (["UPDATE entries SET bar = bar + 3600000 WHERE number = 5"], "row 5 was changed"),
        (["UPDATE entries SET chain = NULL WHERE number = 2"], "row 2 was changed"),
        (["DELETE FROM entries WHERE number = 2"], "row 2 is gone"),
        (["DELETE FROM entries WHERE number = 5"], "what came after row 4 is gone"),
        (["DELETE FROM entries"], "what came after row 0 is gone"),
        (["DELETE FROM head"], "the head of the chain is gone"),
        (
            [
                "UPDATE entries SET number = -2 WHERE number = 2",
                "UPDATE entries SET number = 2 WHERE number = 3",
                "UPDATE entries SET number = 3 WHERE number = -2",
            ],
            "row 2 was changed",
        ),
        (["INSERT INTO entries VALUES (6, '', 'halt', '', '', NULL, '{}', NULL)"], "row 6 was changed"),
        (
            ["INSERT INTO entries SELECT 6, at, 'halt', '', '', NULL, body, chain FROM entries WHERE number = 5"],
            "row 6",
        ),
    ],
)
def test_what_another_hand_did_is_named(tmp_path: Path, change: list[str], named: str) -> None:
    place = tmp_path / "j.sqlite"
    five(place)
    execute(place, *change)
    with open_journal(place) as journal, pytest.raises(StorageError, match=named):
        journal.verify()
    assert main(["journal", "verify", str(place)]) == 2


def test_an_entry_that_was_appended_with_a_right_hash_is_named_by_the_head(tmp_path: Path) -> None:
    place, copy = tmp_path / "j.sqlite", tmp_path / "copy.sqlite"
    for path in (place, copy):
        with open_journal(path) as journal:
            journal.append([decision(hour)._replace(at="2024-01-01T00:00:00+00:00") for hour in range(2)])
    with open_journal(copy) as journal:
        journal.append([entry_of(HALT, {})])
        [added] = journal.newest(1)
    execute(
        place,
        f"INSERT INTO entries VALUES (3, '{added.entry.at}', 'halt', '', '', NULL, '{added.entry.body}', "
        f"'{added.chain}')",
    )
    with open_journal(place) as journal, pytest.raises(StorageError, match="row 3 was added by another hand"):
        journal.verify()


def test_it_is_durable_as_sqlite_means_it(tmp_path: Path) -> None:
    with open_journal(tmp_path / "j.sqlite") as journal:
        asked = [journal._execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        assert asked == ["wal", 2]  # 2 is FULL: https://www.sqlite.org/pragma.html#pragma_synchronous


def test_two_processes_write_at_once_and_every_bar_is_decided_once(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from himari_rl.journal.entry import DECISION, entry_of\n"
        "from himari_rl.journal.store import open_journal\n"
        "with open_journal(sys.argv[1]) as journal:\n"
        "    for bar in range(100):\n"
        "        said = {'multiplier': 1.0, 'by': sys.argv[2]}\n"
        "        journal.append([entry_of(DECISION, said, strategy='s', symbol='x', bar=bar)])\n"
    )
    place = str(tmp_path / "j.sqlite")
    both = [subprocess.Popen([sys.executable, "-W", "error", "-c", code, place, name]) for name in "ab"]
    assert [process.wait(PATIENCE_S) for process in both] == [0, 0]
    with open_journal(place) as journal:
        assert journal.verify() == 100
        assert [row.entry.bar for row in journal.entries()] == list(range(100))


def test_the_export_has_every_entry(tmp_path: Path) -> None:
    with open_journal(tmp_path / "j.sqlite") as journal:
        journal.append([decision(0, 0.75), entry_of(HALT, {"reason": "hand", "why": "test"})])
        assert export(journal, str(tmp_path / "out.parquet")) == 2
    table = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert table["multiplier"] == [0.75, None]
    assert table["kind"] == ["decision", "halt"]
    assert json.loads(table["body"][1])["why"] == "test"


def test_the_command_line_verifies_shows_and_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "j.sqlite"
    five(place)
    assert main(["journal", "verify", str(place)]) == 0
    assert "5 entries, the chain is whole (5 decision)" in capsys.readouterr().out
    assert main(["journal", "tail", str(place), "--count", "2", "--json"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["body"]["multiplier"] for row in shown] == [0.8, 0.9]
    assert main(["journal", "tail", str(place)]) == 0
    assert "2024-01-01T04:00Z x0.9000 +10.00 USD local_model (v)" in capsys.readouterr().out
    assert main(["journal", "export", str(place), "--out", str(tmp_path / "j.parquet")]) == 0
    assert main(["journal", "verify", str(tmp_path / "none.sqlite")]) == 2
    assert not (tmp_path / "none.sqlite").exists()
