"""Training on a GPU: steps per second by batch size, seconds to the optimum, and the same shares as on a CPU.

    python benchmarks/device_speed.py --device cuda --seeds 3

Every line runs the product's own trainer on markets whose optimum is known; what is graded is the exported bundle in
the numpy runtime. The first rollout (setting up) is part of the seconds, not of the rate.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from himari_rl.agents.config import PPOConfig, config_type
from himari_rl.certification.attempts import GRADING_SEED, bundle_of, learn, market_for
from himari_rl.certification.grading import grade
from himari_rl.certification.thresholds import Budget

KIND_OF = {"M3z": "lstm", "M3": "lstm", "M5": "multi", "M5b": "multi"}
SMALL = {"chains": 500, "rows": 150, "burn_in": 50}


def share(market: str, trainer, rows, seed: int, **size: int) -> float:
    """The exported bundle's share of the optimum."""
    with tempfile.TemporaryDirectory() as folder:
        policy = bundle_of(market, trainer, rows, seed, Path(folder) / "bundle")
        return grade(market_for(market)[0], policy, GRADING_SEED, **size).share


def rates(device: str, envs: int, config: PPOConfig, rollouts: int) -> dict[str, float]:
    """Steps a second of each stage on M2, the first rollout (setting up) left out, one gradient step a rollout."""
    config = config.sized()
    wide = replace(
        config,
        num_envs=envs,
        minibatch=envs * config.num_steps,
        analytic_gradient_fraction=0.5,
        weight_average_fraction=0.1,
    )
    stamps: list[float] = []

    def look(trainer) -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())

    bars = wide.num_envs * wide.num_steps
    learn("M2", 0, wide, Budget(bars=2 * rollouts * bars), device, look)
    gradient = (stamps[rollouts - 1] - stamps[0]) / (rollouts - 1)
    ppo = (stamps[-1] - stamps[rollouts]) / (rollouts - 1)
    return {"envs": envs, "gradient": bars / gradient, "ppo": bars / ppo, "ms a gradient rollout": 1e3 * gradient}


def seconds_to(market: str, device: str, config: PPOConfig, seed: int, target: float) -> float:
    """Training seconds until the agent is graded at `target`; grading is not counted."""
    found: list[float] = []

    class Done(Exception):
        pass

    def look(trainer) -> None:
        agent, where = trainer.agent, trainer.physics.device

        class Now:
            @staticmethod
            def decide_batch(states, memory=None):
                multipliers, memory = agent.decide(torch.as_tensor(states, dtype=torch.float32, device=where), memory)
                return multipliers.double().cpu().numpy(), memory

        due = trainer.state.rollout % max(1, trainer.rollouts // 40) == 0
        if due and grade(market_for(market)[0], Now, GRADING_SEED, **SMALL).share >= target:
            found.append(trainer.seconds)
            raise Done

    try:
        learn(market, seed, config, Budget(), device, look)
    except Done:
        return found[0]
    return float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--envs", type=int, nargs="*", default=[500, 4_096, 32_768, 131_072])
    parser.add_argument("--rollouts", type=int, default=20)
    parser.add_argument("--markets", nargs="*", default=["M1", "M2", "M4", "M3z", "M5"])
    args = parser.parse_args()
    print(torch.cuda.get_device_name() if args.device == "cuda" else "cpu", torch.__version__, flush=True)
    result: dict[str, object] = {"rates": [], "markets": {}}
    for envs in args.envs:
        row = rates(args.device, envs, PPOConfig(), args.rollouts)
        result["rates"].append(row)
        print(
            f"{envs:8,} environments: gradient {row['gradient'] / 1e6:7.2f} M steps/s "
            f"({row['ms a gradient rollout']:.1f} ms a rollout), PPO {row['ppo'] / 1e6:7.2f} M steps/s",
            flush=True,
        )
    for market in args.markets:
        config = config_type(KIND_OF.get(market, "base"))()
        shares, seconds, reached = [], [], []
        for seed in range(args.seeds):
            trainer, rows = learn(market, seed, config, Budget(), args.device)
            shares.append(share(market, trainer, rows, seed))
            seconds.append(trainer.seconds)
            reached.append(seconds_to(market, args.device, config, seed, 0.95))
        result["markets"][market] = {"shares": shares, "seconds": seconds, "s to .95": reached}
        print(
            f"{market:5s} share {median(shares):.3f} (worst {min(shares):.3f}), whole budget {median(seconds):.1f} s, "
            f".95 in {median(reached):.2f} s",
            flush=True,
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
