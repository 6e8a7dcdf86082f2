"""What each ingredient of the recipe is worth, on markets whose optimum is known. Feeds docs/decisions/LOG.md.

    python benchmarks/ablations.py --markets M2 M4 --bars 1000000 --seeds 5
    python benchmarks/ablations.py --kind lstm --markets M3z --bars 1000000 --seeds 2

Every variant changes one thing of the default recipe, at equal bars, on fresh seeds; shares of the optimum, graded on
the same fresh paths. Differences below .01 are noise.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

import torch

from himari_rl.agents.config import PPOConfig, config_type
from himari_rl.certification.attempts import GRADING_SEED, bundle_of, learn, market_for
from himari_rl.certification.grading import grade
from himari_rl.certification.thresholds import Budget

CHAINS = 4_000
PPO_ONLY = {"analytic_gradient_fraction": 0.0, "initial_std": 0.3, "final_std": 0.1}
WIDE_CLIP = {"clip_coef": 2.0, "epochs": 1}
BASE: dict[str, dict[str, object]] = {
    "default": {},
    "gradient only": {"analytic_gradient_fraction": 1.0},
    "gradient .8, PPO .2": {"analytic_gradient_fraction": 0.8},
    "gradient .6, PPO .4": {"analytic_gradient_fraction": 0.6},
    "gradient .6, PPO .4 with GAE": {"analytic_gradient_fraction": 0.6, "advantage": "gae"},
    "PPO only, counterfactual": {"analytic_gradient_fraction": 0.0},
    "PPO only, GAE + control variate": {"analytic_gradient_fraction": 0.0, "advantage": "gae"},
    "PPO only, GAE": {"analytic_gradient_fraction": 0.0, "advantage": "gae", "control_variate": False},
    "PPO only, spread .3": PPO_ONLY,
    "PPO only, spread .3, 10 epochs of 2500": PPO_ONLY | {"epochs": 10, "minibatch": 2_500},
    "wide clip": WIDE_CLIP,
    "wide clip, gradient .6, PPO .4": WIDE_CLIP | {"analytic_gradient_fraction": 0.6},
    "wide clip, PPO only": WIDE_CLIP | {"analytic_gradient_fraction": 0.0, "initial_std": 0.1, "final_std": 0.03},
    "wide clip, PPO only, GAE": WIDE_CLIP
    | {"analytic_gradient_fraction": 0.0, "initial_std": 0.1, "final_std": 0.03, "advantage": "gae"},
    "plain head (centre)": {"head": "centre"},
    "squash head": {"head": "squash"},
    "no restarts": {"random_position_fraction": 0.0},
    "restarts for half": {"random_position_fraction": 0.5},
    "no pull at the bounds": {"range_penalty": 0.0},
    "no weight average": {"weight_average_fraction": 0.0},
    "no learning-rate decay": {"final_learning_rate": 1.0},
    "learning rate 2e-3": {"learning_rate": 2e-3},
    "learning rate 1e-2": {"learning_rate": 1e-2},
    "hidden 8": {"hidden_dim": 8},
    "hidden 128": {"hidden_dim": 128},
    "rollout of 25": {"num_steps": 25, "num_envs": 1000},
    "rollout of 100": {"num_steps": 100, "num_envs": 250},
    "minibatch 3125": {"minibatch": 3125},
    "minibatch 25000": {"minibatch": 25_000},
}
LSTM: dict[str, dict[str, object]] = {
    "default": {},
    "one layer": {"lstm_num_layers": 1},
    "gradient only": {"analytic_gradient_fraction": 1.0},
    "PPO only": PPO_ONLY,
    "PPO only, 4 epochs": PPO_ONLY | {"epochs": 4},
    "back-propagation over 25 bars": {"num_steps": 25, "num_envs": 640},
    "back-propagation over 100 bars": {"num_steps": 100, "num_envs": 160},
    "no weight average": {"weight_average_fraction": 0.0},
    "minibatch 16000": {"minibatch": 16_000},
    "learning rate 1e-3": {"learning_rate": 1e-3},
}
VARIANTS = {"base": BASE, "lstm": LSTM}


def share_of(name: str, seed: int, config: PPOConfig, bars: int) -> tuple[float, float]:
    """Share of the optimum of one exported bundle, and the seconds of its training."""
    trainer, rows = learn(name, seed, config, Budget(bars=bars))
    with tempfile.TemporaryDirectory() as folder:
        policy = bundle_of(name, trainer, rows, seed, Path(folder) / "bundle")
    return grade(market_for(name)[0], policy, GRADING_SEED, chains=CHAINS).share, trainer.seconds


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=list(VARIANTS), default="base")
    parser.add_argument("--markets", nargs="+", default=["M2", "M4"])
    parser.add_argument("--bars", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--variants", nargs="*", help="all of the kind by default")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = {}
    print(f"{'variant':34s}" + "".join(f"{m:>26s}" for m in args.markets))
    variants = VARIANTS[args.kind]
    for name in args.variants or variants:
        config, cells = config_type(args.kind)(**variants[name]), []
        for market in args.markets:
            done = [share_of(market, args.first_seed + s, config, args.bars) for s in range(args.seeds)]
            shares, seconds = ([each[i] for each in done] for i in range(2))
            found.setdefault(name, {})[market] = shares
            cells.append(f"{median(shares):.3f} / {min(shares):.3f} {median(seconds):5.1f} s")
        print(f"{name:34s}" + "".join(f"{c:>26s}" for c in cells), flush=True)
    print(json.dumps({"bars": args.bars, "shares": found}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
