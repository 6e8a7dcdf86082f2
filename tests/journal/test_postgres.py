"""The journal on a real PostgreSQL server: as on SQLite, and through a server that is killed and started again.

HIMARI_KILLS says how often; `make kill` says 100.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import PATIENCE_S
from helpers.bundle import make_bundle
from helpers.postgres import Postgres
from helpers.stream import lines, market, runner_of
from himari_rl.cli import main
from himari_rl.errors import StorageError
from himari_rl.journal import store
from himari_rl.journal.database import without_password
from himari_rl.journal.entry import DECISION, HALT, OUTCOME, Entry, entry_of
from himari_rl.journal.store import DecisionJournal, open_journal
from himari_rl.policy.runtime import load_policy
from himari_rl.runner.replay import replay

KILLS = int(os.environ.get("HIMARI_KILLS", "4"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    made = Postgres(tmp_path_factory.mktemp("postgres"))
    yield made
    made.close()


@pytest.fixture
def place(server: Postgres) -> str:
    """The URL of an empty schema of its own."""
    import psycopg

    name = f"s{random.randrange(10**9)}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{server.url}?options=-csearch_path%3D{name}"


def decision(bar: int, by: str = "a") -> Entry:
    return entry_of(DECISION, {"multiplier": 1.0, "by": by}, strategy="s", symbol="x", bar=bar)


def execute(place: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(place, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[arg-type]  # a test's own text


def test_it_is_once_for_a_bar_and_in_order(place: str) -> None:
    with open_journal(place) as journal:
        first = journal.append([decision(0), decision(1), entry_of(HALT, {"reason": "hand", "why": "100 % ?"})])
        again = journal.append([decision(1, "b"), decision(2, "b")])
        assert [each.number for each in first] == [1, 2, 3]
        assert again[0].earlier is not None
        assert again[0].earlier.said["by"] == "a"
        assert [row.entry.bar for row in journal.entries(kinds=[DECISION])] == [0, 1, 2]
        assert [row.entry.bar for row in journal.newest(2, kind=DECISION, strategy="s", symbol="x")] == [1, 2]
        assert journal.decided("s", "x", 9) is None
        outcome = entry_of(OUTCOME, {}, strategy="s", symbol="x", bar=1)
        assert journal.append([outcome, outcome])[1].earlier is not None
    with open_journal(place, create=False) as journal:
        assert (journal.verify(), len(journal)) == (5, 5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE entries SET body = replace(body, '1.0', '2.0') WHERE number = 3", "row 3 was changed"),
        ("DELETE FROM entries WHERE number = 2", "row 2 is gone"),
        ("DELETE FROM entries WHERE number = 5", "what came after row 4 is gone"),
        ("DELETE FROM head", "the head of the chain is gone"),
        (
            "UPDATE entries SET number = 9 WHERE number = 3; UPDATE entries SET number = 3 WHERE number = 4; "
            "UPDATE entries SET number = 4 WHERE number = 9",
            "row 3 was changed",
        ),
        ("INSERT INTO entries SELECT 6, at, 'halt', '', '', NULL, body, chain FROM entries WHERE number = 5", "row 6"),
    ],
)
def test_what_another_hand_did_is_named(place: str, change: str, named: str) -> None:
    with open_journal(place) as journal:
        journal.append([decision(bar) for bar in range(5)])
        execute(place, change)
        with pytest.raises(StorageError, match=named):
            journal.verify()


def test_two_processes_write_at_once_and_every_bar_is_decided_once(place: str) -> None:
    code = (
        "import sys\n"
        "from himari_rl.journal.entry import DECISION, entry_of\n"
        "from himari_rl.journal.store import open_journal\n"
        "with open_journal(sys.argv[1]) as journal:\n"
        "    for bar in range(60):\n"
        "        said = {'multiplier': 1.0, 'by': sys.argv[2]}\n"
        "        journal.append([entry_of(DECISION, said, strategy='s', symbol='x', bar=bar)])\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, place, name]) for name in "ab"]
    assert [process.wait(PATIENCE_S) for process in both] == [0, 0]
    with open_journal(place) as journal:
        assert journal.verify() == 60
        assert [row.entry.bar for row in journal.entries()] == list(range(60))


def test_a_server_that_is_killed_while_a_journal_is_opened_is_waited_for(
    server: Postgres, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, kills = DecisionJournal._begin, [1]

    def killed_once(journal: DecisionJournal) -> None:
        if kills:
            kills.pop()
            server.kill()
            server.start()
        begin(journal)

    monkeypatch.setattr(DecisionJournal, "_begin", killed_once)
    with open_journal(place) as journal:
        journal.append([decision(0)])
        assert (journal.verify(), kills) == (1, [])


def test_a_server_that_is_killed_and_comes_back_loses_and_doubles_nothing(
    server: Postgres, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer goes on as if nothing had been; entries that are not unique by a bar are not doubled either."""
    monkeypatch.setattr(store, "BUSY_S", PATIENCE_S)  # how long a server takes to come back is the machine's affair
    acknowledged: list[int] = []
    ending = threading.Event()

    def write() -> None:
        with open_journal(place) as journal:
            for number in range(1_000_000):
                if ending.is_set():
                    return
                halt = entry_of(HALT, {"reason": "hand", "why": str(number)})
                for each in journal.append([decision(number), halt]):
                    acknowledged.append(each.number)

    writer = threading.Thread(target=write)
    writer.start()
    rng = random.Random(0)
    for _ in range(KILLS):
        before = len(acknowledged)
        time.sleep(rng.uniform(0.05, 0.4))
        server.kill()
        server.start()
        end = time.monotonic() + PATIENCE_S
        while len(acknowledged) <= before + 20:
            assert writer.is_alive()
            assert time.monotonic() < end
            time.sleep(0.01)
    ending.set()
    writer.join(PATIENCE_S)
    with open_journal(place) as journal:
        count = journal.verify()
        assert acknowledged == list(range(1, count + 1))
        whole = list(journal.entries())
        assert [row.entry.bar for row in whole[::2]] == list(range(count // 2))
        assert [row.entry.said["why"] for row in whole[1::2]] == [str(k) for k in range(count // 2)]


def test_a_runner_on_it_replays_without_a_difference(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, bars = make_bundle(tmp_path, hidden=(8,)), market("BTC-USDT", 5, 300)
    stream = lines([bars], range(240, 300))
    with open_journal(place) as journal:
        for part in (stream[:30], stream):  # a restart; the source sends everything again
            told = runner_of(journal, folder, histories={"BTC-USDT": bars[:240]}).handle(part)
        assert sum("rejected" in each for each in told) == 30
        [found] = replay(journal, load_policy(folder))
        assert (found.decisions, found.differences) == (60, ())
    assert main(["journal", "verify", place]) == 0
    assert "60 decision" in capsys.readouterr().out
    assert main(["journal", "export", place, "--out", str(tmp_path / "j.parquet")]) == 0


def test_what_cannot_be_used_is_one_line_without_the_password(server: Postgres) -> None:
    url = server.url.replace("himari@", "himari:secret@")
    with pytest.raises(StorageError, match="there is no journal") as caught:
        open_journal(f"{url}?options=-csearch_path%3Dnowhere", create=False)
    assert "secret" not in str(caught.value)
    assert without_password("postgresql://a:b@host/db?x=y") == "postgresql://a:***@host/db"
    with pytest.raises(StorageError, match="cannot be used"):
        open_journal("postgresql://nobody@127.0.0.1:1/none")
