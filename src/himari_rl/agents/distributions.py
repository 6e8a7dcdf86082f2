"""From network outputs to a bounded multiplier, with the log-probability of what was really done.

A head turns raw outputs into the mean multiplier in [0, 2], which starts at 1.0:

    band     a no-trade band: mean = clip(m_prev, centre - half, centre + half). Under proportional costs the optimal
             policy has this form (Davis & Norman 1990), so the net only has to learn the two edges.
    centre   mean = clip(1 + out)
    squash   mean = 1 + tanh(out)

A clipped output has no gradient outside [0, 2], so a policy there would never come back (SB3's Gaussian on Box(0, 2)
starts at the lower bound, drifts below it and stays). Every band therefore carries `excess`, how far all of it lies
outside; the learners add a small penalty on that (`range_penalty`), and a policy at a bound can always leave. Passing
each sample's gradient through the clip where it points inwards looks equivalent and is not: it rectifies noise into a
bias.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from himari_rl.agents.kernels import LOG_ROOT_2PI, fused_censored_log_prob
from himari_rl.policy.network import HALF_LOG_MAX, HALF_LOG_MIN, HALF_UNIT
from himari_rl.schema import MAX_MULTIPLIER

FIRST_HALF = 0.3  # half-width of a fresh band: narrower ones learn their width slowly (LOG.md)
SQUASH_EDGE = 3.0  # where 1 + tanh(out) is within .005 of a bound, and its slope almost gone


def outputs_of(head: str, assets: int) -> int:
    """How many numbers the network gives to this head."""
    return 2 * assets if head == "band" else assets


def first_bias(head: str, assets: int) -> Tensor:
    """(K,) output bias of a fresh agent: from cash, and from the base position, it answers multiplier 1.0."""
    if head != "band":
        return torch.zeros(assets)
    return torch.cat([torch.full((assets,), FIRST_HALF), torch.full((assets,), math.log(FIRST_HALF / HALF_UNIT))])


class Band(NamedTuple):
    """Edges of the no-trade band in multiplier units, (..., A). Without a band both edges are the mean, one tensor."""

    low: Tensor
    high: Tensor
    excess: Tensor  # how far the whole band lies where it has no gradient left: outside [0, 2], or in the tails of tanh

    def at(self, step: int) -> Band:
        low = self.low[step]
        return Band(low, low if self.high is self.low else self.high[step], self.excess[step])

    def double(self) -> Band:
        """The ledger's precision."""
        low = self.low.double()
        return Band(low, low if self.high is self.low else self.high.double(), self.excess.double())

    def mean(self, previous: Tensor) -> Tensor:
        """The multiplier chosen when the held position is `previous` times the base position."""
        if self.low is self.high:
            return self.low
        return torch.minimum(torch.maximum(previous, self.low), self.high)


def band_of(head: str, out: Tensor, anchor: Tensor | None = None) -> Band:
    """Reads a head's outputs (..., K) as a band.

    Args:
        anchor: (..., A) multiplier of which the band is a multiple; None is 1.
    """
    if head == "squash":
        mean = 1.0 + torch.tanh(out.double())  # float32 has no numbers left between tanh(9) and 1
        return Band(mean, mean, (out.abs() - SQUASH_EDGE).clamp_min(0.0))
    if head == "centre":
        centre = 1.0 + out
        mean = centre.clamp(0.0, MAX_MULTIPLIER)
        return Band(mean, mean, (-centre).clamp_min(0.0) + (centre - MAX_MULTIPLIER).clamp_min(0.0))
    shift, log_half = out.chunk(2, -1)
    centre, half = 1.0 + shift, HALF_UNIT * log_half.clamp(HALF_LOG_MIN, HALF_LOG_MAX).exp()
    low, high = centre - half, centre + half
    if anchor is not None:  # no upper bound on the relative edge: a small anchor may have to be exceeded many times
        excess = (-high).clamp_min(0.0)
        low, high = ((edge * anchor).clamp(0.0, MAX_MULTIPLIER) for edge in (low, high))
        return Band(low, high, excess)
    inside_low, inside_high = low.clamp(0.0, MAX_MULTIPLIER), high.clamp(0.0, MAX_MULTIPLIER)
    return Band(inside_low, inside_high, (-high).clamp_min(0.0) + (low - MAX_MULTIPLIER).clamp_min(0.0))


def sample(head: str, mean: Tensor, std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draws a multiplier around the mean.

    Args:
        mean: (..., A) in [0, 2].
        noise: (..., A) standard normal, from the run's one generator.

    Returns:
        latent (..., A), the unbounded Gaussian draw that `log_prob` takes, and the multiplier in [0, 2].
    """
    if head == "squash":
        latent = torch.atanh((mean - 1.0).clamp(-1 + 1e-12, 1 - 1e-12)) + std * noise
        return latent, 1.0 + torch.tanh(latent)
    latent = mean + std * noise
    return latent, latent.clamp(0.0, MAX_MULTIPLIER)


def log_prob(head: str, latent: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(...) log-probability of the multiplier that `latent` became, summed over assets.

    For the clipped heads the multiplier is a censored Gaussian: a density inside and a point mass at each bound
    (Fujita & Maeda 2018, clipped action policy gradient). For `squash` it is the tanh-transformed density.
    """
    if head == "squash":
        centre = torch.atanh((mean - 1.0).clamp(-1 + 1e-12, 1 - 1e-12))
        # log(1 - tanh(u)^2) in the form that does not overflow
        log_slope = 2.0 * (math.log(2.0) - latent - torch.nn.functional.softplus(-2.0 * latent))
        return (_normal(latent, centre, std) - log_slope).sum(-1)
    return fused_censored_log_prob(latent, mean, std)  # kernels.censored_log_prob is the plain formula


def _normal(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(x; mean, std)."""
    return -0.5 * ((x - mean) / std).square() - std.log() - LOG_ROOT_2PI
