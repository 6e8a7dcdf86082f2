"""The fault drill: what was tried, how often, and what was lost. The goal is nothing.

    python benchmarks/drill.py                 about a twentieth of the full size: under ten minutes on two cores
    python benchmarks/drill.py --own           without the lines' tests, which `make test` runs: minutes; CI does this
    python benchmarks/drill.py --full          two to three hours, two lines at once; once, on a quiet machine
    python benchmarks/drill.py --line 5 --line 7 --size 0.01
    python benchmarks/drill.py --controls      the guards of the lines written here, removed: each line must then fail
    python benchmarks/drill.py --record        writes the table, dated, to docs/RELIABILITY.md

A line that exists as a test is called, not written again: its file is there, its own controls are in it, and how often
it tries is its own variable. A file that is not there yet is said so. The lines on a running server are in
benchmarks/drill_server.py, drill_raw.py and drill_endurance.py, those on files in benchmarks/drill_files.py.
What must hold is that nothing is lost; times
are said beside it and fail nothing, because a drill also runs on a machine that does something else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks"), str(ROOT / "src")]

import drill_endurance  # noqa: E402
import drill_files  # noqa: E402  # found by the line above
import drill_raw  # noqa: E402
import drill_server  # noqa: E402

PAGE = ROOT / "docs" / "RELIABILITY.md"
BEGIN, END = "<!-- drill: begin -->", "<!-- drill: end -->"
CONTROLS_BEGIN, CONTROLS_END = "<!-- controls: begin -->", "<!-- controls: end -->"
SMALL = 1 / 20
LIMIT_S = 14_400.0
"""For a line, the two hours of the soak among them: none takes so long; one that does hangs, and is named."""


class Outcome(NamedTuple):
    """What a line found."""

    tried: str
    lost: str  # "nothing", or what
    note: str = ""
    seconds: float = 0.0


Own = Callable[[float], Outcome | tuple[str, str, str]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of the table."""

    number: int
    drill: str
    tests: tuple[str, ...] = ()
    """Arguments of pytest: files, and -k after them; files that are not there are said so."""
    only: str = ""
    """pytest's -k."""
    variables: Callable[[float], dict[str, str]] = lambda size: {}
    """What tells the tests how often, by the size."""
    own: Own | None = None
    share: float = 0.0
    """Of the whole drill's time, roughly: which line begins first where several run at once."""
    control: Callable[[], str] | None = None
    """The own line with its guard removed: what was lost then; empty where the line did not see it."""


def often(variable: str, full: int) -> Callable[[float], dict[str, str]]:
    """A variable that says how often."""
    return lambda size: {variable: str(max(1, round(full * size)))}


LINES = (
    Line(
        number=1,
        drill="training killed with -9, and resumed",
        share=0.8,
        tests=(
            "tests/training/test_process.py",
            "tests/cloud/test_trainers.py",
            "tests/experiments/test_walk_forward.py",
        ),
        only="kill",
        variables=often("HIMARI_KILLS", 60),
    ),
    Line(
        number=2,
        drill="bundles and checkpoints damaged",
        share=0.3,
        tests=("tests/policy/test_bundle.py", "tests/policy/test_absurd.py", "tests/training/test_checkpoint.py"),
        own=drill_files.damaged,
        control=drill_files.damaged_without_digests,
    ),
    Line(
        number=3,
        drill="storage fault matrix",
        tests=("tests/storage/test_bucket_faults.py", "tests/storage/test_local.py", "tests/storage/test_mirror.py"),
        only="not writers and not move",
        variables=often("HIMARI_FAULT_TURNS", 5),
    ),
    Line(
        number=4,
        drill="alias moved by 8 writers",
        share=0.2,
        tests=("tests/policy/test_alias.py", "tests/storage/test_bucket_faults.py"),
        only="test_alias or writers or move",
        variables=often("HIMARI_ALIAS_MOVES", 1000),
    ),
    Line(
        number=5,
        drill="hot swaps under load, bad models offered",
        tests=("tests/serving/test_swap.py",),
        own=drill_server.swaps,
        control=drill_server.swaps_without_checks,
    ),
    Line(
        number=6,
        drill="overload; header, body and idle floods",
        tests=("tests/serving/test_wire_limits.py",),
        own=drill_server.floods,
        control=drill_server.floods_without_bounds,
    ),
    Line(
        number=7,
        drill="fuzz: schemathesis, parsers, raw HTTP",
        share=0.2,
        tests=("tests/serving/test_schema.py", "tests/serving/test_predict.py", "tests/data/test_properties.py"),
        variables=often("HIMARI_SCHEMA_EXAMPLES", 1000),
        own=drill_raw.raw_http,
        control=drill_raw.raw_http_with_a_bug,
    ),
    Line(
        number=8,
        drill="SIGTERM under load; trainer pre-empted",
        share=0.3,
        tests=("tests/training/test_process.py",),
        only="sigterm or interrupted",
        variables=often("HIMARI_PREEMPTIONS", 50),
        own=drill_endurance.terminated,
        control=drill_endurance.terminated_without_grace,
    ),
    Line(
        number=9,
        drill="authentication: keys and tokens on every route",
        tests=("tests/serving/test_guard.py", "tests/serving/test_wire_limits.py"),
        only="key or token or certificates or guard",
    ),
    Line(
        number=10,
        drill="model trust: pickles, bombs, traversal, replays",
        tests=("tests/policy/test_signature.py", "tests/serving/test_bucket.py"),
        own=drill_files.untrusted,
        control=drill_files.untrusted_with_pickle,
    ),
    Line(
        number=11,
        drill="journal, runner, kill switch",
        share=0.2,
        tests=("tests/journal/test_kill.py", "tests/runner/test_kill.py", "tests/runner/test_halt.py"),
        variables=often("HIMARI_KILLS", 250),
    ),
    Line(
        number=12,
        drill="launcher under every gRPC code and lost answers",
        share=0.3,
        tests=("tests/cloud/test_launch.py", "tests/cloud/test_run_jobs.py"),
        variables=often("HIMARI_LOST_ANSWERS", 500),
    ),
    Line(
        number=13,
        drill="soak: requests, swaps, sessions, streams",
        share=1.0,
        own=drill_endurance.soak,
        control=drill_endurance.soak_with_a_leak,
    ),
    Line(
        number=14,
        drill="bad data: every defect in every combination of two",
        share=0.6,
        tests=(
            "tests/data/test_defects.py",
            "tests/data/test_audit.py",
            "tests/data/test_cells.py",
            "tests/cases/test_files.py",
        ),
    ),
    Line(
        number=15,
        drill="environment faults: folders, disk, log, mount, clock",
        share=0.4,
        tests=("tests/serving/test_faults.py", "tests/serving/test_environment.py", "tests/training/test_process.py"),
        only="test_faults or test_environment or stderr",
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the full size")
    parser.add_argument("--size", type=float, default=SMALL, help="share of the full size")
    parser.add_argument("--line", type=int, action="append", help="only this line; may be repeated")
    parser.add_argument("--own", action="store_true", help="not the tests: only the parts that are written here")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="lines at once, each a process; 1 for times")
    parser.add_argument("--json", action="store_true", help="what the last line found, as JSON")
    parser.add_argument("--controls", action="store_true", help="with the guards removed: every own line must fail")
    parser.add_argument("--record", action="store_true", help="write the table to docs/RELIABILITY.md")
    arguments = parser.parse_args()
    chosen = [line for line in LINES if not arguments.line or line.number in arguments.line]
    if arguments.controls:
        return controls(chosen, recorded=arguments.record)
    size = 1.0 if arguments.full else arguments.size
    if arguments.own:
        chosen = [line for line in chosen if line.own]
    rows = []
    for line, found in found_of(chosen, size, own=arguments.own, jobs=1 if arguments.json else arguments.jobs):
        rows.append((line, found))
        print(
            f"{line.number:>3}  {line.drill:<52} {found.tried:<44} lost: {found.lost}  ({found.seconds:.0f} s)",
            flush=True,
        )
        if found.note:
            print(f"     {found.note}")
        if arguments.record:
            record(line, found, size)  # at once: a drill that is stopped after hours keeps what it found
    if arguments.json:
        print(json.dumps(rows[-1][1]._asdict()))
    return int(any(found.lost != "nothing" for _, found in rows))


def controls(lines: list[Line], *, recorded: bool) -> int:
    """Each own line without its guard; 1 where one of them sees nothing."""
    blind = 0
    for line in lines:
        if line.control is not None:
            lost = line.control()
            blind += not lost
            said = lost or "nothing, so the line is blind"
            print(f"{line.number:>3}  {line.drill:<52} guard removed, lost: {said}", flush=True)
            if recorded:
                record_control(line, said)
    return int(blind > 0)


def found_of(lines: list[Line], size: float, *, own: bool, jobs: int) -> Iterator[tuple[Line, Outcome]]:
    """What each line found, as soon as it is known; of several at once each is a process, the longest begins first."""
    if jobs <= 1 or len(lines) <= 1:
        for line in lines:
            begun = time.perf_counter()
            yield line, run(line, size, own=own)._replace(seconds=time.perf_counter() - begun)
        return
    with ThreadPoolExecutor(jobs) as pool:
        ordered = sorted(lines, key=lambda line: -line.share)
        asked = {pool.submit(apart, line, size, own=own): line for line in ordered}
        for done in as_completed(asked):
            yield asked[done], done.result()


def apart(line: Line, size: float, *, own: bool) -> Outcome:
    """What a line found in a process of its own."""
    command = [sys.executable, __file__, "--line", str(line.number), "--size", str(size), "--json"]
    code, stdout, stderr = ended([*command, "--own"] if own else command, dict(os.environ), LIMIT_S)
    sys.stderr.write(stderr)
    try:
        return Outcome(**json.loads(stdout.splitlines()[-1]))
    except (IndexError, ValueError):
        return Outcome("not tried to its end", blamed(code, stdout, stderr))


def run(line: Line, size: float, *, own: bool = False) -> Outcome:
    """One line: its tests, then its own part; with `own` that alone."""
    tried, lost, notes = [], [], []
    if line.tests and not own:
        found = tested(line, size)
        tried, lost, notes = [found.tried], [found.lost], [found.note]
    if line.own is not None:
        more = Outcome(*line.own(size))
        tried, lost, notes = [*tried, more.tried], [*lost, more.lost], [*notes, more.note]
    bad = [text for text in lost if text != "nothing"]
    return Outcome("; ".join(filter(None, tried)), "; ".join(bad) or "nothing", "; ".join(filter(None, notes)))


def tested(line: Line, size: float) -> Outcome:
    """What pytest says of the line's files."""
    there = [path for path in line.tests if (ROOT / path).exists()]
    missing = [Path(path).name for path in line.tests if path not in there]
    note = f"not there yet: {', '.join(missing)}" if missing else ""
    if not there:
        return Outcome("not there yet", "not tried", note)
    variables = line.variables(size)
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider", *there]
    command += ["-k", line.only] if line.only else []
    code, stdout, stderr = ended(command, os.environ | threads | variables, LIMIT_S)
    counts = {name: int(number) for number, name in re.findall(r"(\d+) (passed|failed|skipped|error)", stdout)}
    tried = f"{counts.get('passed', 0)} tests" + "".join(f", {name}={value}" for name, value in variables.items())
    if code in (0, 5):
        return Outcome(tried, "nothing", note)
    print(stdout[-4000:], file=sys.stderr)
    return Outcome(tried, f"failed: {blamed(code, stdout, stderr)}", note)


def ended(command: list[str], environment: dict[str, str], limit_s: float) -> tuple[int | None, str, str]:
    """Exit code, stdout and stderr of a command; None for one that did not end."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=limit_s)
    except BaseException as error:  # a Ctrl-C, too: it does not reach another session
        os.killpg(process.pid, signal.SIGKILL)  # and the servers that it started
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return None, *process.communicate()
    return process.returncode, stdout, stderr


def blamed(code: int | None, stdout: str, stderr: str) -> str:
    """Which tests failed; where pytest itself did not come to say so, how it ended and the test that was running."""
    if failed := re.findall(r"^(?:FAILED|ERROR) (\S+)", stdout, re.MULTILINE):
        return ", ".join(failed)
    how = f"did not end within {LIMIT_S:.0f} s" if code is None else f"exit code {code}"
    if code is not None and code < 0:
        how = f"ended by {signal.Signals(-code).name}"
    begun = re.findall(r"^(tests/\S+::.*?)(?: (?:PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b.*)?$", stdout, re.MULTILINE)
    last = f" in {begun[-1].strip()}" if begun else ""
    return f"{how}{last}: {' '.join(stderr.split())[-200:]}".rstrip(": ")


def when() -> str:
    """The day, and how busy the machine was with all that ran on it."""
    return f"{date.today()}, load {os.getloadavg()[0]:.0f}"


def record(line: Line, found: Outcome, size: float) -> None:
    """Writes a row between the marks in docs/RELIABILITY.md; the others stay, also this line's at the other size."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    old, _, after = rest.partition(END)
    rows = re.findall(r"^(\| (\d+) \| [^|]+ \| (\S+) \|.*)$", old, re.MULTILINE)
    said = re.findall(r"^(- (\d+), (\S+): .*(?:\n  .*)*)$", old, re.MULTILINE)
    kept, notes = ({(int(number), how): text for text, number, how in each} for each in (rows, said))
    which = line.number, "full" if size == 1.0 else f"{size:g}"
    cells = (line.number, line.drill, which[1], found.tried, found.lost, f"{found.seconds:.0f}", when())
    kept[which] = f"| {' | '.join(map(str, cells))} |"
    notes.pop(which, None)
    if found.note:
        notes[which] = textwrap.fill(f"- {which[0]}, {which[1]}: {found.note}", 118, subsequent_indent="  ")
    machine = f"{os.cpu_count()} cores, {os.uname().machine}, Python {sys.version.split()[0]}"
    table = [
        f"Machine: {machine}.",
        "",
        "| # | drill | size | how often | lost | seconds | date, load of the machine |",
        "|---|---|---|---|---|---|---|",
    ]
    table += [kept[each] for each in sorted(kept)] + ([""] if notes else []) + [notes[each] for each in sorted(notes)]
    PAGE.write_text(before + "\n".join([BEGIN, *table, END]) + after)


def record_control(line: Line, lost: str) -> None:
    """Writes what a line lost without its guard into the second table; the other rows stay."""
    before, _, rest = PAGE.read_text().partition(CONTROLS_BEGIN)
    old, _, after = rest.partition(CONTROLS_END)
    kept = {int(number): text for text, number in re.findall(r"^(\| (\d+) \|.*)$", old, re.MULTILINE)}
    kept[line.number] = f"| {line.number} | {line.drill} | {lost} | {when()} |"
    table = ["| # | drill | lost with the guard removed | run |", "|---|---|---|---|"]
    table += [kept[number] for number in sorted(kept)]
    PAGE.write_text(before + "\n".join([CONTROLS_BEGIN, *table, CONTROLS_END]) + after)


if __name__ == "__main__":
    sys.exit(main())
