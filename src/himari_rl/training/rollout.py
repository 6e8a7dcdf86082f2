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
from himari_rl.envs.batch import mapped, stack
from himari_rl.envs.physics import EnvState, Physics, Window


class Trajectory(NamedTuple):
    """T decisions of N accounts, time first."""

    window: Window  # (T, N, ...) what the market was
    states: Tensor  # (T + 1, N, F) raw observations, the last one after the last decision; empty unless observed
    before: EnvState  # (T, N, ...) before each decision
    previous: Tensor  # (T, N, A) held position in multiplier units, as observed
    mean: Tensor  # (T, N, A) the policy's mean action
    latent: Tensor  # (T, N, A) what was drawn, before its bounds
    multiplier: Tensor  # (T, N, A) the multiplier that the ledger was given
    log_prob: Tensor  # (T, N) of the draw
    reward: Tensor  # (T, N) unscaled
    alive: Tensor  # (T, N) 1.0 until the account was ruined, 0.0 after
    terminated: Tensor  # (T, N) bool
    excess: Tensor  # () mean distance of the raw band edges outside [0, 2]

    @property
    def first(self) -> EnvState:
        """The accounts before the first bar."""
        return mapped(lambda leaf: leaf[0], self.before)


def unroll(
    agent: PPOAgent,
    physics: Physics,
    state: EnvState,
    steps: int,
    memory: Memory = None,
    *,
    std: float | Tensor | None = None,
    noise: Tensor | None = None,
    observed: bool = False,
) -> tuple[EnvState, Memory, Trajectory]:
    """Plays `steps` bars. Differentiable in the agent's weights when no noise is given and gradients are on.

    Args:
        std, noise: exploration around the mean; noise is (T, N, A) standard normal, std a number or (T, N, A). None
            plays the mean.
        observed: keep the observations (a critic needs them) and the account features they contain.
    """
    observed = observed or agent.reads_account
    head, device = agent.config.head, physics.device
    window = physics.window(state.row + torch.arange(steps, device=device)[:, None])
    deviation = torch.as_tensor(0.0 if std is None else std, dtype=torch.float64, device=device)
    bands: Band | None = None  # of all T x N bars at once, where the net reads the market alone
    excess: list[Tensor] = []
    if not agent.reads_account:
        bands, memory = agent.band(window.rows, memory)
        bands = bands.double()
        excess.append(bands.excess)
    states: list[Tensor] = []
    before: list[EnvState] = []
    bars: list[_Bar] = []
    alive = torch.ones_like(state.account.log_equity)
    for step in range(steps):
        now = window.at(step)
        if bands is None:
            states.append(physics.observe(state, now.rows))
            one_step, memory = agent.band(states[-1][None], memory)
            band = one_step.double().at(0)
            excess.append(band.excess)
        else:
            band = bands.at(step)
        previous = physics.previous(state.account, now)
        mean = band.mean(previous)
        spread = deviation[step] if deviation.ndim else deviation
        latent, multiplier = (mean, mean) if noise is None else sample(head, mean, spread, noise[step])
        before.append(state)
        state, outcome = physics.step(state, multiplier, now, tracked=observed)
        bars.append(_Bar(previous, mean, latent, multiplier, outcome.reward, alive, outcome.terminated))
        alive = alive * ~outcome.terminated
    last, empty = physics.market.rows[state.row], torch.empty(0, device=device)
    if agent.reads_account:
        observations = torch.stack([*states, physics.observe(state, last)])
    elif observed:
        observations = physics.observe(stack([*before, state]), torch.cat([window.rows, last[None]]))
    else:
        observations = empty
    whole = _Bar(*(torch.stack(leaves) for leaves in zip(*bars, strict=True)))
    trajectory = Trajectory(
        window=window,
        states=observations,
        before=stack(before),
        log_prob=empty if noise is None else log_prob(head, whole.latent, whole.mean, deviation),
        excess=torch.stack(excess).mean(),
        **whole._asdict(),
    )
    return state, memory, trajectory


class _Bar(NamedTuple):
    """One bar of a `Trajectory`, under its names."""

    previous: Tensor
    mean: Tensor
    latent: Tensor
    multiplier: Tensor
    reward: Tensor
    alive: Tensor
    terminated: Tensor
