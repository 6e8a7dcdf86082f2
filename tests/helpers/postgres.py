"""A real PostgreSQL server on 127.0.0.1, in a folder of its own; tests that need it skip without one."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from helpers import PATIENCE_S

PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def binary(name: str) -> str:
    """Where a program of PostgreSQL is; skips the test where there is none."""
    found = shutil.which(name) or next((str(place / name) for place in PLACES if (place / name).exists()), None)
    if found is None:
        pytest.skip(f"PostgreSQL's {name} is not installed")
    return found


class Postgres:
    """One server; it may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("psycopg", reason="psycopg, the driver of a PostgreSQL journal, is not installed")
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._user: int | None = None
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            try:
                self._user = pwd.getpwnam("postgres").pw_uid
            except KeyError:
                pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        # not below pytest's own folder, which every other run of pytest closes to all users but its own
        self._place = tempfile.TemporaryDirectory(prefix="himari-postgres-", ignore_cleanup_errors=True)
        Path(self._place.name).chmod(0o755)
        self._data = Path(self._place.name) / "data"
        self._data.mkdir()
        if self._user is not None:
            os.chown(self._data, self._user, -1)
        self._run([binary("initdb"), "-D", str(self._data), "-U", "himari", "-A", "trust", "--no-sync"])
        self._server: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://himari@127.0.0.1:{self._port}/postgres"
        self.start()

    def _run(self, words: Sequence[str]) -> None:
        subprocess.run(words, user=self._user, check=True, capture_output=True, timeout=PATIENCE_S)

    def start(self) -> None:
        """Starts it; it answers when this returns."""
        import psycopg

        words = [binary("postgres"), "-D", str(self._data), "-h", "127.0.0.1", "-p", str(self._port), "-k", ""]
        end = time.monotonic() + PATIENCE_S
        self._server = None
        while True:
            if self._server is None or self._server.poll() is not None:  # what was killed still held the folder
                with (self._folder / "log").open("ab") as log:
                    self._server = subprocess.Popen(
                        words, user=self._user, stdout=log, stderr=log, start_new_session=True
                    )
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < end, (self._folder / "log").read_text()[-2000:]
                time.sleep(0.05)

    def kill(self) -> None:
        """-9 to the server and every process of it, as when the machine loses its power."""
        assert self._server is not None
        os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait(PATIENCE_S)

    def close(self) -> None:
        """Ends it."""
        if self._server is not None and self._server.poll() is None:
            self._server.send_signal(signal.SIGINT)  # fast shutdown
            self._server.wait(PATIENCE_S)
        self._place.cleanup()


@contextmanager
def journal_place(kind: str, folder: Path) -> Iterator[str]:
    """Where a journal may be, by kind: a file of `folder`, or a PostgreSQL server of its own."""
    if kind == "sqlite":
        yield str(folder / "j.sqlite")
        return
    (folder / "server").mkdir()
    with closing(Postgres(folder / "server")) as server:
        yield server.url
