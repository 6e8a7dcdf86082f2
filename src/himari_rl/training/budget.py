"""How long to train on beliefs: until the objective stops improving, and no longer than the budget.

    plan n rollouts; look at the objective after n / 3 and 2 n / 3 of them; has it grown, plan 2 n; else finish the plan

The believed reward is deterministic, so the objective on fixed stretches from cash is a number without noise but that
of the weights, and more training overfits nothing. It is looked at before the last third, in which the learning rate
runs out and weights are averaged, so that every schedule ends with the plan that is finished. A plan of the whole
budget is never looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from himari_rl.agents.networks import map_memory
from himari_rl.training.engine import Asking
from himari_rl.training.rollout import unroll

if TYPE_CHECKING:
    from himari_rl.training.trainer import Trainer

STRETCHES = 64


def plan_further(trainer: Trainer) -> Asking[None]:
    """After a rollout: notes the objective a third into the plan, and doubles the plan where it has grown since."""
    state, config = trainer.state, trainer.agent.config
    if state.planned >= trainer.most_rollouts:
        return
    third, two_thirds = max(1, state.planned // 3), max(2, 2 * state.planned // 3)
    if state.rollout == third:
        state.growing_from, _ = yield from objective(trainer)
    elif state.rollout == two_thirds:
        reward, size = yield from objective(trainer)
        if reward - state.growing_from > config.growth * size:
            state.planned = min(2 * state.planned, trainer.most_rollouts)
            if state.rollout == state.planned // 3:  # the new plan's first look is this one
                state.growing_from = reward


@torch.no_grad()
def objective(trainer: Trainer) -> Asking[tuple[float, float]]:
    """Mean reward of a bar and mean size of it, on stretches of a rollout's length spread over all rows, from cash."""
    agent, physics, steps = trainer.agent, trainer.physics, trainer.agent.config.num_steps
    room = physics.market.path_rows - steps
    long_enough = torch.nonzero(room > 0)[:, 0]
    path = long_enough[torch.arange(STRETCHES, device=physics.device) % len(long_enough)]
    share = torch.arange(STRETCHES, device=physics.device, dtype=torch.float64) / STRETCHES
    at = physics.market.path_start[path] + (share * room[path]).long()
    state = physics.reset(STRETCHES, trainer.generator, at=at)  # draws nothing
    memory = map_memory(torch.zeros_like, agent.initial_memory(STRETCHES))
    if trainer.ledger is None or trainer.sight is None:
        _, _, played = unroll(agent, physics, state, steps, memory)
        reward = played.reward
    else:
        turn = trainer.ledger.turn(state, steps)
        seen, _ = trainer.sight.bands(turn.rows, memory)
        low, high = (trainer.ledger.to_bars(seen.at_bars(edge)) for edge in (seen.band.low, seen.band.high))
        answer = yield turn.ask(low, high, carried=seen.band.high is not seen.band.low, slopes=False)
        reward = turn.result(answer).reward
    return float(reward.mean()), float(reward.abs().mean())
