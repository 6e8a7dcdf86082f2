"""Each hand-written gradient against the plain formula above it, against differences, and against the definition."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from himari_rl.agents import kernels
from himari_rl.agents.config import PPOConfig
from himari_rl.agents.distributions import log_prob
from himari_rl.agents.networks import MLPTrunk
from himari_rl.training.ppo import Batch, NewPolicy, ppo_loss

F64 = torch.float64
SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def assert_same(plain: Tensor, fast: Tensor, inputs: list[Tensor], seed: int = 0) -> None:
    """Equal values, and equal gradients under a random weighting of the outputs."""
    assert torch.allclose(plain, fast, atol=1e-13, rtol=1e-12)
    upstream = drawn(seed + 100, *plain.shape)
    expected, found = (torch.autograd.grad(x, inputs, upstream) for x in (plain, fast))
    assert all(torch.allclose(a, b, atol=1e-13, rtol=1e-11) for a, b in zip(expected, found, strict=True))
    assert all(float(g.abs().max()) > 0.0 for g in expected)


def layers_of(seed: int, *sizes: int) -> tuple[list[Tensor], list[Tensor]]:
    pairs = list(enumerate(pairwise(sizes)))
    weights = [drawn(seed + 10 * k, b, a).requires_grad_() for k, (a, b) in pairs]
    return weights, [drawn(seed + 10 * k + 5, b).requires_grad_() for k, (_, b) in pairs]


@SEEDS
@pytest.mark.parametrize("sizes", [(5, 3), (5, 4, 3), (5, 7, 6, 3)], ids=["none", "one", "two layers"])
def test_fused_tanh_layers_are_the_plain_layers(sizes: tuple[int, ...], seed: int) -> None:
    (weights, biases), x = layers_of(seed, *sizes), drawn(seed + 50, 11, 5).requires_grad_()
    plain, fast = (f(x, weights, biases) for f in (kernels.tanh_layers, kernels.fused_tanh_layers))
    assert_same(plain, fast, [x, *weights, *biases], seed)


@pytest.mark.parametrize("hidden", [(7, 6), (4,), ()], ids=["two layers", "one", "none"])
def test_a_trunk_is_tanh_layers_under_a_linear_one_and_so_is_its_gradient(hidden: tuple[int, ...]) -> None:
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


LATENT = torch.tensor([[-0.3, 0.7], [0.0, 2.0], [2.4, 1.9], [0.4, -0.1]], dtype=F64)
MEAN = torch.tensor([[0.1, 0.9], [0.2, 1.8], [1.7, 2.0], [0.0, 0.3]], dtype=F64)
STD = torch.tensor(0.3, dtype=F64)


@pytest.mark.parametrize("formula", [kernels.censored_log_prob, kernels.fused_censored_log_prob])
def test_the_censored_gaussian_and_its_slope_are_those_of_the_definition(formula) -> None:
    mean = MEAN.clone().requires_grad_()
    found, expected = formula(LATENT, mean, STD), clipped_log_prob(LATENT, mean, 0.3)
    assert torch.allclose(found, expected, atol=1e-12)
    (slope,), (true,) = (torch.autograd.grad(x.sum(), mean) for x in (found, expected))
    assert torch.allclose(slope, true, atol=1e-9)
    assert torch.autograd.gradcheck(lambda m: formula(LATENT, m, STD), (mean,))
    assert torch.equal(log_prob("centre", LATENT, MEAN, STD), kernels.fused_censored_log_prob(LATENT, MEAN, STD))


@SEEDS
@pytest.mark.parametrize("std", [0.02, 0.5, 2.0])
def test_fused_censored_log_prob_is_the_plain_one(seed: int, std: float) -> None:
    mean = (2.0 * torch.rand(40, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)).requires_grad_()
    spread = torch.tensor(std, dtype=F64)
    latent = mean.detach() + spread * drawn(seed + 1, 40, 3)
    plain, fast = (f(latent, mean, spread) for f in (kernels.censored_log_prob, kernels.fused_censored_log_prob))
    assert_same(plain, fast, [mean], seed)


def surrogates(seed: int, fused_clip: float = 0.2) -> tuple[Tensor, Tensor, Tensor]:
    """The new log-probability, and the plain and the fused surrogate of random bars, some of them dead."""
    shape = (40, 9)
    old, advantage, alive = drawn(seed + 1, *shape), drawn(seed + 2, *shape), (drawn(seed + 3, *shape) > -1).double()
    weight, new = alive / alive.sum(), (old + 0.3 * drawn(seed + 4, *shape)).requires_grad_()
    plain = kernels.clipped_surrogate(new, old, advantage, weight, 0.2)
    ratio = (new.detach() - old).exp()
    clipped = ratio.clamp(1.0 - fused_clip, 1.0 + fused_clip)
    return new, plain, kernels.fused_clipped_surrogate(new, ratio, clipped, advantage * weight)


@SEEDS
def test_the_fused_surrogate_is_the_plain_one(seed: int) -> None:
    new, plain, fast = surrogates(seed)
    assert_same(plain, fast, [new], seed)


def test_the_fused_surrogate_passes_the_difference_check() -> None:
    """The plain formula's differences too: its ratio is computed inside, where the fused one is given it."""
    old, advantage = drawn(1, 6, 2), drawn(2, 6, 2)
    weight, new = torch.full((6, 2), 1 / 12, dtype=F64), (old + 0.5 * drawn(3, 6, 2)).requires_grad_()

    def fused(log_prob: Tensor) -> Tensor:
        ratio = (log_prob.detach() - old).exp()
        return kernels.fused_clipped_surrogate(log_prob, ratio, ratio.clamp(0.8, 1.2), advantage * weight)

    assert torch.autograd.gradcheck(fused, (new,))
    assert torch.autograd.gradcheck(lambda x: kernels.clipped_surrogate(x, old, advantage, weight, 0.2), (new,))


@SEEDS
def test_the_fused_value_loss_is_the_plain_one(seed: int) -> None:
    value, target, weight = drawn(seed, 7, 3).requires_grad_(), drawn(seed + 1, 7, 3), drawn(seed + 2, 7, 3).abs()
    plain, fast = (f(value, target, weight) for f in (kernels.weighted_half_mse, kernels.fused_weighted_half_mse))
    assert_same(plain, fast, [value], seed)
    assert torch.autograd.gradcheck(lambda v: kernels.fused_weighted_half_mse(v, target, weight), (value,))


def test_a_float32_critic_gets_a_float32_gradient_of_float64_weights() -> None:
    value, weight = torch.zeros(3, requires_grad=True), torch.full((3,), 0.5, dtype=F64)
    loss = kernels.fused_weighted_half_mse(value, torch.tensor([1.0, 2.0, 4.0]), weight)
    (slope,) = torch.autograd.grad(loss, value)
    assert slope.dtype == torch.float32
    assert slope.tolist() == [-0.5, -1.0, -2.0]


def test_the_comparison_sees_a_wrong_gradient() -> None:
    """Negative control: the surrogate without its clip, its value made equal, still has another slope."""
    new, plain, unclipped = surrogates(0, fused_clip=1e6)
    with pytest.raises(AssertionError):
        assert_same(plain, unclipped + (plain - unclipped).detach(), [new])
    new, plain, clipped = surrogates(0)
    assert_same(plain, clipped + (plain - clipped).detach(), [new])


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
    ours, _ = ppo_loss(batch, NewPolicy(new, value), config)
    assert ours.item() == pytest.approx(plain.item(), abs=1e-12)
    found, expected = (torch.autograd.grad(x, (new, value)) for x in (ours, plain))
    assert all(torch.allclose(a, b, atol=1e-15) for a, b in zip(found, expected, strict=True))
    stopped = (found[0] == 0.0) & (alive > 0)
    assert 0.05 < float(stopped.double().mean()) < 0.5  # the clip did stop some, and the test would see it
