"""The portfolio agent: one network that sees every asset and sizes all of them."""

from __future__ import annotations

from dataclasses import dataclass

from himari_rl.agents.ppo_agent import PPOAgent, PPOConfig
from himari_rl.features.contract import state_dim


@dataclass(frozen=True, kw_only=True)
class MultiPPOConfig(PPOConfig):
    """The base agent's config for a portfolio. A job takes both dimensions from its symbols."""

    state_dim: int = state_dim(3)
    """52 for three assets: 16 each, their three correlations and the Herfindahl index."""
    action_dim: int = 3
    """Assets, one multiplier each, 2 to 20."""
    gradient_share: float = 0.9
    """With 0.6 the exploration of three multipliers at once costs more than it finds (M5b, one seed: .905, .939)."""


class MultiPPOAgent(PPOAgent):
    """52 numbers in, three multipliers in [0, 2] out; 16 A + A (A - 1) / 2 + 1 numbers for A assets.

    The band of each asset reads that asset's held position, its edges read the whole market.
    """

    kind = "multi"
