"""Hand-written autograd, here and nowhere else: each fast node stands under the plain formula that it must equal.

    plain                      fast, one node                    called from
    tanh_layers                fused_tanh_layers                 networks.MLPTrunk
    censored_log_prob          fused_censored_log_prob           distributions.log_prob
    clipped_surrogate          fused_clipped_surrogate           training/ppo.py
    weighted_half_mse          fused_weighted_half_mse           training/ppo.py

A rollout is thousands of operations on small tensors, so what costs is their number: a node whose slope is written out
is one operation where autograd through the plain formula is ten. Whoever doubts a node calls the plain function in its
place: the weights then agree to rounding. tests/agents/test_kernels.py holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx as _FunctionCtx
from torch.nn.functional import linear

from himari_rl.schema import MAX_MULTIPLIER

LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


class _Context(_FunctionCtx):
    """What autograd really passes to a node; torch declares only the methods."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    dtype: torch.dtype  # of the gradient, where a node notes it


def _node(function: type[Function]) -> Callable[..., Tensor]:
    """`function.apply` with a type: torch declares none."""
    return cast("Callable[..., Tensor]", function.apply)


# --- tanh layers under a linear one ---


def tanh_layers(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """(B, F) -> (B, K): h_k = tanh(W_k h_{k-1} + b_k), and W h + b without tanh on top."""
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = torch.tanh(linear(x, weight, bias))
    return linear(x, weights[-1], biases[-1])


def fused_tanh_layers(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """`tanh_layers` as one node; differs from it by rounding only (2e-7 a layer in float32)."""
    return _node(_TanhLayers)(x, *(p for layer in zip(weights, biases, strict=True) for p in layer))


class _TanhLayers(Function):
    """tanh(z) = 2 s - 1 with s = sigmoid(2 z): on a CPU torch's sigmoid is vectorised, its tanh nine times slower.

    Only s is kept, in the product's own memory; the 2 and the 1 go into the next layer's small matrices, and so does
    the 4 of the slope, dtanh/dz = 4 s (1 - s).
    """

    @staticmethod
    def forward(ctx: _Context, x: Tensor, *parameters: Tensor) -> Tensor:
        layers = list(zip(parameters[::2], parameters[1::2], strict=True))
        inputs, z = [x], x  # of each layer: x, then the sigmoids
        for layer, (weight, bias) in enumerate(layers):
            twice = 1 if layer + 1 == len(layers) else 2  # 2 z for the sigmoid
            if layer == 0:
                z = torch.addmm(bias, x, weight.t(), beta=twice, alpha=twice)
            else:  # W (2 s - 1) + b
                z = torch.addmm(bias - weight.sum(1), inputs[-1], weight.t(), beta=twice, alpha=2 * twice)
            if twice == 2:
                inputs.append(z.sigmoid_())
        ctx.save_for_backward(*parameters, *inputs)
        return z

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.saved_tensors) // 3
        parameters, inputs = ctx.saved_tensors[: 2 * count], ctx.saved_tensors[2 * count :]
        slopes: list[Tensor | None] = []
        unit = 1.0  # dL/dz is unit * gradient
        for layer in reversed(range(count)):
            below, bias = inputs[layer], unit * gradient.sum(0)
            if layer == 0:
                slopes += [bias, (gradient.t() @ below).mul_(unit)]
                break
            weight = torch.addmm(bias[:, None], gradient.t(), below, beta=-1, alpha=2 * unit)  # dL/dz' (2 s - 1)
            slopes += [bias, weight]
            slope = gradient @ (unit * parameters[2 * layer])
            gradient = torch.ops.aten.sigmoid_backward.grad_input(slope, below, grad_input=slope)
            unit = 4.0
        at_x = gradient @ (unit * parameters[0]) if ctx.needs_input_grad[0] else None
        return at_x, *reversed(slopes)


# --- log-probability of a Gaussian clipped to [0, 2] ---


def censored_log_prob(latent: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(...) log-probability of clip(latent, 0, 2), latent ~ N(mean, std), summed over the last axis.

    A density inside, and at each bound the mass that the clip puts there: P(x <= 0) = Phi(-mean / std) and
    P(x >= 2) = Phi((mean - 2) / std).
    """
    z = (latent - mean) / std
    inside = -0.5 * z.square() - std.log() - LOG_ROOT_2PI
    at_zero = torch.special.log_ndtr(-mean / std)
    at_two = torch.special.log_ndtr((mean - MAX_MULTIPLIER) / std)
    return torch.where(latent <= 0.0, at_zero, torch.where(latent >= MAX_MULTIPLIER, at_two, inside)).sum(-1)


def fused_censored_log_prob(latent: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """`censored_log_prob` as one node, differentiable in the mean alone: the deviation follows a schedule."""
    return _node(_CensoredLogProb)(latent, mean, std)


class _CensoredLogProb(Function):
    """The slope in the mean, with z as above inside, -mean / std at 0 and (mean - 2) / std at 2:

    inside z / std,   at 0  -phi(z) / Phi(z) / std,   at 2  +phi(z) / Phi(z) / std
    """

    @staticmethod
    def forward(ctx: _Context, latent: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        below, above = latent <= 0.0, latent >= MAX_MULTIPLIER
        clipped = below | above
        # below 0 inside too, where log Phi is quick; nobody reads it there
        edge = torch.where(below, -mean, mean - MAX_MULTIPLIER) / std
        z = torch.where(clipped, edge, (latent - mean) / std)
        density = z.square().mul_(-0.5).sub_(LOG_ROOT_2PI)  # log phi(z)
        mass = torch.special.log_ndtr(edge)
        if ctx.needs_input_grad[1]:
            hazard = (density - mass).exp_()
            ctx.save_for_backward(torch.where(clipped, torch.where(below, -hazard, hazard), z) / std)
        return torch.where(clipped, mass, density - std.log()).sum(-1)

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[None, Tensor, None]:
        (slope,) = ctx.saved_tensors
        return None, gradient[..., None] * slope, None


# --- PPO's clipped surrogate ---


def clipped_surrogate(
    new_log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, weight: Tensor, clip_coef: float
) -> Tensor:
    """() -sum w min(r A, clip(r, 1 - eps, 1 + eps) A), r = exp(new - old) (Schulman et al. 2017, eq. 7).

    All (T, N); `weight` sums to 1 and is 0 where nothing is learned.
    """
    ratio = (new_log_prob - old_log_prob).exp()
    clipped = ratio.clamp(1.0 - clip_coef, 1.0 + clip_coef)
    return -(torch.minimum(ratio * advantage, clipped * advantage) * weight).sum()


def fused_clipped_surrogate(new_log_prob: Tensor, ratio: Tensor, clipped: Tensor, weighted_advantage: Tensor) -> Tensor:
    """`clipped_surrogate` as one node, from the ratio and the clipped ratio that the diagnostics need as well.

    Args:
        ratio, clipped: detached; the slope goes to `new_log_prob`, through dr / dlog_prob = r.
        weighted_advantage: w A.
    """
    return _node(_ClippedSurrogate)(new_log_prob, ratio, clipped, weighted_advantage)


class _ClippedSurrogate(Function):
    """The slope is -w r A where r A <= clip(r) A, else 0: beyond the clip a bar moves the policy no further."""

    @staticmethod
    def forward(
        ctx: _Context, new_log_prob: Tensor, ratio: Tensor, clipped: Tensor, weighted_advantage: Tensor
    ) -> Tensor:
        gain, least = ratio * weighted_advantage, clipped * weighted_advantage
        loss = -torch.minimum(gain, least).sum()
        ctx.save_for_backward(gain.masked_fill_(gain > least, 0.0).neg_())
        return loss

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None, None


# --- the critic's loss ---


def weighted_half_mse(value: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """() 1/2 sum w (V - target)^2; all (T, N), `weight` sums to 1."""
    return 0.5 * (weight * (value - target).square()).sum()


def fused_weighted_half_mse(value: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """`weighted_half_mse` as one node: the value is float32 and the weights are float64, and only the slope is cast."""
    return _node(_WeightedHalfMSE)(value, target, weight)


class _WeightedHalfMSE(Function):
    """The slope is w (V - target)."""

    @staticmethod
    def forward(ctx: _Context, value: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        error = value - target
        slope = weight * error
        ctx.dtype = value.dtype
        ctx.save_for_backward(slope)
        return 0.5 * (error * slope).sum()

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (gradient * slope).to(ctx.dtype), None, None
