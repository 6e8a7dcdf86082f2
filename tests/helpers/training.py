"""Small agents and markets for the learning tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from helpers.envs import FREE, bars_of, random_bars
from himari_rl.agents.config import PPOConfig
from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.physics import EnvState, Physics, market_of
from himari_rl.features.encoder import StateEncoder
from himari_rl.schema import Bars
from himari_rl.training.job import Job, run_job
from himari_rl.training.rollout import Trajectory, unroll
from himari_rl.training.trainer import Trainer

SMALL = {"num_envs": 12, "num_steps": 10, "hidden_dim": 8, "minibatch": 60}


def physics_of(bars: Bars, **config: Any) -> Physics:
    environment = TradingEnvConfig(**{"episode_bars": 20, "allow_short": True, **config})
    encoder = StateEncoder((bars.symbol,))
    return Physics(market_of(bars, encoder, environment)[1], environment, encoder)


def trend(rows: int, per_bar: float, noise: float = 0.001, seed: int = 0) -> Bars:
    """A market that rises (or falls) by `per_bar`, in the log, with a little noise; BUY throughout."""
    moves = per_bar + noise * np.random.default_rng(seed).normal(size=rows)
    return bars_of(100.0 * np.exp(np.cumsum(moves)))


def agent_of(seed: int = 0, **config: Any) -> PPOAgent:
    return PPOAgent(PPOConfig(**(SMALL | config)), torch.Generator().manual_seed(seed))


def trainer_of(agent: PPOAgent, physics: Physics, rollouts: int, seed: int = 0) -> Trainer:
    bars = rollouts * agent.config.num_envs * agent.config.num_steps
    return Trainer(agent, physics, bars, torch.Generator().manual_seed(seed))


def rolled(
    agent: PPOAgent, physics: Physics, steps: int, *, std: float | None = None, seed: int = 0, observed: bool = False
) -> tuple[EnvState, Trajectory]:
    """A rollout from random starts, without gradient."""
    generator = torch.Generator().manual_seed(seed)
    state = physics.reset(agent.config.num_envs, generator)
    shape = (steps, agent.config.num_envs, physics.market.assets)
    noise = None if std is None else torch.randn(shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        state, _, trajectory = unroll(agent, physics, state, steps, std=std, noise=noise, observed=observed)
    return state, trajectory


def free_physics(bars: Bars, **config: Any) -> Physics:
    """No costs, no limits, log-growth."""
    return physics_of(bars, **(FREE | config))


def train_small(out: Path, resume: bool) -> None:
    """A job of 60 rollouts with a checkpoint after every second one; other processes call it by name."""
    environment = TradingEnvConfig(episode_bars=20)
    budget = {"num_episodes": 60 * 120 // 20, "save_interval": 12, "seeds": (0,), "device": "cpu"}
    job = Job(agent=PPOConfig(**SMALL), environment=environment, **budget)
    run_job(job, random_bars(600, 8), out, resume=resume)
