"""Rollouts: N accounts carried T bars forward together. There is no Python loop over environments.

Episodes begin and end only between rollouts (the rollout's length divides the episode's), so nothing inside the loop
has to ask whether an account was reset, and the last observation of every episode is simply the rollout's last.

The market does not react to us, so a network that does not read the account is evaluated once for all T x N
bars; only the ledger is stepped bar by bar.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from himari_rl.agents.distributions import Band, log_prob, sample
from himari_rl.agents.networks import Memory
from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.envs.batch import stack
from himari_rl.envs.physics import EnvState, Physics, Window


class Trajectory(NamedTuple):
    """T decisions of N accounts, time first."""

    window: Window  # (T, N, ...) what the market was
    states: Tensor  # (T + 1, N, F) raw observations, the last one after the last decision; empty when not asked for
    before: EnvState  # (T, N, ...) before each decision
    previous: Tensor  # (T, N, A) held position in multiplier units, as observed
    mean: Tensor  # (T, N, A) what the policy wanted
    latent: Tensor  # (T, N, A) what was drawn, before its bounds
    multiplier: Tensor  # (T, N, A) what was played
    log_prob: Tensor  # (T, N) of the draw
    reward: Tensor  # (T, N) unscaled
    alive: Tensor  # (T, N) 1.0 until the account was ruined, 0.0 after
    terminated: Tensor  # (T, N) bool
    excess: Tensor  # () mean distance of the raw band edges outside [0, 2]


def unroll(
    agent: PPOAgent,
    physics: Physics,
    state: EnvState,
    steps: int,
    memory: Memory = None,
    *,
    std: float | None = None,
    noise: Tensor | None = None,
    observed: bool = False,
) -> tuple[EnvState, Memory, Trajectory]:
    """Plays `steps` bars. Differentiable in the agent's weights when no noise is given and gradients are on.

    Args:
        std, noise: exploration around the mean; noise is (T, N, A) standard normal. None plays the mean.
        observed: keep the observations (a critic needs them) and the account features they contain.
    """
    observed = observed or agent.reads_account
    head = agent.config.head
    window = physics.window(state.row + torch.arange(steps, device=physics.device)[:, None])
    excess: list[Tensor] = []
    band: Band | None = None
    if not agent.reads_account:
        band, memory = agent.band(window.rows, memory)
        band = band.double()
        excess.append(band.excess)
    spread = None if std is None else torch.as_tensor(std, dtype=torch.float64, device=physics.device)
    states, visited, previous, means, latents, played, rewards, alives, ends = ([] for _ in range(9))
    alive = torch.ones_like(state.account.log_equity)
    for step in range(steps):
        now = window.at(step)
        if agent.reads_account:
            states.append(physics.observe(state, now.rows))
            asked, memory = agent.band(states[-1][None], memory)
            edges = asked.double().at(0)
            excess.append(edges.excess)
        else:
            edges = band.at(step)
        held = physics.previous(state.account, now)
        mean = edges.mean(held)
        multiplier = latent = mean
        if noise is not None:
            latent, multiplier = sample(head, mean, spread, noise[step])
        visited.append(state)
        state, outcome = physics.step(state, multiplier, now, tracked=observed)
        for values, value in zip(
            (previous, means, latents, played, rewards, alives, ends),
            (held, mean, latent, multiplier, outcome.reward, alive, outcome.terminated),
            strict=True,
        ):
            values.append(value)
        alive = alive * ~outcome.terminated
    last, empty = physics.market.rows[state.row], torch.empty(0, device=physics.device)
    if agent.reads_account:
        seen = torch.stack([*states, physics.observe(state, last)])
    elif observed:
        seen = physics.observe(stack([*visited, state]), torch.cat([window.rows, last[None]]))
    else:
        seen = empty
    wanted, drawn = torch.stack(means), torch.stack(latents)
    trajectory = Trajectory(
        window=window,
        states=seen,
        before=stack(visited),
        previous=torch.stack(previous),
        mean=wanted,
        latent=drawn,
        multiplier=torch.stack(played),
        log_prob=empty if noise is None else log_prob(head, drawn, wanted, spread),
        reward=torch.stack(rewards),
        alive=torch.stack(alives),
        terminated=torch.stack(ends),
        excess=torch.stack(excess).mean(),
    )
    return state, memory, trajectory
