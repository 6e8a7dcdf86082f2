"""Networks. Every trunk has one face: (T, N, F) sequences in, (T, N, H) features and a memory out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

Memory = tuple[Tensor, Tensor] | None  # (h, c), each (layers, N, H); None for trunks that remember nothing


def orthogonal(linear: nn.Linear, gain: float) -> nn.Linear:
    """Orthogonal weights and zero bias (Andrychowicz et al. 2021, section B.6)."""
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


class MLPTrunk(nn.Module):
    """tanh layers. Remembers nothing."""

    def __init__(self, inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        layers = [orthogonal(nn.Linear(a, b), 2**0.5) for a, b in pairwise(sizes)]
        self.layers = nn.ModuleList(layers)
        self.outputs = sizes[-1]

    def forward(self, x: Tensor, memory: Memory = None, fresh: Tensor | None = None) -> tuple[Tensor, Memory]:
        """`fresh` (T, N) marks the first step of an episode; nothing to forget here."""
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x, memory

    def initial_memory(self, count: int, device: torch.device) -> Memory:
        return None


class Critic(nn.Module):
    """The value of an observation: an MLP of its own."""

    def __init__(self, inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.trunk = MLPTrunk(inputs, hidden)
        self.out = orthogonal(nn.Linear(self.trunk.outputs, 1), 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(..., F) -> (...)"""
        return self.out(self.trunk(x)[0])[..., 0]
