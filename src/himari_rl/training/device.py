"""Where the training loop runs."""

from __future__ import annotations

import torch

from himari_rl.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")


def resolve_device(name: str) -> str:
    """cpu or cuda from auto, cpu or cuda.

    Raises:
        ConfigError: an unknown name, or cuda where torch sees none.
    """
    if name not in DEVICES:
        raise ConfigError(f"device {name!r}", f"one of {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no CUDA device", "a GPU that torch can see", "use --device cpu, or install torch for CUDA")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
