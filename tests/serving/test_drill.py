"""benchmarks/drill.py names what ended badly, however it ended."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from helpers import ROOT

BAD = """
import os, signal, time, pytest

def test_well() -> None: ...

@pytest.mark.parametrize("how", ["a b"])
def test_bad(how: str) -> None:
    {}
"""


@pytest.fixture(scope="module")
def drill() -> ModuleType:
    spec = importlib.util.spec_from_file_location("drill", ROOT / "benchmarks" / "drill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    sys.modules["drill"] = module  # for its dataclass
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("assert False", "tests/test_one.py::test_bad[a"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL in tests/test_one.py::test_bad[a b]"),
        ("os._exit(7)", "exit code 7 in tests/test_one.py::test_bad[a b]"),
    ],
)
def test_the_test_that_was_running_is_named(
    drill: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, said: str
) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_one.py").write_text(BAD.format(does))
    monkeypatch.setattr(drill, "ROOT", tmp_path)
    command = [sys.executable, "-m", "pytest", "-v", "-ra", "-p", "no:cacheprovider", "tests/test_one.py"]
    found = drill.ended(command, dict(os.environ), 600.0)
    assert drill.blamed(*found).startswith(said)


def test_a_command_that_cannot_begin_is_said_by_its_own_words(drill: ModuleType) -> None:
    found = drill.ended([sys.executable, "-m", "no_such_module"], dict(os.environ), 600.0)
    assert drill.blamed(*found).endswith("No module named no_such_module")


def test_tests_that_do_not_end_are_ended_and_the_one_that_hangs_is_named(drill: ModuleType) -> None:
    assert drill.ended([sys.executable, "-c", "import time; time.sleep(600)"], dict(os.environ), 0.5)[0] is None
    lines = "tests/a/test_x.py::test_one PASSED  [ 50%]\ntests/a/test_x.py::test_two[a b] "
    said = f"did not end within {drill.LIMIT_S:.0f} s in tests/a/test_x.py::test_two[a b]"
    assert drill.blamed(None, lines, "") == said


def test_a_line_that_does_not_come_to_its_end_is_lost_and_says_how(drill: ModuleType) -> None:
    nowhere = drill.Line(number=99, drill="no such line")
    [(line, found)] = drill.found_of([nowhere], 0.05, own=True, jobs=1)
    assert (line, found.lost) == (nowhere, "nothing")
    apart = dict(drill.found_of([nowhere, drill.Line(number=98, drill="nor this")], 0.05, own=True, jobs=2))
    assert {line.number for line in apart} == {98, 99}
    for found in apart.values():
        assert found.lost.startswith("exit code 1: ")
        assert found.lost.endswith("list index out of range")
