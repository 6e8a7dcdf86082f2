"""What a person sees of long work: a bar on a terminal, a line every 30 seconds with the time left in a pipe or log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY_S = 30.0


class Heartbeat:
    """Prints a line every `every_s` seconds while it is open, whether or not anything was finished meanwhile.

    Args:
        say: makes the line of the seconds since it was opened; an empty one is not printed.
    """

    def __init__(self, console: Console, say: Callable[[float], str], every_s: float = EVERY_S) -> None:
        self._console, self._say, self._every_s = console, say, every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="progress", daemon=True)

    def __enter__(self) -> Heartbeat:
        if not self._console.is_terminal and not self._console.quiet:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _beat(self) -> None:
        started = time.monotonic()
        while not self._ended.wait(self._every_s):
            if line := self._say(time.monotonic() - started):
                try:
                    print(line, file=self._console.file, flush=True)  # the console would exit on a broken pipe
                except OSError:  # nobody reads any more, or the disk is full: the work itself goes on
                    return


class Steps:
    """How far a count of equal steps has come; `line` is what a pipe shows of it."""

    def __init__(self, what: str, then: str = "") -> None:
        self.what, self.then = what, then
        self.done, self.total = 0, 0
        self._first: tuple[float, int] | None = None  # what was there already says nothing of the pace

    def update(self, done: int, total: int, now: float | None = None) -> None:
        """`done` of `total` are finished."""
        self.done, self.total = done, total
        if self._first is None:
            self._first = (time.monotonic() if now is None else now, done)

    def line(self, elapsed: float, now: float | None = None) -> str:
        """For example: folds x seeds: 12 of 48 after 2:10, about 6:20 left."""
        said = f"{self.what}: {self.done} of {self.total or '?'} after {minutes(elapsed)}"
        if self.total and self.done >= self.total:
            return f"{said}, {self.then}" if self.then else said
        left = self._left(time.monotonic() if now is None else now)
        return said if left is None else f"{said}, about {minutes(left)} left"

    def _left(self, now: float) -> float | None:
        if self._first is None or self.done <= self._first[1]:
            return None
        return (now - self._first[0]) / (self.done - self._first[1]) * (self.total - self.done)


@contextmanager
def opened_progress(
    console: Console, what: str, *, then: str = "", quiet: bool = False, every_s: float = EVERY_S
) -> Iterator[Callable[[int, int], None]]:
    """A bar or lines; yields a function (done, total).

    Args:
        then: what goes on when all steps are done.
        quiet: neither.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    left = (TextColumn("left"), TimeRemainingColumn())
    steps = Steps(what, then)
    hidden = quiet or not console.is_terminal
    silent = Console(quiet=True)
    with (
        Heartbeat(silent if quiet else console, steps.line, every_s),
        Progress(*columns, *left, console=console, disable=hidden) as bar,
    ):
        task = bar.add_task(what, total=None)

        def update(done: int, total: int) -> None:
            steps.update(done, total)
            description = f"{what}, {then}" if then and done >= total else what
            bar.update(task, completed=done, total=total, description=description)

        yield update


def minutes(seconds: float) -> str:
    """Hours, minutes and seconds: 75 is 1:15."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
