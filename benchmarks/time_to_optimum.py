"""CPU seconds to a share of the known optimum, against tuned peers: same bars, same ledger, same grader, one core each.

    python benchmarks/time_to_optimum.py --seeds 3
    python benchmarks/time_to_optimum.py --quick
    python benchmarks/time_to_optimum.py --market M3z --kind lstm --only himari_rl --seeds 5

himari_rl is what `himari certify` trains, with the sizes of RACE: tuned for this question, as the peers are (with
--certified the certificate's own). sb3 is Stable-Baselines3's PPO, tuned (sb3_peer.py); jax is PPO with market, rollout
and update in one jitted program, as PureJaxRL trains, tuned too (jax_peer.py; needs `pip install jax`). A peer that is
not installed is skipped by name. Every run is a process of its own on one core, and they take turns. Counted from drawn
bars in memory, without imports and grading: prepare (normaliser, first weights), compile, and learn, which is what the
figures to .90 and .95 are. A learner that passes --limit CPU seconds is stopped: its ratio is a bound.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from engine_speed import processor

NEEDS = {"himari_rl": "torch", "sb3": "stable_baselines3", "jax": "jax"}
TARGETS = (0.90, 0.95)
RACE = {"num_envs": 128, "num_steps": 25, "minibatch": 3200, "learning_rate": 2e-2}
WARM_UP = 200_000  # different bars, of which one rollout is played
CHAINS = {"chains": 500, "rows": 150, "burn_in": 50}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
ONE_THREAD |= {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1", "JAX_PLATFORMS": "cpu"}


def spent() -> tuple[float, float]:
    """CPU seconds of this process, its threads and its children, and wall seconds."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime, time.perf_counter()


@dataclass
class Clock:
    """What a run has spent, without its gradings, and when each target was first reached."""

    market: str
    limit: float = math.inf  # CPU seconds of learning
    phases: dict[str, tuple[float, float]] = field(default_factory=dict)  # name -> CPU and wall seconds before learning
    reached: dict[float, tuple[float, float, int]] = field(default_factory=dict)  # CPU, wall, bars
    best: float = -math.inf
    seconds: float = 0.0
    bars: int = 0

    def start(self) -> None:
        """From here on: the bars are in memory and the grader has its references."""
        from himari_rl.certification.attempts import GRADING_SEED
        from himari_rl.certification.grading import reference
        from himari_rl.certification.markets import market_named

        reference(market_named(self.market), GRADING_SEED, **CHAINS)
        self._from = spent()

    def done(self, phase: str) -> None:
        """What was spent since the last mark was this phase."""
        now = spent()
        self.phases[phase] = (now[0] - self._from[0], now[1] - self._from[1])
        self._from = spent()

    def look(self, policy: Any, bars: int) -> bool:
        """Grades a policy that has learned from `bars`; True when there is nothing left to wait for."""
        from himari_rl.certification.attempts import GRADING_SEED
        from himari_rl.certification.grading import grade
        from himari_rl.certification.markets import market_named

        now = spent()
        cpu, wall = now[0] - self._from[0], now[1] - self._from[1]
        share = grade(market_named(self.market), policy, GRADING_SEED, **CHAINS).share
        self.best, self.seconds, self.bars = max(self.best, share), cpu, bars
        for target in TARGETS:
            if share >= target:
                self.reached.setdefault(target, (cpu, wall, bars))
        after = spent()
        self._from = (self._from[0] + after[0] - now[0], self._from[1] + after[1] - now[1])
        return len(self.reached) == len(TARGETS) or cpu > self.limit


class Done(Exception):
    """Nothing is left to wait for."""


def ours(clock: Clock, kind: str, seed: int, distinct: int, certified: bool) -> None:
    """What `himari certify` trains, graded after every rollout; its schedules are those of the whole budget."""
    import torch

    from himari_rl.certification.attempts import to_learn
    from himari_rl.certification.suites import suite_for
    from himari_rl.training.job import train_many
    from himari_rl.training.trainer import Trainer

    suite = suite_for(kind)
    budget = replace(suite.budget_for(clock.market), distinct=distinct)
    config = suite.config if certified or kind != "base" else replace(suite.config, **RACE)
    job = to_learn(clock.market, seed, config, budget)

    def prepare(trainer: Trainer) -> None:
        _ = trainer.sight  # what the net reads of every row is made when it is first asked for
        clock.done("prepare")

    def watch(trainer: Trainer) -> None:
        def decide_batch(states: Any, memory: Any = None) -> Any:
            multipliers, memory = trainer.agent.decide(torch.as_tensor(states, dtype=torch.float32), memory)
            return multipliers.double().numpy(), memory

        if clock.look(SimpleNamespace(decide_batch=decide_batch), trainer.state.bars):
            raise Done

    clock.start()
    with contextlib.suppress(Done):
        train_many([replace(job, prepare=prepare, watch=watch)])


def peer(name: str, clock: Clock, seed: int, distinct: int, settings: Any = None) -> None:
    """A peer with its tuned settings."""
    from himari_rl.certification.markets import market_named
    from himari_rl.certification.thresholds import Budget
    from peer_market import peer_market

    module: Any = importlib.import_module(f"{name}_peer")
    market = peer_market(market_named(clock.market), Budget(distinct=distinct), seed)
    clock.start()
    module.train(market, seed, settings or module.SETTINGS, clock.look, clock.done)


def run(name: str, kind: str, market: str, seed: int, limit: float, distinct: int, certified: bool = False) -> Clock:
    """One learner, one seed, in this process; what it imports on its way is imported before the clock runs."""
    clock = Clock(market, limit)
    if name == "himari_rl":
        ours(Clock(market, 0.0), kind, 0, WARM_UP, certified)
        ours(clock, kind, seed, distinct, certified)
    else:
        if name == "sb3":
            from sb3_peer import SETTINGS

            peer(name, Clock(market, 0.0), 0, WARM_UP, replace(SETTINGS, num_envs=8, num_steps=8, minibatch=64))
        peer(name, clock, seed, distinct)
    return clock


def child(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """`run` in a process of its own, on one core."""
    command = [sys.executable, __file__, "--child", name, "--market", args.market, "--kind", args.kind]
    command += ["--seed", str(seed), "--limit", str(args.limit), "--distinct", str(args.distinct)]
    command += ["--certified"] * args.certified
    found = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(f"{name}, seed {seed}: {found.stderr.strip()[-2000:]}")
    answer: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return answer


def show(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Prints a learner's lines and returns its medians; a target that was not reached is infinitely far."""
    row: dict[str, Any] = {"best share": round(median(run["best"] for run in runs), 3)}
    for phase in runs[0]["phases"]:
        row[f"{phase} CPU s"] = round(median(run["phases"][phase][0] for run in runs), 2)
    print(f"\n{name}: best share {row['best share']}; " + ", ".join(f"{k} {v}" for k, v in list(row.items())[1:]))
    for target in TARGETS:
        each = [run["reached"].get(str(target), [math.inf] * 3) for run in runs]
        cpu, wall, bars = (median(column) for column in zip(*each, strict=True))
        low, high = min(e[0] for e in each), max(e[0] for e in each)
        row |= {f"CPU s to {target}": cpu, f"wall s to {target}": wall, f"bars to {target}": bars}
        row |= {f"least CPU s to {target}": low, f"most CPU s to {target}": high}
        print(f"  to {target:.2f}  CPU s {cpu:.2f} ({low:.2f} .. {high:.2f})   wall s {wall:.2f}   bars {bars:,.0f}")
    return row


def compare(table: dict[str, dict[str, Any]], limit: float) -> None:
    """Prints how many times our CPU seconds each peer takes: by medians, and its quickest seed by our slowest."""
    for name in [name for name in table if name != "himari_rl" and "himari_rl" in table]:
        mine, theirs = table["himari_rl"], table[name]
        for target in TARGETS:
            found, bound = theirs[f"CPU s to {target}"], ""
            if not math.isfinite(found):
                found, bound = limit, "at least "
            least = min(theirs[f"least CPU s to {target}"], limit) / mine[f"most CPU s to {target}"]
            own, other = (row["prepare CPU s"] for row in (mine, theirs))
            both = (found + other) / (mine[f"CPU s to {target}"] + own)
            ratio = found / mine[f"CPU s to {target}"]
            beside = f"worst pair {least:.1f}x; prepare counted {both:.1f}x"
            print(f"to {target:.2f}: {name} {bound}{ratio:.1f}x our CPU s, {beside}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--market", default="M2")
    parser.add_argument("--kind", choices=("base", "lstm"), default="base", help="of himari_rl's learner")
    parser.add_argument("--only", nargs="*", choices=tuple(NEEDS), default=list(NEEDS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=40.0, help="CPU seconds of learning after which one is stopped")
    parser.add_argument("--distinct", type=int, default=2_000_000, help="different bars to learn from")
    parser.add_argument("--certified", action="store_true", help="ours with the sizes of the certificate")
    parser.add_argument("--quick", action="store_true", help="one seed, half the limit, 500,000 different bars")
    parser.add_argument("--child", choices=tuple(NEEDS), help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        asked = (args.child, args.kind, args.market, args.seed, args.limit, args.distinct, args.certified)
        print(json.dumps(asdict(run(*asked))))
        return 0
    if args.quick:
        args.seeds, args.limit, args.distinct = 1, 0.5 * args.limit, 500_000
    absent = [name for name in args.only if importlib.util.find_spec(NEEDS[name]) is None]
    for name in absent:
        print(f"{name} skipped: {NEEDS[name]} is not installed (pip install {NEEDS[name].replace('_', '-')})")
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in args.only if name not in absent}
    began = time.perf_counter()
    for seed in range(args.seeds):
        for name, done in runs.items():
            done.append(child(name, seed, args))
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(
        f"{processor()}, Python {platform.python_version()}; {args.market}, {args.seeds} seeds, one core each; {load}"
    )
    table = {name: show(name, done) for name, done in runs.items()}
    print()
    compare(table, args.limit)
    print(f"{time.perf_counter() - began:.0f} s in all")
    print(json.dumps({"processor": processor(), "market": args.market, "limit": args.limit, "runs": runs}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
