"""A desk's watch on drift: features at every close, multipliers and confidence where the policy answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from himari_rl.features.contract import state_features
from himari_rl.journal.entry import Stored
from himari_rl.policy.drift import ANSWER_CONFIDENCE, DriftMonitor, DriftSpec, Strayed, multiplier_name
from himari_rl.schema import FloatArray


class DriftWatch:
    """Of one account."""

    def __init__(self, spec: DriftSpec, symbols: Sequence[str], own: Sequence[str] = ()) -> None:
        self._features, self._answers = DriftMonitor(spec), DriftMonitor(spec, answers=True)
        self._names = [feature.name for feature in state_features(symbols, own)]
        self._multipliers = [multiplier_name(symbol) for symbol in symbols]
        self.strayed: tuple[Strayed, ...] = ()
        """What drifts now, the farthest first."""
        self._told: list[Strayed] = []  # of the answers before

    def met(self, state: FloatArray, timestamp: int | None) -> tuple[Strayed, ...]:
        """Takes the state at the close of a bar that opened at `timestamp`, ms UTC; what strays now."""
        found = self._features.add(dict(zip(self._names, state.tolist(), strict=True)), timestamp)
        self.strayed = tuple(sorted([*found, *self._told], key=lambda each: each.value / each.limit, reverse=True))
        return self.strayed

    def answered(self, multipliers: Sequence[float], confidence: float | None) -> None:
        """Takes an answer of the policy itself; what strays there counts from the next close on."""
        if confidence is not None:
            told = dict(zip(self._multipliers, multipliers, strict=True)) | {ANSWER_CONFIDENCE: confidence}
            self._told = self._answers.add(told)

    def restore(self, last: Sequence[Mapping[str, Any]], rows: Sequence[Sequence[Stored]]) -> None:
        """Takes the decisions of before, as after a restart, where the journal has their states."""
        for said, each in zip(last, rows, strict=False):
            if said.get("state") is None:
                continue
            self.met(np.array(said["state"], np.float64), each[-1].entry.bar)
            wanted = [row.entry.said.get("wanted") for row in each]
            if all(value is not None for value in wanted):
                self.answered([float(value) for value in wanted if value is not None], said["confidence"])

    def numbers(self) -> list[tuple[str, str, float, float]]:
        """Name, measure, value and limit of everything watched."""
        return self._features.numbers() + self._answers.numbers()
