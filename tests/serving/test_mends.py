"""The table of mends (benchmarks/mends_table.py) names texts and tests that are there; running it takes longer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from helpers import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from mends_found import Mend
from mends_table import MENDS


def problems(mend: Mend) -> list[str]:
    """What of a mend is not there any more."""
    found = []
    for file, there, without in mend.edits:
        text = (ROOT / "src" / "himari_rl" / file).read_text()
        if there not in text:
            found.append(f"{file}: {there}")
        compile(text.replace(there, without), file, "exec")
    file, _, name = mend.test.partition("::")
    if f"def {name}(" not in (Path(ROOT) / "tests" / file).read_text():
        found.append(mend.test)
    return found


@pytest.mark.parametrize("mend", MENDS, ids=lambda mend: mend.line)
def test_a_mend_can_be_taken_out(mend: Mend) -> None:
    assert problems(mend) == []


def test_a_text_that_is_gone_is_noticed() -> None:
    edit = MENDS[0].edits[0]._replace(there="nobody wrote this")
    assert len(problems(MENDS[0]._replace(edits=(edit,), test="serving/test_mends.py::x"))) == 2
