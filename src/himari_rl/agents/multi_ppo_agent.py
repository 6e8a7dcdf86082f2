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


class MultiPPOAgent(PPOAgent):
    """52 numbers in, three multipliers in [0, 2] out; 16 A + A (A - 1) / 2 + 1 numbers for A assets.

    The band of each asset reads that asset's held position, its edges read the whole market.
    """

    kind = "multi"
