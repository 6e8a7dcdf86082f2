"""The network of a bundle in numpy float32: normaliser, layers, head. The definition every framework must match.

    x = clip((state - mean) / std, -clip, clip) * keep
    LSTM layers (where the bundle has them), then h = tanh(W h + b) per hidden layer, then out = W h + b
    head     multipliers (A,) from out

Each layer has two faces that agree: `one` for a single state (preallocated, a microsecond) and `many` for a
batch. A feed-forward layer is a layer whose memory has size 0; nobody outside asks which kind it is. A buffer
ends in a constant 1, so that one matrix product adds the bias too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from himari_rl.features.contract import ACTION, POSITION_SIDE, POSITION_SIZE, WIDTH
from himari_rl.policy.manifest import Manifest, NormaliserSpec
from himari_rl.schema import MAX_MULTIPLIER

F32 = NDArray[np.float32]
Floats = Sequence[float]

SELL_COLUMN, HOLD_COLUMN, BUY_COLUMN = range(ACTION.start, ACTION.stop)


def with_one(size: int) -> F32:
    """A buffer of `size` numbers and a final 1 for the bias."""
    buffer = np.zeros(size + 1, np.float32)
    buffer[size] = 1.0
    return buffer


class Normaliser:
    """x = clip((state - mean) / std, -clip, clip) * keep."""

    def __init__(self, spec: NormaliserSpec) -> None:
        self._mean = np.array(spec.mean, np.float32)
        self._std = np.array(spec.std, np.float32)
        self.keep = np.array(spec.keep, np.float32)
        self._high = np.float32(spec.clip) * self.keep  # a hidden feature is clipped to [0, 0]
        self._low = -self._high
        self.kept = float(self.keep.sum())

    def one(self, state: F32, out: F32) -> None:
        """Normalises a state (F,) into `out` (F,)."""
        np.subtract(state, self._mean, out=out)
        np.divide(out, self._std, out=out)
        np.maximum(out, self._low, out=out)
        np.minimum(out, self._high, out=out)

    def many(self, states: F32) -> F32:
        """Normalised states (B, F)."""
        x: F32 = (states - self._mean) / self._std
        np.maximum(x, self._low, out=x)
        np.minimum(x, self._high, out=x)
        return x


class Layer(Protocol):
    """One layer. `buffer` is what `one` fills: the output and, except for the last layer, a final 1."""

    memory_size: int
    buffer: F32

    def one(self, x: F32, memory: F32) -> F32: ...

    def many(self, x: F32, memory: F32) -> tuple[F32, F32]: ...


class Dense:
    """h = tanh(W x + b), or the plain affine map as the last layer."""

    memory_size = 0

    def __init__(self, weight: F32, bias: F32, *, last: bool = False) -> None:
        self._affine = np.ascontiguousarray(np.column_stack([weight, bias]))
        self._weight_t, self._bias, self._last = weight.T, bias, last
        self.buffer = np.zeros(len(bias), np.float32) if last else with_one(len(bias))
        self._h = self.buffer[: len(bias)]

    def one(self, x: F32, memory: F32) -> F32:
        self._affine.dot(x, out=self._h)
        if not self._last:
            np.tanh(self._h, out=self._h)
        return self.buffer

    def many(self, x: F32, memory: F32) -> tuple[F32, F32]:
        h = x @ self._weight_t
        h += self._bias
        if not self._last:
            np.tanh(h, out=h)
        return h, memory


class Lstm:
    """One LSTM layer, memory (h, c).

        i, f, o = sigmoid(.)    g = tanh(.)    of    W_ih x + W_hh h + b
        c' = f c + i g          h' = o tanh(c')

    The rows are stored i, f, o, g with the sigmoid rows halved, because sigmoid(z) = (1 + tanh(z / 2)) / 2:
    one tanh over all four gates, and no overflow anywhere.
    """

    def __init__(self, weight_ih: F32, weight_hh: F32, bias: F32) -> None:
        size = weight_hh.shape[1]
        full = np.column_stack([weight_ih, weight_hh, bias])
        i, f, g, o = full.reshape(4, size, -1)  # the order of the file
        self._affine = np.ascontiguousarray(np.concatenate([i * 0.5, f * 0.5, o * 0.5, g]), np.float32)
        self._affine_t = self._affine.T
        self._size, self._inputs = size, weight_ih.shape[1]
        self.memory_size = 2 * size
        self.buffer = with_one(size)
        self._joined = with_one(self._inputs + size)
        self._gates = np.zeros(4 * size, np.float32)
        self._ig = np.zeros(size, np.float32)

    def one(self, x: F32, memory: F32) -> F32:
        n, gates, joined = self._size, self._gates, self._joined
        h, c = memory[:n], memory[n:]
        joined[: self._inputs] = x[: self._inputs]
        joined[self._inputs : -1] = h
        self._affine.dot(joined, out=gates)
        np.tanh(gates, out=gates)
        sigmoids = gates[: 3 * n]
        sigmoids *= np.float32(0.5)
        sigmoids += np.float32(0.5)
        np.multiply(gates[:n], gates[3 * n :], out=self._ig)
        c *= gates[n : 2 * n]
        c += self._ig
        np.tanh(c, out=h)
        h *= gates[2 * n : 3 * n]
        self.buffer[:n] = h
        return self.buffer

    def many(self, x: F32, memory: F32) -> tuple[F32, F32]:
        n = self._size
        ones = np.ones((len(x), 1), np.float32)
        gates = np.concatenate([x, memory[:, :n], ones], axis=1) @ self._affine_t
        np.tanh(gates, out=gates)
        gates[:, : 3 * n] = gates[:, : 3 * n] * np.float32(0.5) + np.float32(0.5)
        c = memory[:, n:] * gates[:, n : 2 * n] + gates[:, :n] * gates[:, 3 * n :]
        h = np.tanh(c) * gates[:, 2 * n : 3 * n]
        return h, np.concatenate([h, c], axis=1)


class Member:
    """One seed of the ensemble: its layers, and where each keeps its part of a flat memory."""

    def __init__(self, manifest: Manifest, tensors: Mapping[str, F32], index: int) -> None:
        network = manifest.network
        layers: list[Layer] = []
        for k in range(network.lstm_layers):
            names = (f"{index}.lstm.{k}.{part}" for part in ("weight_ih", "weight_hh", "bias"))
            layers.append(Lstm(*(tensors[name] for name in names)))
        for k in range(len(network.hidden)):
            layers.append(Dense(tensors[f"{index}.trunk.{k}.weight"], tensors[f"{index}.trunk.{k}.bias"]))
        layers.append(Dense(tensors[f"{index}.out.weight"], tensors[f"{index}.out.bias"], last=True))
        self._parts: list[tuple[Layer, slice]] = []
        offset = 0
        for layer in layers:
            self._parts.append((layer, slice(offset, offset + layer.memory_size)))
            offset += layer.memory_size
        self.memory_size = offset

    def one(self, x: F32, memory: F32) -> list[float]:
        """Output (K,) for one normalised state with its final 1 (F + 1,); advances `memory` in place."""
        for layer, part in self._parts:
            x = layer.one(x, memory[part])
        answer: list[float] = x.tolist()
        return answer

    def many(self, x: F32, memory: F32) -> tuple[F32, F32]:
        """Output (B, K) and the new memory (B, S)."""
        after = []
        for layer, part in self._parts:
            x, advanced = layer.many(x, memory[:, part])
            after.append(advanced)
        return x, np.concatenate(after, axis=1)


# ---- heads: output of the last layer and raw state -> multipliers; each for one state and for many


def previous_multiplier(state: Floats, block: int) -> float:
    """m_prev of one asset: the multiplier that the position it holds amounts to under today's direction."""
    side = state[block + POSITION_SIDE]
    hold = state[block + HOLD_COLUMN]
    direction = state[block + BUY_COLUMN] - state[block + SELL_COLUMN] + hold * side
    return MAX_MULTIPLIER * state[block + POSITION_SIZE] * side * direction


def previous_multipliers(states: F32, assets: int) -> F32:
    """`previous_multiplier` for states (B, F): (B, A)."""
    blocks = states[:, : WIDTH * assets].reshape(len(states), assets, WIDTH)
    side = blocks[..., POSITION_SIDE]
    direction = blocks[..., BUY_COLUMN] - blocks[..., SELL_COLUMN] + blocks[..., HOLD_COLUMN] * side
    return np.asarray(MAX_MULTIPLIER * blocks[..., POSITION_SIZE] * side * direction, np.float32)


def band_one(out: Floats, state: Floats) -> list[float]:
    """A no-trade band: keep m_prev inside [centre - half, centre + half], else go to the nearer edge.

    The comparisons are written so that a NaN among the outputs becomes the answer and is refused: the plain
    `low if m < low else m` would answer m_prev.
    """
    assets = len(out) // 2
    answer = []
    for a in range(assets):
        centre, width = 1.0 + out[a], out[assets + a]
        half = 0.05 * math.exp(-6.0 if width < -6.0 else 3.7 if width > 3.7 else width)
        low, high = centre - half, centre + half
        low = 0.0 if low < 0.0 else MAX_MULTIPLIER if low > MAX_MULTIPLIER else low
        high = 0.0 if high < 0.0 else MAX_MULTIPLIER if high > MAX_MULTIPLIER else high
        m = previous_multiplier(state, WIDTH * a)
        answer.append(low if not m >= low else high if not m <= high else m)
    return answer


def band_many(out: F32, states: F32) -> F32:
    assets = out.shape[1] // 2
    centre = 1.0 + out[:, :assets]
    half = 0.05 * np.exp(np.clip(out[:, assets:], -6.0, 3.7))
    low, high = np.clip(centre - half, 0.0, MAX_MULTIPLIER), np.clip(centre + half, 0.0, MAX_MULTIPLIER)
    return np.asarray(np.clip(previous_multipliers(states, assets), low, high), np.float32)


def centre_one(out: Floats, state: Floats) -> list[float]:
    """m = clip(1 + out, 0, 2)."""
    return [0.0 if value < -1.0 else MAX_MULTIPLIER if value > 1.0 else 1.0 + value for value in out]


def centre_many(out: F32, states: F32) -> F32:
    return np.asarray(np.clip(1.0 + out, 0.0, MAX_MULTIPLIER), np.float32)


def squash_one(out: Floats, state: Floats) -> list[float]:
    """m = 1 + tanh(out)."""
    return [1.0 + math.tanh(value) for value in out]


def squash_many(out: F32, states: F32) -> F32:
    return np.asarray(1.0 + np.tanh(out), np.float32)


HeadOne = Callable[[Floats, Floats], list[float]]
HeadMany = Callable[[F32, F32], F32]
HEADS: dict[str, tuple[HeadOne, HeadMany]] = {
    "band": (band_one, band_many),
    "centre": (centre_one, centre_many),
    "squash": (squash_one, squash_many),
}
