"""What a rollout starts from: positions that visit the whole no-trade band."""

from __future__ import annotations

import torch

from himari_rl.envs.physics import EnvState, Physics
from himari_rl.policy.risk import limited_exposure


def random_positions(physics: Physics, state: EnvState, fraction: float, generator: torch.Generator) -> EnvState:
    """Puts a random `fraction` of the accounts at a random position, so that every part of the band is visited.

    Half of those start in cash: entering is the one decision that a policy which holds something never meets, and
    without it noise decides whether to enter a market without an edge. Only the position is redrawn (as if bought
    before, at no cost now); equity and the clock stay.
    """
    if fraction == 0.0:
        return state
    held, window = state.account.held, physics.window(state.row)
    count = held.shape[0]
    uniform = torch.rand(count, generator=generator, device=physics.device)
    chosen = uniform < fraction
    multiplier = 2.0 * torch.rand(held.shape, generator=generator, device=physics.device, dtype=held.dtype)
    multiplier = multiplier.masked_fill((uniform < 0.5 * fraction)[:, None], 0.0)
    drawn = limited_exposure(
        multiplier, window.cap, window.base, state.account.stopped, physics.config.limits.max_leverage
    )
    placed = torch.where(chosen[:, None], drawn, held)
    marked = torch.where(chosen[:, None], drawn, state.account.marked)
    return state._replace(account=state.account._replace(held=placed, marked=marked))
