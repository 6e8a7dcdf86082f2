"""What makes the tests hold on any machine, shown able to fail: Ctrl-C is heard, and cost is counted, not timed."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from helpers import ROOT, calls_of, hearing_ctrl_c, run_python

SAYS = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
CLOCK = re.compile(r"perf_counter\(|monotonic\(|process_time\(|time\.time\(|\.elapsed")
UPPER = re.compile(r"assert .*<=? *\d")


def test_a_process_of_a_test_hears_ctrl_c_though_the_shell_ignored_it() -> None:
    """The middle answer is what `nohup make test` would give without the fixture of conftest.py."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ignored = run_python(SAYS).stdout
        with hearing_ctrl_c():
            heard = run_python(SAYS).stdout
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert (run_python(SAYS).stdout, ignored, heard) == ("True\n", "False\n", "True\n")


def test_work_row_by_row_costs_more_calls_than_work_by_columns() -> None:
    rows = list(range(1000))
    assert calls_of(lambda: sum(rows)) < 10
    assert calls_of(lambda: sum(abs(row) for row in rows)) > 1000


def races(text: str) -> list[str]:
    """Asserts that an elapsed time is below a number: they fail on a machine that is busy."""
    return [line.strip() for line in text.splitlines() if CLOCK.search(line) and UPPER.search(line)]


def test_no_test_asserts_that_something_is_fast() -> None:
    found = {
        path.name: races(path.read_text()) for path in Path(ROOT / "tests").rglob("*.py") if path != Path(__file__)
    }
    assert len(found) > 50
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_such_an_assert_would_be_noticed() -> None:
    fast = "assert time.perf_counter() - started < 0.5"
    text = f"    {fast}\n    assert time.monotonic() - start > 0.35\n    assert time.monotonic() < deadline\n"
    assert races(text) == [fast]
