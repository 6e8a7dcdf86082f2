"""The portfolio agent: one network that sees every asset and sizes all of them."""

from __future__ import annotations

import math

import torch

from himari_rl.agents.config import MultiPPOConfig
from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.policy.network import HALF_UNIT

BASE = 0.5  # the usual max_position_pct; with another one the first gross exposure is not `first_gross`, no more


class MultiPPOAgent(PPOAgent):
    """52 numbers in, three multipliers in [0, 2] out; 16 A + A (A - 1) / 2 + 1 numbers for A assets.

    The band of each asset reads that asset's held position, its edges read the whole market.
    """

    kind = "multi"
    config: MultiPPOConfig

    def __init__(self, config: MultiPPOConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator)
        if config.anchored:
            return  # the anchor shares the risk out: a fresh agent is the one-liner
        first = min(1.0, config.first_gross / (BASE * config.action_dim))
        with torch.no_grad():
            if config.head == "band":
                # from cash the band's lower edge is what is bought
                self.out.bias[: config.action_dim] = first - 1.0 + config.first_half
                self.out.bias[config.action_dim :] = math.log(config.first_half / HALF_UNIT)
            elif config.head == "centre":
                self.out.bias.fill_(first - 1.0)
