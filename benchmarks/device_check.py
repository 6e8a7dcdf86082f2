"""Does `--device cuda` train what the CPU trains? One table in under five minutes, exit code 1 where a line fails.

    python benchmarks/device_check.py --data BTC-USDT_1h.parquet ETH-USDT_1h.parquet SOL-USDT_1h.parquet

For base, LSTM and multi-asset agents, on a market whose optimum is known: the exported bundle's share of the optimum
after training on either device (at most .01 apart), steps per second of training, and the largest difference between
the exported bundle in numpy and the agent in torch (at most 1e-5). Then a run that is stopped and resumed on the
device ends in the weights of one that was not, bit for bit, and with --data real bars are trained on, one symbol and
a portfolio. What bounds the rate at these sizes is launching small operations, so the batch is also widened.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from himari_rl.agents.config import PPOConfig, config_type
from himari_rl.certification.attempts import GRADING_SEED, bundle_of, learn, market_for
from himari_rl.certification.grading import grade
from himari_rl.certification.thresholds import Budget
from himari_rl.data.panel import load_panel
from himari_rl.data.sources import load_bars
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.policy.bundle import read_bundle
from himari_rl.training.export import check_parity
from himari_rl.training.job import Job, run_job

CASES = (("base", "M2", 2_000_000), ("lstm", "M3z", 1_000_000), ("multi", "M5", 2_000_000))
NEAR, PARITY = 0.01, 1e-5
CHAINS = 1_000  # both devices are graded on the same ones


def processor() -> str:
    """The CPU's own name."""
    found = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return found[0].partition(":")[2].strip() if found else platform.processor()


def certified(kind: str, market: str, bars: int, device: str, seeds: int) -> dict[str, object]:
    """Median over seeds: share of the optimum and seconds of training; the worst parity of the exported bundles."""
    shares, seconds, parities = [], [], []
    for seed in range(seeds):
        trainer, rows = learn(market, seed, config_type(kind)(), Budget(bars=bars), device)
        with tempfile.TemporaryDirectory() as folder:
            policy = bundle_of(market, trainer, rows, seed, Path(folder) / "bundle")
        parities.append(check_parity(policy, [trainer.agent], rows[:: max(1, len(rows) // 2_000)]))
        known = market_for(market)[0]
        shares.append(grade(known, policy, GRADING_SEED, chains=CHAINS).share)
        seconds.append(trainer.seconds)
    return {
        "share": float(np.median(shares)),
        "shares": shares,
        "seconds": float(np.median(seconds)),
        "steps_per_second": bars / float(np.median(seconds)),
        "parity": max(parities),
    }


def wide_rate(device: str, envs: int, rollouts: int = 10) -> float:
    """Steps a second with many more environments at once, PPOConfig's net, both stages, set-up left out."""
    config = PPOConfig().sized()
    wide = replace(config, num_envs=envs, minibatch=envs * config.num_steps, analytic_gradient_fraction=0.5)
    stamps: list[float] = []

    def look(_: object) -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())

    bars = envs * config.num_steps
    learn("M2", 0, wide, Budget(bars=rollouts * bars), device, look)
    return bars * (len(stamps) - 2) / (stamps[-1] - stamps[1])


def resumed(kind: str, device: str, folder: Path) -> bool:
    """Whether a run interrupted after half its rollouts and resumed ends in the uninterrupted run's weights."""
    bars = synthetic_bars(3_000, seed=0)
    job = Job(
        agent=config_type(kind)(),
        environment=TradingEnvConfig(),
        num_episodes=600,
        seeds=(0,),
        save_interval=50,
        device=device,
    )
    whole = run_job(job, bars, folder / f"{kind}-whole")
    calls = 0

    def stop(trainer: object, seed: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        run_job(job, bars, folder / f"{kind}-cut", watch=stop)
    again = run_job(job, bars, folder / f"{kind}-cut", resume=True)
    one, other = (read_bundle(result.bundle)[1] for result in (whole, again))
    return calls == 5 and all(np.array_equal(one[name], other[name]) for name in one)


def real_bars(paths: list[str], device: str, folder: Path) -> dict[str, float]:
    """Steps a second of whole training jobs on recorded bars, by kind."""
    rates, single = {}, load_bars(paths[:1])
    panel = load_panel(paths, [load_bars([path]).symbol for path in paths]) if len(paths) > 1 else None
    for kind, history in (("base", single), ("lstm", single), ("multi", panel)):
        if history is None:
            continue
        job = Job(agent=config_type(kind)(), num_episodes=1000 if kind == "base" else 300, seeds=(0,), device=device)
        result = run_job(job, history, folder / f"{kind}-{device}")
        rates[kind] = result.bars / result.seconds
    return rates


def mark(right: bool) -> str:
    return "ok  " if right else "FAIL"


def main(argv: list[str] | None = None) -> int:
    """Prints the table; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="what is compared with the CPU")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--data", nargs="*", default=[], help="files of real bars, one a symbol")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the training budgets, for a first try")
    parser.add_argument("--wide", type=int, nargs="*", default=[4_096, 65_536])
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("no CUDA device, expected a GPU that torch can see; --device cpu checks this script\n")
        return 2
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    print(f"{name} beside {processor()}; torch {torch.__version__}, {args.seeds} seeds", flush=True)
    found: dict[str, object] = {"device": name, "cpu": processor(), "torch": torch.__version__, "cases": {}}
    failed: list[str] = []
    for kind, market, bars in CASES:
        budget = int(bars * args.fraction)
        rows = {where: certified(kind, market, budget, where, args.seeds) for where in (args.device, "cpu")}
        found["cases"][kind] = rows  # type: ignore[index]
        there, here = rows[args.device], rows["cpu"]
        apart = abs(there["share"] - here["share"])
        right = apart <= NEAR and there["parity"] <= PARITY
        failed += [] if right else [f"{kind} on {market}"]
        print(
            f"{mark(right)} {kind:5s} {market:4s} share {there['share']:.4f} (cpu {here['share']:.4f}), "
            f"{there['steps_per_second']:10,.0f} steps/s (cpu {here['steps_per_second']:10,.0f}), "
            f"parity {there['parity']:.1e}",
            flush=True,
        )
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("base", "lstm"):
            same = resumed(kind, args.device, Path(folder))
            failed += [] if same else [f"resume {kind}"]
            print(f"{mark(same)} {kind:5s} stopped and resumed: {'the same' if same else 'OTHER'} weights")
        if args.data:
            rates = {where: real_bars(args.data, where, Path(folder)) for where in (args.device, "cpu")}
            found["real_bars"] = rates
            for kind, rate in rates[args.device].items():
                print(f"ok   {kind:5s} real bars {rate:10,.0f} steps/s (cpu {rates['cpu'][kind]:10,.0f})", flush=True)
    found["wide"] = {str(envs): wide_rate(args.device, envs) for envs in args.wide}
    for envs, rate in found["wide"].items():  # type: ignore[attr-defined]
        print(f"     {int(envs):,} environments at once: {rate:,.0f} steps/s", flush=True)
    found["failed"] = failed
    print(json.dumps(found))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
