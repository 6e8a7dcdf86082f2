"""Long work says how far it is: a bar on a terminal, lines in a pipe."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from himari_rl.training.progress import Heartbeat, Steps, minutes, opened_progress


def wait_for(pipe: io.StringIO, words: str) -> None:
    """Until the other thread has written; how long that takes is the machine's."""
    until = time.monotonic() + 60.0
    while words not in pipe.getvalue():
        assert time.monotonic() < until, pipe.getvalue()
        time.sleep(0.005)


def test_a_pipe_gets_lines_even_where_nothing_has_ended_yet() -> None:
    pipe = io.StringIO()
    with opened_progress(Console(file=pipe), "folds x seeds", then="judging", every_s=0.01) as progress:
        wait_for(pipe, "folds x seeds: 0 of ? after 0:00")
        progress(1, 4)
        wait_for(pipe, "folds x seeds: 1 of 4")
        progress(4, 4)
        wait_for(pipe, "folds x seeds: 4 of 4 after 0:00, judging")


def test_a_terminal_gets_a_bar_and_no_lines_and_quiet_neither() -> None:
    for console, quiet in (
        (Console(file=io.StringIO(), force_terminal=True), False),
        (Console(file=io.StringIO()), True),
    ):
        with opened_progress(console, "calls", quiet=quiet, every_s=0.01) as progress:
            progress(1, 2)
            time.sleep(0.1)
        assert isinstance(console.file, io.StringIO)
        assert "after 0:00" not in console.file.getvalue()
        assert ("calls" in console.file.getvalue()) == (not quiet)


def test_the_time_left_is_what_the_rest_takes_at_the_pace_since_the_first_count() -> None:
    """40 of 100 were there before: 20 in 60 seconds leave 40 for 120, and nothing is promised before the first."""
    steps = Steps("folds")
    steps.update(40, 100, now=1000.0)
    assert steps.line(5.0, now=1005.0) == "folds: 40 of 100 after 0:05"
    steps.update(60, 100, now=1060.0)
    assert steps.line(65.0, now=1060.0) == "folds: 60 of 100 after 1:05, about 2:00 left"
    steps.update(100, 100, now=1180.0)
    assert steps.line(185.0, now=1180.0) == "folds: 100 of 100 after 3:05"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0:00"), (59.6, "1:00"), (75, "1:15"), (3599.7, "1:00:00"), (7384, "2:03:04")]
)
def test_minutes(seconds: float, said: str) -> None:
    assert minutes(seconds) == said


class Full(io.StringIO):
    """A pipe that nobody reads any more."""

    written = 0

    def write(self, text: str) -> int:
        type(self).written += 1
        raise BrokenPipeError(32, "Broken pipe")


def test_a_log_that_cannot_be_written_ends_the_lines_and_not_the_work() -> None:
    Full.written = 0
    with Heartbeat(Console(file=Full()), lambda elapsed: "still here", 0.01):
        until = time.monotonic() + 60.0
        while not Full.written and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(0.1)
        assert Full.written == 1
