"""The kinds of agent: which config makes which agent. Nobody else asks."""

from __future__ import annotations

import torch

from himari_rl.agents.config import CONFIGS, PPOConfig
from himari_rl.agents.lstm_ppo_agent import LSTMPPOAgent
from himari_rl.agents.multi_ppo_agent import MultiPPOAgent
from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.errors import ConfigError

AGENTS: dict[str, type[PPOAgent]] = {agent.kind: agent for agent in (PPOAgent, LSTMPPOAgent, MultiPPOAgent)}


def build(config: PPOConfig, generator: torch.Generator | None = None) -> PPOAgent:
    """The agent that a config describes, its first weights drawn from `generator`."""
    for kind, made_from in CONFIGS.items():
        if type(config) is made_from:
            return AGENTS[kind](config, generator)
    raise ConfigError(f"a config of type {type(config).__name__}", "one of the kinds in agents/config.py")
