"""Checkpoints: everything between two rollouts, in one safetensors file, written atomically. Never a pickle.

Weights, averaged weights, optimiser, the generator, every account on every bar, the reward's moments, the guard.
A run resumed from it ends in the same weights, bit for bit, as one that was never interrupted. safetensors alone loads
a file with a flipped bit without a word, so a digest of everything travels with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from himari_rl.config import config_hash
from himari_rl.envs import batch
from himari_rl.errors import StorageError
from himari_rl.storage import read_bytes, write_atomic
from himari_rl.training.trainer import Trainer

FORMAT = 4  # of the file; 1 kept Adam's moments layer by layer, 2 as torch.optim names them, 3 knew no plan
_COUNTERS = ("rollout", "planned", "growing_from", "bars", "reward_count", "reward_mean", "reward_m2", "averaged")


def save_checkpoint(path: Path, trainer: Trainer, fingerprint: str) -> None:
    """Writes the run as it stands between two rollouts.

    Args:
        fingerprint: of the training bars; a resume on other bars is refused.

    Raises:
        StorageError: the disk is full or the folder cannot be written; an earlier checkpoint stays whole.
    """
    agent, state = trainer.agent, trainer.state
    tensors = {f"agent.{name}": value for name, value in agent.state_dict().items()}
    tensors |= {f"average.{i}": value for i, value in enumerate(trainer.average)}
    tensors |= {f"optimiser.{name}": value for name, value in trainer.optimiser.state().items()}
    tensors |= {f"env.{i}": leaf for i, leaf in enumerate(batch.leaves(state.env))}
    tensors |= {f"memory.{i}": leaf for i, leaf in enumerate(state.memory or ())}
    tensors["generator"] = trainer.generator.get_state()
    guard = {str(constant): [gain.tolist() for gain in gains] for constant, gains in trainer.guard.better.items()}
    meta = {
        "identity": identity(trainer, fingerprint),
        "counters": {name: getattr(state, name) for name in _COUNTERS},
        "seconds": trainer.seconds,
        "stuck": trainer.guard.stuck,
        "better": guard,
    }
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    note = json.dumps(meta)
    write_atomic(path, save(contiguous, metadata={"checkpoint": note, "sha256": digest(contiguous, note)}))


def load_checkpoint(path: Path, trainer: Trainer, fingerprint: str) -> None:
    """Puts a trainer where the checkpoint was taken.

    Raises:
        StorageError: the file is damaged, or belongs to another config, budget, seed or data.
    """
    tensors, meta = _opened(path)
    expected = identity(trainer, fingerprint)
    if meta["identity"] != expected:
        differing = ", ".join(name for name in expected if meta["identity"].get(name) != expected[name])
        raise StorageError(
            f"checkpoint {path} belongs to another run (different {differing})",
            "the same config, budget and data",
            "repeat the first command's flags, or train without --resume",
        )
    device = trainer.physics.device
    agent, state = trainer.agent, trainer.state
    agent.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("agent.")})
    for i, mean in enumerate(trainer.average):
        mean.copy_(tensors[f"average.{i}"])
    moments = {name[10:]: value for name, value in tensors.items() if name.startswith("optimiser.")}
    trainer.optimiser.load(moments)
    count = sum(name.startswith("env.") for name in tensors)
    state.env = batch.from_leaves([tensors[f"env.{i}"].to(device) for i in range(count)])
    if "memory.0" in tensors:
        state.memory = (tensors["memory.0"].to(device), tensors["memory.1"].to(device))
    trainer.generator.set_state(tensors["generator"])
    for name in _COUNTERS:
        setattr(state, name, meta["counters"][name])
    trainer.seconds = meta["seconds"]
    trainer.guard.stuck = meta["stuck"]
    trainer.guard.better = {
        float(constant): [torch.tensor(gain, dtype=torch.float64, device=device) for gain in gains]
        for constant, gains in meta["better"].items()
    }


def _opened(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the note of a checkpoint that is whole."""
    data = read_bytes(path)
    try:
        tensors = load(data)
        end = 8 + int.from_bytes(data[:8], "little")  # safetensors: the header's length, the header, the tensors
        header = json.loads(data[8:end])["__metadata__"]
        if header["sha256"] != digest(tensors, header["checkpoint"]):
            raise ValueError("its digest does not match")
        return tensors, json.loads(header["checkpoint"])
    except (SafetensorError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise StorageError(f"checkpoint {path} is damaged ({reason})", cure="train again without --resume") from error


def digest(tensors: Mapping[str, torch.Tensor], note: str) -> str:
    """sha256 over the note and every tensor's name, type, shape and bytes."""
    sha = hashlib.sha256(note.encode())
    for name in sorted(tensors):
        value = tensors[name]
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.numpy().tobytes())
    return sha.hexdigest()


def identity(trainer: Trainer, fingerprint: str) -> dict[str, Any]:
    """What must be the same for a resume to mean the same run."""
    return {
        "format": FORMAT,
        "agent": config_hash(trainer.agent.config),
        "environment": config_hash(trainer.physics.config),
        "rollouts": trainer.most_rollouts,
        "data": fingerprint,
    }
