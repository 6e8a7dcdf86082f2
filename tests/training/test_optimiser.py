"""One flat vector of weights steps as torch's own clip and optimiser do layer by layer."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from himari_rl.agents.networks import Critic
from himari_rl.training.optimiser import FlatOptimiser


def drawn(seed: int) -> Tensor:
    return torch.randn(30, 5, generator=torch.Generator().manual_seed(seed))


def test_one_vector_of_weights_steps_as_the_layers_do_one_by_one() -> None:
    """torch's own clip and AdamW over the parameter list; the rounding of the norm is all that differs."""
    one, other = Critic(5, (7, 6)), Critic(5, (7, 6))
    other.load_state_dict(one.state_dict())
    adam = partial(torch.optim.AdamW, lr=0.01, eps=1e-7, weight_decay=0.1)
    flat, plain = FlatOptimiser(one, adam, 0.5), adam(other.parameters())
    for step in range(5):
        x = drawn(step)
        flat.minimise(one(x).square().mean())
        plain.zero_grad()
        other(x).square().mean().backward()
        norm = nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        plain.step()
        assert norm > 0.0
    pairs = list(zip(one.parameters(), other.parameters(), strict=True))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    before = [p.clone() for p in one.parameters()]
    flat.minimise(one(drawn(9)).sum() * 100.0)  # the gradient's length after the clip is the bound
    assert float(torch.cat([p.grad.flatten() for p in one.parameters()]).norm()) == pytest.approx(0.5, rel=1e-4)
    assert all(not torch.equal(a, b) for a, b in zip(before, one.parameters(), strict=True))
