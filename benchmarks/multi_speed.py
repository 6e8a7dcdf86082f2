"""The portfolio's speed: training against Stable-Baselines3, cost per step from 3 to 20 assets, one answer 52 -> 3.

    python benchmarks/multi_speed.py --rounds 3

Both learners have two separate 2 x 256 tanh networks, 256 environments x 128 bars, minibatches of 2048 and 10 epochs,
interleaved. "equal" is PPO at SB3's settings, epoch for epoch; "product" is what `himari train multi` runs by default,
with a network of that size. SB3 runs twice: on `MultiAssetTradingEnv` the way SB3 takes a gymnasium environment, copies
of it stepped one after another, and on our batched physics behind its VecEnv face, which is a gift to it: there the
update's matrix products are nearly all that is left of either learner.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from himari_rl.agents.config import MultiPPOConfig
from himari_rl.data.synthetic_panel import synthetic_panel
from himari_rl.envs.config import MultiAssetEnvConfig, TradingEnvConfig
from himari_rl.envs.multi_asset_env import MultiAssetTradingEnv
from himari_rl.envs.physics import Physics, market_of
from himari_rl.experiments.sb3_env import Sb3VecEnv
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.runtime import load_policy
from himari_rl.training.export import export
from himari_rl.training.job import train_agent, training_data

ENVS, STEPS, MINIBATCH, HIDDEN = 256, 128, 2048, 256
ENVIRONMENT = TradingEnvConfig(episode_bars=512)


def world(assets: int) -> tuple[Physics, np.ndarray, StateEncoder, object]:
    """A synthetic market of so many assets."""
    panel = synthetic_panel([f"C{a:02d}" for a in range(assets)], 6_000, seed=0)
    encoder = StateEncoder(panel.symbols)
    rows, market = market_of(panel, encoder, ENVIRONMENT)
    return Physics(market, ENVIRONMENT, encoder), rows, encoder, panel


def config_of(encoder: StateEncoder, **changes: object) -> MultiPPOConfig:
    config = MultiPPOConfig(
        state_dim=encoder.state_dim, action_dim=len(encoder.symbols), hidden_dim=HIDDEN, num_envs=ENVS, num_steps=STEPS,
        minibatch=MINIBATCH,
    )  # fmt: skip
    return replace(config, **changes)


def ours(physics: Physics, rows: np.ndarray, config: MultiPPOConfig, rollouts: int = 2):
    """Steps a second, and the trainer."""
    trainer = train_agent(physics, config, rows, rollouts * config.num_envs * config.num_steps, 0)
    return trainer.state.bars / trainer.seconds, trainer


def gymnasium_copies(physics: Physics, symbols: tuple[str, ...]) -> DummyVecEnv:
    """256 copies of the public environment on the same market."""
    config = MultiAssetEnvConfig(symbols=symbols, episode_bars=ENVIRONMENT.episode_bars)
    return DummyVecEnv([lambda: MultiAssetTradingEnv(physics.market, config, action_space="centred")] * ENVS)


def theirs(env: VecEnv, rollouts: int = 2) -> float:
    """SB3's steps a second."""
    model = PPO(
        "MlpPolicy", env, n_steps=STEPS, batch_size=MINIBATCH, n_epochs=10, device="cpu", seed=0,
        policy_kwargs={"net_arch": {"pi": [HIDDEN, HIDDEN], "vf": [HIDDEN, HIDDEN]}},
    )  # fmt: skip
    started = time.perf_counter()
    model.learn(rollouts * ENVS * STEPS)
    return rollouts * ENVS * STEPS / (time.perf_counter() - started)


def answer_microseconds(trainer, encoder: StateEncoder, rows: np.ndarray, panel: object) -> tuple[float, float]:
    """Median and 99th percentile of one decision by the exported bundle."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "bundle"
        export(where, [trainer.agent], [0], encoder, ENVIRONMENT, training_data(panel), rows, {})
        policy = load_policy(where)
    states = rows[1000:3000].astype(np.float32)
    for state in states[:200]:
        policy.decide(state)
    taken = []
    for state in states:
        started = time.perf_counter_ns()
        policy.decide(state)
        taken.append((time.perf_counter_ns() - started) / 1000.0)
    return median(taken), float(np.percentile(taken, 99))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="leave the comparison with Stable-Baselines3 out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    rounds = args.rounds
    torch.set_num_threads(args.threads)
    physics, rows, encoder, panel = world(3)
    equal = config_of(
        encoder,
        analytic_gradient_fraction=0.0,
        advantage="gae",
        control_variate=False,
        head="centre",
        epochs=10,
        random_position_fraction=0.0,
    )
    product = MultiPPOConfig(  # but for the rollout, which has to divide these episodes: 400 x 64 instead of 500 x 50
        state_dim=encoder.state_dim, action_dim=len(encoder.symbols), hidden_dim=HIDDEN, num_envs=400, num_steps=64,
        minibatch=12_800,
    )  # fmt: skip
    names = ("product",) if args.alone else ("equal", "product", "sb3", "sb3 batched")
    speeds: dict[str, list[float]] = {name: [] for name in names}
    trainer = None
    for _ in range(rounds):
        if not args.alone:
            speeds["sb3 batched"].append(theirs(Sb3VecEnv(ENVS, physics.market, ENVIRONMENT)))
            speeds["sb3"].append(theirs(gymnasium_copies(physics, encoder.symbols), rollouts=1))
            speeds["equal"].append(ours(physics, rows, equal)[0])
        speed, trainer = ours(physics, rows, product)
        speeds["product"].append(speed)
    found = {name: round(median(values)) for name, values in speeds.items()}
    scaling = {}
    for assets in (3, 20):
        wide = world(assets)
        scaling[assets] = median(
            1e6 / ours(wide[0], wide[1], config_of(wide[2], hidden_dim=32))[0] for _ in range(rounds)
        )
    typical, slow = answer_microseconds(trainer, encoder, rows, panel)
    for name, value in found.items():
        spread = f"({min(speeds[name]):,.0f} .. {max(speeds[name]):,.0f})"
        beside = "   ".join(f"{value / found[other]:.2f} x {other}" for other in found if other.startswith("sb3"))
        print(f"{name:12s} {value:>9,} steps/s {spread:24s} {beside}")
    growth = scaling[20] / scaling[3]
    print(f"3 assets {scaling[3]:.1f} us a step, 20 assets {scaling[20]:.1f}: x{growth:.2f} for x6.67 assets")
    print(f"one answer 52 -> 3 of a 2 x {HIDDEN} network: median {typical:.1f} us, 99 % {slow:.1f} us")
    answer = {"answer_us": typical, "answer_us_99": slow}
    print(json.dumps({"steps_per_second": found, "us_per_step": scaling, **answer}))


if __name__ == "__main__":
    main()
