"""Agents of Stable-Baselines3 and sb3-contrib, trained in this project's environment and judged as any other policy.

    walk_forward(Sb3Factory("PPO", total_timesteps=20_000), bars)
    himari walk-forward sb3:PPO --data ...                        sb3:SAC:total_timesteps=50000,learning_rate=0.0003

What is kept of an agent is its weights, as arrays. One that is trained already, sb3:FILE.zip: sb3_file.py. Optional:
pip install 'himari-rl[peers]'.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himari_rl.data.panel import Panel
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.errors import ConfigError
from himari_rl.experiments.sb3_file import NAME, Sb3File
from himari_rl.experiments.sb3_policy import Sb3Policy, Standard, algorithm, load_weights, plain, settings_of
from himari_rl.policy.code import CodeReference
from himari_rl.schema import Bars, FloatArray

ROLLOUT = 2048  # bars between two updates of PPO and TRPO, SB3's own default, over all accounts
CLIP = 10.0
TINY = 1e-8  # under the root, as in VecNormalize


@dataclass(frozen=True)
class Sb3Factory:
    """Trains one agent for each fold and seed, from `num_envs` accounts at a time in the ledger it is judged in.

    Observations and rewards are standardised by SB3's VecNormalize: a reward of one bar is some 1e-4.
    """

    algorithm: str = "PPO"
    """A class of stable_baselines3 or sb3_contrib with continuous actions: PPO, A2C, SAC, TD3, TQC, RecurrentPPO ..."""
    total_timesteps: int = 20_000
    """Bars stepped in training, over all accounts."""
    num_envs: int = 8
    """Accounts side by side."""
    policy: str = ""
    """SB3's name of the network; MlpPolicy, or the recurrent one for RecurrentPPO."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """More arguments of the algorithm's class: numbers, text, lists, dicts, classes of torch and SB3."""
    environment: TradingEnvConfig | None = None
    """Fees, limits and episode; the walk-forward gives its own."""

    @classmethod
    def of(cls, name: str, settings: str = "") -> Sb3Factory | Sb3File:
        """From `PPO`, `PPO:total_timesteps=20000,learning_rate=0.001`, or from what `reference` says; a trained agent
        from `FILE.zip`.

        Raises:
            ConfigError: a setting that is none, or no such file.
        """
        if NAME.fullmatch(name):
            return Sb3File.of(name, settings)
        called, _, said = name.partition(":")
        given = settings_of(f"sb3:{called}", said, settings)
        own = {each: given.pop(each) for each in ("total_timesteps", "num_envs", "policy") if each in given}
        return cls(called, options=given.pop("options", given), **own)

    def reference(self) -> CodeReference:
        """The algorithm and all settings.

        Raises:
            ConfigError: an option that has no name, as a lambda: two that differ could not be told apart.
        """
        said: dict[str, Any] = {"total_timesteps": self.total_timesteps, "num_envs": self.num_envs}
        said |= {"policy": self.policy, "options": dict(self.options)}
        try:
            text = json.dumps(plain(said), sort_keys=True)
        except TypeError as error:
            expected = "numbers, text, lists, dicts, classes of torch and SB3"
            cure = "train it in a factory of your own, MODULE:FACTORY (docs/judge.md)"
            raise ConfigError(f"sb3:{self.algorithm} with {error}", expected, cure) from error
        return CodeReference(name=f"sb3:{self.algorithm}", sha256="", settings=text)

    def in_environment(self, environment: TradingEnvConfig) -> Sb3Factory:
        """The same in the ledger of the walk-forward."""
        return replace(self, environment=environment)

    def __call__(self, train: Bars | Panel, seed: int) -> Sb3Policy:
        kind = algorithm(self.algorithm)
        from stable_baselines3.common.vec_env import VecNormalize

        from himari_rl.experiments.sb3_env import Sb3VecEnv
        from himari_rl.training.device import one_thread

        with one_thread():
            market = Sb3VecEnv(self.num_envs, train, self.environment, seed=seed)
            world = VecNormalize(market, clip_obs=CLIP)
            usual = {"n_steps": max(1, ROLLOUT // self.num_envs)} if self.algorithm in ("PPO", "TRPO") else {}
            model = kind(self._network(), world, seed=seed, device="cpu", **(usual | dict(self.options)))
            model.learn(self.total_timesteps)
            seen: Any = world.obs_rms  # one for the whole observation, as it is no dict
        return _judged(model.policy, np.asarray(seen.mean), np.asarray(seen.var))

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> Sb3Policy:
        """The agent with its weights back."""
        kind = algorithm(self.algorithm)
        world = _spaces(len(arrays["mean"]), int(arrays["assets"][0]))
        model = kind(self._network(), world, device="cpu", **self.options)
        load_weights(model.policy, arrays)
        return _judged(model.policy, arrays["mean"], arrays["var"])

    def _network(self) -> str:
        return self.policy or ("MlpLstmPolicy" if self.algorithm.startswith("Recurrent") else "MlpPolicy")


def _judged(policy: Any, mean: FloatArray, var: FloatArray) -> Sb3Policy:
    beside = {"mean": mean, "var": var, "assets": np.array(policy.action_space.shape, np.int64)}
    return Sb3Policy(policy, Standard(mean, var, CLIP, TINY), beside)


def _spaces(features: int, assets: int) -> Any:
    """An environment that is nothing but its spaces: what an SB3 network is built from."""
    import gymnasium
    from gymnasium.spaces import Box

    class Spaces(gymnasium.Env):
        observation_space = Box(-np.inf, np.inf, (features,), np.float32)
        action_space = Box(-1.0, 1.0, (assets,), np.float32)

    return Spaces()
