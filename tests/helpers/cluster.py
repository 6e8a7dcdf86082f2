"""A Dask scheduler with workers on this machine, as other processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def cluster(folder: Path, count: int = 2) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """The scheduler's address, and its workers, which a test may kill."""
    environment = {**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "20s", "OMP_NUM_THREADS": "1"}
    quiet, port = subprocess.DEVNULL, _free_port()
    address = f"tcp://127.0.0.1:{port}"
    scheduler = subprocess.Popen(
        [
            sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port),
            "--no-dashboard",
        ],
        env=environment, stdout=quiet, stderr=quiet,
    )  # fmt: skip
    workers = [
        subprocess.Popen(
            [
                sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny",
                "--no-dashboard", "--local-directory", str(folder / f"w{i}"),
            ],
            env=environment, stdout=quiet, stderr=quiet,
        )
        for i in range(count)
    ]  # fmt: skip
    try:
        yield address, workers
    finally:
        for process in (*workers, scheduler):  # not terminate(): a worker that finds its scheduler gone waits for ever
            process.kill()
        for process in (*workers, scheduler):
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
