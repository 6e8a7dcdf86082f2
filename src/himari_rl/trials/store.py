"""Where the rows of the trial ledger are kept: one SQLite file, any database by its URL, or a bucket.

The file is opened by the standard library; SQLAlchemy is asked for a URL alone. Both write the same tables, and both
let several processes write at once: a row is chained to the last one inside a transaction that begins by writing, and
another writer waits up to BUSY_S for it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from himari_rl.errors import StorageError, not_installed
from himari_rl.storage import local_path
from himari_rl.storage.chain import beginning, first_break, link
from himari_rl.trials.row import Row

if TYPE_CHECKING:
    import sqlalchemy as sa

VARIABLE = "HIMARI_TRIALS"
BUSY_S = 30.0
_COLUMNS = ", ".join(Row._fields)
_ADDED = {"paths": "VARCHAR", "chain": "VARCHAR"}
"""Columns that an older ledger lacks; its rows keep them empty."""


class TrialStore(Protocol):
    """Rows that are added and never changed."""

    def add(self, row: Row) -> None: ...

    def overlapping(self, first_ms: int, last_ms: int) -> list[Row]:
        """Rows whose span has a bar in common with this one, the oldest first."""
        ...

    def require_writable(self) -> None:
        """Raises StorageError where no row could be added."""
        ...

    def broken(self) -> str:
        """Which row was changed or taken out, in words; empty where none was."""
        ...

    def close(self) -> None: ...


def is_url(place: str) -> bool:
    """Whether a place is a database's or a bucket's URL and no file."""
    return "://" in place


def open_store(place: str) -> TrialStore:
    """The rows at a path or behind a URL; the table is made where it is missing.

    Raises:
        StorageError: it cannot be opened, or is no ledger.
        ConfigError: a URL without SQLAlchemy.
    """
    if place.startswith("gs://"):
        from himari_rl.trials.bucket import BucketStore

        return BucketStore(place)
    return _Database(place) if is_url(place) else _File(place)


def ledger_exists(place: str) -> bool:
    """Whether a ledger was begun at a place. Nothing is written.

    Raises:
        StorageError: it cannot be asked.
    """
    if place.startswith("gs://"):
        from himari_rl.trials.bucket import BucketStore

        return bool(BucketStore(place).names())
    if not is_url(place):
        return local_path(place).exists()
    return _has_table(place)


class _File:
    """One SQLite file, opened anew for each call: nothing is held that threads could share."""

    _TABLE = (
        "CREATE TABLE IF NOT EXISTS trials (id INTEGER NOT NULL, at VARCHAR NOT NULL, purpose VARCHAR NOT NULL, "
        "market VARCHAR NOT NULL, first_ms BIGINT NOT NULL, last_ms BIGINT NOT NULL, what VARCHAR NOT NULL, "
        "detail VARCHAR NOT NULL, paths VARCHAR, chain VARCHAR, PRIMARY KEY (id))"
    )
    _HEAD = "CREATE TABLE IF NOT EXISTS trials_head (id INTEGER NOT NULL, chain VARCHAR NOT NULL, PRIMARY KEY (id))"

    def __init__(self, place: str) -> None:
        self._place = place
        try:
            local_path(place).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _refusal(place, error) from error
        with self._transaction() as connection:
            connection.execute(self._TABLE)
            connection.execute(self._HEAD)
            connection.execute("INSERT OR IGNORE INTO trials_head VALUES (1, '')")
            there = {column[1] for column in connection.execute("PRAGMA table_info(trials)")}
            for name in _ADDED.keys() - there:
                connection.execute(f"ALTER TABLE trials ADD COLUMN {name} {_ADDED[name]}")

    def add(self, row: Row) -> None:
        with self._transaction() as connection:
            [(last,)] = connection.execute("SELECT chain FROM trials_head")
            if not last:
                last = beginning([row for _, row, _ in self._rows(connection)])
            chain = link(last, row)
            marks = ", ".join("?" * (len(row) + 1))
            connection.execute(f"INSERT INTO trials ({_COLUMNS}, chain) VALUES ({marks})", (*row, chain))  # nosec B608
            connection.execute("UPDATE trials_head SET chain = ?", (chain,))

    def overlapping(self, first_ms: int, last_ms: int) -> list[Row]:
        with self._transaction() as connection:
            where = "WHERE first_ms <= ? AND last_ms >= ?"
            return [row for _, row, _ in self._rows(connection, where, (last_ms, first_ms))]

    def require_writable(self) -> None:
        """An update of no row asks for the right to write, which BEGIN IMMEDIATE does not on a read-only file."""
        with self._transaction() as connection:
            connection.execute("UPDATE trials SET detail = detail WHERE id < 0")

    def broken(self) -> str:
        with self._transaction() as connection:
            [(last,)] = connection.execute("SELECT chain FROM trials_head").fetchall() or [("",)]
            return first_break(self._rows(connection), last)

    def close(self) -> None:
        """Nothing is open."""

    def _rows(
        self, connection: sqlite3.Connection, where: str = "", values: tuple[int, ...] = ()
    ) -> list[tuple[int, Row, str | None]]:
        asked = f"SELECT id, {_COLUMNS}, chain FROM trials {where} ORDER BY id"  # nosec B608
        return [_numbered(found) for found in connection.execute(asked, values)]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._place, timeout=BUSY_S, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")  # the lock at once, so that two writers wait and never deadlock
                yield connection
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise _refusal(self._place, error) from error


class _Database:
    """Any database that SQLAlchemy knows."""

    def __init__(self, url: str) -> None:
        self._url, self._sa = url, _sqlalchemy(url)
        sa = self._sa
        numbers = {"first_ms", "last_ms"}
        columns = [
            sa.Column(n, sa.BigInteger if n in numbers else sa.String, nullable=n in _ADDED)
            for n in (*Row._fields, "chain")
        ]
        made = sa.MetaData()
        self._table = sa.Table("trials", made, sa.Column("id", sa.Integer, primary_key=True), *columns)
        key = sa.Column("id", sa.Integer, primary_key=True)
        self._head = sa.Table("trials_head", made, key, sa.Column("chain", sa.String, nullable=False))
        self._engine = _engine(sa, url)
        try:
            self._make()
        except sa.exc.SQLAlchemyError as error:
            self._engine.dispose()
            raise _refusal(url, error) from error

    def _make(self) -> None:
        sa = self._sa
        with self._engine.begin() as connection:  # not create_all: between its look and its making others make it
            for table in (self._table, self._head):
                connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
        try:
            with self._engine.begin() as connection:
                if connection.execute(sa.select(self._head.c.id)).first() is None:
                    connection.execute(self._head.insert(), {"id": 1, "chain": ""})
        except sa.exc.IntegrityError:
            pass  # another process was as quick
        there = {column["name"] for column in sa.inspect(self._engine).get_columns("trials")}
        for name in _ADDED.keys() - there:
            with self._engine.begin() as connection:
                connection.execute(sa.text(f"ALTER TABLE trials ADD COLUMN {name} {_ADDED[name]}"))

    def add(self, row: Row) -> None:
        sa, head = self._sa, self._head
        with self._calling() as connection:
            connection.execute(head.update().values(id=1))  # a write first: whoever comes now waits here
            last = connection.execute(sa.select(head.c.chain)).scalar_one()
            if not last:
                last = beginning([row for _, row, _ in self._rows(connection)])
            chain = link(last, row)
            connection.execute(self._table.insert(), row._asdict() | {"chain": chain})
            connection.execute(head.update().values(chain=chain))

    def overlapping(self, first_ms: int, last_ms: int) -> list[Row]:
        column = self._table.c
        with self._calling() as connection:
            where = (column.first_ms <= last_ms) & (column.last_ms >= first_ms)
            return [row for _, row, _ in self._rows(connection, where)]

    def require_writable(self) -> None:
        """An update of no row asks for the right to write."""
        column = self._table.c
        with self._calling() as connection:
            connection.execute(self._table.update().where(column.id < 0).values(detail=column.detail))

    def broken(self) -> str:
        with self._calling() as connection:
            last = connection.execute(self._sa.select(self._head.c.chain)).scalar() or ""
            return first_break(self._rows(connection), last)

    def close(self) -> None:
        self._engine.dispose()

    def _rows(
        self, connection: sa.Connection, where: sa.ColumnElement[bool] | None = None
    ) -> list[tuple[int, Row, str | None]]:
        column = self._table.c
        asked: Any = self._sa.select(*(column[name] for name in ("id", *Row._fields, "chain"))).order_by(column.id)
        return [_numbered(tuple(found)) for found in connection.execute(asked if where is None else asked.where(where))]

    @contextmanager
    def _calling(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except self._sa.exc.SQLAlchemyError as error:
            raise _refusal(self._url, error) from error


def _sqlalchemy(url: str) -> Any:
    try:
        import sqlalchemy
    except ModuleNotFoundError as error:
        raise not_installed(f"a trial ledger at {url.partition(':')[0]}://...", error, "judge") from error
    return sqlalchemy


def _engine(library: Any, url: str) -> sa.Engine:
    options = {"timeout": BUSY_S} if url.startswith("sqlite") else {}
    try:
        made: sa.Engine = library.create_engine(url, connect_args=options)
    except (library.exc.SQLAlchemyError, ModuleNotFoundError) as error:  # no such address, or its driver is missing
        raise _refusal(url, error) from error
    return made


def _has_table(url: str) -> bool:
    sa = _sqlalchemy(url)
    parsed = sa.make_url(url) if url.startswith("sqlite:") else None
    if parsed is not None and parsed.database and not Path(parsed.database).exists():
        return False  # to ask SQLite is to make the file
    engine = _engine(sa, url)
    try:
        return bool(sa.inspect(engine).has_table("trials"))
    except sa.exc.SQLAlchemyError as error:
        raise _refusal(url, error) from error
    finally:
        engine.dispose()


def _numbered(found: tuple[Any, ...]) -> tuple[int, Row, str | None]:
    """A row as it was selected: number, content, hash."""
    number, *content, chain = found
    row = Row(*content)
    return int(number), row._replace(paths=row.paths or "[]"), chain


def _refusal(place: str, error: Exception) -> StorageError:
    reason = str(getattr(error, "orig", None) or error)  # the driver's own words where SQLAlchemy wraps them
    return StorageError(f"the trial ledger {place} cannot be used: {reason}", "", f"name a writable file in {VARIABLE}")
