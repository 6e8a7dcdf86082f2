"""Each mended fault of the server, with its mend taken out again: the test that was made for it must then fail.

    python benchmarks/mends.py                 all of them, half an hour on one core
    python benchmarks/mends.py --only upgrade  those whose line has this word
    python benchmarks/mends.py --new           those that the table in docs/RELIABILITY.md does not have yet
    python benchmarks/mends.py --record        writes the table, dated, to docs/RELIABILITY.md; a row that was not run
                                               now stays

A mend is taken out by other text in a copy of src/, one at a time; the tests of the project run against the copy. What
passes all the same is a test that guards nothing, and a text that is not there any more is said so. The table of mends
is benchmarks/mends_table.py, with mends_found.py.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from mends_found import Mend  # noqa: E402
from mends_table import MENDS  # noqa: E402

PAGE = ROOT / "docs" / "RELIABILITY.md"
BEGIN, END = "<!-- mends: begin -->", "<!-- mends: end -->"
LIMIT_S, PATIENCE_S = 120.0, 40
"""A test that hangs without the mend has failed; and for how long one waits for what must come."""


def without(mend: Mend, source: Path) -> str:
    """Takes a mend out of a copy of src/; what is wrong with the text, where it is not there once."""
    for file, there, other in mend.edits:
        path = source / "himari_rl" / file
        text = path.read_text()
        if there not in text:
            return f"{file} has no text {there!r}: adapt benchmarks/mends.py"
        path.write_text(text.replace(there, other))
    return ""


def failed(mend: Mend, source: Path) -> str:
    """What the test said against that copy: how it failed; empty where it passed.

    A test that does not end has failed where the same test with its mend, run beside it, takes an eighth of that time
    at most: on a busy machine every test is slow, and that is no failure.
    """
    limit_s = LIMIT_S
    while True:
        code, said = tested(mend, source, limit_s)
        if code is not None:
            break
        if f"{mend.test} " not in said and f"{mend.test}[" not in said:
            return f"not run: it did not begin within {limit_s:.0f} s"
        begun = time.perf_counter()
        if tested(mend, ROOT / "src", 10 * limit_s)[0] != 0:
            return "not run: it fails with the mend, too"
        beside_s = time.perf_counter() - begun
        if 8 * beside_s <= limit_s:
            return f"hung for {limit_s:.0f} s, with the mend {beside_s:.0f} s"
        limit_s = 10 * beside_s
    if code == 0:
        return ""
    if code != 1:
        return f"not run: {said[-200:]}"
    errors = [text[1:].strip() for text in said.splitlines() if text.startswith("E  ")]
    return " ".join((errors or ["failed"])[0].split())[:90]


def tested(mend: Mend, source: Path, limit_s: float) -> tuple[int | None, str]:
    """pytest's exit code against that copy, None where it did not end, and what it said so far."""
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    line = [sys.executable, "-m", "pytest", "-v", "-x", "-p", "no:cacheprovider", f"tests/{mend.test}"]
    environment = os.environ | threads | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"HIMARI_PATIENCE_S": str(PATIENCE_S)}
    process = subprocess.Popen(
        line,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said = process.communicate(timeout=limit_s)[0]
    except BaseException as error:  # a Ctrl-C, too: it does not reach another session
        os.killpg(process.pid, signal.SIGKILL)  # and the servers that it started
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return None, process.communicate()[0]
    return process.returncode, said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="lines with this word")
    parser.add_argument("--new", action="store_true", help="only what docs/RELIABILITY.md has no row of")
    parser.add_argument("--record", action="store_true", help="write the table to docs/RELIABILITY.md")
    arguments = parser.parse_args()
    known = kept() if arguments.new else {}
    rows, blind = [], 0
    with tempfile.TemporaryDirectory() as place:
        for mend in MENDS:
            if arguments.only not in mend.line or mend.line in known:
                continue
            source, begun = Path(place) / "src", time.perf_counter()
            shutil.rmtree(source, ignore_errors=True)
            shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            problem = without(mend, source)
            how = "" if problem else failed(mend, source)
            good = bool(how) and not how.startswith("not run")
            blind += not good
            seconds = time.perf_counter() - begun
            print(f"{'failed' if good else 'BLIND':<7}{mend.line:<56}{problem or how}  ({seconds:.0f} s)", flush=True)
            rows.append((mend, how.replace("|", "/") if good else f"**{problem or how or 'passed'}**"))
            if arguments.record:  # at once: a run that is ended keeps what it has found
                record(rows)
    return int(blind > 0)


def kept() -> dict[str, str]:
    """The rows of the table that is there, by their line."""
    table = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    return {row.split(" | ")[0].removeprefix("| "): row for row in table.splitlines() if "| `" in row}


def record(rows: list[tuple[Mend, str]]) -> None:
    """Writes the table between its marks, in the order of the table of mends."""
    known = kept()
    for mend, how in rows:
        file, _, name = mend.test.partition("::")
        known[mend.line] = f"| {mend.line} | {mend.out} | `{file}` {name} | `{how}` | {date.today()} |"
    head = ["| line | the mend taken out | test | what it said then | run |", "|---|---|---|---|---|"]
    table = ["`python benchmarks/mends.py`:", "", *head, *(known[m.line] for m in MENDS if m.line in known)]
    missing = [mend.line for mend in MENDS if mend.line not in known]
    if missing:
        table += ["", textwrap.fill(f"Not run yet: {'; '.join(missing)}.", 118)]
    page = PAGE.read_text()
    PAGE.write_text(page.partition(BEGIN)[0] + "\n".join([BEGIN, *table, END]) + page.partition(END)[2])


if __name__ == "__main__":
    sys.exit(main())
