"""PPO's rollouts played by the engine: the band of every bar at once, noise around its mean, one loop over the bars.

`rollout.unroll` with noise is the definition, and `gradient.counterfactual_advantage` that of the advantage.
"""

from __future__ import annotations

import torch
from torch import Tensor

from himari_rl.agents.distributions import log_prob, sample
from himari_rl.agents.networks import Memory
from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.envs.physics import EnvState, Physics
from himari_rl.policy.ledger import RUINED, namespace
from himari_rl.training import several_assets
from himari_rl.training.adjoint import Array, BandBatch, PlayedPath, share
from himari_rl.training.band_ledger import BandLedger, Rollout, Turn
from himari_rl.training.engine import Asking
from himari_rl.training.one_asset import carry_slopes, own_slopes
from himari_rl.training.sight import Sight

SMALLEST_ANCHOR = 0.05  # of a multiplier: an anchor of 0 would leave a deviation of 0, under which nothing is likely


def deviations(agent: PPOAgent, physics: Physics, rows: Tensor, std: float) -> float | Tensor:
    """The deviation of the action at decision rows (T, N): a number, or (T, N, A) where it is counted in anchors."""
    config = agent.config
    if not (config.anchored and config.relative_std):
        return std
    anchor = physics.market.rows[:, config.state_dim : config.state_dim + config.action_dim]
    at_bars = anchor.index_select(0, rows.flatten()).view(*rows.shape, -1)
    return std * at_bars.double().clamp_min(SMALLEST_ANCHOR)


def explored(
    agent: PPOAgent,
    sight: Sight,
    ledger: BandLedger,
    state: EnvState,
    memory: Memory,
    std: float | Tensor,
    noise: Tensor,
) -> Asking[tuple[Memory, Rollout, Tensor]]:
    """Plays the mean of the band with noise (T, N, A) around it; without gradient.

    Args:
        std: deviation of the noise, a number or (T, N, A).

    Returns:
        the memory after the last bar, what was played, and the counterfactual advantage (T, N).
    """
    turn, head = ledger.turn(state, len(noise)), agent.config.head
    deviation = torch.as_tensor(std, dtype=torch.float64, device=noise.device)
    with torch.no_grad():
        seen, memory = sight.bands(turn.rows, memory)
        low = seen.at_bars(seen.band.low).double()
        banded = seen.band.low is not seen.band.high
        if banded:
            high, shift = seen.at_bars(seen.band.high), ledger.to_bars(deviation * noise)
            ask = turn.ask(ledger.to_bars(low), ledger.to_bars(high), carried=True, shift=shift, slopes=False)
        else:
            latent, multiplier = sample(head, low, deviation, noise)
            edge = ledger.to_bars(multiplier)
            ask = turn.ask(edge, edge, carried=False, slopes=False)
    answer = yield ask
    with torch.no_grad():
        rollout = turn.result(answer)
        if not banded:
            rollout = rollout._replace(mean=low, latent=latent, multiplier=multiplier)
        rollout = rollout._replace(log_prob=log_prob(head, rollout.latent, rollout.mean, deviation))
        by_hand = _one_asset if turn.market.base.ndim == 2 else _several_assets
        advantage = ledger.tensor(by_hand(turn, rollout, ask.batch, answer.path, agent.config.gamma))
    return memory, rollout, advantage


def _one_asset(turn: Turn, rollout: Rollout, batch: BandBatch, path: PlayedPath, gamma: float) -> Array:
    """(T, N) `gradient.counterfactual_advantage` with its slopes written out."""
    market, rules, ledger = turn.market, turn.ledger.rules, turn.ledger
    xp = namespace(path.growth)
    mean, multiplier = ledger.to_bars(rollout.mean), ledger.to_bars(rollout.multiplier)
    held = path.exposure - path.traded
    free = path.free if len(path.free) else 1.0

    wanted = xp.minimum(multiplier, market.cap)
    within = abs(wanted * market.base) < rules.max_leverage
    side = xp.where(market.side == 0, xp.sign(held), market.side) / rules.max_position_pct
    at_held = market.base * share(market.cap, multiplier) * within * free * ((mean == path.position) * side)
    if market.cannot is not None:
        at_held = xp.where(market.cannot, 1.0, at_held)
    sign = xp.sign(path.traded)
    fee = rules.cost_rate * sign
    moves = 1.0 if bool((path.growth > RUINED).all()) else (path.growth > RUINED) * 1.0
    at_w_next, at_held_next, at_w, direct = carry_slopes(
        path.growth, path.held, market.to_open, market.earned, fee, moves
    )
    reward, slopes = turn.earned(path, turn.log_growth)
    rho, sigma = own_slopes(slopes, at_w, direct, sign)
    own, carry = rho * at_held + sigma, (at_w_next * at_held + at_held_next) * gamma

    # what the mean action would have earned and held, on the same bars of the same accounts
    limit = xp.minimum(market.cap, rules.max_leverage / xp.clip(abs(market.base), 1e-300, None))
    instead = xp.minimum(mean, limit) * market.base * free
    if market.cannot is not None:
        instead = xp.where(market.cannot, held, instead)
    trade = instead - held
    growth = xp.clip(instead * market.earned + 1.0 - rules.cost_rate * abs(trade), RUINED, None)
    other = path._replace(exposure=instead, traded=trade, growth=growth)
    mean_reward, _ = turn.earned(other, xp.log(growth))
    moved = path.held - instead * (market.to_open + 1.0) / growth

    advantage, slope = reward - mean_reward, xp.zeros_like(held[0])
    for t in range(len(advantage) - 1, -1, -1):
        advantage[t] += gamma * slope * moved[t]
        slope = (own[t] + slope * carry[t]) * turn.alive[t]
    return advantage


def _several_assets(turn: Turn, rollout: Rollout, batch: BandBatch, path: PlayedPath, gamma: float) -> Array:
    """The same for a portfolio, where the slope goes back through one bar after the other."""
    market, rules, ledger = turn.market, turn.ledger.rules, turn.ledger
    xp = namespace(path.growth)
    mean, multiplier = ledger.to_bars(rollout.mean), ledger.to_bars(rollout.multiplier)
    held = path.exposure - path.traded
    side = xp.where(market.side == 0, xp.sign(held), market.side) / rules.max_position_pct
    reward, slopes = turn.earned(path, turn.log_growth)
    columns, beside = several_assets.columns_of(batch, path, slopes, rules, multiplier, (mean == path.position) * side)
    slope = several_assets.way_back(columns, beside, rules, discount=gamma, alive=turn.alive)
    other = several_assets.played_instead(batch, path, mean, rules)
    mean_reward, _ = turn.earned(other, xp.log(other.growth))
    advantage = reward - mean_reward
    advantage[:-1] += gamma * (slope[1:] * (path.held - other.held)[:-1]).sum(1)
    return advantage
