"""One fold and seed: what is asked of a worker, and the file that its answer becomes.

Torch-free: a verdict on folds that are trained reads them and imports nothing that trains.

A task's key is a hash of everything that shapes the answer; a file is trusted only under its own key and digest.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load, save

from himari_rl.config import as_dict
from himari_rl.data.panel import Panel
from himari_rl.errors import StorageError
from himari_rl.experiments.recipe import Recipe
from himari_rl.policy.bundle import Tensors
from himari_rl.policy.code import CodeReference
from himari_rl.policy.external import described_tensors, external_policy
from himari_rl.policy.manifest import Manifest, parse_manifest
from himari_rl.policy.runtime import Policy
from himari_rl.schema import Bars
from himari_rl.storage.sealed import sealed, unsealed
from himari_rl.training.record import training_data


@dataclass(frozen=True, kw_only=True)
class FoldTask:
    """What one worker needs: the training rows, the recipe, the seed."""

    part: str  # "real", or the control it belongs to
    fold: int
    seed: int
    train: Bars | Panel
    recipe: Recipe
    start: Tensors | None = None  # the fold before's weights, for a warm start
    others: tuple[Bars, ...] = ()  # other symbols' rows of the same time, evidence for the beliefs
    code: CodeReference | None = None  # somebody's own policy, instead of the recipe's agent
    folder: str = ""  # where its module lies, for a worker on the same disk

    @property
    def name(self) -> str:
        """The file it becomes."""
        return f"{self.part}/{self.fold:03d}-{self.seed}.fold"

    @property
    def key(self) -> str:
        """Changes whenever the answer could."""
        if self.code is not None:
            return self._key_of_code(self.code)
        started = "" if self.start is None else hashlib.sha256(save(self.start)).hexdigest()
        settings = as_dict(self.recipe) | {"agent_type": type(self.recipe.agent).__name__}
        said = json.dumps(
            [self.part, self.fold, self.seed, training_data(self.train)["sha256"], settings, started], sort_keys=True
        )
        said += "".join(f" {other.fingerprint}" for other in self.others)
        return hashlib.sha256(said.encode()).hexdigest()

    def _key_of_code(self, code: CodeReference) -> str:
        """No agent's settings; the code's name, the hash of its source, and what it was made with."""
        data = training_data(self.train)["sha256"]
        said = [self.part, self.fold, self.seed, data, as_dict(self.recipe.environment), *code.key]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class TrainedFold:
    """One fold and seed, back from its file."""

    manifest: Manifest
    tensors: Tensors
    gain: float  # objective per bar over multiplier 1.0, on the training rows

    @property
    def policy(self) -> Policy:
        return policy_of([self])


def packed(key: str, trained: TrainedFold) -> bytes:
    """The weights, with everything else in their header: in one entry, because a header's entries have no order."""
    notes = {"key": key, "manifest": trained.manifest.model_dump_json(), "gain": repr(trained.gain)}
    # somebody's own arrays come in any order; safetensors writes the bytes of one that is not row by row as they lie
    tensors = {name: np.asarray(array, order="C") for name, array in trained.tensors.items()}
    return sealed(save(tensors, metadata={"fold": json.dumps(notes)}))


def unpacked(data: bytes, key: str, where: str) -> TrainedFold:
    """What `packed` wrote.

    Raises:
        StorageError: the file is damaged, or belongs to another walk-forward.
    """
    body = unsealed(data, where)
    size = int.from_bytes(body[:8], "little")
    notes = json.loads(json.loads(body[8 : 8 + size])["__metadata__"].get("fold", "{}"))
    require_key(notes.get("key", ""), key, where)  # an earlier release's file has no such entry
    return TrainedFold(
        parse_manifest(notes["manifest"], where, "delete it and run again"), load(body), float(notes["gain"])
    )


def require_key(found: str, expected: str, where: str) -> None:
    """Refuses a file that was made by another task."""
    if found != expected:
        raise StorageError(
            f"{where} belongs to another walk-forward (other data, settings or release)",
            "the same command as before",
            "choose another --out, or delete that folder",
        )


def ensemble(members: list[TrainedFold]) -> tuple[Manifest, Tensors]:
    """Several seeds of one fold as one policy; nobody picks the best."""
    manifest = members[0].manifest.model_copy(update={"seeds": tuple(m.manifest.seeds[0] for m in members)})
    tensors = {
        f"{i}.{name.split('.', 1)[1]}": values for i, m in enumerate(members) for name, values in m.tensors.items()
    }
    if manifest.external is not None:
        spec = manifest.external.model_copy(update={"tensors": described_tensors(tensors)})
        manifest = manifest.model_copy(update={"external": spec})
    return manifest, tensors


def policy_of(members: list[TrainedFold]) -> Policy:
    """Several seeds of one fold, answering. Code among them is what a person named for this walk-forward."""
    manifest, tensors = ensemble(members)
    if manifest.kind == "external":
        return external_policy(manifest, tensors, told=True)
    return Policy(manifest, tensors)
