"""Processes that have their imports behind them: each hears signals, is killed and ends as one that began from nothing.

Forked from a server that has torch and the command line's modules imported and does nothing else: a test that starts
ten of them pays one start. That a command begins from nothing is for tests with `run_himari` to say.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from helpers import PATIENCE_S

_SERVER = """
import json, os, signal, socket, sys
from himari_rl.training.slim_torch import import_later
import_later()
import torch
from himari_rl.cli import main, train, walk_forward
from himari_rl.data.sources import load_bars
from himari_rl.experiments import run
from himari_rl.experiments.train import recorded_job
place = socket.socket(fileno=int(sys.argv[1]))
while True:
    asked, given = b"", []
    while not asked.endswith(b"\\n"):
        part, files, *_ = socket.recv_fds(place, 1 << 16, 3)
        if not part:
            sys.exit()
        asked, given = asked + part, given + files
    child = os.fork()
    if not child:
        break
    for each in given:
        os.close(each)
    place.sendall(b"%d\\n" % child)
    place.sendall(b"%d\\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
place.close()
asked = json.loads(asked)
for number, each in enumerate(given):
    os.dup2(each, number)
    os.close(each)
os.chdir(asked["cwd"])
os.environ.clear()
os.environ.update(asked["environment"])
if asked["deaf"]:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
if asked["code"]:
    sys.path[1:1] = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    exec(asked["code"], {"__name__": "__main__"})
else:
    sys.argv = ["himari", *asked["words"]]
    sys.exit(main())
"""


def _number(place: socket.socket) -> int:
    """The next line. Byte by byte: what is left in a buffer, `select` would not see."""
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := place.recv(1)):
            raise ConnectionError("the server of warm processes has ended")
        line += byte
    return int(line)


class Begun:
    """One such process, asked as `subprocess.Popen` is."""

    def __init__(self, pid: int, place: socket.socket, out: Path, err: Path) -> None:
        self.pid, self.returncode = pid, None
        self._place, self._out, self._err = place, out, err

    returncode: int | None

    @property
    def said(self) -> str:
        """On stderr, up to now."""
        return self._err.read_text()

    def poll(self, timeout: float = 0.0) -> int | None:
        if self.returncode is None and select.select([self._place], [], [], timeout)[0]:
            self.returncode = _number(self._place)
        return self.returncode

    def wait(self, timeout: float = PATIENCE_S) -> int:
        code = self.poll(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("a process", timeout)
        return code

    def communicate(self, timeout: float = PATIENCE_S) -> tuple[str, str]:
        self.wait(timeout)
        return self._out.read_text(), self.said

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Warm:
    """The server; one process at a time."""

    def __init__(self, place: socket.socket, folder: Path) -> None:
        self._place, self._folder, self._count = place, folder, 0
        self._last: Begun | None = None

    def himari(self, words: Sequence[str], *, stderr: int | None = None, deaf: bool = False, **more: str) -> Begun:
        """`himari` with these words; `deaf` to Ctrl-C, as under nohup."""
        return self._begun(list(words), "", stderr, deaf, more)

    def python(self, code: str, **more: str) -> Begun:
        """`python -c`."""
        return self._begun([], code, None, False, more)

    def _begun(self, words: list[str], code: str, stderr: int | None, deaf: bool, more: dict[str, str]) -> Begun:
        if self._last is not None and self._last.poll() is None:
            self._last.kill()  # of a test that failed in the middle
            self._last.wait()
        self._count += 1
        out, err = (self._folder / f"{self._count}.{name}" for name in ("out", "err"))
        asked = {"words": words, "code": code, "deaf": deaf, "cwd": str(Path.cwd())}
        asked["environment"] = {**os.environ, "COLUMNS": "120", **more}
        with open(os.devnull) as nothing, out.open("w") as saying, err.open("w") as telling:
            given = [nothing.fileno(), saying.fileno(), telling.fileno() if stderr is None else stderr]
            text = json.dumps(asked).encode() + b"\n"
            self._place.sendall(text[socket.send_fds(self._place, [text], given) :])
        assert select.select([self._place], [], [], PATIENCE_S)[0]
        self._last = Begun(_number(self._place), self._place, out, err)
        return self._last


@contextmanager
def warm_processes() -> Iterator[Warm]:
    """A server for as long as it is needed."""
    ours, theirs = socket.socketpair()  # a stream: macOS has no SOCK_SEQPACKET
    command = [sys.executable, "-c", _SERVER, str(theirs.fileno())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL) as server,
    ):
        theirs.close()
        try:
            yield Warm(ours, Path(folder))
        finally:
            ours.close()
            server.kill()
