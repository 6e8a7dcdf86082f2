"""The gradients that are written out by hand, against autograd through the plain formulas and against differences."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from himari_rl.agents.config import PPOConfig
from himari_rl.agents.distributions import log_prob
from himari_rl.agents.networks import Critic, MLPTrunk
from himari_rl.training.descent import Descent
from himari_rl.training.ppo import Batch, ppo_loss

F64 = torch.float64


@pytest.mark.parametrize("hidden", [(7, 6), (4,), ()], ids=["two layers", "one", "none"])
def test_the_layers_are_tanh_layers_under_a_linear_one_and_so_is_their_gradient(hidden: tuple[int, ...]) -> None:
    trunk, out = MLPTrunk(5, hidden).double(), nn.Linear(hidden[-1] if hidden else 5, 3).double()
    x = torch.linspace(-8, 8, 55, dtype=F64).reshape(11, 5).requires_grad_(True)
    expected = x
    for layer in trunk.layers:
        expected = torch.tanh(layer(expected))
    expected = out(expected)
    assert torch.allclose(trunk(x, out)[0], expected, atol=1e-14)
    assert torch.autograd.gradcheck(lambda x, *_: trunk(x, out)[0], (x, *trunk.parameters(), *out.parameters()))
    single = x.detach().float()
    assert (trunk.float()(single, out.float())[0] - expected.float()).abs().max() < 4e-6


def clipped_log_prob(latent: Tensor, mean: Tensor, std: float) -> Tensor:
    """The definition: a normal density inside (0, 2), the mass outside at each bound."""
    normal = torch.distributions.Normal(mean, std)
    low, high = torch.zeros(1, dtype=F64), torch.full((1,), 2.0, dtype=F64)
    mass = torch.where(latent <= 0.0, normal.cdf(low), 1.0 - normal.cdf(high))
    return torch.where((latent > 0.0) & (latent < 2.0), normal.log_prob(latent), mass.log()).sum(-1)


def test_the_censored_gaussian_and_its_slope_are_those_of_the_definition() -> None:
    latent = torch.tensor([[-0.3, 0.7], [0.0, 2.0], [2.4, 1.9], [0.4, -0.1]], dtype=F64)
    mean = torch.tensor([[0.1, 0.9], [0.2, 1.8], [1.7, 2.0], [0.0, 0.3]], dtype=F64).requires_grad_()
    std = torch.tensor(0.3, dtype=F64)
    found, expected = log_prob("centre", latent, mean, std), clipped_log_prob(latent, mean, 0.3)
    assert torch.allclose(found, expected, atol=1e-12)
    (slope,), (true,) = (torch.autograd.grad(x.sum(), mean) for x in (found, expected))
    assert torch.allclose(slope, true, atol=1e-9)
    assert torch.autograd.gradcheck(lambda m: log_prob("centre", latent, m, std), (mean,))


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_the_slope_of_the_loss_is_that_of_the_formulas_through_autograd() -> None:
    shape, config = (40, 9), PPOConfig(clip_coef=0.2, value_coefficient=0.7)
    advantage, target, alive = drawn(1, *shape), drawn(2, *shape), (drawn(3, *shape) > -1).double()
    old, empty = drawn(4, *shape), torch.empty(0)
    batch = Batch(empty, None, None, empty, empty, old, advantage, target, alive)
    new = (old + 0.3 * drawn(5, *shape)).requires_grad_()
    value = drawn(6, *shape).requires_grad_()
    ratio, weight = (new - old).exp(), alive / alive.sum()
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    plain = (-surrogate * weight).sum() + 0.7 * 0.5 * ((value - target).square() * weight).sum()
    ours = ppo_loss(new, batch, value, config).total
    assert ours.item() == pytest.approx(plain.item(), abs=1e-12)
    found, expected = (torch.autograd.grad(x, (new, value)) for x in (ours, plain))
    assert all(torch.allclose(a, b, atol=1e-15) for a, b in zip(found, expected, strict=True))
    stopped = (found[0] == 0.0) & (alive > 0)
    assert 0.05 < float(stopped.double().mean()) < 0.5  # the clip did stop some, and the test would see it


def test_one_vector_of_weights_steps_as_the_layers_do_one_by_one() -> None:
    """torch's own clip and AdamW over the parameter list; the rounding of the norm is all that differs."""
    one, other = Critic(5, (7, 6)), Critic(5, (7, 6))
    other.load_state_dict(one.state_dict())
    adam = partial(torch.optim.AdamW, lr=0.01, eps=1e-7, weight_decay=0.1)
    descent, plain = Descent(one, adam, 0.5), adam(other.parameters())
    for step in range(5):
        x = drawn(step, 30, 5).float()
        descent.step(one(x).square().mean())
        plain.zero_grad()
        other(x).square().mean().backward()
        norm = nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        plain.step()
        assert norm > 0.0
    pairs = list(zip(one.parameters(), other.parameters(), strict=True))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    moved = [p.clone() for p in one.parameters()]
    descent.step(one(drawn(9, 30, 5).float()).sum() * 100.0)  # the gradient's length after the clip is the bound
    assert float(torch.cat([p.grad.flatten() for p in one.parameters()]).norm()) == pytest.approx(0.5, rel=1e-4)
    assert all(not torch.equal(a, b) for a, b in zip(moved, one.parameters(), strict=True))
