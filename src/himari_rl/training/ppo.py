"""The PPO update (Schulman et al. 2017), in the order of the maths. Knows tensors only: no environment, no logger."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from himari_rl.agents.config import PPOConfig
from himari_rl.agents.distributions import log_prob
from himari_rl.agents.networks import Memory
from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.training.descent import Descent


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


class Gather:
    """Takes some of a rollout's environments: whole sequences, so that memory stays whole.

    All numbers of a bar lie side by side, so that a minibatch is two copies: eight small ones cost four times as much.
    """

    def __init__(self, batch: Batch) -> None:
        self._memory, self._critic = batch.memory, batch.critic_states is not None
        seen = [batch.states] if batch.critic_states is None else [batch.states, batch.critic_states]
        target = torch.zeros_like(batch.alive) if batch.target is None else batch.target
        scalars = [batch.log_prob, batch.advantage, target, batch.alive]
        numbers = [batch.previous, batch.latent, *(x[..., None].to(batch.latent.dtype) for x in scalars)]
        self._seen, self._seen_widths = torch.cat(seen, -1), [x.shape[-1] for x in seen]
        self._numbers, self._widths = torch.cat(numbers, -1), [x.shape[-1] for x in numbers]

    def __call__(self, pick: Tensor) -> Batch:
        """The same rollout for the environments `pick` (n,)."""
        memory = None if self._memory is None else tuple(m.index_select(1, pick) for m in self._memory)
        seen = self._seen.index_select(1, pick).split(self._seen_widths, -1)  # six times as fast as x[:, pick]
        previous, latent, *scalars = self._numbers.index_select(1, pick).split(self._widths, -1)
        log_prob, advantage, target, alive = (x[..., 0] for x in scalars)
        critic = seen[1] if self._critic else None
        return Batch(
            seen[0], critic, memory, previous, latent, log_prob, advantage, target if self._critic else None, alive
        )


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
    goes_on = (~terminated).to(reward.dtype)
    following = torch.cat([value[1:], final_value[None]])
    delta = reward + gamma * following * goes_on - value
    carried = (gamma * lam * goes_on).unbind()
    running, found = torch.zeros_like(final_value), []
    for step, keep in zip(reversed(delta.unbind()), reversed(carried), strict=True):
        running = torch.addcmul(step, keep, running)
        found.append(running)
    advantage = torch.stack(found[::-1])
    return advantage, advantage + value


class Loss(NamedTuple):
    """The terms of one gradient step; `total` is what is minimised."""

    total: Tensor
    policy: Tensor
    value: Tensor
    kl: Tensor
    clip_fraction: Tensor


def ppo_loss(new_log_prob: Tensor, batch: Batch, value: Tensor | None, config: PPOConfig) -> Loss:
    """The clipped surrogate and its diagnostics, weighted over the bars on which the account was alive.

    No entropy bonus: the Gaussian's entropy depends on its deviation alone, which follows a schedule.
    """
    return Loss(*_Terms.apply(new_log_prob, value, batch, config))


class _Terms(torch.autograd.Function):
    """The terms of `Loss`, one node with its slopes written out. With r = exp(log_prob - old) and bars weighted by w,

    L = -sum w min(r A, clip(r) A) + c/2 sum w (value - target)^2
    dL / d log_prob = -w r A where r A <= clip(r) A, else 0: a clipped bar pulls no further
    dL / d value = c w (value - target)
    """

    @staticmethod
    def forward(ctx, log_prob: Tensor, value: Tensor | None, batch: Batch, config: PPOConfig):  # type: ignore[override]
        weight = batch.alive / batch.alive.sum().clamp_min(1.0)
        log_ratio = log_prob - batch.log_prob
        ratio = log_ratio.exp()
        limited = ratio.clamp(1.0 - config.clip_coef, 1.0 + config.clip_coef)
        share = batch.advantage * weight
        gain, least = ratio * share, limited * share
        policy = -torch.minimum(gain, least).sum()
        kl = ((ratio - 1.0 - log_ratio) * weight).sum()  # k3 of http://joschu.net/blog/kl-approx.html
        clip_fraction = ((limited != ratio) * weight).sum()
        slopes = [gain.masked_fill_(gain > least, 0.0).neg_()]
        if value is None:
            total, value_loss = policy.clone(), torch.zeros_like(policy)
        else:
            error = value - batch.target
            pull = weight * error
            value_loss = 0.5 * (error * pull).sum()
            total = policy + config.value_coefficient * value_loss
            slopes.append(pull.mul_(config.value_coefficient).to(value.dtype))
        ctx.save_for_backward(*slopes)
        ctx.mark_non_differentiable(policy, value_loss, kl, clip_fraction)
        return total, policy, value_loss, kl, clip_fraction

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: Tensor):  # type: ignore[override]
        slope, *pull = ctx.saved_tensors
        return gradient * slope, gradient * pull[0] if pull else None, None, None


def normalised(advantage: Tensor, alive: Tensor) -> Tensor:
    """(T, N) advantage with mean 0 and deviation 1 over living bars, 0 after ruin."""
    count = alive.sum().clamp_min(1.0)
    mean = (advantage * alive).sum() / count
    centred = (advantage - mean) * alive
    return centred / ((centred.square().sum() / count).sqrt() + 1e-8)


def update(
    agent: PPOAgent,
    descent: Descent,
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
    losses: list[Loss] = []
    watched = None if batch.critic_states is None else agent.watched(batch.critic_states)
    # what the nets read: once, not once a minibatch
    environments = Gather(batch._replace(states=agent.seen(batch.states), critic_states=watched))
    for _ in range(config.epochs):
        order = torch.randperm(count, generator=generator, device=batch.latent.device)
        for pick in order.split(chunk):
            part = environments(pick)
            band, _ = agent.edges(part.states, part.memory)
            mean = band.mean(part.previous)
            new_log_prob = log_prob(config.head, part.latent, mean, spread)
            value = None if part.critic_states is None else agent.critic(part.critic_states)
            loss = ppo_loss(new_log_prob, part, value, config)
            descent.step(loss.total + config.range_penalty * band.excess.mean())
            losses.append(loss)
    return {
        name: torch.stack([getattr(loss, name) for loss in losses]).mean().detach()
        for name in ("policy", "value", "kl", "clip_fraction")
    }


def explained_variance(value: Tensor, target: Tensor) -> Tensor:
    """1 - Var[target - value] / Var[target]; 0 says the critic knows nothing, below 0 it misleads."""
    return 1.0 - (target - value).var() / target.var().clamp_min(1e-12)
