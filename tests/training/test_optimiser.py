"""One flat vector of weights steps as torch's own clip and AdamW do, and its compiler stays out of the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from himari_rl.agents.networks import Critic
from himari_rl.training.optimiser import FlatAdamW


def drawn(seed: int) -> Tensor:
    return torch.randn(30, 5, generator=torch.Generator().manual_seed(seed))


class One(nn.Module):
    """A vector of weights and the loss whose gradient is given."""

    def __init__(self, first: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(first.clone())

    def forward(self, slope: Tensor) -> Tensor:
        return (self.weights * slope).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_is_torchs_adamw_bit_for_bit_while_the_learning_rate_moves(dtype: torch.dtype, decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(101, generator=generator, dtype=dtype)
    one, other = One(first), One(first)
    ours = FlatAdamW(one, 0.01, decay, 1e9)
    theirs = torch.optim.AdamW(other.parameters(), lr=0.01, eps=1e-7, weight_decay=decay, foreach=False, fused=False)
    for step in range(50):
        slope = torch.randn(101, generator=generator, dtype=dtype) * 10.0 ** -(step % 7)
        ours.learning_rate = theirs.param_groups[0]["lr"] = 0.01 * (1.0 - step / 60)
        ours.minimise(one(slope))
        theirs.zero_grad()
        other(slope).backward()
        theirs.step()
        assert torch.equal(one.weights, other.weights), step


def test_one_vector_of_weights_steps_as_the_layers_do_one_by_one() -> None:
    """torch's own clip and AdamW over the parameter list; the rounding of the norm is all that differs."""
    one, other = Critic(5, (7, 6)), Critic(5, (7, 6))
    other.load_state_dict(one.state_dict())
    flat = FlatAdamW(one, 0.01, 0.1, 0.5)
    plain = torch.optim.AdamW(other.parameters(), lr=0.01, eps=1e-7, weight_decay=0.1)
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


def test_a_loss_may_be_given_by_its_slopes() -> None:
    one, other = Critic(5, (7, 6)), Critic(5, (7, 6))
    other.load_state_dict(one.state_dict())
    whole, parts = FlatAdamW(one, 0.01, 0.0, 1e9), FlatAdamW(other, 0.01, 0.0, 1e9)
    whole.minimise((3.0 * one(drawn(0))).sum() + one(drawn(1)).mean())
    values = other(drawn(0))
    parts.follow([values, other(drawn(1)).mean()], [torch.full_like(values, 3.0), torch.tensor(1.0)])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_slopes_arrive_bit_for_bit_as_autograd_hands_them_on() -> None:
    one, other = Critic(5, (7, 6)), Critic(5, (7, 6))
    other.load_state_dict(one.state_dict())
    optimiser = FlatAdamW(one, 0.01, 0.0, 1e9)
    outputs, slope = [one(drawn(0)), one(drawn(1)) ** 2], [drawn(2)[:, 0], drawn(3)[:, 0]]
    optimiser.follow(outputs, slope)
    torch.autograd.backward([other(drawn(0)), other(drawn(1)) ** 2], slope)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_what_it_remembers_goes_on_in_another_one() -> None:
    first = torch.linspace(-1.0, 1.0, 9)
    one, other = One(first), One(first)
    whole, begun = FlatAdamW(one, 0.01, 0.0, 1.0), FlatAdamW(other, 0.01, 0.0, 1.0)
    slopes = [first.roll(k) for k in range(6)]
    for slope in slopes:
        whole.minimise(one(slope))
    for slope in slopes[:3]:
        begun.minimise(other(slope))
    resumed = FlatAdamW(other, 0.01, 0.0, 1.0)
    resumed.load({name: value.clone() for name, value in begun.state().items()})
    for slope in slopes[3:]:
        resumed.minimise(other(slope))
    assert torch.equal(one.weights, other.weights)
    resumed.forget()
    assert resumed.steps == 0
    assert not any(value.any() for value in resumed.state().values())


def test_training_leaves_torchs_compiler_alone() -> None:
    """torch.optim's constructors import it, 1.7 CPU seconds a process."""
    code = (
        "import sys, torch; from helpers.training import agent_of, physics_of, trainer_of\n"
        "from helpers.envs import random_bars\n"
        "trainer_of(agent_of(analytic_gradient_fraction=0.5), physics_of(random_bars(200, 1)), 4).run()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "assert 'sympy' not in sys.modules\n"
        "torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])\n"
        "assert 'torch._dynamo' in sys.modules"  # this test can fail
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert found.returncode == 0, found.stderr
