"""Where signals come from and decisions go to: a file, standard input, a local HTTP endpoint; and a graceful end.

    POST /signals    JSON lines in, JSON lines out, in the same order of decisions
    GET /ready       200, or 503 while everything is halted by hand or the journal cannot be written; what is halted
    GET /metrics     Prometheus
    GET /ui          the same for people: halts, equity, recent decisions, latency, drift
    GET /health      alive

Lines that are there at once are decided together and written with one fsync; a line never waits for another to come.
SIGTERM and Ctrl-C finish the decisions in hand: what was begun is journalled and told, and nothing is begun any more.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from types import FrameType
from typing import Any, NamedTuple

from himari_rl.errors import StorageError
from himari_rl.monitoring.page import HEADERS, render_page
from himari_rl.runner.live import LiveView
from himari_rl.runner.signals import EVERY
from himari_rl.runner.step import Decision, Runner

GROUP_S = 0.002  # a group takes no more lines after that
GROUP_LINES = 256
IDLE_S = 1.0
MAX_BODY = 1 << 20
MOST_LINES = 4_096  # of one request: whoever sends more makes every other account wait
SLOWEST_S = 30.0
Tell = Callable[[Sequence[Decision]], None]


class _Job(NamedTuple):
    lines: Sequence[str | bytes]
    answer: Future[list[Decision]] | None  # None: told through `tell`


class Loop:
    """One thread decides, whoever asks; so an account never sees two bars at once."""

    def __init__(self, runner: Runner, tell: Tell) -> None:
        self._runner, self._tell = runner, tell
        self._jobs: queue.Queue[_Job | None] = queue.Queue(maxsize=GROUP_LINES)
        self.stopping, self._ended = threading.Event(), threading.Event()
        self.failed = ""
        """Why nothing is decided any more; empty while all is well."""

    def feed(self, descriptor: int) -> None:
        """Gives the lines of an open file to `run`, from a thread of its own; its end ends the loop."""

        def read() -> None:
            for line in self._lines(descriptor):
                self._jobs.put(_Job([line], None))
            self._jobs.put(None)

        threading.Thread(target=read, name="himari-signals", daemon=True).start()

    def _lines(self, descriptor: int) -> Iterator[bytes]:
        """Not through Python's buffered file: a thread that waits within it holds its lock when the process ends.

        Of a line that never ends the first MAX_BODY bytes are one, which is then refused, and the rest is dropped.
        """
        rest, dropping = b"", False
        while not self.stopping.is_set():
            if not select.select([descriptor], [], [], IDLE_S / 5)[0]:
                continue
            read = os.read(descriptor, 1 << 16)
            if not read:
                yield from [rest] if rest else []
                return
            *whole, rest = (rest + read).split(b"\n")
            if dropping and whole:
                whole, dropping = whole[1:], False
            yield from whole
            if len(rest) > MAX_BODY:
                yield rest[:MAX_BODY]
                dropping = True
            if dropping:
                rest = b""

    def ask(self, lines: Sequence[bytes]) -> list[Decision]:
        """The decisions of lines that an HTTP client sent.

        Raises:
            StorageError: the runner has stopped.
        """
        job = _Job(lines, Future())
        assert job.answer is not None
        if self.stopping.is_set():
            raise StorageError("the runner is stopping", "", "send it again when it is back")
        self._jobs.put(job)
        while True:
            try:
                return job.answer.result(IDLE_S)
            except TimeoutError:
                if self._ended.is_set():  # it came after the last look at the queue
                    raise StorageError("the runner has stopped", "", "send it again when it is back") from None

    def run(self) -> None:
        """Decides until the source ends or somebody says stop.

        Raises:
            StorageError: the journal cannot be written; nothing was told that is not in it.
        """
        ended = False
        try:
            while not (ended or self.stopping.is_set()):
                try:
                    first = self._jobs.get(timeout=IDLE_S / 5)
                except queue.Empty:
                    self._tell(self._runner.idle())
                    continue
                jobs, ended = self._group(first)
                self._decide(jobs)
            self._tell(self._runner.finish())
        except BaseException as error:
            self.failed = str(error)
            raise
        finally:
            self.stopping.set()
            self._drain()
            self._ended.set()

    def _group(self, first: _Job | None) -> tuple[list[_Job], bool]:
        """What is there at once."""
        jobs: list[_Job] = []
        until, job = monotonic() + GROUP_S, first
        while job is not None:
            jobs.append(job)
            if len(jobs) >= GROUP_LINES or monotonic() >= until:
                return jobs, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, False
        return jobs, True

    def _decide(self, jobs: Sequence[_Job]) -> None:
        """A group, in the order it came. Answers of HTTP clients are one group each, as each has its own."""
        lines: list[str | bytes] = []
        begun = monotonic()
        for job in jobs:
            if job.answer is None:
                lines += job.lines
                if monotonic() - begun < GROUP_S:
                    continue
            if lines:
                self._tell(self._runner.handle(lines))
                lines = []
            if job.answer is not None:
                try:
                    job.answer.set_result(self._runner.handle(job.lines))
                except BaseException as error:
                    job.answer.set_exception(error)
                    raise
        if lines:
            self._tell(self._runner.handle(lines))

    def _drain(self) -> None:
        """Whoever waits is told that nothing comes."""
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if job is not None and job.answer is not None:
                job.answer.set_exception(StorageError("the runner has stopped", "", "send it again when it is back"))

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end `run` after the decisions in hand."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.stopping.set()

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Endpoint(ThreadingHTTPServer):
    """Signals over HTTP, on this machine."""

    daemon_threads = True

    def __init__(self, loop: Loop, runner: Runner, host: str, port: int) -> None:
        self.loop, self.runner, self.view = loop, runner, LiveView(runner)
        super().__init__((host, port), _Handler)
        threading.Thread(target=self.serve_forever, name="himari-endpoint", daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = SLOWEST_S  # of each read: whoever sends no more is let go

    def do_POST(self) -> None:
        status, said = self._refused()
        if status:
            self.close_connection = True  # its body was not read
            self._send(status, {"detail": said})
            return
        try:
            body = self._body(int(self.headers["content-length"]))
        except TimeoutError:
            self.close_connection = True
            self._send(408, {"detail": f"the body did not come within {SLOWEST_S:g} s"})
            return
        lines = body.splitlines()
        if len(lines) > MOST_LINES or len(body) < int(self.headers["content-length"]):
            self.close_connection = True
            said = f"{len(lines)} lines" if len(lines) > MOST_LINES else "the body ended before its content-length"
            self._send(413 if len(lines) > MOST_LINES else 400, {"detail": f"{said}; at most {MOST_LINES} at once"})
            return
        try:
            told = self.server.loop.ask(lines)
        except StorageError as error:
            self._send(503, {"detail": str(error)})
            return
        self._write(200, b"".join(json.dumps(each).encode() + b"\n" for each in told), "application/x-ndjson")

    def _body(self, length: int) -> bytes:
        """So many bytes, or fewer where no more come.

        Raises:
            TimeoutError: they do not come in time, one by one or altogether.
        """
        read, until = bytearray(), monotonic() + SLOWEST_S
        while len(read) < length and (part := self.rfile.read1(length - len(read))):
            read += part
            if monotonic() > until:
                raise TimeoutError
        return bytes(read)

    def _refused(self) -> tuple[int, str]:
        """Why a POST is not read: status and words; 0 where it is."""
        length = self.headers.get_all("content-length", [])
        if self.path != "/signals":
            return 404, "POST /signals"
        if self.headers.get("origin") is not None:  # a page in somebody's browser, which has no business here
            return 403, "signals come from programs, not from web pages"
        if len(length) != 1 or not (length[0].isascii() and length[0].isdecimal()):
            return 411, "send content-length, once, and no chunks"
        if "transfer-encoding" in self.headers:
            return 400, "send content-length or chunks, not both"
        if len(length[0]) > 7 or int(length[0]) > MAX_BODY:
            return 413, "POST /signals takes JSON lines up to 1 MiB"
        return 0, ""

    def do_GET(self) -> None:
        runner, loop = self.server.runner, self.server.loop
        halts = runner.switch.active
        if self.path == "/health":
            self._send(200, {"status": "alive"})
        elif self.path == "/ready":
            said: dict[str, Any] = {"halted": [vars(halt) for halt in halts], "causes": dict(runner.counts.causes)}
            reason = loop.failed or ("stopping" if loop.stopping.is_set() else "")
            reason = reason or ("halted by hand" if any(halt.strategy == EVERY for halt in halts) else "")
            self._send(503 if reason else 200, {"status": reason or "ready"} | said)
        elif self.path == "/metrics":
            named = [(halt.strategy, halt.symbols, halt.cause) for halt in halts]
            self._write(200, runner.counts.text(named, runner.drifts).encode(), "text/plain; version=0.0.4")
        elif self.path == "/ui":
            trouble = loop.failed or ("stopping" if loop.stopping.is_set() else "")
            self._write(200, render_page(self.server.view.page(trouble)), HEADERS)
        else:
            self._send(404, {"detail": "POST /signals, GET /ui, /ready, /metrics, /health"})

    def _send(self, status: int, document: dict[str, Any]) -> None:
        self._write(status, json.dumps(document).encode(), "application/json")

    def _write(self, status: int, body: bytes, kind: str | Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"content-type": kind} if isinstance(kind, str) else kind).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """No line for each request."""
