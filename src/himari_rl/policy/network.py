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
from typing import Any, Protocol

import numpy as np
from numpy import add, multiply, tanh
from numpy.typing import NDArray

from himari_rl.features.contract import ACTION_BUY, ACTION_HOLD, ACTION_SELL, POSITION_SIDE, POSITION_SIZE, WIDTH
from himari_rl.policy.manifest import Manifest, NormaliserSpec
from himari_rl.schema import MAX_MULTIPLIER

F32 = NDArray[np.float32]
Floats = Sequence[float]
Array = Any  # float, numpy.ndarray or torch.Tensor: the same operators

_HALF = np.array(0.5, np.float32)
HALF_UNIT = 0.05  # half-width of a band where the network says 0, in multiplier units
HALF_LOG_MIN, HALF_LOG_MAX = -6.0, 3.7  # the logarithm of a half-width is held between these


def with_one(size: int) -> F32:
    """A buffer of `size` numbers and a final 1 for the bias."""
    buffer = np.zeros(size + 1, np.float32)
    buffer[size] = 1.0
    return buffer


def by_columns(matrix: F32) -> F32:
    """The matrix as BLAS likes it best for a product with one vector: by columns, from a cache line's beginning."""
    raw = np.empty(matrix.size + 16, np.float32)
    start = -raw.ctypes.data // 4 % 16
    columns = raw[start : start + matrix.size].reshape(matrix.shape, order="F")
    columns[:] = matrix
    return columns


class InputNormaliser:
    """x = clip((state - mean) / std, -clip, clip) * keep."""

    def __init__(self, spec: NormaliserSpec) -> None:
        self._mean = np.array(spec.mean, np.float32)
        self._std = np.array(spec.std, np.float32)
        self.keep = np.array(spec.keep, np.float32)
        self._high = np.float32(spec.clip) * self.keep  # a hidden feature is clipped to [0, 0]
        self._low = -self._high
        self.kept = float(self.keep.sum())
        self._std_one = np.where(self.keep != 0, self._std, np.float32(np.inf))  # a hidden feature is 0 unclipped
        self._clip_squared = float(np.float32(spec.clip) * np.float32(1 - 1e-6)) ** 2

    def one(self, state: F32, out: F32) -> float:
        """Normalises a state (F,) into `out` (F,) and returns its squared length.

        No element of a vector is longer than the vector, so an ordinary state needs no clip.
        """
        np.subtract(state, self._mean, out)
        np.divide(out, self._std_one, out)
        squared = float(out.dot(out))
        if squared < self._clip_squared:  # False for NaN
            return squared
        np.subtract(state, self._mean, out)
        np.divide(out, self._std, out)
        np.maximum(out, self._low, out=out)
        np.minimum(out, self._high, out=out)
        return float(out.dot(out))

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
        self._affine = by_columns(np.column_stack([weight, bias]))
        self._weight_t, self._bias, self._last = weight.T, bias, last
        self.buffer = np.zeros(len(bias), np.float32) if last else with_one(len(bias))
        self._h = self.buffer[: len(bias)]

    def one(self, x: F32, memory: F32) -> F32:
        self._affine.dot(x, self._h)
        if not self._last:
            tanh(self._h, self._h)
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

    Rows are stored g, f, i, o with the sigmoid rows halved, because sigmoid(z) = (1 + tanh(z / 2)) / 2: one tanh over
    all four gates, and no overflow anywhere. `one` keeps everything in one row of numbers,

        x, 1, h | c, g, f, i, o

    so that (h, c) arrives in one copy, the left part meets the matrix, and (c, g) (f, i) is one product.
    """

    def __init__(self, weight_ih: F32, weight_hh: F32, bias: F32, after: Lstm | None = None) -> None:
        n, inputs = weight_hh.shape[1], weight_ih.shape[1]
        full = np.column_stack([weight_ih, bias, weight_hh])
        i, f, g, o = full.reshape(4, n, -1)  # the order of the file
        self._affine = by_columns(np.concatenate([g, f * 0.5, i * 0.5, o * 0.5]))
        self._affine_t = self._affine.T
        self._size = n
        self.memory_size = 2 * n
        row = np.zeros(inputs + 1 + 6 * n, np.float32)
        row[inputs] = 1.0
        self.input, left, right = row[: inputs + 1], row[: inputs + 1 + n], row[inputs + 1 + n :]
        self.buffer = with_one(n) if after is None else after.input  # straight into the next layer's row
        before = row[inputs + 1 : inputs + 1 + 2 * n]
        cg, fi = right[: 2 * n], right[2 * n : 4 * n]
        # one attribute instead of eleven: each look-up is a hundredth of the layer
        self._views = (left, before, right[n:], right[2 * n :], cg, fi, cg[:n], cg[n:], right[4 * n :], self.buffer[:n])
        self._bound: tuple[F32 | None, F32, F32] = (None, row, row)  # a memory and its two halves

    def one(self, x: F32, memory: F32) -> F32:
        left, before, gates, sigmoids, cg, fi, forgotten, taken, opened, out = self._views
        known, h, c = self._bound
        if memory is not known:  # slicing costs as much as a product, and the memory is mostly the same array
            h, c = memory[: self._size], memory[self._size :]
            self._bound = (memory, h, c)
        if x is not self.input:
            self.input[:] = x
        before[:] = memory
        self._affine.dot(left, gates)
        tanh(gates, gates)
        multiply(sigmoids, _HALF, sigmoids)
        add(sigmoids, _HALF, sigmoids)
        multiply(cg, fi, cg)
        add(forgotten, taken, c)
        tanh(c, h)
        multiply(h, opened, h)
        out[:] = h
        return self.buffer

    def many(self, x: F32, memory: F32) -> tuple[F32, F32]:
        n = self._size
        ones = np.ones((len(x), 1), np.float32)
        gates = np.concatenate([x, ones, memory[:, :n]], axis=1) @ self._affine_t
        np.tanh(gates, out=gates)
        gates[:, n:] = gates[:, n:] * np.float32(0.5) + np.float32(0.5)
        c = memory[:, n:] * gates[:, n : 2 * n] + gates[:, :n] * gates[:, 2 * n : 3 * n]
        h = np.tanh(c) * gates[:, 3 * n :]
        return h, np.concatenate([h, c], axis=1)


class Member:
    """One seed of the ensemble: its layers, and where each keeps its part of a flat memory."""

    def __init__(self, manifest: Manifest, tensors: Mapping[str, F32], index: int) -> None:
        network = manifest.network
        layers: list[Layer] = []
        after: Lstm | None = None
        for k in reversed(range(network.lstm_layers)):
            ih, hh, bias = (tensors[f"{index}.lstm.{k}.{part}"] for part in ("weight_ih", "weight_hh", "bias"))
            after = Lstm(ih, hh, bias, after)
            layers.insert(0, after)
        for k in range(len(network.hidden)):
            layers.append(Dense(tensors[f"{index}.trunk.{k}.weight"], tensors[f"{index}.trunk.{k}.bias"]))
        layers.append(Dense(tensors[f"{index}.out.weight"], tensors[f"{index}.out.bias"], last=True))
        self._parts: list[tuple[Layer, slice]] = []
        offset = 0
        for layer in layers:
            self._parts.append((layer, slice(offset, offset + layer.memory_size)))
            offset += layer.memory_size
        self.memory_size = offset
        self._bound: F32 | None = None
        self._steps: list[tuple[Callable[[F32, F32], F32], F32]] = []

    def one(self, x: F32, memory: F32) -> list[float]:
        """Output (K,) for one normalised state with its final 1 (F + 1,); advances `memory` in place."""
        if memory is not self._bound:
            self._bound = memory
            self._steps = [(layer.one, memory[part]) for layer, part in self._parts]
        for step, own in self._steps:
            x = step(x, own)
        answer: list[float] = x.tolist()
        return answer

    def many(self, x: F32, memory: F32) -> tuple[F32, F32]:
        """Output (B, K) and the new memory (B, S)."""
        after = []
        for layer, part in self._parts:
            x, advanced = layer.many(x, memory[:, part])
            after.append(advanced)
        return x, np.concatenate(after, axis=1)


# ---- heads: output of the last layer, raw state, anchor (beliefs only) -> multipliers; each for one state and for many


def held_multiplier(size: Array, side: Array, buy: Array, hold: Array, sell: Array) -> Array:
    """The multiplier that a held position amounts to on the side that Layer 2 now asks for; HOLD asks for the held one.

    A position on the other side is negative. The arguments are columns of the observation (size 1 is MAX_MULTIPLIER):
    floats, numpy arrays or torch tensors, with the same bits.
    """
    return MAX_MULTIPLIER * size * side * (buy - sell + hold * side)


def held_multipliers(states: Array, assets: int) -> Array:
    """`held_multiplier` of every asset in states (..., F): (..., A), numpy or torch."""
    blocks = states[..., : WIDTH * assets].reshape(*states.shape[:-1], assets, WIDTH)
    columns = (POSITION_SIZE, POSITION_SIDE, ACTION_BUY, ACTION_HOLD, ACTION_SELL)
    return held_multiplier(*(blocks[..., column] for column in columns))


def band_one(out: Floats, state: Floats, anchor: Floats | None = None) -> list[float]:
    """A no-trade band: keep m_prev inside anchor * [centre - half, centre + half], else go to the nearer edge.

    The comparisons are written so that a NaN among the outputs becomes the answer and is refused: the plain
    `low if m < low else m` would answer m_prev.
    """
    assets = len(out) // 2
    answer = []
    for a in range(assets):
        centre, width = 1.0 + out[a], out[assets + a]
        half = HALF_UNIT * math.exp(
            HALF_LOG_MIN if width < HALF_LOG_MIN else HALF_LOG_MAX if width > HALF_LOG_MAX else width
        )
        low, high = centre - half, centre + half
        if anchor is not None:
            low, high = low * anchor[a], high * anchor[a]
        low = 0.0 if low < 0.0 else MAX_MULTIPLIER if low > MAX_MULTIPLIER else low
        high = 0.0 if high < 0.0 else MAX_MULTIPLIER if high > MAX_MULTIPLIER else high
        block = state[WIDTH * a : WIDTH * (a + 1)]
        m = held_multiplier(
            block[POSITION_SIZE], block[POSITION_SIDE], block[ACTION_BUY], block[ACTION_HOLD], block[ACTION_SELL]
        )
        answer.append(low if not m >= low else high if not m <= high else m)
    return answer


def _clip(values: NDArray[Any], low: NDArray[Any] | float, high: NDArray[Any] | float) -> NDArray[Any]:
    """np.clip in a third of its time for a few rows."""
    clipped: NDArray[Any] = np.minimum(np.maximum(values, low), high)
    return clipped


def band_many(out: F32, states: F32, anchor: F32 | None = None) -> F32:
    assets = out.shape[1] // 2
    centre = 1.0 + out[:, :assets]
    half = HALF_UNIT * np.exp(_clip(out[:, assets:], HALF_LOG_MIN, HALF_LOG_MAX))
    low, high = centre - half, centre + half
    if anchor is not None:
        low, high = low * anchor, high * anchor
    low, high = _clip(low, 0.0, MAX_MULTIPLIER), _clip(high, 0.0, MAX_MULTIPLIER)
    return np.asarray(_clip(held_multipliers(states, assets), low, high), np.float32)


def centre_one(out: Floats, state: Floats, anchor: Floats | None = None) -> list[float]:
    """m = clip(1 + out, 0, 2)."""
    return [0.0 if value < -1.0 else MAX_MULTIPLIER if value > 1.0 else 1.0 + value for value in out]


def centre_many(out: F32, states: F32, anchor: F32 | None = None) -> F32:
    return np.asarray(np.clip(1.0 + out, 0.0, MAX_MULTIPLIER), np.float32)


def squash_one(out: Floats, state: Floats, anchor: Floats | None = None) -> list[float]:
    """m = 1 + tanh(out)."""
    return [1.0 + math.tanh(value) for value in out]


def squash_many(out: F32, states: F32, anchor: F32 | None = None) -> F32:
    return np.asarray(1.0 + np.tanh(out), np.float32)


HeadOne = Callable[[Floats, Floats, Floats | None], list[float]]
HeadMany = Callable[[F32, F32, F32 | None], F32]
HEADS: dict[str, tuple[HeadOne, HeadMany]] = {
    "band": (band_one, band_many),
    "centre": (centre_one, centre_many),
    "squash": (squash_one, squash_many),
}
