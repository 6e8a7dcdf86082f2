"""Steps per second against sb3-contrib's RecurrentPPO: same market, physics, network and machine, interleaved.

    python benchmarks/lstm_speed.py --rounds 3

An LSTM of 2 x 64 with one tanh layer of 64, at two settings: 16 environments x 128 bars with minibatches of 256 and 10
epochs, and 256 environments x 32 bars with minibatches of 2048 (64 whole environments) and 1 epoch. RecurrentPPO shares
one LSTM between actor and critic, which is its fastest; ours learns by PPO from the first bar, with GAE and a critic of
its own. Each learner has a process of its own. What bounds ours is the LSTM itself: the third line is torch's fused
LSTM alone, forward once for the rollout, forward and backward for each epoch.
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
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parent))
from sb3_contrib import RecurrentPPO

from himari_rl.agents.config import LSTMPPOConfig
from himari_rl.certification.attempts import draw_training, encoder_for, environment_for, training_market
from himari_rl.certification.markets import market_named
from himari_rl.certification.thresholds import Budget
from himari_rl.envs.physics import Physics
from himari_rl.experiments.sb3_env import Sb3VecEnv
from himari_rl.training.job import train_agent

CELLS, LAYERS, HIDDEN, FEATURES = 64, 2, 64, 16
EPISODE = 512  # a multiple of both rollouts


class Setting(NamedTuple):
    """One way to spend a rollout."""

    envs: int
    bars: int
    minibatch: int
    epochs: int
    least: float  # ratio the project asks for

    @property
    def name(self) -> str:
        return f"{self.bars} x {self.envs}, minibatch {self.minibatch}, {self.epochs} epochs"


SETTINGS = (Setting(16, 128, 256, 10, 5.0), Setting(256, 32, 2048, 1, 1.5))


def ours(setting: Setting, rollouts: int) -> float:
    """Steps per second, rollouts and updates."""
    config = LSTMPPOConfig(
        lstm_hidden_dim=CELLS, lstm_num_layers=LAYERS, hidden_dim=HIDDEN, hidden_layers=1, num_envs=setting.envs,
        num_steps=setting.bars, minibatch=setting.minibatch, epochs=setting.epochs, analytic_gradient_fraction=0.0,
        advantage="gae", control_variate=False, head="centre", random_position_fraction=0.0,
    )  # fmt: skip
    rows, built = MARKET
    physics = Physics(built, ENVIRONMENT, encoder_for(market_named("M3")))
    trainer = train_agent(physics, config, rows, rollouts * setting.envs * setting.bars, 0)
    return trainer.state.bars / trainer.seconds


def theirs(setting: Setting, rollouts: int) -> float:
    """The same with RecurrentPPO."""
    env = Sb3VecEnv(setting.envs, MARKET[1], ENVIRONMENT)
    model = RecurrentPPO(
        "MlpLstmPolicy", env, n_steps=setting.bars, batch_size=setting.minibatch, n_epochs=setting.epochs, device="cpu",
        seed=0,
        policy_kwargs={
            "lstm_hidden_size": CELLS, "n_lstm_layers": LAYERS, "shared_lstm": True, "enable_critic_lstm": False,
            "net_arch": {"pi": [HIDDEN], "vf": [HIDDEN]},
        },
    )  # fmt: skip
    bars = rollouts * setting.envs * setting.bars
    started = time.perf_counter()
    model.learn(bars)
    return bars / (time.perf_counter() - started)


def lstm_limit(setting: Setting, rollouts: int) -> float:
    """Steps per second if a rollout and its epochs were nothing but the fused LSTM."""
    lstm = torch.nn.LSTM(FEATURES, CELLS, LAYERS)
    whole = torch.randn(setting.bars, setting.envs, FEATURES)
    part = torch.randn(setting.bars, max(1, setting.minibatch // setting.bars), FEATURES)
    updates = setting.epochs * setting.envs // part.shape[1]
    started = time.perf_counter()
    for _ in range(rollouts):
        with torch.no_grad():
            lstm(whole)
        for _ in range(updates):
            lstm(part)[0].sum().backward()
    return rollouts * setting.envs * setting.bars / (time.perf_counter() - started)


def prepare(threads: int) -> None:
    """Draws the market once in each process."""
    global MARKET, ENVIRONMENT
    torch.set_num_threads(threads)
    market = market_named("M3")
    MARKET = training_market(market, draw_training(market, Budget(distinct=200_000), False, 0))
    ENVIRONMENT = replace(environment_for(market), episode_bars=EPISODE)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rollouts", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    spawn = multiprocessing.get_context("spawn")
    learners = (ours, theirs, lstm_limit)
    pools = [ProcessPoolExecutor(1, mp_context=spawn, initializer=prepare, initargs=(args.threads,)) for _ in learners]
    print(f"{platform.processor() or platform.machine()}, {args.threads} threads, torch {torch.__version__}")
    results = []
    for setting in SETTINGS:
        for pool, learner in zip(pools, learners, strict=True):
            pool.submit(learner, setting, 1).result()  # warm-up
        rounds = [
            [
                pool.submit(learner, setting, args.rollouts).result()
                for pool, learner in zip(pools, learners, strict=True)
            ]
            for _ in range(args.rounds)
        ]
        mine, sb3, limit = ([row[i] for row in rounds] for i in range(3))
        ratio = median(a / b for a, b in zip(mine, sb3, strict=True))
        print(f"\n{setting.name}")
        for name, values in (("himari_rl", mine), ("RecurrentPPO", sb3), ("LSTM alone", limit)):
            print(f"{name:12s} {median(values):12,.0f} steps/s   ({min(values):,.0f} .. {max(values):,.0f})")
        print(
            f"ratio {ratio:.2f}x (asked for: {setting.least:g}x); {median(mine) / median(limit):.2f} of the LSTM alone"
        )
        results.append({"setting": setting.name, "ours": mine, "sb3": sb3, "lstm": limit, "ratio": ratio})
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
