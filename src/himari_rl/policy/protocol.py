"""What everything that judges or serves asks of a policy, whoever wrote it.

    class Half:
        def decide_batch(self, states, memory=None):
            return np.full((len(states), 1), 0.5), memory  # always half of what Layer 2 says

A loaded bundle (policy/runtime.py) is one; so is a trained agent's face, an ensemble, or ten lines of your own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from himari_rl.policy.bands import Bands
from himari_rl.schema import FloatArray, IntArray


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


@runtime_checkable
class GoesByTheClock(Protocol):
    """Decides by the time too, as a table of past decisions does."""

    def at(self, fill_time: IntArray) -> DecidesBatch:
        """The policy for as many decisions in a row, which are filled at these times (D,), ms UTC."""
        ...


def timed(policy: DecidesBatch, fill_time: IntArray) -> DecidesBatch:
    """A policy for decisions that are filled at these times; itself where it does not go by the clock."""
    return policy.at(fill_time) if isinstance(policy, GoesByTheClock) else policy


class AnswersOne(Protocol):
    """Anything that answers one state in plain numbers, as a loaded bundle does (policy/runtime.py)."""

    def step(self, values: Sequence[float], memory: Any = None) -> Any:
        """An answer with `multipliers` and the new `memory`."""
        ...


class OneByOne:
    """A policy asked one state at a time, as server and runner ask it: the backtest then answers to the last bit alike.

    A batch sums in another order, so its multipliers differ by some 1e-7 (float32); over a year of bars that is some
    1e-8 of log equity. Where live and backtest are to be equal and not only close, the backtest asks this one.
    """

    def __init__(self, policy: AnswersOne) -> None:
        self._policy = policy

    def decide_batch(self, states: NDArray[np.floating], memory: Any = None) -> tuple[FloatArray, Any]:
        """As `DecidesBatch`; the memory is a list, one for each state."""
        before = [None] * len(states) if memory is None else memory
        answers = [self._policy.step(state, own) for state, own in zip(states.tolist(), before, strict=True)]
        return np.array([answer.multipliers for answer in answers]), [answer.memory for answer in answers]
