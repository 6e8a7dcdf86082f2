"""Log-probabilities are those of what was really done: they integrate to 1 and their gradient lives at the bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from himari_rl.agents.config import HEADS
from himari_rl.agents.distributions import Band, band_of, first_bias, log_prob, outputs_of, sample


def at(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def probability(head: str, latent: float, mean: float, std: float) -> float:
    return float(log_prob(head, at(latent), at(mean), torch.tensor(std, dtype=torch.float64)).exp())


@pytest.mark.parametrize("head", ["band", "centre"])
@pytest.mark.parametrize("mean", [0.0, 0.03, 1.0, 1.7, 2.0])
@pytest.mark.parametrize("std", [0.02, 0.3, 1.5])
def test_the_censored_gaussian_has_total_probability_one(head: str, mean: float, std: float) -> None:
    inside, _ = quad(lambda x: probability(head, x, mean, std), 0, 2, points=[mean], limit=200)
    below, above = probability(head, -0.5, mean, std), probability(head, 2.5, mean, std)
    assert inside + below + above == pytest.approx(1.0, abs=1e-7)
    assert below == pytest.approx(norm.cdf(0, mean, std), rel=1e-9)
    assert above == pytest.approx(norm.sf(2, mean, std), rel=1e-9)
    # a clipped draw is one event, however far outside its latent lies
    assert probability(head, -9.0, mean, std) == below


@pytest.mark.parametrize("mean", [0.05, 1.0, 1.9])
def test_the_squashed_gaussian_has_total_probability_one(mean: float) -> None:
    inside, _ = quad(lambda m: probability("squash", np.arctanh(m - 1.0), mean, 0.4), 0, 2, points=[mean], limit=200)
    assert inside == pytest.approx(1.0, abs=1e-6)


def test_the_unclamped_density_of_a_clamped_action_does_not_sum_to_one() -> None:
    """The earlier attempt's mistake: the log-probability of the unclamped sample beside the clamped action."""
    outside = norm.pdf(-0.5, 0.03, 0.3) + norm.pdf(2.5, 0.03, 0.3)
    inside, _ = quad(lambda x: norm.pdf(x, 0.03, 0.3), 0, 2, points=[0.03])
    assert abs(inside + outside - 1.0) > 0.05


@pytest.mark.parametrize("head", HEADS)
def test_draws_follow_the_probability_that_is_claimed_for_them(head: str) -> None:
    generator = torch.Generator().manual_seed(0)
    mean, std = at(0.2).expand(40_000, 1), torch.tensor(0.3, dtype=torch.float64)
    noise = torch.randn(40_000, 1, generator=generator, dtype=torch.float64)
    latent, multiplier = sample(head, mean, std, noise)
    assert float(multiplier.min()) >= 0.0
    assert float(multiplier.max()) <= 2.0
    claimed = log_prob(head, latent, mean, std)
    assert claimed.shape == (40_000,)
    if head == "squash":
        middle = np.arctanh(0.2 - 1.0)
        expected = float(norm.cdf((np.arctanh(0.5 - 1.0) - middle) / 0.3))
    else:
        expected = float(norm.cdf((0.5 - 0.2) / 0.3))
        at_zero = (multiplier == 0.0).double().mean()
        assert float(at_zero) == pytest.approx(norm.cdf(-0.2 / 0.3), abs=0.01)
    assert float((multiplier < 0.5).double().mean()) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("mean", [0.0, 2.0])
@pytest.mark.parametrize("std", [0.02, 0.3])
@pytest.mark.parametrize("noise", [-3.0, -0.1, 0.1, 3.0])
def test_the_gradient_is_alive_and_finite_at_the_bounds(head: str, mean: float, std: float, noise: float) -> None:
    centre = at(mean).requires_grad_()
    spread = torch.tensor(std, dtype=torch.float64)
    latent, _ = sample(head, centre.detach(), spread, at(noise))
    inside = centre if head != "squash" else centre.clamp(1e-5, 2 - 1e-5)  # tanh never reaches a bound itself
    (slope,) = torch.autograd.grad(log_prob(head, latent, inside, spread).sum(), centre)
    assert torch.isfinite(slope).all()
    if head != "squash":  # towards the draw
        assert torch.sign(slope).item() == np.sign(noise)


def test_far_outside_the_log_probability_is_finite_where_the_probability_underflows() -> None:
    value = log_prob("centre", at(-1.0), at(2.0), torch.tensor(0.02, dtype=torch.float64))
    assert float(value) == pytest.approx(norm.logcdf(-100.0), rel=1e-9)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("assets", [1, 3])
def test_a_fresh_head_answers_one(head: str, assets: int) -> None:
    out = first_bias(head, assets)[None]
    assert out.shape == (1, outputs_of(head, assets))
    for previous in (0.0, 1.0):
        assert band_of(head, out).mean(torch.full((1, assets), previous)).tolist() == [pytest.approx([1.0] * assets)]


def test_a_band_carries_the_position_inside_and_trades_to_its_nearer_edge() -> None:
    band = Band(at(0.8), at(1.4), at(0.0))
    assert [float(band.mean(at(m))) for m in (0.0, 0.8, 1.1, 1.4, 2.0, -1.0)] == [0.8, 0.8, 1.1, 1.4, 1.4, 0.8]


def test_excess_is_how_far_the_whole_band_lies_outside() -> None:
    def band(centre: float, half: float) -> Band:
        return band_of("band", torch.tensor([[centre - 1.0, np.log(half / 0.05)]], dtype=torch.float64))

    assert float(band_of("centre", at(4.0)).excess) == 3.0  # 5, and the bound is 2
    assert float(band_of("centre", at(-3.0)).excess) == 2.0
    assert float(band_of("centre", at(0.5)).excess) == 0.0
    assert float(band(2.7, 0.5).excess) == pytest.approx(0.2)  # 2.2 to 3.2
    assert float(band(-0.6, 0.5).excess) == pytest.approx(0.1)
    reaching_in = band(1.0, 1.5)  # -.5 to 2.5: inside it the position is carried, so it still learns
    assert float(reaching_in.excess) == 0.0
    assert (float(reaching_in.low), float(reaching_in.high)) == (0.0, 2.0)
