"""Whole commands beside another source tree, interleaved: seconds, CPU seconds and peak memory from start to exit.

    git worktree add --detach ../before COMMIT
    python benchmarks/command_speed.py --against ../before --data BTC-USDT_1h.parquet --rounds 5

`train` is `himari train base --seeds 1`, `evaluate` judges what it wrote. Every figure is a process of its own, imports
and all, one thread; the two trees take turns, and medians of the rounds are printed with the spread and the processor's
name. Without --data the bars are synthetic, seven years of hours. CPU seconds are what a busy machine leaves
comparable; seconds mean something on a quiet one alone. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
from engine_speed import processor

ROWS = 61_320  # seven years of hours
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Cost(NamedTuple):
    """What one process took."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def cost(words: list[str], log: Path, environment: dict[str, str] | None = None) -> Cost:
    """Runs a command to its end and says what it took, its children's CPU seconds included.

    Args:
        log: where it writes.

    Raises:
        RuntimeError: it failed; with its last words.
    """
    started = time.perf_counter()
    with log.open("wb") as out:
        pid = os.posix_spawn(
            words[0],
            words,
            {**os.environ, **(environment or {})},
            file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), descriptor) for descriptor in (1, 2)],
        )
        _, status, used = os.wait4(pid, 0)
    seconds = time.perf_counter() - started
    if code := os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"exit code {code}: {' '.join(words)}\n{log.read_text()[-2000:]}")
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def himari(tree: Path, words: list[str], folder: Path) -> Cost:
    """One `himari` command of a source tree, with a trial ledger of its own."""
    environment = THREADS | {"PYTHONPATH": str(tree / "src"), "HIMARI_TRIALS": str(folder / "trials.sqlite")}
    return cost([sys.executable, "-m", "himari_rl", *words], folder / "log.txt", environment)


def measured(tree: Path, commands: list[str], data: Path, folder: Path) -> dict[str, Cost]:
    """Each command once, in a new folder."""
    run = folder / "run"
    words = {
        "train": ["train", "base", "--data", str(data), "--seeds", "1", "--out", str(run)],
        "evaluate": ["evaluate", str(run / "bundle"), "--data", str(data)],
    }
    found = {command: himari(tree, words[command], folder) for command in words if command in ("train", *commands)}
    return {command: found[command] for command in commands}


def synthetic(folder: Path) -> Path:
    """A file of bars that the measured commands read."""
    from himari_rl.data.synthetic import synthetic_bars
    from himari_rl.data.table import write_bars

    path = folder / "BTC-SYNTHETIC_1h.parquet"
    write_bars(synthetic_bars(ROWS, 0), path)
    return path


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another source tree: a folder with src/ in it")
    parser.add_argument("--data", type=Path, help="a file of hourly bars")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commands", nargs="+", default=["train"], choices=("train", "evaluate"))
    args = parser.parse_args(argv)
    trees = {"here": Path(__file__).resolve().parents[1]}
    if args.against:
        trees["against"] = args.against.resolve()
    found: dict[str, dict[str, list[Cost]]] = {name: {command: [] for command in args.commands} for name in trees}
    with tempfile.TemporaryDirectory() as root:
        data = args.data.resolve() if args.data else synthetic(Path(root))
        for turn in range(args.rounds):
            for name, tree in trees.items() if turn % 2 else reversed(list(trees.items())):
                folder = Path(root) / f"{name}-{turn}"
                folder.mkdir()
                for command, spent in measured(tree, args.commands, data, folder).items():
                    found[name][command].append(spent)
    print(f"{processor()}; one thread, {args.rounds} rounds, {data.name}")
    table = {
        name: {command: _row(name, command, costs) for command, costs in own.items()} for name, own in found.items()
    }
    for command in args.commands if args.against else []:
        pairs = list(zip(found["against"][command], found["here"][command], strict=True))
        ratios = {field: median(getattr(a, field) / getattr(h, field) for a, h in pairs) for field in Cost._fields}
        said = ", ".join(f"{field} {ratio:.2f}" for field, ratio in ratios.items())
        print(f"{command:9s} against / here, median of the rounds: {said}")
    print(json.dumps({"processor": processor(), "rounds": args.rounds, "medians": table}))
    return 0


def _row(name: str, command: str, costs: list[Cost]) -> dict[str, float]:
    """Prints the medians with their spread."""
    shown = []
    for field, unit in zip(Cost._fields, ("s", "CPU s", "MB"), strict=True):
        values = [getattr(each, field) for each in costs]
        digits = 0 if unit == "MB" else 2
        shown.append(f"{median(values):8.{digits}f} {unit} ({min(values):.{digits}f} .. {max(values):.{digits}f})")
    print(f"{command:9s} {name:8s}", *shown)
    return {field: round(median(getattr(each, field) for each in costs), 3) for field in Cost._fields}


if __name__ == "__main__":
    raise SystemExit(main())
