"""The portfolio agent: one network that sees every asset and sizes all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from himari_rl.agents.ppo_agent import PPOAgent, PPOConfig
from himari_rl.errors import ConfigError
from himari_rl.features.contract import state_dim
from himari_rl.policy.network import HALF_UNIT

BASE = 0.5  # the usual max_position_pct; with another one the first gross exposure is not `first_gross`, no more


@dataclass(frozen=True, kw_only=True)
class MultiPPOConfig(PPOConfig):
    """The base agent's config for a portfolio. A job takes both dimensions from its symbols."""

    state_dim: int = state_dim(3)
    """52 for three assets: 16 each, their three correlations and the Herfindahl index."""
    action_dim: int = 3
    """Assets, one multiplier each, 2 to 20."""
    gradient_share: float = 0.9
    """With 0.6 the exploration of three multipliers at once costs more than it finds (M5b, one seed: .905, .939)."""
    average: float = 0.5
    """Longer than the base agent's: three weights wander more (M5, two seeds: .975 and .983 with .3, .977 and .987)."""
    first_gross: float = 0.75
    """Gross exposure of a fresh agent in cash when Layer 2 buys everything: outside the cap no reward tells the assets
    apart, and on the way back some fall to 0 (LOG.md)."""
    first_half: float = 0.1
    """Half-width of a fresh band, multiplier units: a wide one's lower edge sinks below 0, where it has no gradient."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.first_gross > 0.0 and self.first_half > 0.0):
            raise ConfigError(f"first_gross {self.first_gross} and first_half {self.first_half}", "both above 0")


class MultiPPOAgent(PPOAgent):
    """52 numbers in, three multipliers in [0, 2] out; 16 A + A (A - 1) / 2 + 1 numbers for A assets.

    The band of each asset reads that asset's held position, its edges read the whole market.
    """

    kind = "multi"
    config: MultiPPOConfig

    def __init__(self, config: MultiPPOConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator)
        first = min(1.0, config.first_gross / (BASE * config.action_dim))
        with torch.no_grad():
            if config.head == "band":
                self.out.bias[: config.action_dim] = (
                    first - 1.0 + config.first_half
                )  # from cash the lower edge is first
                self.out.bias[config.action_dim :] = math.log(config.first_half / HALF_UNIT)
            elif config.head == "centre":
                self.out.bias.fill_(first - 1.0)
