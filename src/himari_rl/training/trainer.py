"""The trainer: rollouts in the order of the run, first by the analytic gradient, then by PPO.

All randomness comes from one generator; the state between two rollouts is complete (`TrainerState`), so that a run
that is killed and resumed ends in the same weights, bit for bit, as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from himari_rl.agents.networks import Memory, map_memory
from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.envs.batch import join, pick, where_over
from himari_rl.envs.physics import EnvState, Physics
from himari_rl.errors import ConfigError
from himari_rl.training.band_ledger import BandLedger, Rollout, by_hand
from himari_rl.training.budget import plan_further
from himari_rl.training.collapse import CollapseGuard
from himari_rl.training.engine import Asking, run
from himari_rl.training.exploration import deviations, explored
from himari_rl.training.gradient import autograd_step, counterfactual_advantage, gradient_step, mean_reward
from himari_rl.training.optimiser import FlatAdamW
from himari_rl.training.ppo import Batch, explained_variance, gae, normalised, update
from himari_rl.training.rollout import Trajectory, unroll
from himari_rl.training.sight import Sight
from himari_rl.training.states import random_positions

MIN_SCALE = 1e-8

Learned = tuple["Trajectory | Rollout", dict[str, float], Tensor]  # what was played, metrics, (N,) ruined


class Drawn(NamedTuple):
    """What PPO learns from besides what was played."""

    states: Tensor  # (T, N, F) of the actor; no features where a `Sight` knows its rows
    critic_states: Tensor | None
    advantage: Tensor  # (T, N)
    target: Tensor | None  # (T, N) for the critic


@dataclass
class TrainerState:
    """Everything a rollout leaves for the next one, besides weights and optimiser."""

    env: EnvState
    memory: Memory
    rollout: int = 0
    planned: int = 0  # rollouts in all, as far as is known
    growing_from: float = 0.0  # the objective a third into the plan (budget.py)
    bars: int = 0
    reward_count: float = 0.0
    reward_mean: float = 0.0
    reward_m2: float = 0.0
    averaged: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def reward_scale(self) -> float:
        """Running standard deviation of the unscaled reward; 1 before the first rollout."""
        if self.reward_count < 2:
            return 1.0
        return max(math.sqrt(self.reward_m2 / self.reward_count), MIN_SCALE)


class Trainer:
    """Improves one agent on one market.

    Args:
        total_bars: the budget, rounded up to whole rollouts of envs x num_steps; with beliefs the most (budget.py).
        generator: the run's one source of randomness, on the physics' device.
        on_rollout: called after each rollout with the state's metrics; raising stops the run.
    """

    def __init__(
        self,
        agent: PPOAgent,
        physics: Physics,
        total_bars: int,
        generator: torch.Generator,
        on_rollout: Callable[[Trainer], None] = lambda trainer: None,
    ) -> None:
        config = agent.config
        if physics.config.episode_bars % config.num_steps:
            raise ConfigError(
                f"num_steps {config.num_steps} with episodes of {physics.config.episode_bars} bars",
                "a rollout that divides the episode",
                "choose num_steps 20, 25 or 50 for 500 bars",
            )
        self.agent, self.physics, self.generator, self.on_rollout = agent, physics, generator, on_rollout
        self.most_rollouts = config.rollouts(total_bars)
        self.optimiser = FlatAdamW(agent, config.learning_rate, config.weight_decay, config.max_grad_norm)
        self.guard = CollapseGuard(physics)
        self.average = [torch.zeros_like(p) for p in agent.actor_parameters()]
        self.seconds = 0.0
        self.paused = False
        self._ledger: BandLedger | None = None
        self._sight: Sight | None = None
        self.state = TrainerState(self._first_accounts(), agent.initial_memory(config.num_envs))
        first = config.plan_rollouts if config.anchored else 0
        self.state.planned = min(first or self.most_rollouts, self.most_rollouts)

    @property
    def rollouts(self) -> int:
        """How many are planned; the schedules of learning rate, exploration and averaging end with them."""
        return self.state.planned

    @property
    def gradient_rollouts(self) -> int:
        return round(self.agent.config.analytic_gradient_fraction * self.rollouts)

    @property
    def averaged_rollouts(self) -> int:
        return max(1, round(self.agent.config.weight_average_fraction * self.rollouts))

    @property
    def ledger(self) -> BandLedger | None:
        """What plays this agent's bands; None where autograd steps bar by bar (by_hand)."""
        if self._ledger is None and by_hand(self.agent, self.physics):
            self._ledger = BandLedger(self.physics, self.agent.config.gross_penalty)
        return self._ledger

    @property
    def sight(self) -> Sight | None:
        """What the agent sees, prepared at the first rollout: the normaliser stays as it is from there on."""
        if self._sight is None and by_hand(self.agent, self.physics):
            self._sight = Sight(self.agent, self.physics)
        return self._sight

    def run(self) -> None:
        """Trains to the end of the budget and leaves the averaged weights in the agent."""
        run([self.training()])

    def one_rollout(self) -> None:
        """One rollout of all accounts and what is learned from it."""
        run([self.rolling()])

    def training(self) -> Asking[None]:
        """`run` as a coroutine, for engine.run; it ends early where `paused` is set after a rollout."""
        while self.state.rollout < self.rollouts and not self.paused:
            yield from self.rolling()
            yield from plan_further(self)
            self.on_rollout(self)
        if self.paused:
            return
        with torch.no_grad():
            for parameter, mean in zip(self.agent.actor_parameters(), self.average, strict=True):
                parameter.copy_(mean)

    def rolling(self) -> Asking[None]:
        """`one_rollout` as a coroutine; counts the seconds that are this net's."""
        rollout = self._rolling()
        go_on = partial(next, rollout)
        while True:
            started = time.perf_counter()
            try:
                ask = go_on()
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - started
            answer = yield ask
            self.seconds += answer.seconds
            go_on = partial(rollout.send, answer)

    def _rolling(self) -> Asking[None]:
        config, state = self.agent.config, self.state
        left = 1.0 - state.rollout / self.rollouts
        fraction = config.final_learning_rate + (1.0 - config.final_learning_rate) * left
        self.optimiser.learning_rate = config.learning_rate * fraction
        state.env = random_positions(self.physics, state.env, config.random_position_fraction, self.generator)
        by_gradient = state.rollout < self.gradient_rollouts
        if state.rollout == self.gradient_rollouts:
            self.optimiser.forget()  # Adam's moments of one loss are the wrong step size for the other (LOG.md)
        stage = self._gradient_rollout() if by_gradient else self._ppo_rollout()
        trajectory, metrics, ruined = yield from stage
        self._count(trajectory)
        state.rollout += 1
        state.metrics = metrics | self._diagnostics(trajectory)
        self.guard.check(trajectory, state.rollout, self.rollouts)
        self._end_episodes(ruined)
        if state.rollout > self.rollouts - self.averaged_rollouts:
            state.averaged += 1
            with torch.no_grad():
                for mean, parameter in zip(self.average, self.agent.actor_parameters(), strict=True):
                    mean.add_((parameter - mean) / state.averaged)

    def _gradient_rollout(self) -> Asking[Learned]:
        config, state = self.agent.config, self.state
        chunk = max(1, min(config.num_envs, config.minibatch // config.num_steps))
        envs: list[EnvState] = []
        memories: list[Memory] = []
        ruined: list[Tensor] = []
        for part in torch.split(torch.arange(config.num_envs, device=self.physics.device), chunk):
            env, own = pick(state.env, part), map_memory(lambda leaf, part=part: leaf[:, part], state.memory)
            env, memory, trajectory = yield from self._gradient_step(env, own)
            envs.append(env)
            memories.append(memory)
            ruined.append(trajectory.terminated.any(0))
        state.env = join(envs)
        state.memory = map_memory(lambda *parts: torch.cat(parts, 1), *memories)
        return trajectory, {}, torch.cat(ruined)

    def _gradient_step(self, env: EnvState, memory: Memory) -> Asking[tuple[EnvState, Memory, Trajectory | Rollout]]:
        agent, optimiser, scale = self.agent, self.optimiser, self.state.reward_scale
        if self.ledger is None or self.sight is None:
            unit = torch.tensor(scale, dtype=torch.float64, device=self.physics.device)
            return autograd_step(agent, self.physics, optimiser, env, memory, unit)
        memory, rollout = yield from gradient_step(agent, self.sight, self.ledger, optimiser, env, memory, scale)
        return rollout.after, memory, rollout

    def _ppo_rollout(self) -> Asking[Learned]:
        config, state, physics = self.agent.config, self.state, self.physics
        steps, count, assets = config.num_steps, config.num_envs, physics.market.assets
        done = (state.rollout - self.gradient_rollouts) / max(1, self.rollouts - self.gradient_rollouts - 1)
        std = config.initial_std * (config.final_std / config.initial_std) ** done
        noise = torch.randn(steps, count, assets, generator=self.generator, device=physics.device, dtype=torch.float64)
        memory, rows = state.memory, state.env.row + torch.arange(steps, device=physics.device)[:, None]
        sight, spread = self.sight, deviations(self.agent, physics, rows, std)
        played: Trajectory | Rollout
        if sight is None or self.ledger is None or config.advantage == "gae":
            played, drawn, metrics = self._unrolled(spread, noise)
            sight = None
        else:
            state.memory, played, advantage = yield from explored(
                self.agent, sight, self.ledger, state.env, memory, spread, noise
            )
            state.env, metrics = played.after, {}
            states = torch.empty(steps, count, 0) if sight.prepared else physics.market.rows[rows]
            drawn = Drawn(states, None, advantage, None)
        batch = Batch(
            states=drawn.states,
            critic_states=drawn.critic_states,
            memory=memory,
            previous=played.previous,
            latent=played.latent,
            log_prob=played.log_prob,
            advantage=normalised(drawn.advantage, played.alive),
            target=drawn.target,
            alive=played.alive,
            rows=rows,
        )
        bands = sight.whole if sight is not None and sight.prepared else None
        stats = update(self.agent, self.optimiser, batch, spread, self.generator, bands)
        metrics |= {name: float(value) for name, value in stats.items()} | {"std": std}
        return played, metrics, played.terminated.any(0)

    @torch.no_grad()
    def _unrolled(self, std: float | Tensor, noise: Tensor) -> tuple[Trajectory, Drawn, dict[str, float]]:
        """PPO's rollout bar by bar through the physics: any reward, any net, and the critic."""
        config, state, physics = self.agent.config, self.state, self.physics
        critic = config.advantage == "gae"
        state.env, state.memory, played = unroll(
            self.agent, physics, state.env, config.num_steps, state.memory, std=std, noise=noise, observed=critic
        )
        states = played.states[:-1] if self.agent.reads_account else played.window.rows
        if not critic:
            return played, Drawn(states, None, counterfactual_advantage(physics, played, config.gamma), None), {}
        advantage, target, metrics = self._gae(played)
        return played, Drawn(states, played.states[:-1], advantage, target), metrics

    @torch.no_grad()
    def _gae(self, trajectory: Trajectory) -> tuple[Tensor, Tensor, dict[str, float]]:
        config, physics = self.agent.config, self.physics
        reward = trajectory.reward
        if config.control_variate:
            reward = reward - mean_reward(physics, trajectory)
        value = self.agent.value(trajectory.states).double()
        advantage, target = gae(
            reward / self.state.reward_scale,
            value[:-1],
            value[-1],
            trajectory.terminated,
            config.gamma,
            config.gae_lambda,
        )
        explained = explained_variance(value[:-1], target)
        return advantage, target.float(), {"explained_variance": float(explained)}

    def _count(self, trajectory: Trajectory | Rollout) -> None:
        """Chan's parallel update of the reward's running moments."""
        state, reward = self.state, trajectory.reward.detach()
        count, mean, variance = reward.numel(), float(reward.mean()), float(reward.var(unbiased=False))
        total = state.reward_count + count
        delta = mean - state.reward_mean
        state.reward_m2 += variance * count + delta**2 * state.reward_count * count / total
        state.reward_mean += delta * count / total
        state.reward_count = float(total)
        state.bars += self.agent.config.num_envs * self.agent.config.num_steps

    def _diagnostics(self, trajectory: Trajectory | Rollout) -> dict[str, float]:
        with torch.no_grad():
            mean = trajectory.mean
            saturated = ((mean <= 0.01) | (mean >= 1.99)).double().mean()
            traded = (trajectory.multiplier - trajectory.previous).abs().mean()
            numbers = torch.stack([trajectory.reward.mean(), mean.mean(), mean.std(), saturated, traded]).tolist()
        names = ("reward", "multiplier", "action_spread", "saturation", "traded")
        return dict(zip(names, numbers, strict=True)) | {"learning_rate": self.optimiser.learning_rate}

    def _first_accounts(self) -> EnvState:
        """Accounts spread evenly over the phases of an episode, so that they do not all end together."""
        config = self.agent.config
        env = self.physics.reset(config.num_envs, self.generator)
        phases = self.physics.config.episode_bars // config.num_steps
        phase = torch.arange(config.num_envs, device=self.physics.device) % phases
        return env._replace(end=env.row + (phase + 1) * config.num_steps)

    def _end_episodes(self, ruined: Tensor) -> None:
        """Fresh accounts, and a fresh memory, where the episode's bars are up or the account was ruined."""
        state = self.state
        over = (state.env.row >= state.env.end) | ruined
        fresh = self.physics.reset(over.shape[0], self.generator)
        state.env = where_over(over, fresh, state.env)
        state.memory = map_memory(lambda part: part.masked_fill(over[None, :, None], 0.0), state.memory)
