"""CPU seconds of `himari evaluate`, of a walk-forward's tail and of their parts, beside another source tree.

    git worktree add --detach ../before COMMIT
    python benchmarks/judge_speed.py --against ../before --rounds 3 [--data BARS.parquet]

evaluate         the whole command on a bundle whose twins are trained (the second verdict on the same bars and later)
power + judge    a walk-forward's planted edge, anew, and its judgement, of one asset: what is left of a run when its
                 nets are trained; no imports
evaluate, first  the whole command where nothing is kept: both twins are trained in it (--first)

Each figure is a process of its own with one thread, user and system time; the two trees take turns, medians and the
spread of the rounds are printed with the processor's name, and the documents of both trees are compared: the largest
relative difference of a number. All trees judge one bundle. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from engine_speed import processor

HIMARI = "from himari_rl.cli import main; import sys; raise SystemExit(main(sys.argv[1:]))"
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def command(source: Path, work: Path, *arguments: str) -> tuple[float, str]:
    """CPU seconds and output of a Python command of a source tree."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | THREADS | {"PYTHONPATH": str(source / "src"), "HIMARI_TRIALS": str(work / "trials.sqlite")},
        cwd=work,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, found.stdout


def tail(folder: str, data: str) -> float:
    """CPU seconds of the planted edge and the judgement of a trained walk-forward, in this process."""
    from himari_rl.data.sources import load_bars
    from himari_rl.experiments import controls, train_all, walk_forward

    bars, settings = load_bars([data]), tail_settings(walk_forward)
    started = time.process_time()
    work = walk_forward.plan(bars, settings)
    planned = time.process_time() - started
    trained = train_all.train_all(work, Path(folder), None)
    started = time.process_time()
    controls.judge_walk(work, trained, 1)
    return planned + time.process_time() - started


def tail_settings(walk_forward: Any) -> Any:
    """Twelve months judged, four folds of three, three seeds; few episodes, as the nets are not what is timed."""
    return walk_forward.Settings(train="365d", test="90d", step="90d", folds=4, seeds=(0, 1, 2), num_episodes=20)


def compared(ours: Any, theirs: Any) -> float:
    """The largest relative difference of two documents' numbers; infinite where anything else differs."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        return max((compared(ours[key], theirs[key]) for key in ours), default=0.0)
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return max((compared(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) / max(abs(ours), abs(theirs), 1e-9)
    return 0.0 if ours == theirs else float("inf")


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another source tree: a folder with src/ in it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", help="bars of one symbol (default: 63,000 synthetic hours)")
    parser.add_argument("--first", action="store_true", help="time the first verdict too, which trains its twins")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        print(tail(*args.measure))
        return 0
    here = Path(__file__).resolve().parents[1]
    trees = {"here": here} | ({"against": args.against.resolve()} if args.against else {})
    seconds: dict[str, dict[str, list[float]]] = {}
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = str(Path(args.data).resolve()) if args.data else str(work / "bars.parquet")
        if not args.data:
            made = "from himari_rl.data import synthetic, table; table.write_bars(synthetic.synthetic_bars(63_000, 0), "
            command(here, work, "-c", made + f"{data!r})")
        settings = ["--data", data, "--seeds", "1", "--json", "--out", "run"]
        command(here, work, "-c", HIMARI, "train", "base", *settings)
        for name, tree in trees.items():  # kept twins and folds, each tree its own
            shutil.copytree(work / "run", work / name / "run")
            command(tree, work / name, "-c", HIMARI, "evaluate", "run/bundle", "--data", data, "--json")
            measured(tree, work / name, data)
        for _ in range(args.rounds):
            documents = []
            for name, tree in reversed(trees.items()):
                own = seconds.setdefault(name, {"evaluate": [], "power + judge": []})
                ask = ("-c", HIMARI, "evaluate", "run/bundle", "--data", data, "--json", "--trials", "1")
                spent, said = command(tree, work / name, *ask)
                document = json.loads(said)
                documents.append({key: document[key] for key in ("verdict", "controls", "detectable")})
                own["evaluate"].append(spent)
                own["power + judge"].append(measured(tree, work / name, data))
                if args.first:
                    shutil.rmtree(work / name / "run" / "controls")
                    own.setdefault("evaluate, first", []).append(command(tree, work / name, *ask)[0])
            worst = max([worst, *(compared(documents[0], other) for other in documents[1:])])
    report(seconds, worst, args.rounds)
    return 0


def measured(tree: Path, place: Path, data: str) -> float:
    """`tail` of a tree, in a process of its own."""
    return float(command(tree, place, str(Path(__file__).resolve()), "--measure", "tail", data)[1])


def report(seconds: dict[str, dict[str, list[float]]], worst: float, rounds: int) -> None:
    """The table, and its numbers as JSON."""
    print(f"{processor()}; one thread, CPU seconds, {rounds} rounds")
    table = {name: {what: median(values) for what, values in found.items()} for name, found in seconds.items()}
    for what, ours in seconds["here"].items():
        line = f"{what:16s} {median(ours):7.2f} s  ({min(ours):.2f} .. {max(ours):.2f})"
        if "against" in seconds:
            theirs = seconds["against"][what]
            ratio = median(o / v for o, v in zip(theirs, ours, strict=True))
            line += f"   against {median(theirs):7.2f} s  ({min(theirs):.2f} .. {max(theirs):.2f})  {ratio:5.2f}x"
        print(line)
    if "against" in seconds:
        print(f"largest relative difference of a number in the two documents: {worst:.1e}")
    print(json.dumps({"processor": processor(), "seconds": table, "difference": worst}))


if __name__ == "__main__":
    raise SystemExit(main())
