"""A trained agent of Stable-Baselines3 or sb3-contrib, judged as it is: the file that its `model.save` wrote.

    walk_forward(Sb3File("mine.zip"), bars)                                himari walk-forward sb3:mine.zip --data ...
    walk_forward(Sb3File("mine.zip", normalize="vecnormalize.pkl"), bars)  sb3:mine.zip:normalize=vecnormalize.pkl

Load only files that you trust: parts of them are pickled, as SB3 writes them, and whoever made a pickle chooses what
runs when it is read. It is read because a person named it in this call. What is kept of it are arrays and JSON: a
bundle is read without the file, and unpickles nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle  # nosec B403 - see above: of a file that a person named
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himari_rl.data.panel import Panel
from himari_rl.errors import ConfigError, HimariError, not_installed
from himari_rl.experiments.sb3_policy import (
    PACKAGES,
    Arrays,
    Sb3Policy,
    Standard,
    algorithm,
    load_weights,
    network,
    plain,
    settings_of,
    weights_of,
)
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.code import CodeReference
from himari_rl.schema import Bars
from himari_rl.storage import is_file, read_bytes

NAME = re.compile(r"(?P<path>.+?\.zip)(?::(?P<said>.*))?", re.IGNORECASE | re.DOTALL)
RAW = "none"  # in place of a file: it was trained on states as they are
READ = {"policy_class", "policy_kwargs", "observation_space", "action_space", "use_sde"}
LAST = "_last_obs"  # what it saw last in training: it tells whether that was a state
OPTIMISER = {"optimizer_class", "optimizer_kwargs", "device", "use_sde"}  # of no use for an answer, or said elsewhere
OUTSIDE = 1e-3  # of its bounds, that rounding does not explain
SCALES = ((-1.0, 1.0), (0.0, 2.0))
BY_RULE = "answer with it in a function of your own, rule:FILE.py:FUNCTION (docs/judge.md)"


@dataclass(frozen=True)
class Sb3File:
    """The agent of a file, the same in every fold: it learns nothing here.

    It must have been trained on our states: in our environment, or in one with the same observations and actions,
    either [-1, 1] (multiplier 1 + action) or [0, 2] (the multiplier itself), one for each symbol.
    """

    path: str
    """What `model.save` wrote."""
    algorithm: str = ""
    """What it is held to be, for example SAC; empty leaves it to the file, which says which network it has."""
    normalize: str = ""
    """What `VecNormalize.save` wrote; empty: it reads states as they are; `none` says so where the file looks
    otherwise."""

    @classmethod
    def of(cls, name: str, settings: str = "") -> Sb3File:
        """From `mine.zip`, `mine.zip:algorithm=SAC,normalize=vecnormalize.pkl`, or from what `reference` says.

        Raises:
            ConfigError: a setting that is none, or a file that is not there.
        """
        found = NAME.fullmatch(name)
        if found is None:
            raise ConfigError(f"sb3:{name}", "sb3:FILE.zip or sb3:FILE.zip:name=value,name=value")
        path = found["path"]
        given = settings_of(f"sb3:{path}", found["said"] or "", settings)
        if strange := sorted(given.keys() - {"algorithm", "normalize"}):
            raise ConfigError(
                f"sb3:{path} with {strange[0]}",
                "algorithm or normalize: it is trained already",
                f"sb3:{given.get('algorithm', 'PPO')}:{strange[0]}=... trains a new one",
            )
        made = cls(path, str(given.get("algorithm", "")), str(given.get("normalize", "")))
        if not settings:  # a person's words; a reference may be restored where the files are not
            for each in made._files():
                if not is_file(each):
                    raise ConfigError(f"no file {each}", "what SB3 saved", "check the path")
        return made

    def reference(self) -> CodeReference:
        """Name, settings, and the SHA-256 of the file; of both in a row where there are statistics."""
        digest = hashlib.sha256(b"".join(read_bytes(each) for each in self._files())).hexdigest()
        said = {"algorithm": self.algorithm, "normalize": self.normalize}
        return CodeReference(name=f"sb3:{self.path}", sha256=digest, settings=json.dumps(said, sort_keys=True))

    def __call__(self, train: Bars | Panel, seed: int) -> Sb3Policy:
        """The agent of the file, after its spaces were compared with these rows.

        Raises:
            ConfigError: no file of SB3, another algorithm's, or one that cannot answer these states.
        """
        self._require_installed()
        data, weights = self._read()
        description = self._description(data, StateEncoder.of(train))
        arrays = {"network": np.frombuffer(json.dumps(description, sort_keys=True).encode(), np.uint8)}
        arrays |= weights_of(weights) | self._statistics(description["features"], data)
        try:
            return self.restore(arrays)
        except HimariError:
            raise
        except Exception as error:  # of SB3 or torch: arguments or weights of another version
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"{self.path} cannot be built here: {reason}", "the SB3 that saved it", BY_RULE
            ) from error

    def restore(self, arrays: Arrays) -> Sb3Policy:
        """The agent from what was kept; nothing is unpickled and no file is read."""
        self._require_installed()
        policy = network(json.loads(arrays["network"].tobytes()))
        load_weights(policy, arrays)
        standard = None
        if "mean" in arrays:
            clip, epsilon = (float(arrays[name][0]) for name in ("clip", "epsilon"))
            standard = Standard(arrays["mean"], arrays["var"], clip, epsilon)
        kept = ("network", "mean", "var", "clip", "epsilon")
        return Sb3Policy(policy, standard, {name: arrays[name] for name in kept if name in arrays})

    def _require_installed(self) -> None:
        try:
            import stable_baselines3  # noqa: F401
        except ModuleNotFoundError as error:
            raise not_installed(f"the agent sb3:{self.path}", error, "peers") from error

    def _files(self) -> list[str]:
        return [self.path, *([self.normalize] if self.normalize not in ("", RAW) else [])]

    def _read(self) -> tuple[dict[str, Any], Any]:
        """What the file says of its network, and the weights; what is of no use here is not unpickled."""
        from stable_baselines3.common.save_util import load_from_zip_file

        blob, wanted = read_bytes(self.path), READ | {LAST}
        try:
            with zipfile.ZipFile(io.BytesIO(blob)) as archive:
                names = json.loads(archive.read("data"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what cannot be read: it is missed below
                data, params, _ = load_from_zip_file(
                    io.BytesIO(blob), custom_objects=dict.fromkeys(names.keys() - wanted), device="cpu"
                )
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in PACKAGES:
                raise not_installed(f"the agent sb3:{self.path}", error, "peers") from error
            raise ConfigError(
                f"{self.path} holds code of {error.name}, which is not here", "SB3 alone", BY_RULE
            ) from error
        except Exception as error:  # of zipfile, json, pickle or torch, which share no base class
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ConfigError(
                f"{self.path} is no file of Stable-Baselines3: {reason}", "what model.save wrote"
            ) from error
        if missing := sorted(READ - (data or {}).keys()) or sorted({"policy"} - params.keys()):
            raise ConfigError(f"{self.path} has no readable {missing[0]}", "what model.save wrote", BY_RULE)
        return dict(data or {}), params["policy"]

    def _description(self, data: Mapping[str, Any], encoder: StateEncoder) -> dict[str, Any]:
        """The network in plain words, once it is one that can answer states of these bars."""
        kind, seen, acts = (data[name] for name in ("policy_class", "observation_space", "action_space"))
        self._require_algorithm(kind)
        if getattr(seen, "shape", None) != (encoder.state_dim,) or not hasattr(seen, "low"):
            raise ConfigError(
                f"{self.path} reads {_shown(seen)}",
                f"({encoder.state_dim},), the state of {', '.join((*encoder.symbols, *encoder.own))}",
                "judge it on as many symbols, and with the --features, that it was trained with",
            )
        scale = next((each for each in SCALES if hasattr(acts, "low") and _spans(acts, *each)), None)
        if scale is None or acts.shape != (len(encoder.symbols),):
            raise ConfigError(
                f"{self.path} acts in {_shown(acts)}",
                f"({len(encoder.symbols)},), one for each symbol, in [-1, 1] (1 + action) or [0, 2] (the multiplier)",
                f"train it on such actions, or {BY_RULE}",
            )
        arguments = {name: each for name, each in data["policy_kwargs"].items() if name not in OPTIMISER}
        if data["use_sde"]:
            arguments["use_sde"] = True
        try:
            said: dict[str, Any] = {"policy": plain(kind)["class"], "arguments": plain(arguments)}
        except TypeError as error:
            raise ConfigError(f"{self.path} is built with {error}", "networks of SB3 and torch.nn", BY_RULE) from error
        return said | {"features": seen.shape[0], "assets": acts.shape[0], "low": scale[0], "high": scale[1]}

    def _require_algorithm(self, kind: type[Any]) -> None:
        """That the network is one of the algorithm that was said: PPO, A2C and TRPO have one and the same."""
        if not self.algorithm:
            return
        if kind not in algorithm(self.algorithm).policy_aliases.values():
            found, cure = f"the network of {self.path} is {kind.__name__}", f"sb3:{self.path} alone: the file says it"
            raise ConfigError(found, f"one of {self.algorithm}", cure)

    def _statistics(self, features: int, data: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """What its observations were standardised with, by the file of VecNormalize."""
        if self.normalize in ("", RAW):
            if not self.normalize and _is_outside(data.get(LAST), data["observation_space"]):
                raise ConfigError(
                    f"{self.path} last saw numbers that no state has: its observations were standardised",
                    "their statistics too",
                    f"sb3:{self.path}:normalize=FILE.pkl, of VecNormalize.save, or normalize={RAW} if there are none",
                )
            return {}
        from stable_baselines3.common.vec_env import VecNormalize

        try:
            found = pickle.loads(read_bytes(self.normalize))  # nosec B301 - as the import
        except HimariError:
            raise
        except Exception as error:  # a pickle may raise anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ConfigError(f"{self.normalize} cannot be read: {reason}", "what VecNormalize.save wrote") from error
        if not isinstance(found, VecNormalize):
            raise ConfigError(f"{self.normalize} is a {type(found).__name__}", "what VecNormalize.save wrote")
        if not found.norm_obs:
            return {}  # it standardised rewards only
        rms: Any = found.obs_rms
        if getattr(rms, "mean", np.zeros(0)).shape != (features,):
            shape = getattr(getattr(rms, "mean", None), "shape", "of a dict")
            raise ConfigError(f"{self.normalize} has statistics {shape}", f"({features},), as {self.path} reads")
        one = {"clip": np.array([found.clip_obs], np.float64), "epsilon": np.array([found.epsilon], np.float64)}
        return {"mean": np.asarray(rms.mean), "var": np.asarray(rms.var)} | one


def _spans(space: Any, low: float, high: float) -> bool:
    return bool((space.low == low).all() and (space.high == high).all())


def _is_outside(last: Any, space: Any) -> bool:
    """Whether what was seen last (N, F) breaks the bounds of what should be seen."""
    if not isinstance(last, np.ndarray) or last.shape[1:] != space.shape:
        return False
    return bool(((last < space.low - OUTSIDE) | (last > space.high + OUTSIDE)).any())


def _shown(space: Any) -> str:
    """A space in one line."""
    if not hasattr(space, "low"):
        return " ".join(str(space).split())
    low, high = (sorted({float(each) for each in np.ravel(edge)}) for edge in (space.low, space.high))
    return f"{space.shape}, from {low[0]:g} to {high[-1]:g}"
