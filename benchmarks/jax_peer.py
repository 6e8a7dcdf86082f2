"""PPO with market, rollout and update in one jitted lax.scan, the way PureJaxRL trains; plain JAX, for benchmarks only.

Written from the papers: PPO (Schulman et al. 2017) with generalised advantages (2016), many environments inside the
compiled program (Lu et al. 2022, "Discovered policy optimisation"). Two tanh nets, a Gaussian with a spread of its
own, Adam with linear decay, orthogonal first weights. What the market lets one do is done: nothing ends an account, so
values and log-probabilities are taken of the whole rollout at once, and only the positions are stepped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random

from peer_market import Answers, PeerMarket, PeerSettings, bar, first_positions, position_input, tanh_net

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-5
Params = dict[str, Any]  # actor and critic: [(weight, bias), ...]; log_std ()


SETTINGS = PeerSettings(num_envs=256, num_steps=16, minibatch=4096, hidden=32, value_coefficient=0.25, bars=1_200_000)


class Carry(NamedTuple):
    """What one update leaves for the next."""

    params: Params
    first: Params  # Adam's moments
    second: Params
    steps: Any  # () gradient steps so far
    path: Any  # (N,) which path an account walks
    row: Any  # (N,) where on it
    held: Any  # (N,)
    key: Any


def orthogonal(rng: np.random.Generator, rows: int, columns: int, gain: float) -> Any:
    """(rows, columns) with orthonormal rows or columns, times `gain`."""
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    return jnp.asarray(gain * (q if rows >= columns else q.T), jnp.float32)


def first_params(settings: PeerSettings, seed: int) -> Params:
    rng, sizes = np.random.default_rng([seed, 2]), (2, settings.hidden, settings.hidden, 1)

    def net(last: float) -> list[tuple[Any, Any]]:
        gains = (math.sqrt(2.0), math.sqrt(2.0), last)
        return [
            (orthogonal(rng, sizes[i], sizes[i + 1], gain), jnp.zeros(sizes[i + 1])) for i, gain in enumerate(gains)
        ]

    return {"actor": net(0.01), "critic": net(1.0), "log_std": jnp.asarray(settings.log_std, jnp.float32)}


def net(layers: Any, x: Any) -> Any:
    for weight, bias in layers[:-1]:
        x = jnp.tanh(x @ weight + bias)
    weight, bias = layers[-1]
    return (x @ weight + bias)[..., 0]


def log_probability(action: Any, mean: Any, log_std: Any) -> Any:
    return -0.5 * ((action - mean) / jnp.exp(log_std)) ** 2 - log_std - 0.5 * math.log(2.0 * math.pi)


def loss_of(params: Params, batch: Any, settings: PeerSettings) -> Any:
    """PPO's clipped surrogate and the critic's squared error."""
    x, action, old, advantage, target = batch
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    ratio = jnp.exp(log_probability(action, net(params["actor"], x), params["log_std"]) - old)
    clipped = jnp.clip(ratio, 1.0 - settings.clip, 1.0 + settings.clip)
    surrogate = jnp.minimum(ratio * advantage, clipped * advantage).mean()
    return settings.value_coefficient * ((net(params["critic"], x) - target) ** 2).mean() - surrogate


def program(market: PeerMarket, settings: PeerSettings) -> Callable[[Carry, Any, Any, int], Carry]:
    """(carry, signal (P, T), returns (P, T), updates) -> carry after so many updates, to be jitted."""
    s, size = settings, settings.num_envs * settings.num_steps
    batches = size // s.minibatch
    gradient_steps = max(1, s.bars // size) * s.epochs * batches
    paths, rows = market.signal.shape

    def descend(carry: Carry, batch: Any) -> Carry:
        gradient = jax.grad(loss_of)(carry.params, batch, s)
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(gradient)))
        shrink = jnp.minimum(1.0, s.max_grad_norm / (norm + 1e-6))
        steps = carry.steps + 1
        left = jnp.maximum(0.0, 1.0 - carry.steps / gradient_steps)
        rate = s.learning_rate * (s.final_learning_rate + (1.0 - s.final_learning_rate) * left)
        rate = rate * jnp.sqrt(1.0 - BETA_2**steps) / (1.0 - BETA_1**steps)
        first = jax.tree.map(lambda m, g: BETA_1 * m + (1.0 - BETA_1) * shrink * g, carry.first, gradient)
        second = jax.tree.map(lambda v, g: BETA_2 * v + (1.0 - BETA_2) * (shrink * g) ** 2, carry.second, gradient)
        params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + EPSILON), carry.params, first, second)
        return carry._replace(params=params, first=first, second=second, steps=steps)

    def update(carry: Carry, signal: Any, returns: Any) -> Carry:
        key, *keys = random.split(carry.key, 4)
        where, noise = random.uniform(keys[0], (5, s.num_envs)), random.normal(keys[1], (s.num_steps, s.num_envs))
        over = carry.row + 2 * s.num_steps >= rows  # the next rollout still has a row to look at after its last
        path = jnp.where(over, (where[0] * paths).astype(jnp.int32), carry.path)
        row = jnp.where(over, (where[1] * (rows - s.num_steps - 1)).astype(jnp.int32), carry.row)
        fresh = where[2] < s.random_position_fraction
        held = jnp.where(fresh, first_positions(where[3], where[4], jnp), carry.held)
        window = row[None, :] + jnp.arange(s.num_steps + 1)[:, None]  # (T + 1, N)
        seen, earned = signal[path[None, :], window], returns[path[None, :], window[:-1]]
        std = jnp.exp(carry.params["log_std"])

        def step(held: Any, now: Any) -> Any:
            seen, earned, noise = now
            x = jnp.stack([seen, position_input(held)], -1)
            mean = net(carry.params["actor"], x)
            action = mean + std * noise
            reward, after = bar(jnp, action, held, earned, market.cost, market.scale)
            return after, (x, mean, action, reward)

        held, (x, mean, action, reward) = lax.scan(step, held, (seen[:-1], earned, noise))
        last = jnp.stack([seen[-1], position_input(held)], -1)[None]
        value = net(carry.params["critic"], jnp.concatenate([x, last]))
        delta = reward + s.gamma * value[1:] - value[:-1]

        def backwards(after: Any, delta: Any) -> Any:
            advantage = delta + s.gamma * s.gae_lambda * after
            return advantage, advantage

        _, advantage = lax.scan(backwards, jnp.zeros(s.num_envs), delta, reverse=True)
        old = log_probability(action, mean, carry.params["log_std"])
        played = (x, action, old, advantage, advantage + value[:-1])
        played = jax.tree.map(lambda a: a.reshape(size, *a.shape[2:]), played)
        carry = carry._replace(path=path, row=row + s.num_steps, held=held, key=key)

        def epoch(carry: Carry, key: Any) -> Any:
            order = random.permutation(key, size)[: batches * s.minibatch].reshape(batches, s.minibatch)
            return lax.scan(lambda c, index: (descend(c, jax.tree.map(lambda a: a[index], played)), None), carry, order)

        return lax.scan(epoch, carry, random.split(keys[2], s.epochs))[0]

    def updates(carry: Carry, signal: Any, returns: Any, count: int) -> Carry:
        return lax.scan(lambda c, _: (update(c, signal, returns), None), carry, None, length=count)[0]

    return updates


def first_carry(market: PeerMarket, settings: PeerSettings, seed: int) -> Carry:
    rng, (paths, rows) = np.random.default_rng([seed, 3]), market.signal.shape
    params = first_params(settings, seed)
    nothing = jax.tree.map(jnp.zeros_like, params)
    return Carry(
        params=params,
        first=nothing,
        second=nothing,
        steps=jnp.asarray(0, jnp.int32),
        path=jnp.asarray(rng.integers(0, paths, settings.num_envs), jnp.int32),
        row=jnp.asarray(rng.integers(0, rows - settings.num_steps - 1, settings.num_envs), jnp.int32),
        held=jnp.zeros(settings.num_envs),
        key=random.key(seed),
    )


def train(
    market: PeerMarket,
    seed: int,
    settings: PeerSettings,
    look: Callable[[Answers, int], bool],
    done: Callable[[str], None] = lambda phase: None,
    together: int = 2,
) -> None:
    """Trains until `look` says True; it is called with the policy and the bars so far after every `together` updates.

    Args:
        done: called after "prepare" and after "compile".
    """
    carry = first_carry(market, settings, seed)
    signal, returns = jnp.asarray(market.signal), jnp.asarray(market.returns)
    done("prepare")
    run = jax.jit(program(market, settings), static_argnums=3).lower(carry, signal, returns, together).compile()
    done("compile")
    bars = 0
    while True:
        carry = jax.block_until_ready(run(carry, signal, returns))
        bars += together * settings.num_envs * settings.num_steps
        actor = [(np.asarray(w), np.asarray(b)) for w, b in carry.params["actor"]]
        if look(Answers(market, lambda x, actor=actor: tanh_net(actor, x)), bars):
            return
