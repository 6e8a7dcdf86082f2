"""What the bundle that ships answers: the newest decisions of its own window, played through the real ledger.

The walk-forward judges the policies of its folds; the bundle is a later one, trained on the newest window, so its
answers are written down at export beside the states. The gate asks the bundle again, and has its spread, its share of
multipliers at a bound, and whether this machine's runtime still answers what was exported.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from himari_rl.data.panel import Panel
from himari_rl.evaluation.backtest import BASE, POLICY, backtest, stage
from himari_rl.evaluation.record import SHIPPED
from himari_rl.policy.protocol import DecidesBatch, timed
from himari_rl.policy.runtime import Policy
from himari_rl.schema import Bars, FloatArray

DECISIONS = 2000


class _Written:
    """A policy that keeps what it was asked and what it answered. It has no bands, so it is asked bar by bar."""

    def __init__(self, policy: DecidesBatch) -> None:
        self.policy = policy
        self.states: list[FloatArray] = []
        self.answers: list[FloatArray] = []

    def decide_batch(self, states: NDArray[np.floating], memory: Any = None) -> tuple[FloatArray, Any]:
        answer, memory = self.policy.decide_batch(states, memory)
        self.states.append(np.array(states[0], np.float32))
        self.answers.append(answer[0])
        return answer, memory


def shipped_answers(policy: Policy, window: Bars | Panel) -> dict[str, NDArray[Any]]:
    """States (N, F), answers (N, A) and whether they size anything (N, A), of a bundle's newest decisions.

    Args:
        window: the rows it was trained on.

    Raises:
        DataError: fewer rows than anything can be measured on.
    """
    ledger = policy.manifest.ledger
    on = stage(window, ledger, max(0, len(window) - 2 - DECISIONS))
    written = _Written(timed(policy, on.fill_time))
    result = backtest({POLICY: written}, on, ledger, variants=(BASE,), rng=np.random.default_rng(0))
    found = {"state": np.array(written.states), "multiplier": np.array(written.answers)}
    return {f"{SHIPPED}{name}": v for name, v in (found | {"active": result.run(POLICY).active}).items()}
