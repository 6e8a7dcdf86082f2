"""The kinds of agent: which config makes which agent. Nobody else asks."""

from __future__ import annotations

import torch

from himari_rl.agents.lstm_ppo_agent import LSTMPPOAgent, LSTMPPOConfig
from himari_rl.agents.multi_ppo_agent import MultiPPOAgent, MultiPPOConfig
from himari_rl.agents.ppo_agent import PPOAgent, PPOConfig
from himari_rl.errors import ConfigError

KINDS: dict[str, tuple[type[PPOConfig], type[PPOAgent]]] = {
    PPOAgent.kind: (PPOConfig, PPOAgent),
    LSTMPPOAgent.kind: (LSTMPPOConfig, LSTMPPOAgent),
    MultiPPOAgent.kind: (MultiPPOConfig, MultiPPOAgent),
}


def config_type(kind: str) -> type[PPOConfig]:
    """The config of a kind.

    Raises:
        ConfigError: no such kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind {kind!r}", f"one of {', '.join(KINDS)}")
    return KINDS[kind][0]


def build(config: PPOConfig, generator: torch.Generator | None = None) -> PPOAgent:
    """The agent that a config describes, its first weights drawn from `generator`."""
    for made_from, agent in KINDS.values():
        if type(config) is made_from:
            return agent(config, generator)
    raise ConfigError(f"a config of type {type(config).__name__}", "one of the kinds in agents/kinds.py")
