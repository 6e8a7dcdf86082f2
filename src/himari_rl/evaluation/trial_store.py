"""Where the rows of the trial ledger are kept: one SQLite file, or any database by its URL. Nothing counts here.

The file is opened by the standard library; SQLAlchemy is asked for a URL alone. Both write the same table, and both let
several processes write at once: a writer waits up to BUSY_S for another one.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from himari_rl.errors import StorageError, not_installed

if TYPE_CHECKING:
    import sqlalchemy as sa

VARIABLE = "HIMARI_TRIALS"
BUSY_S = 30.0


class Row(NamedTuple):
    """One row as it is stored; the names are the table's columns."""

    at: str  # ISO 8601, UTC
    purpose: str
    market: str
    first_ms: int
    last_ms: int
    what: str
    detail: str  # JSON


class TrialStore(Protocol):
    """Rows that are added and never changed."""

    def add(self, row: Row) -> None: ...

    def overlapping(self, first_ms: int, last_ms: int) -> list[Row]:
        """Rows whose span has a bar in common with this one, the oldest first."""
        ...

    def require_writable(self) -> None:
        """Raises StorageError where no row could be added."""
        ...

    def close(self) -> None: ...


def is_url(place: str) -> bool:
    """Whether a place is a database's URL and no file."""
    return "://" in place


def open_store(place: str) -> TrialStore:
    """The rows at a path or behind a URL; the table is made where it is missing.

    Raises:
        StorageError: it cannot be opened, or is no ledger.
        ConfigError: a URL without SQLAlchemy.
    """
    return _Database(place) if is_url(place) else _File(place)


class _File:
    """One SQLite file, opened anew for each statement: nothing is held that threads could share."""

    _COLUMNS = ", ".join(Row._fields)
    _TABLE = (
        "CREATE TABLE IF NOT EXISTS trials (id INTEGER NOT NULL, at VARCHAR NOT NULL, purpose VARCHAR NOT NULL, "
        "market VARCHAR NOT NULL, first_ms BIGINT NOT NULL, last_ms BIGINT NOT NULL, what VARCHAR NOT NULL, "
        "detail VARCHAR NOT NULL, PRIMARY KEY (id))"
    )

    def __init__(self, place: str) -> None:
        self._place = place
        try:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _refusal(place, error) from error
        self._all(self._TABLE)

    def add(self, row: Row) -> None:
        self._all(f"INSERT INTO trials ({self._COLUMNS}) VALUES ({', '.join('?' * len(row))})", row)

    def overlapping(self, first_ms: int, last_ms: int) -> list[Row]:
        asked = f"SELECT {self._COLUMNS} FROM trials WHERE first_ms <= ? AND last_ms >= ? ORDER BY id"
        return [Row._make(found) for found in self._all(asked, (last_ms, first_ms))]

    def require_writable(self) -> None:
        """An update of no row asks for the right to write."""
        self._all("UPDATE trials SET detail = detail WHERE id < 0")

    def close(self) -> None:
        """Nothing is open."""

    def _all(self, statement: str, values: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
        try:
            # autocommit: a single statement takes its lock at once, so that two writers wait and never deadlock
            with closing(sqlite3.connect(self._place, timeout=BUSY_S, isolation_level=None)) as connection:
                return connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise _refusal(self._place, error) from error


class _Database:
    """Any database that SQLAlchemy knows."""

    def __init__(self, url: str) -> None:
        try:
            import sqlalchemy as sa
        except ModuleNotFoundError as error:
            raise not_installed(f"a trial ledger at {url.partition(':')[0]}://...", error, "judge") from error
        self._url, self._sa = url, sa
        numbers = {"first_ms", "last_ms"}
        columns = [sa.Column(n, sa.BigInteger if n in numbers else sa.String, nullable=False) for n in Row._fields]
        self._table = sa.Table("trials", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), *columns)
        try:
            options = {"timeout": BUSY_S} if url.startswith("sqlite") else {}
            self._engine = sa.create_engine(url, connect_args=options)
        except (sa.exc.SQLAlchemyError, ModuleNotFoundError) as error:  # no such address, or its driver is missing
            raise _refusal(url, error) from error
        try:
            with self._engine.begin() as connection:  # not create_all: between its look and its making others make it
                connection.execute(sa.schema.CreateTable(self._table, if_not_exists=True))
        except sa.exc.SQLAlchemyError as error:
            self._engine.dispose()
            raise _refusal(url, error) from error

    def add(self, row: Row) -> None:
        try:
            with self._engine.begin() as connection:
                connection.execute(self._table.insert(), row._asdict())
        except self._sa.exc.SQLAlchemyError as error:
            raise _refusal(self._url, error) from error

    def overlapping(self, first_ms: int, last_ms: int) -> list[Row]:
        column = self._table.c
        where = (column.first_ms <= last_ms) & (column.last_ms >= first_ms)
        asked: sa.Select[tuple[str | int, ...]] = self._sa.select(*(column[name] for name in Row._fields))
        try:
            with self._engine.connect() as connection:
                return [Row._make(found) for found in connection.execute(asked.where(where).order_by(column.id))]
        except self._sa.exc.SQLAlchemyError as error:
            raise _refusal(self._url, error) from error

    def require_writable(self) -> None:
        """An update of no row asks for the right to write."""
        column = self._table.c
        try:
            with self._engine.begin() as connection:
                connection.execute(self._table.update().where(column.id < 0).values(detail=column.detail))
        except self._sa.exc.SQLAlchemyError as error:
            raise _refusal(self._url, error) from error

    def close(self) -> None:
        self._engine.dispose()


def _refusal(place: str, error: Exception) -> StorageError:
    reason = str(getattr(error, "orig", None) or error)  # the driver's own words where SQLAlchemy wraps them
    return StorageError(f"the trial ledger {place} cannot be used: {reason}", "", f"name a writable file in {VARIABLE}")
