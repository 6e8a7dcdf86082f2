"""Log lines that never hold the event loop up: a bounded queue, and a daemon thread that writes it to stderr.

A pipe that nobody reads blocks its writer, and a full disk refuses it. Here either costs log lines, which are counted
(himari_log_lines_dropped), and nothing else: what a server is for is its answers.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import Counter
from time import monotonic, sleep

from himari_rl.serving.journal import Journal

MOST = 1_000
"""Lines that may wait."""
STDERR = 2


class LogLines:
    """Takes lines at once; writes them when the descriptor lets it."""

    def __init__(self, dropped: Counter[str], descriptor: int = STDERR, most: int = MOST) -> None:
        """
        Args:
            dropped: counts the lines lost: `full` (too many wait) or `refused` (the descriptor cannot be written).
        """
        self._dropped, self._descriptor = dropped, descriptor
        self._lines: queue.Queue[bytes] = queue.Queue(most)
        self._thread: threading.Thread | None = None

    def __call__(self, line: str) -> None:
        """Takes a line with its end."""
        if self._thread is None:  # only now: a process may fork between construction and its first line
            self._thread = threading.Thread(target=self._work, name="himari-log", daemon=True)
            self._thread.start()
        try:
            self._lines.put_nowait(line.encode(errors="replace"))
        except queue.Full:
            self._dropped["full"] += 1

    def drain(self, seconds: float) -> bool:
        """Waits until all is written, but not longer; whether it is."""
        end = monotonic() + seconds
        while self._lines.unfinished_tasks and monotonic() < end:
            sleep(0.005)
        return not self._lines.unfinished_tasks

    def _work(self) -> None:
        begun = False  # the last line was cut off: the next one must not be glued to it
        while True:
            line = self._lines.get()
            rest = b"\n" + line if begun else line
            try:
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
                begun = False
            except OSError:
                begun = begun or rest != line
                self._dropped["refused"] += 1
            finally:
                self._lines.task_done()


class JsonLines(logging.Handler):
    """Puts the standard library's log records (uvicorn's, asyncio's) among the journal's lines, as JSON too."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """One record, its traceback included."""
        more = {}
        if record.exc_info:
            more["traceback"] = logging.Formatter().formatException(record.exc_info)
        self._journal.event("log", record.levelname, logger=record.name, message=record.getMessage(), **more)
