"""Steps per second against Stable-Baselines3's PPO: same market, physics, network and machine, interleaved.

    python benchmarks/train_speed.py --rounds 3

256 environments x 128 bars, minibatch 2048, 10 epochs, two separate 2 x 128 tanh networks. SB3 steps the same batched
physics through its VecEnv face, so it pays for no Python loop over environments either; each learner has a process of
its own, because ours changes how the C library keeps freed memory. What bounds the number is the update's matrix
products: the last lines give the machine's own rate at exactly these shapes, with the fastest kernels it has (those
that our training takes), and the share of that limit which a whole step (rollout and update) reaches.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parent))
from stable_baselines3 import PPO

from himari_rl.agents.config import PPOConfig
from himari_rl.certification.attempts import draw_training, encoder_for, environment_for, training_market
from himari_rl.certification.markets import market_named
from himari_rl.certification.thresholds import Budget
from himari_rl.envs.physics import Physics
from himari_rl.experiments.sb3_env import Sb3VecEnv
from himari_rl.training.device import fast_products
from himari_rl.training.job import train_agent

ENVS, STEPS, MINIBATCH, EPOCHS, HIDDEN = 256, 128, 2048, 10, 128
EPISODE = 512  # a multiple of the rollout for both


def ours(rollouts: int) -> float:
    """Seconds a rollout takes, update included, at SB3's settings: PPO from the first bar, GAE, a critic of its own."""
    config = PPOConfig(
        hidden_dim=HIDDEN, num_envs=ENVS, num_steps=STEPS, minibatch=MINIBATCH, epochs=EPOCHS,
        analytic_gradient_fraction=0.0,
        advantage="gae", control_variate=False, head="centre", random_position_fraction=0.0,
    )  # fmt: skip
    market = market_named("M2")
    rows, built = MARKET
    physics = Physics(built, ENVIRONMENT, encoder_for(market))
    trainer = train_agent(physics, config, rows, rollouts * ENVS * STEPS, 0)
    return trainer.seconds / trainer.rollouts


def theirs(rollouts: int) -> float:
    """The same with SB3."""
    env = Sb3VecEnv(ENVS, MARKET[1], ENVIRONMENT)
    model = PPO(
        "MlpPolicy", env, n_steps=STEPS, batch_size=MINIBATCH, n_epochs=EPOCHS, device="cpu", seed=0,
        policy_kwargs={"net_arch": {"pi": [HIDDEN, HIDDEN], "vf": [HIDDEN, HIDDEN]}},
    )  # fmt: skip
    started = time.perf_counter()
    model.learn(rollouts * ENVS * STEPS)
    return (time.perf_counter() - started) / rollouts


def gemm_seconds() -> tuple[float, float]:
    """Seconds that the update's matrix products alone take for one rollout, and their floating-point operations."""
    shapes = [(16, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 1)] * 2
    work, seconds = 0.0, 0.0
    for inputs, outputs in shapes:
        x, w = torch.randn(MINIBATCH, inputs), torch.randn(inputs, outputs)
        g = torch.randn(MINIBATCH, outputs)
        needs_input = inputs != 16  # no gradient flows into the observation
        for _ in range(20):
            x @ w
        count, started = 300, time.perf_counter()
        for _ in range(count):
            x @ w
            x.T @ g
            if needs_input:
                g @ w.T
        seconds += (time.perf_counter() - started) / count
        work += 2.0 * MINIBATCH * inputs * outputs * (3 if needs_input else 2)
    updates = ENVS * STEPS // MINIBATCH * EPOCHS
    return seconds * updates, work * updates


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rollouts", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    bars = ENVS * STEPS
    mine, sb3, limit = [], [], []
    spawn = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, mp_context=spawn, initializer=prepare, initargs=(args.threads,)) for _ in range(2)]
    for pool, learner in zip(pools, (ours, theirs), strict=True):
        pool.submit(learner, 1).result()  # warm-up
    for _ in range(args.rounds):
        mine.append(bars / pools[0].submit(ours, args.rollouts).result())
        sb3.append(bars / pools[1].submit(theirs, args.rollouts).result())
        with fast_products():
            seconds, work = gemm_seconds()
        limit.append(bars / seconds)
    ratios = [a / b for a, b in zip(mine, sb3, strict=True)]
    fractions = [a / b for a, b in zip(mine, limit, strict=True)]
    print(f"{platform.processor() or platform.machine()}, {args.threads} threads, torch {torch.__version__}")
    for name, values in (("himari_rl", mine), ("SB3 PPO", sb3), ("GEMM limit", limit)):
        print(f"{name:12s} {median(values):12,.0f} steps/s   ({min(values):,.0f} .. {max(values):,.0f})")
    print(f"ratio {median(ratios):.2f}x ({min(ratios):.2f} .. {max(ratios):.2f})")
    print(f"share of the GEMM limit {median(fractions):.2f}; {work / 1e9:.0f} GFLOP a rollout")
    result = {"ours": mine, "sb3": sb3, "gemm": limit, "ratio": median(ratios), "fraction": median(fractions)}
    print(json.dumps(result))
    return 0


def prepare(threads: int) -> None:
    """Draws the market once in each process."""
    global MARKET, ENVIRONMENT
    torch.set_num_threads(threads)
    market = market_named("M2")
    MARKET = training_market(market, draw_training(market, Budget(distinct=500_000), False, 0))
    ENVIRONMENT = replace(environment_for(market), episode_bars=EPISODE)


if __name__ == "__main__":
    raise SystemExit(main())
