"""The vector environment behind Stable-Baselines3's face, to train SB3 on the same physics without a Python loop.

SB3 resets in the same step: a finished account's observation is already the next episode's, the final one travels in
infos[i]["terminal_observation"], and "TimeLimit.truncated" tells it to bootstrap from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv

from himari_rl.data.panel import Panel
from himari_rl.envs.batch import where_over
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.physics import Market
from himari_rl.envs.trading_env import Face
from himari_rl.schema import Bars


class Sb3VecEnv(VecEnv):
    """N accounts for SB3. Arguments as `VectorTradingEnv`, and `seed` for all starts."""

    def __init__(
        self,
        num_envs: int,
        bars: Bars | Panel | Market,
        config: TradingEnvConfig | None = None,
        *,
        action_space: str = "centred",
        seed: int = 0,
    ) -> None:
        self.face = Face(bars, config or TradingEnvConfig(), None, action_space)
        self.generator = torch.Generator().manual_seed(seed)
        self.render_mode = None
        super().__init__(num_envs, self.face.observation_space, self.face.action_space)

    def reset(self) -> np.ndarray:
        self.state = self.face.start(self.num_envs, self.generator, None)
        return self.face.observe(self.state)

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        state, outcome = self.face.step(self.state, self.actions)
        observation, over = self.face.observe(state), outcome.terminated | outcome.truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if bool(over.any()):
            only_truncated = (outcome.truncated & ~outcome.terminated).tolist()
            for i in torch.nonzero(over)[:, 0].tolist():
                infos[i] = {"terminal_observation": observation[i], "TimeLimit.truncated": only_truncated[i]}
            state = where_over(over, self.face.start(self.num_envs, self.generator, None), state)
            observation = self.face.observe(state)
        self.state = state
        return observation, outcome.reward.float().numpy(), over.numpy(), infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name)] * len(self._indices(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return [getattr(self, method_name)(*args, **kwargs)] * len(self._indices(indices))

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * len(self._indices(indices))

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        if seed is not None:
            self.generator.manual_seed(seed)
        return [seed] * self.num_envs

    def _indices(self, indices: Any) -> list[int]:
        return list(self._get_indices(indices))
