"""The drift net at decision time, in numpy: an LSTM over the evidence's scores whose output is added to the drift.

    i, f, o = sigmoid(.)    g = tanh(.)    of    W_ih z + W_hh h + b
    c' = f c + i g          h' = o tanh(c')          answer = out h' + constant

Fitted in training/drift_net.py. Its numbers travel in the manifest beside the knots of the scores that it reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import model_validator

from himari_rl.policy.manifest_part import ManifestPart
from himari_rl.schema import FloatArray


class DriftNet(ManifestPart):
    """Weights of one LSTM layer of H cells and its linear output; gate order i, f, g, o."""

    weight_ih: tuple[tuple[float, ...], ...]  # (4 H, F)
    weight_hh: tuple[tuple[float, ...], ...]  # (4 H, H)
    bias: tuple[float, ...]  # (4 H,)
    out: tuple[float, ...]  # (H,) in units of the slow volatility a bar
    constant: float

    @model_validator(mode="after")
    def _shapes_agree(self) -> DriftNet:
        cells, gates = len(self.out), len(self.bias)
        widths = {len(row) for row in self.weight_hh}, {len(row) for row in self.weight_ih}
        rows = {len(self.weight_ih), len(self.weight_hh), gates}
        if cells < 1 or rows != {4 * cells} or widths[0] != {cells} or len(widths[1]) != 1:
            raise ValueError(f"a drift net of {cells} cells with {gates} gates and weights of other shapes")
        return self

    @property
    def inputs(self) -> int:
        """Scores that it reads (F)."""
        return len(self.weight_ih[0])

    @property
    def cells(self) -> int:
        """H; it remembers h and c, 2 H numbers."""
        return len(self.out)


class DriftRunner:
    """A drift net, ready to answer. Float64, so that one bar at a time and a whole history agree."""

    def __init__(self, net: DriftNet) -> None:
        self.cells, self.inputs = net.cells, net.inputs
        self.memory_size = 2 * net.cells
        scale = np.repeat([0.5, 0.5, 1.0, 0.5], net.cells)  # sigmoid(z) = (1 + tanh(z / 2)) / 2: one tanh for all
        self._ih = np.array(net.weight_ih).T * scale
        self._hh = np.array(net.weight_hh).T * scale
        self._bias = np.array(net.bias) * scale
        self._out, self._constant = np.array(net.out), net.constant

    def history(self, inputs: FloatArray) -> FloatArray:
        """(T,) answers to scores (T, F) in order of time, from no memory."""
        given, found = inputs @ self._ih + self._bias, np.empty((len(inputs), self.cells))
        h, c = np.zeros(self.cells), np.zeros(self.cells)
        for t, gates in enumerate(given):
            h, c = self._step(gates + h @ self._hh, c)
            found[t] = h
        return np.asarray(found @ self._out + self._constant)

    def advance(self, inputs: FloatArray, memory: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(B,) answers to scores (B, F), and the memory (B, 2 H) after them."""
        h, c = memory[:, : self.cells], memory[:, self.cells :]
        h, c = self._step(inputs @ self._ih + self._bias + h @ self._hh, c)
        return np.asarray(h @ self._out + self._constant), np.concatenate([h, c], axis=1)

    def one(self, inputs: Sequence[float], memory: Sequence[float]) -> tuple[float, list[float]]:
        """`advance` for one bar in plain numbers."""
        before = np.array(memory)
        gates = np.array(inputs) @ self._ih + self._bias + before[: self.cells] @ self._hh
        h, c = self._step(gates, before[self.cells :])
        return float(h @ self._out) + self._constant, [*h.tolist(), *c.tolist()]

    def _step(self, gates: FloatArray, c: FloatArray) -> tuple[FloatArray, FloatArray]:
        n = self.cells
        squashed = np.tanh(gates)
        opened = 0.5 + 0.5 * squashed
        after = opened[..., n : 2 * n] * c + opened[..., :n] * squashed[..., 2 * n : 3 * n]
        return opened[..., 3 * n :] * np.tanh(after), after
