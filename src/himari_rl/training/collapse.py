"""The collapse guard: a policy that sits at a bound for no good reason stops the run, with the reason.

A policy may rightly stand aside (a market without an edge) or go all in. So being at a bound is not enough: the guard
also replays the same bars with constant multipliers, and calls it a collapse only when one of them would
have earned clearly more.
"""

from __future__ import annotations

import torch

from himari_rl.envs.physics import Physics
from himari_rl.errors import CollapseError
from himari_rl.schema import MAX_MULTIPLIER
from himari_rl.training.band_ledger import Rollout
from himari_rl.training.rollout import Trajectory

PATIENCE = 5  # rollouts in a row
ALTERNATIVES = (0.0, 0.5, 1.0, 1.5, 2.0)
SURE = 4.0  # standard errors


class CollapseGuard:
    """Watches one run. Counts rollouts in which every account wanted the same bound."""

    def __init__(self, physics: Physics) -> None:
        self.physics = physics
        self.stuck = 0
        self.better: dict[float, list[torch.Tensor]] = {}

    @torch.no_grad()
    def check(self, trajectory: Trajectory | Rollout, rollout: int, rollouts: int) -> None:
        """Raises CollapseError when the policy is stuck at a bound that costs it reward."""
        low, high = trajectory.mean.amin(), trajectory.mean.amax()
        if not bool((high <= 1e-3) | (low >= 2.0 - 1e-3)):
            self.stuck, self.better = 0, {}
            return
        self.stuck += 1
        bound = 0.0 if float(high) <= 1e-3 else MAX_MULTIPLIER
        # not against what was played: exploration noise costs, and the bound itself would look better than that
        own = self._constant_reward(trajectory, bound)
        for constant in ALTERNATIVES:
            gain = self._constant_reward(trajectory, constant) - own
            self.better.setdefault(constant, []).append((gain * trajectory.alive).sum(0))
        if self.stuck < PATIENCE:
            return
        for constant, gains in self.better.items():
            gain = torch.cat(gains)
            z = gain.mean() / (gain.std() / gain.numel() ** 0.5).clamp_min(1e-12)
            if z > SURE:
                raise CollapseError(
                    f"the policy is stuck at multiplier {bound:g} (rollout {rollout} of {rollouts}), where a constant "
                    f"{constant:g} earns more (z = {float(z):.1f})",
                    "a policy that moves with its inputs",
                    "lower --learning-rate, or check the features and the reward",
                )

    def _constant_reward(self, trajectory: Trajectory | Rollout, constant: float) -> torch.Tensor:
        """(T, N) reward of holding one multiplier over the same bars from the same accounts."""
        first, steps = trajectory.first, trajectory.reward.shape[0]
        account, log_peak, moments = first.account, first.log_peak, first.moments
        window = self.physics.window(first.row + torch.arange(steps, device=first.row.device)[:, None])
        rewards = []
        for t in range(steps):
            now = window.at(t)
            held = account.held
            account, moved = self.physics.advance(account, torch.full_like(held, constant), now)
            log_peak = torch.maximum(log_peak, account.marked_log_equity)
            reward, moments = self.physics.reward(moved, held, now, account, log_peak, moments)
            rewards.append(reward)
        return torch.stack(rewards)
