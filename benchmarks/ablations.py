"""What each ingredient of the recipe is worth, on markets whose optimum is known. Feeds docs/decisions/LOG.md.

    python benchmarks/ablations.py --markets M2 M4 --bars 1000000 --seeds 5

Every variant changes one thing of the default recipe, at equal bars, on fresh seeds; shares of the optimum, graded on
the same fresh paths. Differences below .01 are noise.
"""

from __future__ import annotations

import argparse
import json
from statistics import median

import torch

from himari_rl.agents.ppo_agent import PPOConfig
from himari_rl.evaluation.certify import Budget, attempt

VARIANTS: dict[str, dict[str, object]] = {
    "default": {},
    "gradient only": {"gradient_share": 1.0},
    "gradient .8, PPO .2": {"gradient_share": 0.8},
    "gradient .6, PPO .4": {"gradient_share": 0.6},
    "gradient .6, PPO .4 with GAE": {"gradient_share": 0.6, "advantage": "gae"},
    "PPO only, counterfactual": {"gradient_share": 0.0},
    "PPO only, GAE + control variate": {"gradient_share": 0.0, "advantage": "gae"},
    "PPO only, GAE": {"gradient_share": 0.0, "advantage": "gae", "control_variate": False},
    "plain head (centre)": {"head": "centre"},
    "squash head": {"head": "squash"},
    "no restarts": {"restart_share": 0.0},
    "restarts for half": {"restart_share": 0.5},
    "no pull at the bounds": {"bound_pull": 0.0},
    "no weight average": {"average": 0.0},
    "no learning-rate decay": {"final_learning_rate": 1.0},
    "learning rate 2e-3": {"learning_rate": 2e-3},
    "learning rate 1e-2": {"learning_rate": 1e-2},
    "hidden 8": {"hidden_dim": 8},
    "hidden 128": {"hidden_dim": 128},
    "rollout of 25": {"rollout_bars": 25, "envs": 1000},
    "rollout of 100": {"rollout_bars": 100, "envs": 250},
    "minibatch 3125": {"minibatch": 3125},
    "minibatch 25000": {"minibatch": 25_000},
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markets", nargs="+", default=["M2", "M4"])
    parser.add_argument("--bars", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = {}
    print(f"{'variant':34s}" + "".join(f"{m:>26s}" for m in args.markets))
    for name in args.variants:
        config, cells = PPOConfig(**VARIANTS[name]), []
        for market in args.markets:
            done = [attempt(market, args.first_seed + s, config, Budget(bars=args.bars))[0] for s in range(args.seeds)]
            shares = [a.grade.share for a in done]
            found.setdefault(name, {})[market] = shares
            cells.append(f"{median(shares):.3f} / {min(shares):.3f} {median(a.seconds for a in done):5.1f} s")
        print(f"{name:34s}" + "".join(f"{c:>26s}" for c in cells), flush=True)
    print(json.dumps({"bars": args.bars, "shares": found}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
