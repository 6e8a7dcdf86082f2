"""Networks. Every trunk has one face: (T, N, F) sequences and its output layer in, (T, N, K) and a memory out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from himari_rl.agents.kernels import fused_tanh_layers

Memory = tuple[Tensor, Tensor] | None  # (h, c), each (layers, N, H); None for trunks that remember nothing


def map_memory(function: Callable[..., Tensor], *memories: Memory) -> Memory:
    """A function of every h, and the same of every c; None where nothing is remembered."""
    known = [memory for memory in memories if memory is not None]
    if not known:
        return None
    return function(*(h for h, _ in known)), function(*(c for _, c in known))


def orthogonal(linear: nn.Linear, gain: float) -> nn.Linear:
    """Orthogonal weights and zero bias (Andrychowicz et al. 2021, section B.6)."""
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


class Trunk(nn.Module, ABC):
    """The face of every trunk: features of a sequence, and what is remembered after its last step."""

    outputs: int
    """Features (K) that the output layer reads."""

    @abstractmethod
    def forward(
        self, x: Tensor, out: nn.Linear, memory: Memory = None, fresh: Tensor | None = None
    ) -> tuple[Tensor, Memory]:
        """(T, N, F) -> (T, N, K) after the output layer `out`, and the memory after the last step.

        Args:
            memory: before the first step; None is zeros.
            fresh: (T, N) bool, where an episode begins: its environment's memory is zeroed before that step.
        """

    @abstractmethod
    def initial_memory(self, count: int, device: torch.device) -> Memory:
        """What N environments remember at the start of an episode."""


class MLPTrunk(Trunk):
    """tanh layers: h_k = tanh(W_k h_{k-1} + b_k). Remembers nothing."""

    def __init__(self, inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        layers = [orthogonal(nn.Linear(a, b), 2**0.5) for a, b in pairwise(sizes)]
        self.layers = nn.ModuleList(layers)
        self.outputs = sizes[-1]

    def forward(
        self, x: Tensor, out: nn.Linear, memory: Memory = None, fresh: Tensor | None = None
    ) -> tuple[Tensor, Memory]:
        """`Trunk.forward`; nothing to forget here."""
        return self.on_columns(x, out, None), memory

    def on_columns(self, x: Tensor, out: nn.Linear, columns: Tensor | None) -> Tensor:
        """(..., F) -> (..., K); with `columns` x holds those of its inputs only, and the others are 0."""
        layers = [cast(nn.Linear, layer) for layer in (*self.layers, out)]
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        if columns is not None:
            weights[0] = weights[0].index_select(1, columns)
        flat = fused_tanh_layers(x.flatten(0, -2), weights, biases)  # kernels.tanh_layers is the plain formula
        return flat.view(*x.shape[:-1], flat.shape[-1])

    def initial_memory(self, count: int, device: torch.device) -> Memory:
        """None."""
        return None


class LSTMTrunk(Trunk):
    """LSTM layers, then tanh layers. Remembers (h, c) of every LSTM layer.

    Each gate's matrices are orthogonal and the forget gate starts at bias 1, so that a fresh net remembers its inputs
    for several bars and gradients reach back through them (Jozefowicz et al. 2015).
    """

    def __init__(self, inputs: int, lstm_hidden: int, lstm_layers: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, lstm_hidden, lstm_layers)
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
                if name.startswith("bias_ih"):  # torch adds two biases; the runtime keeps their sum
                    nn.init.ones_(parameter.data[lstm_hidden : 2 * lstm_hidden])  # gate order i, f, g, o
                continue
            for gate in parameter.data.chunk(4):
                nn.init.orthogonal_(gate)
        self.after = MLPTrunk(lstm_hidden, hidden)
        self.outputs = self.after.outputs

    def forward(
        self, x: Tensor, out: nn.Linear, memory: Memory = None, fresh: Tensor | None = None
    ) -> tuple[Tensor, Memory]:
        """`Trunk.forward` in one fused call of the LSTM, or one call for each stretch between resets."""
        h, c = self.initial_memory(x.shape[1], x.device) if memory is None else memory
        stretches: list[Tensor] = []
        for begin, end in pairwise(_stretches(x.shape[0], fresh)):
            if fresh is not None:
                remembers = (~fresh[begin])[None, :, None]
                h, c = h * remembers, c * remembers
            features, (h, c) = self.lstm(x[begin:end], (h, c))
            stretches.append(features)
        whole = stretches[0] if len(stretches) == 1 else torch.cat(stretches)
        return self.after(whole, out)[0], (h, c)

    def initial_memory(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Zeros: (h, c), each (layers, N, H)."""
        zeros = torch.zeros(self.lstm.num_layers, count, self.lstm.hidden_size, device=device)
        return zeros, zeros.clone()


def _stretches(steps: int, fresh: Tensor | None) -> list[int]:
    """0, every step at which some environment begins an episode, and `steps`."""
    begins = [] if fresh is None else torch.nonzero(fresh.any(1))[:, 0].tolist()
    return sorted({0, *begins, steps})


class Critic(nn.Module):
    """The value of an observation: an MLP of its own."""

    def __init__(self, inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.trunk = MLPTrunk(inputs, hidden)
        self.out = orthogonal(nn.Linear(self.trunk.outputs, 1), 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(..., F) -> (...)"""
        values: Tensor = self.trunk(x, self.out)[0]
        return values[..., 0]
