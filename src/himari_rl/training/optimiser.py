"""The optimiser step: gradient, norm clip and torch's optimiser, for all of an agent's weights as one vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class FlatOptimiser:
    """Minimises a loss over a module's weights, flattened into one vector.

    All weights become views of one vector, and their gradients of another: clearing, clipping and stepping are then one
    operation each instead of one for each layer, a tenth of a small net's update. A weight that the loss does not reach
    has the gradient zero. Move the module to its device before.

    Args:
        make: builds torch's optimiser of the one parameter it is given.
        max_grad_norm: clip of the gradient's norm, all weights together.
    """

    def __init__(
        self, module: nn.Module, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], max_grad_norm: float
    ) -> None:
        weights = list(module.parameters())
        flat = nn.Parameter(torch.cat([w.detach().flatten() for w in weights]))
        self._gradient = flat.grad = torch.zeros_like(flat)
        sizes = [w.numel() for w in weights]
        views = zip(weights, torch.split(flat, sizes), torch.split(self._gradient, sizes), strict=True)
        for weight, values, gradient in views:
            weight.data = values.detach().view_as(weight)
            weight.grad = gradient.view_as(weight)
        self._max_grad_norm = max_grad_norm
        self.inner = make([flat])

    def minimise(self, loss: Tensor) -> None:
        """One step along the clipped gradient of `loss`; the clip is torch.nn.utils.clip_grad_norm_'s."""
        gradient = self._gradient.zero_()
        torch.autograd.backward(loss)
        gradient.mul_((self._max_grad_norm / (torch.linalg.vector_norm(gradient) + 1e-6)).clamp_max(1.0))
        self.inner.step()
