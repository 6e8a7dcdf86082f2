"""PPO's rollouts played by the engine: the band of every bar at once, noise around its mean, one loop over the bars."""

from __future__ import annotations

import torch
from torch import Tensor

from himari_rl.agents.distributions import log_prob, sample
from himari_rl.agents.networks import Memory
from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.envs.physics import EnvState
from himari_rl.training.band_ledger import BandLedger
from himari_rl.training.engine import Asking
from himari_rl.training.rollout import Trajectory
from himari_rl.training.sight import Sight


def explored(
    agent: PPOAgent, sight: Sight, ledger: BandLedger, state: EnvState, memory: Memory, std: float, noise: Tensor
) -> Asking[tuple[EnvState, Memory, Trajectory]]:
    """`rollout.unroll` with noise (T, N, A), without observations and without gradient."""
    turn, head = ledger.turn(state, len(noise)), agent.config.head
    deviation = torch.as_tensor(std, dtype=torch.float64, device=noise.device)
    with torch.no_grad():
        seen, memory = sight.bands(turn.rows, memory)
        low = seen.at_bars(seen.band.low).double()
        excess = (seen.band.excess * seen.visits()).sum()
        if seen.band.low is seen.band.high:
            latent, multiplier = sample(head, low, deviation, noise)
            edge = ledger.to_bars(multiplier)
            ask = turn.ask(edge, edge, carried=False, slopes=False)
        else:
            high = seen.at_bars(seen.band.high)
            shift = ledger.to_bars(deviation * noise)
            ask = turn.ask(ledger.to_bars(low), ledger.to_bars(high), carried=True, shift=shift, slopes=False)
    answer = yield ask
    with torch.no_grad():
        rollout = turn.result(answer)
        if seen.band.low is seen.band.high:
            mean = low
        else:
            mean, latent, multiplier = rollout.mean, rollout.latent, rollout.multiplier
        trajectory = Trajectory(
            window=ledger.physics.window(turn.rows),
            states=torch.empty(0, device=noise.device),
            before=state._replace(account=turn.before(answer), log_peak=torch.zeros_like(rollout.reward)),
            previous=rollout.previous,
            mean=mean,
            latent=latent,
            multiplier=multiplier,
            log_prob=log_prob(head, latent, mean, deviation),
            reward=rollout.reward,
            alive=rollout.alive,
            terminated=rollout.terminated,
            excess=excess.double(),
        )
    return rollout.after, memory, trajectory
