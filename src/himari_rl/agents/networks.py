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


class _TanhLayers(torch.autograd.Function):
    """h_k = tanh(W_k h_{k-1} + b_k), all layers as one node of the graph, with its gradient written out.

    tanh(z) = 2 s - 1 with s = sigmoid(2 z): on a CPU torch's sigmoid is vectorised, its tanh takes nine times as long.
    Only s is kept, in the product's own memory; the 2 and the 1 go into the next layer's small matrices, and so does
    the 4 of the slope, dtanh/dz = 4 s (1 - s). Differs from torch.tanh by rounding only (2e-7).
    """

    @staticmethod
    def forward(ctx, x: Tensor, *parameters: Tensor) -> Tensor:  # type: ignore[override]
        kept = [x]
        for layer, (weight, bias) in enumerate(_pairs(parameters)):
            if layer == 0:
                s = torch.addmm(bias, x, weight.t(), beta=2, alpha=2)
            else:  # 2 (W (2 s - 1) + b)
                s = torch.addmm(bias - weight.sum(1), s, weight.t(), beta=2, alpha=4)
            kept.append(s.sigmoid_())
        ctx.save_for_backward(*parameters, *kept)
        return (2.0 * s).sub_(1.0)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        count = (len(ctx.saved_tensors) - 1) // 3
        parameters, kept = ctx.saved_tensors[: 2 * count], ctx.saved_tensors[2 * count :]
        quarter = torch.ops.aten.sigmoid_backward(gradient, kept[-1])  # of dL/dz: what 4 s (1 - s) leaves without the 4
        found: list[Tensor | None] = []
        for layer in reversed(range(count)):
            below, bias = kept[layer], 4.0 * quarter.sum(0)
            if layer == 0:
                found += [bias, (quarter.t() @ below).mul_(4.0)]
                break
            found += [bias, torch.addmm(bias[:, None], quarter.t(), below, beta=-1, alpha=8)]  # dL/dz' (2 s - 1)
            slope = quarter @ (4.0 * parameters[2 * layer])
            quarter = torch.ops.aten.sigmoid_backward.grad_input(slope, below, grad_input=slope)
        inputs = quarter @ (4.0 * parameters[0]) if ctx.needs_input_grad[0] else None
        return inputs, *reversed(found)


def _pairs(parameters: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(parameters[::2], parameters[1::2], strict=True))


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
        if not self.layers:
            return x, memory
        features = _TanhLayers.apply(x.flatten(0, -2), *self.layers.parameters())
        return features.unflatten(0, x.shape[:-1]), memory

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

    def forward(self, x: Tensor, memory: Memory = None, fresh: Tensor | None = None) -> tuple[Tensor, Memory]:
        """(T, N, F) in one fused call, or one call for each stretch between resets.

        Args:
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
        return self.after(whole)[0], memory

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
        return self.out(self.trunk(x)[0])[..., 0]
