"""Networks. Every trunk has one face: (T, N, F) sequences and its output layer in, (T, N, K) and a memory out."""

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


class _Layers(torch.autograd.Function):
    """h_k = tanh(W_k h_{k-1} + b_k) and W h + b on top: all layers as one node, with its gradient written out.

    tanh(z) = 2 s - 1 with s = sigmoid(2 z): on a CPU torch's sigmoid is vectorised, its tanh takes nine times as long.
    Only s is kept, in the product's own memory; the 2 and the 1 go into the next layer's small matrices, and so does
    the 4 of the slope, dtanh/dz = 4 s (1 - s). Differs from torch.tanh by rounding only (2e-7).
    """

    @staticmethod
    def forward(ctx, x: Tensor, *parameters: Tensor) -> Tensor:  # type: ignore[override]
        pairs, kept = list(zip(parameters[::2], parameters[1::2], strict=True)), [x]
        for layer, (weight, bias) in enumerate(pairs):
            twice = 1 if layer + 1 == len(pairs) else 2  # 2 z for the sigmoid
            if layer == 0:
                z = torch.addmm(bias, x, weight.t(), beta=twice, alpha=twice)
            else:  # W (2 s - 1) + b
                z = torch.addmm(bias - weight.sum(1), kept[-1], weight.t(), beta=twice, alpha=2 * twice)
            if twice == 2:
                kept.append(z.sigmoid_())
        ctx.save_for_backward(*parameters, *kept)
        return z

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        count = len(ctx.saved_tensors) // 3
        parameters, kept = ctx.saved_tensors[: 2 * count], ctx.saved_tensors[2 * count :]
        found: list[Tensor | None] = []
        unit = 1.0  # dL/dz is unit * gradient
        for layer in reversed(range(count)):
            below, bias = kept[layer], unit * gradient.sum(0)
            if layer == 0:
                found += [bias, (gradient.t() @ below).mul_(unit)]
                break
            weight = torch.addmm(bias[:, None], gradient.t(), below, beta=-1, alpha=2 * unit)  # dL/dz' (2 s - 1)
            found += [bias, weight]
            slope = gradient @ (unit * parameters[2 * layer])
            gradient = torch.ops.aten.sigmoid_backward.grad_input(slope, below, grad_input=slope)
            unit = 4.0
        inputs = gradient @ (unit * parameters[0]) if ctx.needs_input_grad[0] else None
        return inputs, *reversed(found)


class MLPTrunk(nn.Module):
    """tanh layers. Remembers nothing."""

    def __init__(self, inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        layers = [orthogonal(nn.Linear(a, b), 2**0.5) for a, b in pairwise(sizes)]
        self.layers = nn.ModuleList(layers)
        self.outputs = sizes[-1]

    def forward(
        self, x: Tensor, out: nn.Linear, memory: Memory = None, fresh: Tensor | None = None
    ) -> tuple[Tensor, Memory]:
        """`fresh` (T, N) marks the first step of an episode; nothing to forget here."""
        parameters = [p for layer in (*self.layers, out) for p in (layer.weight, layer.bias)]
        return _Layers.apply(x.flatten(0, -2), *parameters).unflatten(0, x.shape[:-1]), memory

    def initial_memory(self, count: int, device: torch.device) -> Memory:
        return None


class LSTMTrunk(nn.Module):
    """LSTM layers, then tanh layers. Remembers (h, c) of every LSTM layer.

    Each gate's matrices are orthogonal and the forget gate starts at bias 1, so that a fresh net keeps what it has seen
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
        """(T, N, F) in one fused call, or one call for each stretch between resets.

        Args:
            out: the output layer, on top of everything.
            memory: before the first step; None is zeros.
            fresh: (T, N) bool, where an episode begins: its environment's memory is zeroed before that step.
        """
        if memory is None:
            memory = self.initial_memory(x.shape[1], x.device)
        stretches = []
        for begin, end in pairwise(_stretches(x.shape[0], fresh)):
            if fresh is not None:
                keep = (~fresh[begin])[None, :, None]
                memory = (memory[0] * keep, memory[1] * keep)
            features, memory = self.lstm(x[begin:end], memory)
            stretches.append(features)
        whole = stretches[0] if len(stretches) == 1 else torch.cat(stretches)
        return self.after(whole, out)[0], memory

    def initial_memory(self, count: int, device: torch.device) -> Memory:
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
        return self.trunk(x, self.out)[0][..., 0]
