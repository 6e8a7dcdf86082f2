"""What everything that judges or serves asks of a policy, whoever wrote it.

    class Half:
        def decide_batch(self, states, memory=None):
            return np.full((len(states), 1), 0.5), memory  # always half of what Layer 2 says

A loaded bundle (policy/runtime.py) is one; so is a trained agent's face, an ensemble, or ten lines of your own.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from himari_rl.policy.bands import Bands
from himari_rl.schema import FloatArray


class DecidesBatch(Protocol):
    """Anything that answers many states at once."""

    def decide_batch(self, states: NDArray[np.floating], memory: Any = None) -> tuple[FloatArray, Any]:
        """Multipliers (B, A) in [0, 2] for states (B, F), and the new memory.

        Args:
            memory: what the last call gave, unchanged; None before the first.
        """
        ...


@runtime_checkable
class HasBands(Protocol):
    """Says beforehand what it would do at any position: the backtest then need not ask bar by bar."""

    def bands(self, rows: FloatArray) -> Bands | None:
        """No-trade bands on market rows (T, F) in order of time; None where the answers read the account."""
        ...


def bands_of(policy: object, rows: FloatArray) -> Bands | None:
    """A policy's bands on rows (T, F) in order, where it has any."""
    return policy.bands(rows) if isinstance(policy, HasBands) else None
