"""The analytic gradient: the ledger is differentiable and the market does not react, so reward is differentiated.

    dJ/dtheta = sum_t dr_t/dw_t dw_t/dtheta,   w_t flowing into every later bar through the drift and the no-trade band

No likelihood ratio, no exploration noise, no critic. See docs/decisions/LOG.md for what it adds to PPO and PPO to it.

gradient_step       the ledger's slopes by the adjoint written by hand (engine.py), many nets at once
autograd_step       the same by autograd, bar by bar: the definition, and what every reward and every net can take
"""

from __future__ import annotations

import torch
from torch import Tensor

from himari_rl.agents.networks import Memory, map_memory
from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.envs.physics import EnvState, Physics
from himari_rl.policy.account import Account
from himari_rl.training.band_ledger import BandLedger, Rollout
from himari_rl.training.engine import Asking
from himari_rl.training.optimiser import FlatAdamW
from himari_rl.training.rollout import Trajectory, unroll
from himari_rl.training.sight import Sight


def gradient_step(
    agent: PPOAgent,
    sight: Sight,
    ledger: BandLedger,
    optimiser: FlatAdamW,
    state: EnvState,
    memory: Memory,
    scale: float,
) -> Asking[tuple[Memory, Rollout]]:
    """One ascent step on the mean reward of the next num_steps bars of these accounts.

    Args:
        scale: running standard deviation of the reward: Adam's epsilon and the clip then mean the same on every market.

    Returns:
        the memory after those bars, detached, and what was played.
    """
    config = agent.config
    turn = ledger.turn(state, config.num_steps)
    seen, memory = sight.bands(turn.rows, memory)
    band, carried = seen.band, seen.band.high is not seen.band.low
    low = ledger.to_bars(seen.at_bars(band.low))
    high = ledger.to_bars(seen.at_bars(band.high)) if carried else low
    answer = yield turn.ask(low, high, carried=carried, unit=1.0 / scale)
    tensors, slopes = ([band.low, band.high], [answer.low, answer.high]) if carried else ([band.low], [answer.low])
    descent = [(-seen.from_bars(ledger.from_bars(slope))).to(band.low.dtype) for slope in slopes]
    if bool((band.excess > 0.0).any()):  # without any it has no slope
        tensors, descent = [*tensors, band.excess], [*descent, config.range_penalty * seen.visits()]
    optimiser.follow(tensors, descent)
    return map_memory(Tensor.detach, memory), turn.result(answer)


def autograd_step(
    agent: PPOAgent,
    physics: Physics,
    optimiser: FlatAdamW,
    state: EnvState,
    memory: Memory,
    scale: Tensor,
) -> tuple[EnvState, Memory, Trajectory]:
    """`gradient_step` by autograd through the physics, which any reward and any net can take.

    Args:
        scale: running standard deviation of the reward: Adam's epsilon and the clip then mean the same on every market.

    Returns:
        the accounts after those bars, detached, with their memory and trajectory.
    """
    config = agent.config
    state, memory, trajectory = unroll(agent, physics, state, config.num_steps, memory)
    objective = (trajectory.reward * trajectory.alive).sum() / trajectory.alive.sum().clamp_min(1.0)
    gross_excess = physics.gross_excess(trajectory.mean, trajectory.window).mean()
    penalty = config.range_penalty * trajectory.excess
    optimiser.minimise(-objective / scale + penalty + config.gross_penalty * gross_excess)
    return detached(state), map_memory(Tensor.detach, memory), trajectory


def detached(state: EnvState) -> EnvState:
    """The same accounts without their history."""
    account = type(state.account)(*(leaf.detach() for leaf in state.account))
    trades = type(state.trades)(*(leaf.detach() for leaf in state.trades))
    first, second = state.moments
    return EnvState(state.row, state.end, account, trades, state.log_peak.detach(), (first.detach(), second.detach()))


def counterfactual_advantage(physics: Physics, trajectory: Trajectory, gamma: float) -> Tensor:
    """(T, N) what the drawn action earned over the mean action, on the same bar of the same account.

        A_t = r(a_t) - r(mean_t) + gamma * <slope_{t+1}, held'(a_t) - held'(mean_t)>
        slope_t = dr_t/dheld_t + gamma * slope_{t+1} dheld_{t+1}/dheld_t

    The market does not react, so r(mean_t) is known exactly; the slope of future reward in the held position follows
    the drawn path, on which later bars keep to the policy's band: inside it the position is carried, at an edge not.
    """
    config, window, account = physics.config, trajectory.window, trajectory.before.account
    held = account.held.detach().requires_grad_()
    side = torch.where(window.side == 0, account.held.sign(), window.side)
    carried = (trajectory.mean == trajectory.previous) * side / config.max_position_pct
    with torch.enable_grad():
        drawn = (trajectory.multiplier + carried * (held - held.detach())).clamp(0.0, 2.0)
        reward, after = _played(physics, trajectory, account._replace(held=held), drawn)
        (own,) = torch.autograd.grad(reward.sum(), held, retain_graph=True)
        carry = torch.stack(
            [torch.autograd.grad(after[..., a].sum(), held, retain_graph=True)[0] for a in range(after.shape[-1])], -2
        )  # (T, N, A, A): row a is d held'_a / d held
    with torch.no_grad():
        mean_reward, mean_after = _played(physics, trajectory, account, trajectory.mean)
        moved, alive = after - mean_after, trajectory.alive
        slope = torch.zeros_like(held[0])
        future = torch.empty_like(reward)
        for t in reversed(range(held.shape[0])):
            future[t] = (slope * moved[t]).sum(-1)
            slope = (own[t] + gamma * (slope[:, None, :] @ carry[t])[:, 0]) * alive[t][:, None]
        return (reward - mean_reward + gamma * future).detach()


@torch.no_grad()
def mean_reward(physics: Physics, trajectory: Trajectory) -> Tensor:
    """(T, N) what the mean action would have earned on the same bar of the same account: an exact control variate."""
    return _played(physics, trajectory, trajectory.before.account, trajectory.mean)[0]


def _played(physics: Physics, trajectory: Trajectory, account: Account, multiplier: Tensor) -> tuple[Tensor, Tensor]:
    """Reward (T, N) and next held exposure (T, N, A) of the trajectory's bars played with other multipliers."""
    window, before = trajectory.window, trajectory.before
    after, moved = physics.advance(account, multiplier, window)
    log_peak = torch.maximum(before.log_peak, after.marked_log_equity)
    reward, _ = physics.reward(moved, account.held, window, after, log_peak, before.moments)
    return reward, after.held
