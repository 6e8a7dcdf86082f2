"""The PPO update (Schulman et al. 2017), in the order of the maths. Knows tensors only: no environment, no logger.

advantages   gae, normalised               before the update, once a rollout
ppo_loss     log-ratio, ratio, KL, clip fraction, clipped surrogate, value loss
update       epochs of minibatches of whole environments
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from himari_rl.agents.config import PPOConfig
from himari_rl.agents.distributions import Band, log_prob
from himari_rl.agents.kernels import fused_clipped_surrogate, fused_weighted_half_mse
from himari_rl.agents.networks import Memory, map_memory
from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.training.optimiser import FlatAdamW


class Batch(NamedTuple):
    """One rollout, time first, ready to learn from."""

    states: Tensor  # (T, N, F) of the actor: raw in a rollout, normalised in a minibatch
    critic_states: Tensor | None  # (T, N, F) of the critic, alike; None when no critic is used
    memory: Memory  # at the rollout's first bar
    previous: Tensor  # (T, N, A) held position, multiplier units
    latent: Tensor  # (T, N, A) the action before its bounds
    log_prob: Tensor  # (T, N) under the policy that played
    advantage: Tensor  # (T, N)
    target: Tensor | None  # (T, N) for the critic
    alive: Tensor  # (T, N) weight, 0 after ruin
    rows: Tensor | None = None  # (T, N) decision rows; with them, and `bands`, the actor needs no states


def gae(
    reward: Tensor, value: Tensor, final_value: Tensor, terminated: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16).

    Args:
        reward, value: (T, N); value of the state in which the reward's action was taken.
        final_value: (N,) of the observation after the last step. A truncation bootstraps from it: the market goes on,
            only the episode's clock is up. Ruin (`terminated`) does not.
        terminated: (T, N) bool.

    Returns:
        advantage (T, N) and the critic's target (T, N).
    """
    not_terminated = (~terminated).to(reward.dtype)
    next_value = torch.cat([value[1:], final_value[None]])
    delta = reward + gamma * next_value * not_terminated - value
    decay = (gamma * lam * not_terminated).unbind()
    running, advantages = torch.zeros_like(final_value), []
    for delta_t, decay_t in zip(reversed(delta.unbind()), reversed(decay), strict=True):
        running = torch.addcmul(delta_t, decay_t, running)  # A_t = delta_t + gamma lambda A_{t+1}
        advantages.append(running)
    advantage = torch.stack(advantages[::-1])
    return advantage, advantage + value


def normalised(advantage: Tensor, alive: Tensor) -> Tensor:
    """(T, N) advantage with mean 0 and deviation 1 over living bars, 0 after ruin."""
    count = alive.sum().clamp_min(1.0)
    mean = (advantage * alive).sum() / count
    centred = (advantage - mean) * alive
    return centred / ((centred.square().sum() / count).sqrt() + 1e-8)


def explained_variance(value: Tensor, target: Tensor) -> Tensor:
    """1 - Var[target - value] / Var[target]; 0 says the critic knows nothing, below 0 it misleads."""
    return 1.0 - (target - value).var() / target.var().clamp_min(1e-12)


class NewPolicy(NamedTuple):
    """What the weights at hand say of a batch's actions and states."""

    log_prob: Tensor  # (T, N) of the batch's actions
    value: Tensor | None  # (T, N); None when no critic is used


class LossStats(NamedTuple):
    """The terms of one gradient step, () each."""

    policy: Tensor
    value: Tensor
    kl: Tensor
    clip_fraction: Tensor


def ppo_loss(batch: Batch, new: NewPolicy, config: PPOConfig) -> tuple[Tensor, LossStats]:
    """The clipped surrogate and the value loss, weighted over the bars on which the account was alive.

    No entropy bonus: the Gaussian's entropy depends on its deviation alone, which follows a schedule.

    Returns:
        the loss to minimise, (), and its terms.
    """
    weight = batch.alive / batch.alive.sum().clamp_min(1.0)  # sums to 1: every sum below is a mean over living bars

    log_ratio = new.log_prob.detach() - batch.log_prob
    ratio = log_ratio.exp()
    clipped_ratio = ratio.clamp(1.0 - config.clip_coef, 1.0 + config.clip_coef)
    kl = ((ratio - 1.0 - log_ratio) * weight).sum()  # k3 of http://joschu.net/blog/kl-approx.html
    clip_fraction = ((clipped_ratio != ratio) * weight).sum()

    # -sum w min(r A, clip(r) A): kernels.clipped_surrogate, with its slope in the log-probability written out
    policy_loss = fused_clipped_surrogate(new.log_prob, ratio, clipped_ratio, batch.advantage * weight)
    if new.value is None or batch.target is None:
        return policy_loss, LossStats(policy_loss.detach(), torch.zeros_like(kl), kl, clip_fraction)

    # 1/2 sum w (V - target)^2: kernels.weighted_half_mse
    value_loss = fused_weighted_half_mse(new.value, batch.target, weight)
    loss = policy_loss + config.value_coefficient * value_loss
    return loss, LossStats(policy_loss.detach(), value_loss.detach(), kl, clip_fraction)


def update(
    agent: PPOAgent,
    optimiser: FlatAdamW,
    batch: Batch,
    std: float | Tensor,
    generator: torch.Generator,
    bands: Callable[[Tensor], tuple[Band, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """Several epochs over one rollout, each in a new order of environments.

    Args:
        std: deviation of the action, a number or (T, N, A).
        bands: what the actor makes of rows (T, n), and its mean excess; None asks its net about the batch's states.

    Returns:
        means of the loss terms over all gradient steps, as tensors: reading them is the only synchronisation.
    """
    config = agent.config
    steps, count = batch.log_prob.shape
    envs_per_minibatch = max(1, min(count, config.minibatch // steps))
    deviation = torch.as_tensor(std, dtype=batch.latent.dtype, device=batch.latent.device)
    critic_states = None if batch.critic_states is None else agent.critic_inputs(batch.critic_states)
    states = batch.states if bands is not None else agent.normalised_states(batch.states)  # not once a minibatch
    gather = Gather(batch._replace(states=states, critic_states=critic_states))
    history: list[LossStats] = []
    for _ in range(config.epochs):
        order = torch.randperm(count, generator=generator, device=batch.latent.device)
        for environments in torch.split(order, envs_per_minibatch):
            part = gather(environments)
            if bands is None or part.rows is None:
                band, _ = agent.band_of_normalised(part.states, part.memory)
                excess = band.excess.mean()
            else:
                band, excess = bands(part.rows)
            mean = band.mean(part.previous)
            spread = deviation.index_select(1, environments) if deviation.ndim else deviation
            new = NewPolicy(
                log_prob=log_prob(config.head, part.latent, mean, spread),
                value=None if part.critic_states is None else agent.critic(part.critic_states),
            )
            loss, stats = ppo_loss(part, new, config)
            optimiser.minimise(loss + config.range_penalty * excess)
            history.append(stats)
    return {name: torch.stack([getattr(stats, name) for stats in history]).mean() for name in LossStats._fields}


class Gather:
    """Minibatches of a rollout: some of its environments with their whole sequences, so that memory stays whole.

    All numbers of a bar lie side by side, so that a minibatch is two copies: eight small ones cost four times as much.
    """

    def __init__(self, batch: Batch) -> None:
        self._memory, self._critic, self._rows = batch.memory, batch.critic_states is not None, batch.rows
        states = [batch.states] if batch.critic_states is None else [batch.states, batch.critic_states]
        target = torch.zeros_like(batch.alive) if batch.target is None else batch.target
        scalars = [batch.log_prob, batch.advantage, target, batch.alive]
        numbers = [batch.previous, batch.latent, *(x[..., None].to(batch.latent.dtype) for x in scalars)]
        self._states, self._state_widths = torch.cat(states, -1), [x.shape[-1] for x in states]
        self._numbers, self._widths = torch.cat(numbers, -1), [x.shape[-1] for x in numbers]

    def __call__(self, environments: Tensor) -> Batch:
        """The same rollout for the environments (n,)."""
        memory = map_memory(lambda part: part.index_select(1, environments), self._memory)
        # index_select is six times as fast as x[:, environments]
        states = torch.split(self._states.index_select(1, environments), self._state_widths, -1)
        numbers = torch.split(self._numbers.index_select(1, environments), self._widths, -1)
        previous, latent, *scalars = numbers
        old_log_prob, advantage, target, alive = (x[..., 0] for x in scalars)
        return Batch(
            states=states[0],
            critic_states=states[1] if self._critic else None,
            memory=memory,
            previous=previous,
            latent=latent,
            log_prob=old_log_prob,
            advantage=advantage,
            target=target if self._critic else None,
            alive=alive,
            rows=None if self._rows is None else self._rows.index_select(1, environments),
        )
