"""One step down a loss: gradient, clip and optimiser, for all of an agent's weights at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Descent:
    """Steps a module's weights down a loss.

    All weights become views of one vector, and their gradients of another: clearing, clipping and stepping are then one
    operation each instead of one for each layer, a tenth of a small net's update. A weight that the loss does not reach
    has the gradient zero. Move the module to its device before.

    Args:
        make: builds the optimiser of the one parameter it is given.
        max_grad_norm: clip of the gradient's length, all weights together.
    """

    def __init__(
        self, module: nn.Module, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], max_grad_norm: float
    ) -> None:
        weights = list(module.parameters())
        joined = nn.Parameter(torch.cat([w.detach().flatten() for w in weights]))
        self._slope = joined.grad = torch.zeros_like(joined)
        sizes = [w.numel() for w in weights]
        for weight, part, slope in zip(weights, joined.split(sizes), self._slope.split(sizes), strict=True):
            weight.data = part.detach().view_as(weight)
            weight.grad = slope.view_as(weight)
        self._max_norm = max_grad_norm
        self.optimiser = make([joined])

    def step(self, loss: Tensor) -> None:
        """One step of the optimiser along the clipped gradient of `loss`."""
        slope = self._slope.zero_()
        loss.backward()
        slope.mul_((self._max_norm / (torch.linalg.vector_norm(slope) + 1e-6)).clamp_max(1.0))
        self.optimiser.step()
