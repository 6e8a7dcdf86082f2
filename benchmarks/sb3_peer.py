"""Stable-Baselines3's PPO, tuned, on the leanest vector environment that its face allows; for benchmarks only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from himari_rl.training.device import fast_products, keep_freed_memory, one_thread
from peer_market import Answers, PeerMarket, PeerSettings, bar, first_positions, position_input, tanh_net

SETTINGS = PeerSettings(num_envs=512, num_steps=16, minibatch=8192, hidden=64, value_coefficient=0.5, bars=1_500_000)
LONGER = 20  # times the decay's bars: how long it goes on at the final learning rate unless it is stopped


class PeerVecEnv(VecEnv):
    """Accounts on a `PeerMarket`. Nothing ends one; `move_on` changes what has to change between two rollouts."""

    def __init__(self, market: PeerMarket, settings: PeerSettings, seed: int) -> None:
        self.market, self.settings = market, settings
        self.rng = np.random.default_rng([seed, 3])
        self.render_mode = None
        box = gymnasium.spaces.Box
        count = settings.num_envs
        super().__init__(count, box(-np.inf, np.inf, (2,), np.float32), box(-1.0, 1.0, (1,), np.float32))
        self._never, self._infos = np.zeros(count, bool), [{} for _ in range(count)]
        paths, rows = market.signal.shape
        self.path = self.rng.integers(0, paths, count)
        self.row = self.rng.integers(0, rows - settings.num_steps - 1, count)
        self.held = np.zeros(count, np.float32)

    def move_on(self) -> np.ndarray:
        """Before a rollout: another path where this one ends, another position for some; what is seen then (N, 2)."""
        s, (paths, rows) = self.settings, self.market.signal.shape
        over = self.row + 2 * s.num_steps >= rows
        self.path = np.where(over, self.rng.integers(0, paths, s.num_envs), self.path)
        self.row = np.where(over, self.rng.integers(0, rows - s.num_steps - 1, s.num_envs), self.row)
        draws = self.rng.random((3, s.num_envs), np.float32)
        self.held = np.where(draws[0] < s.random_position_fraction, first_positions(draws[1], draws[2]), self.held)
        return self.seen()

    def seen(self) -> np.ndarray:
        return np.stack([self.market.signal[self.path, self.row], position_input(self.held)], -1).astype(np.float32)

    def reset(self) -> np.ndarray:
        return self.seen()

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        earned, m = self.market.returns[self.path, self.row], self.market
        reward, self.held = bar(np, self.actions[:, 0], self.held, earned, m.cost, m.scale)
        self.row = self.row + 1
        return self.seen(), reward, self._never, self._infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return [getattr(self, method_name)(*args, **kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        return [seed] * self.num_envs


class Watch(BaseCallback):
    """Moves the accounts on before each rollout and shows the policy after every `together` updates."""

    def __init__(self, env: PeerVecEnv, look: Callable[[Answers, int], bool], together: int) -> None:
        super().__init__()
        self.env, self.look, self.together = env, look, together
        self.rollouts, self.over = 0, False

    def _on_rollout_start(self) -> None:
        if self.rollouts and self.rollouts % self.together == 0:
            self.over = self.look(Answers(self.env.market, self.mean_action()), self.num_timesteps)
        self.rollouts += 1
        # what ended the rollout before was valued as it was: the move is no step of any account
        self.model._last_obs = self.env.move_on()

    def _on_step(self) -> bool:
        return not self.over

    def mean_action(self) -> Callable[[np.ndarray], np.ndarray]:
        """The actor as it is now, in numpy: SB3's own `predict` would clip it the same."""
        policy = self.model.policy
        hidden = [layer for layer in policy.mlp_extractor.policy_net if hasattr(layer, "weight")]
        layers = [
            (layer.weight.detach().numpy().T.copy(), layer.bias.detach().numpy().copy())
            for layer in (*hidden, policy.action_net)
        ]
        return lambda x: tanh_net(layers, x)


def train(
    market: PeerMarket,
    seed: int,
    settings: PeerSettings,
    look: Callable[[Answers, int], bool],
    done: Callable[[str], None] = lambda phase: None,
    together: int = 4,
) -> None:
    """Trains until `look` says True; it is called with the policy and the bars so far after every `together` updates.

    In the same process settings as our own training: one thread, torch's fastest kernels, freed memory kept.

    Args:
        done: called after "prepare".
    """
    s, env = settings, PeerVecEnv(market, settings, seed)
    last = s.final_learning_rate
    keep_freed_memory()
    with fast_products(), one_thread():
        model = PPO(
            "MlpPolicy", env, seed=seed, device="cpu", n_steps=s.num_steps, batch_size=s.minibatch, n_epochs=s.epochs,
            gamma=s.gamma, gae_lambda=s.gae_lambda, clip_range=s.clip, vf_coef=s.value_coefficient,
            max_grad_norm=s.max_grad_norm,
            learning_rate=lambda left: s.learning_rate * (last + (1.0 - last) * max(0.0, 1.0 - LONGER * (1.0 - left))),
            policy_kwargs={"net_arch": [s.hidden, s.hidden], "log_std_init": s.log_std},
        )  # fmt: skip
        done("prepare")
        model.learn(LONGER * s.bars, callback=Watch(env, look, together))
