"""AdamW (Loshchilov & Hutter 2019) on all of an agent's weights as one vector, with a clip of the gradient's norm.

    m <- m + (1 - b1) (g - m)        v <- b2 v + (1 - b2) g^2
    w <- (1 - lr decay) w - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)

torch.optim.AdamW is the definition (tests/training/test_optimiser.py holds the two together, bit for bit). It is not
used because making one imports torch's compiler: 1.7 CPU seconds in every process that trains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7


class FlatAdamW:
    """Minimises a loss over a module's weights, flattened into one vector.

    All weights become views of one vector, and their gradients of another: clearing, clipping and stepping are then one
    operation each instead of one for each layer, a tenth of a small net's update. A weight that the loss does not reach
    has the gradient zero. Move the module to its device before.

    Args:
        learning_rate: may be set anew before each step.
        weight_decay: decoupled from the gradient, times the learning rate.
        max_grad_norm: clip of the gradient's norm, all weights together.
    """

    def __init__(self, module: nn.Module, learning_rate: float, weight_decay: float, max_grad_norm: float) -> None:
        weights = list(module.parameters())
        self._weights = torch.cat([w.detach().flatten() for w in weights])
        self._gradient = torch.zeros_like(self._weights)
        sizes = [w.numel() for w in weights]
        views = zip(weights, torch.split(self._weights, sizes), torch.split(self._gradient, sizes), strict=True)
        for weight, values, gradient in views:
            weight.data = values.view_as(weight)
            weight.grad = gradient.view_as(weight)
        self.learning_rate, self.weight_decay, self.max_grad_norm = learning_rate, weight_decay, max_grad_norm
        self.forget()

    def forget(self) -> None:
        """Moments of zero: those of one loss are the wrong step size for another."""
        self.steps = 0
        self._first, self._second = torch.zeros_like(self._weights), torch.zeros_like(self._weights)

    def minimise(self, loss: Tensor) -> None:
        """One step along the clipped gradient of `loss`; the clip is torch.nn.utils.clip_grad_norm_'s."""
        gradient = self._gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types here
        gradient.mul_((self.max_grad_norm / (torch.linalg.vector_norm(gradient) + 1e-6)).clamp_max(1.0))
        self._step(gradient)

    def follow(self, outputs: Sequence[Tensor], slopes: Sequence[Tensor]) -> None:
        """`minimise` of a loss whose slopes in `outputs` are known.

        They are handed over as those of sum(output * slope), which are the same bits. Given to torch.autograd.backward
        they would make it import sympy: .4 CPU seconds in every process that trains.
        """
        self.minimise(reduce(torch.add, [(o * slope).sum() for o, slope in zip(outputs, slopes, strict=True)]))

    @torch.no_grad()
    def _step(self, gradient: Tensor) -> None:
        self.steps += 1
        first = self.learning_rate / (1.0 - BETA_1**self.steps)
        second = math.sqrt(1.0 - BETA_2**self.steps)
        if self.weight_decay:
            self._weights.mul_(1.0 - self.learning_rate * self.weight_decay)
        self._first.lerp_(gradient, 1.0 - BETA_1)
        self._second.mul_(BETA_2).addcmul_(gradient, gradient, value=1.0 - BETA_2)
        self._weights.addcdiv_(self._first, (self._second.sqrt() / second).add_(EPSILON), value=-first)

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs besides the weights."""
        return {"steps": torch.tensor(self.steps), "first": self._first, "second": self._second}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state` gave."""
        self.steps = int(state["steps"])
        self._first.copy_(state["first"])
        self._second.copy_(state["second"])
