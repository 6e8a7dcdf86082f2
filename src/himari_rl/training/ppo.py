"""The PPO update (Schulman et al. 2017), in the order of the maths. Knows tensors only: no environment, no logger."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from himari_rl.agents.distributions import log_prob
from himari_rl.agents.networks import Memory
from himari_rl.agents.ppo_agent import PPOAgent, PPOConfig


class Batch(NamedTuple):
    """One rollout, time first, ready to learn from."""

    states: Tensor  # (T, N, F) what the actor reads
    critic_states: Tensor | None  # (T, N, F) what the critic reads; None when no critic is used
    memory: Memory  # at the rollout's first bar
    previous: Tensor  # (T, N, A)
    latent: Tensor  # (T, N, A)
    log_prob: Tensor  # (T, N) under the policy that played
    advantage: Tensor  # (T, N)
    target: Tensor | None  # (T, N) for the critic
    alive: Tensor  # (T, N) weight, 0 after ruin

    def environments(self, pick: Tensor) -> Batch:
        """The same rollout for some of the environments: whole sequences, so that memory stays whole."""

        def take(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.index_select(1, pick)  # six times as fast as x[:, pick]

        memory = None if self.memory is None else (take(self.memory[0]), take(self.memory[1]))
        return Batch(
            take(self.states), take(self.critic_states), memory, take(self.previous), take(self.latent),
            take(self.log_prob), take(self.advantage), take(self.target), take(self.alive),
        )  # fmt: skip


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
    advantage = torch.zeros_like(reward)
    running = torch.zeros_like(final_value)
    following = final_value
    for t in reversed(range(reward.shape[0])):
        goes_on = (~terminated[t]).to(reward.dtype)
        delta = reward[t] + gamma * following * goes_on - value[t]
        running = delta + gamma * lam * goes_on * running
        advantage[t] = running
        following = value[t]
    return advantage, advantage + value


class Loss(NamedTuple):
    """The terms of one gradient step; `total` is what is minimised."""

    total: Tensor
    policy: Tensor
    value: Tensor
    kl: Tensor
    clip_fraction: Tensor


def ppo_loss(
    new_log_prob: Tensor, batch: Batch, value: Tensor | None, entropy: Tensor | float, config: PPOConfig
) -> Loss:
    """The clipped surrogate and its diagnostics, weighted over the bars on which the account was alive."""
    weight = batch.alive / batch.alive.sum().clamp_min(1.0)
    log_ratio = new_log_prob - batch.log_prob
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - config.clip, 1.0 + config.clip)
    # L = -E[min(ratio A, clip(ratio) A)]
    policy = -(torch.minimum(ratio * batch.advantage, clipped * batch.advantage) * weight).sum()
    zero = policy.detach() * 0.0
    value_loss = zero if value is None else 0.5 * ((value - batch.target).square() * weight).sum()
    total = policy + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
    with torch.no_grad():
        kl = (((ratio - 1.0) - log_ratio) * weight).sum()  # k3 of http://joschu.net/blog/kl-approx.html
        clip_fraction = (((ratio - 1.0).abs() > config.clip) * weight).sum()
    return Loss(total, policy.detach(), value_loss.detach(), kl, clip_fraction)


def normalised(advantage: Tensor, alive: Tensor) -> Tensor:
    """(T, N) advantage with mean 0 and deviation 1 over living bars, 0 after ruin."""
    count = alive.sum().clamp_min(1.0)
    mean = (advantage * alive).sum() / count
    centred = (advantage - mean) * alive
    return centred / ((centred.square().sum() / count).sqrt() + 1e-8)


def update(
    agent: PPOAgent,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    std: float,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Several passes over one rollout, each in a new order of environments.

    Returns:
        means of the loss terms over all gradient steps, as tensors: reading them is the only synchronisation.
    """
    config = agent.config
    steps, count = batch.log_prob.shape
    chunk = max(1, min(count, config.minibatch // steps))
    spread = torch.as_tensor(std, dtype=batch.latent.dtype, device=batch.latent.device)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    losses: list[Loss] = []
    watched = None if batch.critic_states is None else agent.watched(batch.critic_states)
    batch = batch._replace(states=agent.seen(batch.states), critic_states=watched)  # once, not once a minibatch
    for _ in range(config.epochs):
        order = torch.randperm(count, generator=generator, device=batch.latent.device)
        for pick in order.split(chunk):
            part = batch.environments(pick)
            band, _ = agent.edges(part.states, part.memory)
            mean = band.mean(part.previous)
            new_log_prob = log_prob(config.head, part.latent, mean, spread)
            value = None if part.critic_states is None else agent.critic(part.critic_states)
            # the Gaussian's entropy depends on its deviation only, which follows a schedule
            loss = ppo_loss(new_log_prob, part, value, 0.0, config)
            optimiser.zero_grad(set_to_none=True)
            (loss.total + config.bound_pull * band.excess.mean()).backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            optimiser.step()
            losses.append(loss)
    return {
        name: torch.stack([getattr(loss, name) for loss in losses]).mean().detach()
        for name in ("policy", "value", "kl", "clip_fraction")
    }


def explained_variance(value: Tensor, target: Tensor) -> Tensor:
    """1 - Var[target - value] / Var[target]; 0 says the critic knows nothing, below 0 it misleads."""
    return 1.0 - (target - value).var() / target.var().clamp_min(1e-12)
