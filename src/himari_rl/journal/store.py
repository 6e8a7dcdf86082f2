"""The journal: durable before an append returns, once for a bar, chained. One SQLite file, or PostgreSQL by its URL.

    with open_journal("runs/live/journal.sqlite") as journal:
        journal.append([entry, ...])          one transaction, one fsync: group commit

A process killed at any moment, or a machine that loses its power, loses nothing that was acknowledged. A decision is
unique by strategy, symbol and bar in the database itself, so two runners on one journal cannot both decide a bar.
Several processes may write; each takes the lock first, so a row is chained to the row that is really the last. Where
the server of a database is lost within an append, the chain says afterwards whether it took place: the hash of our last
row stands in the table exactly where it did.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar

from himari_rl.errors import StorageError
from himari_rl.journal.database import BUSY_S, Database, PostgresServer, SqliteFile, is_postgres
from himari_rl.journal.entry import KINDS, ONCE, Entry, Stored, Written
from himari_rl.storage.chain import BEGINNING, first_break, link

T = TypeVar("T")
PAGE = 5_000  # rows read at a time, so that a journal of millions is never in memory
NO_HEAD = "the head of the chain is gone"
_COLUMNS = ", ".join(Entry._fields)
_TABLES = (
    "CREATE TABLE IF NOT EXISTS entries (number {number} PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, "
    "strategy TEXT NOT NULL, symbol TEXT NOT NULL, bar {number}, body TEXT NOT NULL, chain TEXT)",
    "CREATE TABLE IF NOT EXISTS head (id INTEGER PRIMARY KEY, number {number} NOT NULL, chain TEXT NOT NULL)",
    "CREATE UNIQUE INDEX IF NOT EXISTS once ON entries (strategy, symbol, bar) WHERE kind = 'decision'",
    "CREATE UNIQUE INDEX IF NOT EXISTS outcome_once ON entries (strategy, symbol, bar) WHERE kind = 'outcome'",
    "CREATE INDEX IF NOT EXISTS by_kind ON entries (kind, number)",
)


def open_journal(place: str | Path, *, create: bool = True) -> DecisionJournal:
    """The journal at a path or behind a postgresql:// URL; its tables are made where they are missing.

    Args:
        create: False refuses a journal that is not there, for whoever only reads.

    Raises:
        StorageError: it cannot be opened, is no journal, or is not there. ConfigError: a URL without psycopg.
    """
    if "://" in str(place) and not is_postgres(str(place)):
        scheme = str(place).partition("://")[0]
        expected = "a path of an SQLite file, or postgresql://user@host/database"
        raise StorageError(f"a journal at {scheme}://", expected, "name a file on a local disk")
    return DecisionJournal(place, create=create)


class DecisionJournal:
    """Entries that are added and never changed. One connection, for any thread of this process, one at a time."""

    def __init__(self, place: str | Path, *, create: bool = True) -> None:
        self._lock = threading.Lock()
        self._pending: tuple[list[Written], int, str] | None = None  # what an append wrote, before its COMMIT
        if is_postgres(str(place)):
            self._database: Database = PostgresServer(str(place), create=create)
        else:
            self._database = SqliteFile(str(place), create=create)
        self.place = self._database.place
        until = monotonic() + BUSY_S
        while True:
            try:
                self._begin()
            except self._database.errors as error:
                if self._database.comes_back(error, until):  # it was lost just now: what was begun is begun again
                    continue
                self._database.close()
                raise self._refusal(error) from error
            return

    def _begin(self) -> None:
        with self._database.writing():
            for statement in _TABLES:
                self._execute(statement.format(number=self._database.number_type))
            if not self._execute("SELECT 1 FROM head UNION ALL SELECT 1 FROM entries LIMIT 1").fetchall():
                self._execute("INSERT INTO head VALUES (1, 0, ?)", (BEGINNING,))

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
            until, self._pending = monotonic() + BUSY_S, None
            while True:
                try:
                    if self._pending is not None and self._took_place():
                        return self._pending[0]
                    with self._database.writing():
                        return self._appended(entries)
                except self._database.errors as error:
                    if not self._database.comes_back(error, until):
                        raise self._refusal(error) from error

    def probe(self) -> None:
        """A write that changes nothing.

        Raises:
            StorageError: the journal cannot be written now.
        """
        with self._lock:
            try:
                with self._database.writing():
                    self._execute("UPDATE head SET id = id")
            except self._database.errors as error:
                raise self._refusal(error) from error

    def _took_place(self) -> bool:
        """Whether the append whose connection was lost is in the table: then its last hash is, at its number."""
        assert self._pending is not None
        _, number, chain = self._pending
        found = self._execute("SELECT chain FROM entries WHERE number = ?", (number,)).fetchone()
        return found is not None and found[0] == chain

    def _appended(self, entries: Sequence[Entry]) -> list[Written]:
        heads = self._execute("SELECT number, chain FROM head").fetchall()
        if len(heads) != 1:
            raise StorageError(f"the journal {self.place} was changed: {NO_HEAD}", "", "restore a whole copy")
        [(number, chain)] = heads
        marks = ", ".join("?" * (len(Entry._fields) + 2))
        written = []
        for entry in entries:
            if entry.kind in ONCE and (earlier := self._kept(entry.kind, entry.strategy, entry.symbol, entry.bar)):
                written.append(Written(earlier.number, earlier.entry))
                continue
            number, chain = number + 1, link(chain, entry)
            insert = f"INSERT INTO entries (number, {_COLUMNS}, chain) VALUES ({marks})"  # nosec B608 - names of ours
            self._execute(insert, (number, *entry, chain))
            written.append(Written(number, None))
        self._execute("UPDATE head SET number = ?, chain = ?", (number, chain))
        if any(each.earlier is None for each in written):
            self._pending = (written, number, chain)
        return written

    def decided(self, strategy: str, symbol: str, bar: int) -> Stored | None:
        """The decision of a bar, if there is one."""
        return self._read(lambda: self._kept("decision", strategy, symbol, bar))

    def _kept(self, kind: str, strategy: str, symbol: str, bar: int | None) -> Stored | None:
        where = f"kind = '{kind}' AND strategy = ? AND symbol = ? AND bar = ?"
        found = self._execute(f"{_select(where)} LIMIT 1", (strategy, symbol, bar)).fetchone()
        return None if found is None else _stored(found)

    def entries(self, after: int = 0, kinds: Sequence[str] = ()) -> Iterator[Stored]:
        """Every entry after a number, the oldest first; of some kinds only, where they are given."""
        marks = ", ".join("?" * len(kinds))
        where = "number > ?" + (f" AND kind IN ({marks})" if kinds else "")
        while True:
            rows = self._rows(f"{_select(where)} ORDER BY number LIMIT {PAGE}", (after, *kinds))
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
        where = " AND ".join([*kinds, *(f"{name} = ?" for name in given)]) or "1 = 1"
        order = "bar DESC" if strategy is not None and symbol is not None and kind in ONCE else "number DESC"
        rows = self._rows(f"{_select(where)} ORDER BY {order} LIMIT ?", (*given.values(), count))
        return [_stored(row) for row in reversed(rows)]

    def __len__(self) -> int:
        [(count,)] = self._rows("SELECT count(*) FROM entries")
        return int(count)

    def broken(self) -> str:
        """The first entry that is not as it was written, in words; empty where all are."""
        return self._read(self._broken)

    def _broken(self) -> str:
        with self._database.reading():  # rows and head of one moment, whoever appends meanwhile
            heads = self._execute("SELECT number, chain FROM head").fetchall()
            if len(heads) != 1:
                return NO_HEAD
            last = "" if tuple(heads[0]) == (0, BEGINNING) else str(heads[0][1])
            return first_break(((row.number, row.entry, row.chain or "-") for row in self._pages()), last)

    def _pages(self) -> Iterator[Stored]:
        """Every entry, within a transaction."""
        after: int | None = None
        while True:
            where, values = ("1 = 1", ()) if after is None else ("number > ?", (after,))
            rows = self._execute(f"{_select(where)} ORDER BY number LIMIT {PAGE}", values).fetchall()
            yield from map(_stored, rows)
            if len(rows) < PAGE:
                return
            after = rows[-1][0]

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
            self._database.close()

    def _execute(self, statement: str, values: Sequence[object] = ()) -> Any:
        return self._database.execute(statement, values)

    def _rows(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        return self._read(lambda: list(self._execute(statement, values).fetchall()))

    def _read(self, work: Callable[[], T]) -> T:
        """Something that only reads, again where the connection was lost."""
        with self._lock:
            until = monotonic() + BUSY_S
            while True:
                try:
                    return work()
                except self._database.errors as error:
                    if not self._database.comes_back(error, until):
                        raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> StorageError:
        return StorageError(f"the journal {self.place} cannot be used: {error}", "", self._database.cure)


def _select(where: str) -> str:
    return f"SELECT number, {_COLUMNS}, chain FROM entries WHERE {where}"  # nosec B608


def _stored(row: Sequence[object]) -> Stored:
    number, *columns, chain = row
    at, kind, strategy, symbol, bar, body = columns
    content = Entry(str(at), str(kind), str(strategy), str(symbol), bar, str(body))  # type: ignore[arg-type]  # as stored
    return Stored(int(str(number)), content, None if chain is None else str(chain))
