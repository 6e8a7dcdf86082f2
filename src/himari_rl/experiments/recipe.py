"""The recipe: how one fold and seed is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from himari_rl.agents.config import PPOConfig, config_type, of_reward
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.experiments.config import FoldConfig


@dataclass(frozen=True, kw_only=True)
class Recipe(FoldConfig):
    """An agent, an environment, and how one is trained in the other."""

    agent: PPOConfig = field(default_factory=PPOConfig)
    """Network and learning."""
    environment: TradingEnvConfig = field(default_factory=TradingEnvConfig)
    """Fees, limits, episode and reward."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "agent", of_reward(self.agent, self.environment.own_reward))

    @classmethod
    def of_kind(cls, kind: str, **changes: Any) -> Recipe:
        """The default recipe of a kind of agent."""
        return cls(agent=config_type(kind)(), **changes)

    @property
    def bars(self) -> int:
        """Bars stepped in training, for each fold and seed."""
        return self.num_episodes * self.environment.episode_bars

    @property
    def budget(self) -> str:
        """What was asked for and what it becomes, in words: whole rollouts are trained, and no fewer than asked."""
        line = budget_line(self.agent, self.num_episodes, self.environment.episode_bars)
        own = f"; the reward {self.environment.reward} is learned by PPO alone, on raw returns"
        return line + own * self.environment.own_reward

    def with_agent(self, settings: Mapping[str, Any]) -> Recipe:
        """The same recipe with other settings of its agent."""
        return replace(self, agent=replace(self.agent, **settings))


def budget_line(agent: PPOConfig, num_episodes: int, episode_bars: int) -> str:
    """ "20 episodes asked = 10,000 bars; 25,000 trained, whole rollouts of 500 x 50" for each seed."""
    agent = agent.sized(agent.beliefs)
    asked, one = num_episodes * episode_bars, agent.num_envs * agent.num_steps
    trained = agent.rollouts(asked) * one
    line = f"budget of each seed: {num_episodes:,} episode{'s' * (num_episodes != 1)} asked = {asked:,} bars"
    if agent.beliefs and 0 < agent.plan_rollouts < agent.rollouts(asked):
        first = agent.plan_rollouts * one
        return f"{line} at most: {first:,} at first, doubled while the reward still grows"
    if trained == asked:
        return f"{line}, all trained"
    return f"{line}; {trained:,} bars trained (whole rollouts of {agent.num_envs} accounts x {agent.num_steps} bars)"
