"""What a journal is kept in: one SQLite file, or a PostgreSQL database that several machines write.

Both say the same statements with `?` for a value, and both let one writer at a time append: a row is chained to the
row that is really the last. `writing` returns when everything is on the disk; within `reading` all statements see one
state.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any, ClassVar, Protocol
from urllib.parse import urlsplit, urlunsplit

from himari_rl.errors import StorageError, not_installed

BUSY_S = 30.0
"""How long a writer waits for another one, and for a server that was lost."""
AGAIN_S = 0.1


class Database(Protocol):
    """Rows that are asked for in SQL."""

    place: str
    cure: str
    errors: tuple[type[Exception], ...]
    number_type: str  # of a column that counts or holds milliseconds

    def execute(self, statement: str, values: Sequence[object] = ()) -> Any:
        """A cursor."""
        ...

    def writing(self) -> AbstractContextManager[None]:
        """A transaction that no other writer is in; it is on the disk afterwards, or nothing of it is."""
        ...

    def reading(self) -> AbstractContextManager[None]:
        """A transaction that sees the rows of one moment."""
        ...

    def comes_back(self, error: Exception, until: float) -> bool:
        """Whether the connection was lost and is there again; waits for that until `until` (monotonic)."""
        ...

    def close(self) -> None: ...


class SqliteFile:
    """WAL with synchronous=FULL: the log is on the disk when COMMIT returns."""

    errors: tuple[type[Exception], ...] = (sqlite3.Error,)
    cure = "give it a file on a local disk"
    number_type = "INTEGER"

    def __init__(self, place: str, *, create: bool) -> None:
        self.place = place
        if not create and not Path(place).exists():
            raise StorageError(
                f"there is no journal at {place}", "an SQLite file", "give the one that `himari run` has"
            )
        try:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(place, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self.execute("PRAGMA journal_mode=WAL")
            self.execute("PRAGMA synchronous=FULL")
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"the journal {place} cannot be used: {error}", "", self.cure) from error

    def execute(self, statement: str, values: Sequence[object] = ()) -> Any:
        return self._connection.execute(statement, tuple(values))

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self._transaction("BEGIN IMMEDIATE"):  # the lock at once, so that two writers wait and never deadlock
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        with self._transaction("BEGIN"):
            yield

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        self.execute(begin)
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            self._connection.rollback()
            raise

    def comes_back(self, error: Exception, until: float) -> bool:
        return False

    def close(self) -> None:
        self._connection.close()


class PostgresServer:
    """A database of its own, by URL. A connection that is lost is made anew for up to BUSY_S; whoever writes then asks
    the chain whether the last transaction took place (store.py), so that nothing is written twice."""

    cure = "give it a PostgreSQL database that may be written"
    number_type = "BIGINT"
    _OPTIONS: ClassVar[dict[str, Any]] = {
        "connect_timeout": "5",
        "tcp_user_timeout": "10000",  # milliseconds until a silent server counts as lost
        "keepalives_idle": "10",
        "application_name": "himari-journal",
    }

    def __init__(self, url: str, *, create: bool) -> None:
        try:
            import psycopg
        except ModuleNotFoundError as error:
            raise not_installed("a journal at postgresql://...", error, "postgres") from error
        self._library, self._url = psycopg, url
        self.place = without_password(url)
        self.errors: tuple[type[Exception], ...] = (psycopg.Error,)
        with ExitStack() as opened:
            try:
                self._connection = opened.enter_context(closing(self._connected()))
                begun = create or self.execute("SELECT to_regclass('entries')").fetchone()[0] is not None
            except psycopg.Error as error:
                raise StorageError(f"the journal {self.place} cannot be used: {error}", "", self.cure) from error
            if not begun:
                raise StorageError(f"there is no journal at {self.place}", "its tables", "give the one of `himari run`")
            opened.pop_all()  # it stays open

    def _connected(self) -> Any:
        with ExitStack() as opened:
            made = self._library.connect(self._url, autocommit=True, **self._OPTIONS)
            opened.enter_context(closing(made))
            # `on` is the disk of this server; a lock or a statement that takes longer is an error, not a wait for ever
            for name, value in (("synchronous_commit", "on"), ("lock_timeout", "30s"), ("statement_timeout", "60s")):
                made.execute(f"SET {name} = '{value}'")
            opened.pop_all()
        return made

    def execute(self, statement: str, values: Sequence[object] = ()) -> Any:
        return self._connection.execute(statement.replace("?", "%s"), tuple(values))

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self._connection.transaction():
            self.execute("SELECT pg_advisory_xact_lock(hashtext(current_schema() || '.himari_journal'))")
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        with self._connection.transaction():
            self.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield

    def comes_back(self, error: Exception, until: float) -> bool:
        lost = isinstance(error, self._library.OperationalError | self._library.InterfaceError)
        if not lost or not (self._connection.closed or self._connection.broken):
            return False
        while monotonic() < until:
            try:
                fresh = self._connected()
            except self._library.OperationalError:
                sleep(AGAIN_S)
            else:
                self._connection.close()
                self._connection = fresh
                return True
        return False

    def close(self) -> None:
        self._connection.close()


def is_postgres(place: str) -> bool:
    """Whether a place is a PostgreSQL URL."""
    return place.startswith(("postgresql://", "postgres://"))


def without_password(url: str) -> str:
    """A URL that may be shown."""
    parts = urlsplit(url)
    if parts.password is None:
        return urlunsplit(parts._replace(query=""))
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}", query=""))
