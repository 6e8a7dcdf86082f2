"""An agent of Stable-Baselines3 that answers here, and its description: JSON, where SB3's own files have pickles."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himari_rl.errors import BundleError, ConfigError, not_installed
from himari_rl.schema import MAX_MULTIPLIER, FloatArray

PACKAGES = ("stable_baselines3", "sb3_contrib")
CLASSES = ("torch.nn", "torch.optim", *PACKAGES)  # where a class may stand that a description names
WEIGHT = "w."  # before the names of what was learned
Arrays = Mapping[str, NDArray[Any]]


def algorithm(name: str) -> Any:
    """A class of Stable-Baselines3 or sb3-contrib.

    Raises:
        ConfigError: there is none, or they are not installed.
    """
    for package in PACKAGES:
        try:
            found = getattr(import_module(package), name, None)
        except ModuleNotFoundError as error:
            raise not_installed(f"the agent sb3:{name}", error, "peers") from error
        if found is not None:
            return found
    expected = f"an algorithm of {' or '.join(PACKAGES)}, or the FILE.zip of a trained agent"
    raise ConfigError(f"sb3:{name}", expected, "for example sb3:PPO")


@dataclass(frozen=True)
class Standard:
    """Observations as SB3's VecNormalize gives them to an agent: (F,) means and variances, float64."""

    mean: FloatArray
    var: FloatArray
    clip: float
    epsilon: float

    def __call__(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        scaled = (states - self.mean) / np.sqrt(self.var + self.epsilon)
        return np.clip(scaled, -self.clip, self.clip).astype(np.float32)


class Sb3Policy:
    """An SB3 agent that answers, without exploration; its actions are [-1, 1] around 1, or multipliers [0, 2].

    Args:
        policy: SB3's policy (its network); what it predicts is squashed and clipped as SB3 does.
        standard: what its observations are standardised with; None where it reads states as they are.
        beside: what is kept of it beside its weights.
    """

    def __init__(self, policy: Any, standard: Standard | None, beside: Arrays) -> None:
        self._policy, self._standard, self._beside = policy, standard, dict(beside)
        self._policy.set_training_mode(False)
        space = policy.action_space
        self._shift = 1.0 - (space.low.astype(np.float64) + space.high) / 2.0

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Weights, and what stands beside them."""
        return weights_of(self._policy.state_dict()) | self._beside

    def decide_batch(self, states: NDArray[np.floating], memory: Any = None) -> tuple[FloatArray, Any]:
        rows = np.asarray(states, np.float32)
        seen = rows if self._standard is None else self._standard(rows)
        fresh = np.full(len(rows), memory is None)
        action, memory = self._policy.predict(seen, memory, fresh, deterministic=True)
        return np.clip(self._shift + np.asarray(action, np.float64), 0.0, MAX_MULTIPLIER), memory


def weights_of(state: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The tensors of a network as arrays."""
    return {f"{WEIGHT}{name}": value.detach().cpu().numpy() for name, value in state.items()}


def load_weights(policy: Any, arrays: Arrays) -> None:
    """Brings the weights of `weights_of` back."""
    import torch

    weights = {name.removeprefix(WEIGHT): value for name, value in arrays.items() if name.startswith(WEIGHT)}
    policy.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.items()})


def network(description: Mapping[str, Any]) -> Any:
    """An SB3 policy with fresh weights: {"policy", "arguments", "features", "low", "high", "assets"}.

    Raises:
        BundleError: it names something that is no policy of SB3.
    """
    from gymnasium.spaces import Box
    from stable_baselines3.common.policies import BasePolicy

    kind = class_of(description["policy"])
    if not issubclass(kind, BasePolicy):
        raise BundleError(f"the network {description['policy']}", f"a policy of {' or '.join(PACKAGES)}")
    arguments = meant(description["arguments"])
    if "lr_schedule" in inspect.signature(kind).parameters:
        arguments["lr_schedule"] = lambda _: 1.0  # of an optimiser that never steps
    seen = Box(-np.inf, np.inf, (description["features"],), np.float32)
    return kind(seen, Box(description["low"], description["high"], (description["assets"],), np.float32), **arguments)


# ---- settings and arguments as JSON ----------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A value as JSON holds it; a class of torch or SB3 by its name.

    Raises:
        TypeError: JSON cannot hold it, with the value.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, type):
        for name in (f"torch.nn.{value.__name__}", f"{value.__module__}.{value.__qualname__}"):
            try:
                if class_of(name) is value:
                    return {"class": name}
            except BundleError:
                continue
    raise TypeError(" ".join(repr(value).split()))


def meant(value: Any) -> Any:
    """What `plain` was given.

    Raises:
        BundleError: a class that is not here, or none of torch or SB3.
    """
    if isinstance(value, dict):
        return class_of(value["class"]) if value.keys() == {"class"} else {n: meant(v) for n, v in value.items()}
    return [meant(each) for each in value] if isinstance(value, list) else value


def class_of(name: str) -> type[Any]:
    """The class of torch or SB3 that a name means.

    Raises:
        BundleError: it is not here, or stands elsewhere.
    """
    module, _, called = name.rpartition(".")
    found = None
    if any(f"{module}.".startswith(f"{there}.") for there in CLASSES):
        try:
            found = getattr(import_module(module), called, None)
        except ModuleNotFoundError as error:
            if (error.name or "") in PACKAGES:
                raise not_installed(f"the class {name}", error, "peers") from error
    if not isinstance(found, type):
        raise BundleError(
            f"the class {name} is not here", f"one of {', '.join(CLASSES)}", "install the versions of then"
        )
    return found


def settings_of(called: str, said: str, settings: str) -> dict[str, Any]:
    """Settings of `name=value,name=value` as a person types them, or of the JSON of a reference.

    Raises:
        ConfigError: one that is none.
    """
    try:
        if settings:
            found: dict[str, Any] = meant(json.loads(settings))
            return found
        return dict(_setting(each) for each in said.split(",") if each)
    except ValueError as error:
        raise ConfigError(f"{called} {said or settings}: {error}", f"{called}:name=value,name=value") from error


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is no name=value")
    try:
        return name.strip(), ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name.strip(), value
