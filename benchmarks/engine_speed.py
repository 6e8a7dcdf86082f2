"""CPU seconds of training a net: the many-nets engine beside another source tree, interleaved, one thread each.

    git worktree add --detach ../before COMMIT
    python benchmarks/engine_speed.py --against ../before --rounds 3 --together 1 5 20

Each figure is a process of its own (imports and one short warm-up left out), the two trees take turns, and medians of
the rounds are printed with the processor's name. Six months of synthetic hourly bars, the default recipe and budget;
`multi` trains three assets, `lstm` the recurrent agent. The other tree trains its nets one after the other if it knows
no `train_many`. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

ROWS = 4_400  # six months of hours


def processor() -> str:
    """The CPU's own name, with AVX-512 if it has that."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return name + (", AVX-512" if any(" avx512f" in line for line in lines) else "")


def measure(kind: str, together: int, episodes: int) -> float:
    """CPU seconds a net, in this process."""
    from himari_rl.agents.config import config_type
    from himari_rl.data.panel import panel_of
    from himari_rl.data.synthetic import synthetic_bars
    from himari_rl.envs.config import TradingEnvConfig
    from himari_rl.envs.physics import Physics, market_of
    from himari_rl.features.encoder import StateEncoder
    from himari_rl.training import job

    each = [replace(synthetic_bars(ROWS, seed), symbol=f"S{seed}-USD") for seed in range(3 if kind == "multi" else 1)]
    bars = panel_of(each) if kind == "multi" else each[0]
    environment, encoder = TradingEnvConfig(), StateEncoder(bars.symbols)
    rows, market = market_of(bars, encoder, environment)
    physics = Physics(market, environment, encoder)
    config = replace(config_type(kind)(), state_dim=encoder.state_dim, action_dim=len(encoder.symbols))
    config = config.sized() if hasattr(config, "sized") else config  # older commits have sizes of their own

    def train(budget: int, seeds: range) -> None:
        if hasattr(job, "train_many"):
            nets = [
                job.NetJob(physics=physics, config=config, rows=rows, total_bars=budget, seed=seed) for seed in seeds
            ]
            job.train_many(nets)
            return
        for seed in seeds:
            job.train_agent(physics, config, rows, budget, seed)

    train(3 * config.num_envs * config.num_steps, range(1))
    started = time.process_time()
    train(episodes * environment.episode_bars, range(together))
    return (time.process_time() - started) / together


def child(source: Path, kind: str, together: int, episodes: int) -> float:
    """`measure` in a process of its own, of a source tree."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--measure", kind, str(together), str(episodes)]
    found = subprocess.run(
        command,
        env=os.environ | threads | {"PYTHONPATH": str(source / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(found.stdout)


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another source tree: a folder with src/ in it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--together", type=int, nargs="*", default=[1, 5, 20], help="nets trained in one program")
    parser.add_argument("--kinds", nargs="*", default=["base"], choices=("base", "multi", "lstm"))
    parser.add_argument("--episodes", type=int, default=1000, help="budget of a net, in episodes of 500 bars")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        kind, together, episodes = args.measure
        print(measure(kind, int(together), int(episodes)))
        return 0
    here = Path(__file__).resolve().parents[1]
    print(f"{processor()}; one thread, CPU seconds a net of {args.episodes * 500:,} bars, {args.rounds} rounds")
    table: dict[str, dict[str, float]] = {}
    for kind in args.kinds:
        mine: dict[int, list[float]] = {k: [] for k in args.together}
        other: list[float] = []
        for _ in range(args.rounds):
            if args.against:
                other.append(child(args.against.resolve(), kind, 1, args.episodes))
            for k in args.together:
                mine[k].append(child(here, kind, k, args.episodes))
        table[kind] = {str(k): median(values) for k, values in mine.items()}
        if other:
            table[kind]["against"] = median(other)
            print(f"{kind:6s} against      {median(other):7.3f} s  ({min(other):.3f} .. {max(other):.3f})")
        for k, values in mine.items():
            ratio = f"  {median(o / v for o, v in zip(other, values, strict=True)):5.2f}x" if other else ""
            print(f"{kind:6s} {k:3d} together {median(values):7.3f} s  ({min(values):.3f} .. {max(values):.3f}){ratio}")
    print(json.dumps({"processor": processor(), "seconds": table}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
