"""N accounts behind gymnasium's vector face: the batched physics itself, without a loop over environments.

Autoreset is NEXT_STEP: the step that ends an episode returns its own final observation, and the next step ignores the
action, starts a fresh account and returns reward 0. So a learner always sees the state it has to bootstrap from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from himari_rl.data.panel import Panel
from himari_rl.envs.batch import where_over
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.physics import EnvState, Market
from himari_rl.envs.trading_env import Face, Observation, generator_of
from himari_rl.errors import ConfigError
from himari_rl.features.encoder import StateEncoder
from himari_rl.schema import Bars

Flags = NDArray[np.bool_]


class VectorTradingEnv(VectorEnv[Observation, NDArray[np.float32], NDArray[Any]]):
    """Many accounts on one market, stepped together.

    Args:
        num_envs: N.
        bars, config, encoder, action_space: as in `TradingEnv`.

    >>> from himari_rl.data.synthetic import synthetic_bars
    >>> envs = VectorTradingEnv(3, synthetic_bars(1000, seed=0), TradingEnvConfig(episode_bars=100))
    >>> observations, infos = envs.reset(seed=0)
    >>> observations, rewards, terminated, truncated, infos = envs.step(np.ones((3, 1)))
    >>> observations.shape, rewards.shape
    ((3, 16), (3,))
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - gymnasium's name

    def __init__(
        self,
        num_envs: int,
        bars: Bars | Panel | Market,
        config: TradingEnvConfig | None = None,
        *,
        encoder: StateEncoder | None = None,
        action_space: str = "multiplier",
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs {num_envs}", "at least 1")
        self._face = Face(bars, config, encoder, action_space)
        self.physics, self.num_envs = self._face.physics, num_envs
        self.single_observation_space = self._face.observation_space
        self.single_action_space = self._face.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generator: torch.Generator | None = None
        self._state: EnvState | None = None
        self._over = torch.zeros(num_envs, dtype=torch.bool)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Fresh accounts at random bars, or at options["row"], one row or (N,) of them. One seed seeds them all."""
        super().reset(seed=seed)
        if seed is not None or self._generator is None:
            self._generator = generator_of(self.np_random)
        self._state = self._face.start(self.num_envs, self._generator, options)
        self._over = torch.zeros_like(self._over)
        return self._face.observe(self._state), masked(self._face.info(self._state))

    def step(self, actions: ArrayLike) -> tuple[Observation, NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        """One decision of every account; those whose episode ended at the last step begin anew instead."""
        if self._state is None or self._generator is None:
            raise ResetNeeded("call reset() before step()")
        over = self._over
        state, outcome = self._face.step(self._state, actions)
        info = self._face.info(state, outcome)
        if bool(over.any()):
            fresh = self.physics.reset(self.num_envs, self._generator)
            state = where_over(over, fresh, state)
            reset_info, pick = self._face.info(fresh), over.numpy()
            info = {
                name: np.where(pick.reshape(-1, *[1] * (values.ndim - 1)), reset_info[name], values)
                for name, values in info.items()
            }
        reward = outcome.reward.masked_fill(over, 0.0)
        terminated, truncated = outcome.terminated & ~over, outcome.truncated & ~over
        self._state, self._over = state, terminated | truncated
        return self._face.observe(state), reward.numpy(), terminated.numpy(), truncated.numpy(), masked(info)


def masked(info: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Gymnasium's convention: next to each array, `_name` marks the environments it is about (here all)."""
    return info | {f"_{name}": np.ones(len(values), np.bool_) for name, values in info.items()}
