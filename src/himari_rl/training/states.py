"""What a rollout starts from: the memory of some of the environments, and positions that visit the whole band."""

from __future__ import annotations

import torch
from torch import Tensor

from himari_rl.agents.networks import Memory
from himari_rl.envs.physics import EnvState, Physics
from himari_rl.policy.risk import limited_exposure


def select_memory(memory: Memory, which: Tensor) -> Memory:
    """The memory of some of the environments."""
    return None if memory is None else (memory[0][:, which], memory[1][:, which])


def restarted(physics: Physics, state: EnvState, share: float, generator: torch.Generator) -> EnvState:
    """Puts a random `share` of the accounts at a random position, so that every part of the band is visited.

    Half of those start in cash: entering is the one decision that a policy which holds something never meets, and
    without it noise decides whether to enter a market without an edge. Only the position is redrawn (as if bought
    before, at no cost now); equity and the clock stay.
    """
    if share == 0.0:
        return state
    held, window = state.account.held, physics.window(state.row)
    count = held.shape[0]
    lot = torch.rand(count, generator=generator, device=physics.device)
    chosen = lot < share
    multiplier = 2.0 * torch.rand(held.shape, generator=generator, device=physics.device, dtype=held.dtype)
    multiplier = multiplier.masked_fill((lot < 0.5 * share)[:, None], 0.0)
    drawn = limited_exposure(
        multiplier, window.cap, window.base, state.account.stopped, physics.config.limits.max_leverage
    )
    placed = torch.where(chosen[:, None], drawn, held)
    marked = torch.where(chosen[:, None], drawn, state.account.marked)
    return state._replace(account=state.account._replace(held=placed, marked=marked))
