"""Agents of Stable-Baselines3 and sb3-contrib, trained in this project's environment and judged as any other policy.

    walk_forward(Sb3Factory("PPO", total_timesteps=20_000), bars)
    himari walk-forward sb3:PPO --data ...                        sb3:SAC:total_timesteps=50000,learning_rate=0.0003

What is kept of an agent is its weights, as arrays; SB3's own file has pickled parts and is not used. Optional:
pip install stable-baselines3 sb3-contrib.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himari_rl.data.panel import Panel
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.errors import ConfigError, not_installed
from himari_rl.policy.code import CodeReference
from himari_rl.schema import MAX_MULTIPLIER, Bars, FloatArray

PACKAGES = ("stable_baselines3", "sb3_contrib")
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
    """More arguments of the algorithm's class."""
    environment: TradingEnvConfig | None = None
    """Fees, limits and episode; the walk-forward gives its own."""

    @classmethod
    def of(cls, name: str, settings: str = "") -> Sb3Factory:
        """From `PPO`, `PPO:total_timesteps=20000,learning_rate=0.001`, or from what `reference` says.

        Raises:
            ConfigError: a setting that is none.
        """
        algorithm, _, said = name.partition(":")
        try:
            given = json.loads(settings) if settings else dict(_setting(each) for each in said.split(",") if each)
        except ValueError as error:
            raise ConfigError(f"sb3:{name} {settings}: {error}", "sb3:ALGORITHM:name=value,name=value") from error
        own = {each: given.pop(each) for each in ("total_timesteps", "num_envs", "policy") if each in given}
        return cls(algorithm, options=given.pop("options", given), **own)

    def reference(self) -> CodeReference:
        said: dict[str, Any] = {"total_timesteps": self.total_timesteps, "num_envs": self.num_envs}
        said |= {"policy": self.policy, "options": dict(self.options)}
        text = json.dumps(said, sort_keys=True, default=lambda value: str(type(value)))
        return CodeReference(name=f"sb3:{self.algorithm}", sha256="", settings=text)

    def in_environment(self, environment: TradingEnvConfig) -> Sb3Factory:
        """The same in the ledger of the walk-forward."""
        return replace(self, environment=environment)

    def __call__(self, train: Bars | Panel, seed: int) -> Sb3Policy:
        kind = self._class()
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
        return Sb3Policy(model.policy, np.asarray(seen.mean), np.asarray(seen.var))

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> Sb3Policy:
        """The agent with its weights back."""
        kind = self._class()
        import torch

        weights = {name.removeprefix("w."): value for name, value in arrays.items() if name.startswith("w.")}
        world = _spaces(len(arrays["mean"]), int(arrays["assets"][0]))
        model = kind(self._network(), world, device="cpu", **self.options)
        model.policy.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.items()})
        return Sb3Policy(model.policy, arrays["mean"], arrays["var"])

    def _network(self) -> str:
        return self.policy or ("MlpLstmPolicy" if self.algorithm.startswith("Recurrent") else "MlpPolicy")

    def _class(self) -> Any:
        from importlib import import_module

        for package in PACKAGES:
            try:
                found = getattr(import_module(package), self.algorithm, None)
            except ModuleNotFoundError as error:
                raise not_installed(f"the agent sb3:{self.algorithm}", error, "peers") from error
            if found is not None:
                return found
        raise ConfigError(f"sb3:{self.algorithm}", f"an algorithm of {' or '.join(PACKAGES)}", "for example sb3:PPO")


class Sb3Policy:
    """An SB3 agent that answers, without exploration: multiplier 1 + action."""

    def __init__(self, policy: Any, mean: FloatArray, var: FloatArray) -> None:
        self._policy, self._mean, self._var = policy, mean, var
        self._policy.set_training_mode(False)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Weights, and what observations were standardised with."""
        weights = {f"w.{name}": value.detach().numpy() for name, value in self._policy.state_dict().items()}
        assets = np.array(self._policy.action_space.shape, np.int64)
        return weights | {"mean": self._mean, "var": self._var, "assets": assets}

    def decide_batch(self, states: NDArray[np.floating], memory: Any = None) -> tuple[FloatArray, Any]:
        seen = np.clip((states - self._mean) / np.sqrt(self._var + TINY), -CLIP, CLIP).astype(np.float32)
        fresh = np.full(len(states), memory is None)
        action, memory = self._policy.predict(seen, memory, fresh, deterministic=True)
        return np.clip(1.0 + np.asarray(action, np.float64), 0.0, MAX_MULTIPLIER), memory


def _spaces(features: int, assets: int) -> Any:
    """An environment that is nothing but its spaces: what an SB3 network is built from."""
    import gymnasium
    from gymnasium.spaces import Box

    class Spaces(gymnasium.Env):
        observation_space = Box(-np.inf, np.inf, (features,), np.float32)
        action_space = Box(-1.0, 1.0, (assets,), np.float32)

    return Spaces()


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is no name=value")
    try:
        return name.strip(), ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name.strip(), value
