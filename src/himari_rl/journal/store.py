"""The journal in one SQLite file: durable before an append returns, once for a bar, chained.

    with open_journal("runs/live/journal.sqlite") as journal:
        journal.append([entry, ...])          one transaction, one fsync: group commit

WAL with synchronous=FULL: the log is on the disk when COMMIT returns, so a process killed at any moment, or a machine
that loses its power, loses nothing that was acknowledged. A decision is unique by strategy, symbol and bar in the
database itself, so two runners on one file cannot both decide a bar. Several processes may write; each takes the lock
first (BEGIN IMMEDIATE), so a row is chained to the row that is really the last.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from himari_rl.errors import StorageError
from himari_rl.journal.entry import DECISION, KINDS, Entry, Stored, Written
from himari_rl.storage.chain import BEGINNING, first_break, link

BUSY_S = 30.0
PAGE = 5_000  # rows read at a time, so that a journal of millions is never in memory
NO_HEAD = "the head of the chain is gone"
_COLUMNS = ", ".join(Entry._fields)
_TABLES = (
    "CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, "
    "strategy TEXT NOT NULL, symbol TEXT NOT NULL, bar INTEGER, body TEXT NOT NULL, chain TEXT)",
    "CREATE TABLE IF NOT EXISTS head (id INTEGER PRIMARY KEY, number INTEGER NOT NULL, chain TEXT NOT NULL)",
    f"CREATE UNIQUE INDEX IF NOT EXISTS once ON entries (strategy, symbol, bar) WHERE kind = '{DECISION}'",
    "CREATE INDEX IF NOT EXISTS by_kind ON entries (kind, number)",
)


def open_journal(place: str | Path, *, create: bool = True) -> DecisionJournal:
    """The journal at a path; its tables are made where they are missing.

    Args:
        create: False refuses a journal that is not there, for whoever only reads.

    Raises:
        StorageError: it cannot be opened, is no journal, or is not there.
    """
    if "://" in str(place):
        scheme = str(place).partition("://")[0]
        raise StorageError(f"a journal at {scheme}://", "a path of an SQLite file", "name a file on a local disk")
    return DecisionJournal(place, create=create)


class DecisionJournal:
    """Entries that are added and never changed. One connection, for any thread of this process, one at a time."""

    def __init__(self, place: str | Path, *, create: bool = True) -> None:
        self.place = str(place)
        if not create and not Path(place).exists():
            raise StorageError(
                f"there is no journal at {place}", "an SQLite file", "give the one that `himari run` has"
            )
        self._lock = threading.Lock()
        try:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self.place, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._execute("PRAGMA journal_mode=WAL")
            self._execute("PRAGMA synchronous=FULL")
            self._execute("BEGIN IMMEDIATE")
            for statement in _TABLES:
                self._execute(statement)
            if not self._execute("SELECT 1 FROM head UNION ALL SELECT 1 FROM entries LIMIT 1").fetchall():
                self._execute("INSERT INTO head VALUES (1, 0, ?)", (BEGINNING,))
            self._execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            raise self._refusal(error) from error

    def __enter__(self) -> DecisionJournal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def append(self, entries: Sequence[Entry]) -> list[Written]:
        """Writes entries, all or none, and returns when they are on the disk.

        A decision whose strategy, symbol and bar have one already is not written: what stands is returned in its place.

        Raises:
            StorageError: nothing was written.
        """
        if not entries:
            return []
        with self._lock:
            try:
                self._execute("BEGIN IMMEDIATE")
                try:
                    written = self._appended(entries)
                    self._execute("COMMIT")
                except BaseException:
                    self._connection.rollback()
                    raise
            except sqlite3.Error as error:
                raise self._refusal(error) from error
        return written

    def _appended(self, entries: Sequence[Entry]) -> list[Written]:
        heads = self._execute("SELECT number, chain FROM head").fetchall()
        if len(heads) != 1:
            raise sqlite3.DatabaseError(NO_HEAD)
        [(number, chain)] = heads
        marks = ", ".join("?" * (len(Entry._fields) + 2))
        written = []
        for entry in entries:
            if entry.kind == DECISION and (earlier := self._decided(entry.strategy, entry.symbol, entry.bar)):
                written.append(Written(earlier.number, earlier.entry))
                continue
            number, chain = number + 1, link(chain, entry)
            self._execute(f"INSERT INTO entries (number, {_COLUMNS}, chain) VALUES ({marks})", (number, *entry, chain))
            written.append(Written(number, None))
        self._execute("UPDATE head SET number = ?, chain = ?", (number, chain))
        return written

    def decided(self, strategy: str, symbol: str, bar: int) -> Stored | None:
        """The decision of a bar, if there is one."""
        with self._lock, self._reading():
            return self._decided(strategy, symbol, bar)

    def _decided(self, strategy: str, symbol: str, bar: int | None) -> Stored | None:
        where = f"kind = '{DECISION}' AND strategy = ? AND symbol = ? AND bar = ?"
        found = self._execute(f"{_select(where)} LIMIT 1", (strategy, symbol, bar)).fetchone()
        return None if found is None else _stored(found)

    def entries(self, after: int = 0, kinds: Sequence[str] = ()) -> Iterator[Stored]:
        """Every entry after a number, the oldest first; of some kinds only, where they are given."""
        marks = ", ".join("?" * len(kinds))
        where = "number > ?" + (f" AND kind IN ({marks})" if kinds else "")
        while True:
            with self._lock, self._reading():
                rows = self._execute(f"{_select(where)} ORDER BY number LIMIT {PAGE}", (after, *kinds)).fetchall()
            yield from map(_stored, rows)
            if len(rows) < PAGE:
                return
            after = rows[-1][0]

    def newest(
        self, count: int, *, kind: str = "", strategy: str | None = None, symbol: str | None = None
    ) -> list[Stored]:
        """The last entries, the oldest first; of one kind, strategy and symbol where they are given."""
        given = {n: v for n, v in {"strategy": strategy, "symbol": symbol}.items() if v is not None}
        # a decision's kind stands in the text, as only then SQLite takes the index that is of decisions
        kinds = [f"kind = '{kind}'"] if kind in KINDS else []
        where = " AND ".join([*kinds, *(f"{name} = ?" for name in given)]) or "1"
        order = "bar DESC" if strategy is not None and symbol is not None and kind == DECISION else "number DESC"
        with self._lock, self._reading():
            rows = self._execute(f"{_select(where)} ORDER BY {order} LIMIT ?", (*given.values(), count)).fetchall()
        return [_stored(row) for row in reversed(rows)]

    def __len__(self) -> int:
        with self._lock, self._reading():
            [(count,)] = self._execute("SELECT count(*) FROM entries").fetchall()
            return int(count)

    def broken(self) -> str:
        """The first entry that is not as it was written, in words; empty where all are."""
        with self._lock, self._reading():
            heads = self._execute("SELECT number, chain FROM head").fetchall()
            if len(heads) != 1:
                return NO_HEAD
            rows = (_stored(row) for row in self._execute(f"{_select('1')} ORDER BY number"))
            last = "" if heads[0] == (0, BEGINNING) else str(heads[0][1])
            return first_break(((row.number, row.entry, row.chain or "-") for row in rows), last)

    def verify(self) -> int:
        """How many entries there are, each as it was written.

        Raises:
            StorageError: names the first that is not.
        """
        if said := self.broken():
            raise StorageError(
                f"the journal {self.place} was changed: {said}", "entries as they were written", "restore a whole copy"
            )
        return len(self)

    def close(self) -> None:
        """Ends the connection; every entry is on the disk already."""
        with self._lock:
            self._connection.close()

    def _execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        return self._connection.execute(statement, tuple(values))

    def _reading(self) -> _Reading:
        return _Reading(self)

    def _refusal(self, error: Exception) -> StorageError:
        return StorageError(f"the journal {self.place} cannot be used: {error}", "", "give it a file on a local disk")


class _Reading:
    """What SQLite raises while somebody reads, in our words."""

    def __init__(self, journal: DecisionJournal) -> None:
        self._journal = journal

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, sqlite3.Error):
            raise self._journal._refusal(error) from error


def _select(where: str) -> str:
    return f"SELECT number, {_COLUMNS}, chain FROM entries WHERE {where}"


def _stored(row: Sequence[object]) -> Stored:
    number, *columns, chain = row
    at, kind, strategy, symbol, bar, body = columns
    content = Entry(str(at), str(kind), str(strategy), str(symbol), bar, str(body))  # type: ignore[arg-type]  # as stored
    return Stored(int(str(number)), content, None if chain is None else str(chain))
