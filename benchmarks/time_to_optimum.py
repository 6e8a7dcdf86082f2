"""Seconds and samples to a share of the optimum, against Stable-Baselines3: same market, physics and grader.

    python benchmarks/time_to_optimum.py --market M2 --seeds 3 --limit 120
    python benchmarks/time_to_optimum.py --market M3z --kind lstm --alone --seeds 5

Three learners, in turn in each round: himari_rl's default recipe; SB3's PPO with its defaults on Box(0, 2) (one
environment, n_steps 2048, batch 64, 10 epochs); SB3 with our hyper-parameters (environments, rollout, minibatch,
epochs, gamma, lambda, learning rate and its decay, initial spread, network, centred action). All are graded every few
rollouts; grading time is not counted. The limit stops a learner that does not get there: its ratio is a lower bound.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import platform
import sys
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from himari_rl.agents.config import CONFIGS, PPOConfig, config_type
from himari_rl.certification.attempts import GRADING_SEED, draw_training, environment_for, learn, training_market
from himari_rl.certification.grading import grade
from himari_rl.certification.markets import market_named
from himari_rl.certification.thresholds import Budget
from sb3_adapter import Sb3VecEnv

TARGETS = (0.90, 0.95)
CHAINS = {"chains": 500, "rows": 150, "burn_in": 50}


class Clock:
    """Training time without grading time, and when each target was first reached."""

    def __init__(self, market: str, limit: float) -> None:
        self.market, self.limit = market_named(market), limit
        self.started, self.graded, self.best = time.perf_counter(), 0.0, -math.inf
        self.reached: dict[float, tuple[float, int]] = {}

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started - self.graded

    def look(self, policy: object, samples: int, seconds: float) -> bool:
        """Grades a policy that took `seconds` of training; True when there is nothing left to wait for."""
        began = time.perf_counter()
        share = grade(self.market, policy, GRADING_SEED, **CHAINS).share
        self.best = max(self.best, share)
        for target in TARGETS:
            if share >= target:
                self.reached.setdefault(target, (seconds, samples))
        self.graded += time.perf_counter() - began
        return len(self.reached) == len(TARGETS) or seconds > self.limit


class Done(Exception):
    """Both targets are reached, or time is up."""


def ours(kind: str, market: str, seed: int, limit: float, bars: int) -> Clock:
    """The default recipe of a kind, graded eighty times (the grid is what a time is rounded up to)."""
    clock = Clock(market, limit)

    def look(trainer) -> None:
        agent, every = trainer.agent, max(1, trainer.rollouts // 80)
        if trainer.state.rollout % every:
            return

        def decide_batch(states, memory=None):
            multipliers, memory = agent.decide(torch.as_tensor(states, dtype=torch.float32), memory)
            return multipliers.double().numpy(), memory

        if clock.look(SimpleNamespace(decide_batch=decide_batch), trainer.state.bars, trainer.seconds):
            raise Done

    with contextlib.suppress(Done):
        learn(market, seed, config_type(kind)(), Budget(bars=bars), watch=look)
    return clock


class Watch(BaseCallback):
    """Grades an SB3 policy every `every` steps."""

    def __init__(self, clock: Clock, every: int, centred: bool) -> None:
        super().__init__()
        self.clock, self.every, self.centred, self.following = clock, every, centred, every

    def _on_rollout_end(self) -> None:
        if self.num_timesteps < self.following:
            return
        self.following = self.num_timesteps + self.every

        def decide_batch(states, memory=None):
            action, _ = self.model.predict(np.asarray(states, np.float32), deterministic=True)
            return np.clip(action + 1.0 if self.centred else action, 0.0, 2.0).astype(np.float64), memory

        policy = SimpleNamespace(decide_batch=decide_batch)
        self.stop = self.clock.look(policy, self.num_timesteps, self.clock.seconds)

    def _on_step(self) -> bool:
        return not getattr(self, "stop", False)


def sb3(market: str, seed: int, limit: float, tuned: bool) -> Clock:
    """SB3's PPO on our batched physics."""
    known = market_named(market)
    _, built = training_market(known, draw_training(known, Budget(), False, seed))
    if tuned:
        recipe = PPOConfig().sized()
        env = Sb3VecEnv(recipe.num_envs, built, environment_for(known), action_space="centred", seed=seed)
        decay = recipe.final_learning_rate
        model = PPO(
            "MlpPolicy", env, seed=seed, device="cpu", n_steps=recipe.num_steps, batch_size=recipe.minibatch,
            n_epochs=recipe.epochs, gamma=recipe.gamma, gae_lambda=recipe.gae_lambda,
            learning_rate=lambda left: recipe.learning_rate * (decay + (1 - decay) * left),
            policy_kwargs={"net_arch": list(recipe.hidden), "log_std_init": math.log(recipe.initial_std)},
        )  # fmt: skip
    else:
        env = Sb3VecEnv(1, built, environment_for(known), action_space="multiplier", seed=seed)
        model = PPO("MlpPolicy", env, seed=seed, device="cpu")
    clock = Clock(market, limit)
    model.learn(10**9 if not tuned else 20_000_000, callback=Watch(clock, 25_000 if not tuned else 200_000, tuned))
    return clock


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--market", default="M2")
    parser.add_argument("--kind", choices=list(CONFIGS), default="base", help="of himari_rl's learner")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--limit", type=float, default=120.0, help="seconds of training after which a learner is stopped"
    )
    parser.add_argument("--bars", type=int, default=4_000_000)
    parser.add_argument("--alone", action="store_true", help="only ours, without SB3")
    args = parser.parse_args(argv)
    learners = {
        "himari_rl": lambda s: ours(args.kind, args.market, s, args.limit, args.bars),
        "SB3, our settings": lambda s: sb3(args.market, s, args.limit, True),
        "SB3, its defaults": lambda s: sb3(args.market, s, args.limit, False),
    }
    if args.alone:
        learners = {"himari_rl": learners["himari_rl"]}
    clocks: dict[str, list[Clock]] = {name: [] for name in learners}
    for seed in range(args.seeds):
        for name, learner in learners.items():
            clocks[name].append(learner(seed))
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads; market {args.market}")
    table: dict[str, dict[str, object]] = {}
    for name, done in clocks.items():
        row: dict[str, object] = {"best share": round(median(c.best for c in done), 3)}
        for target in TARGETS:
            times = [c.reached[target][0] if target in c.reached else math.inf for c in done]
            samples = [c.reached[target][1] if target in c.reached else math.inf for c in done]
            row[f"s to {target}"], row[f"samples to {target}"] = median(times), median(samples)
        table[name] = row
        print(f"{name:20s}" + "  ".join(f"{key} {value}" for key, value in row.items()))
    for name in [name for name in table if name != "himari_rl"]:
        reached = float(table[name]["s to 0.9"])
        mine = float(table["himari_rl"]["s to 0.9"])
        bound = "" if math.isfinite(reached) else "at least "
        print(f"time to .90 against {name}: {bound}{(reached if math.isfinite(reached) else args.limit) / mine:.0f}x")
    print(json.dumps({k: {n: (v if math.isfinite(v) else None) for n, v in row.items()} for k, row in table.items()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
