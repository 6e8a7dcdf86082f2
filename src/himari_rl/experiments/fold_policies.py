"""The trained folds of a walk-forward as one policy: the policy of the newest fold decides, on one account.

Every fold's answer is its seeds' mean. A fold's policy decides until the next fold's test rows begin, so rows between
two test spans (an embargo, an outage) are decided by the older policy, which has not seen them either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from himari_rl.experiments.fold_files import TrainedFold, policy_of
from himari_rl.experiments.walk_forward import Key, WalkForwardPlan
from himari_rl.policy.bands import Bands
from himari_rl.policy.protocol import DecidesBatch, bands_of, timed
from himari_rl.schema import FloatArray, IntArray


class FoldPolicies:
    """The policies of all folds as one: at each decision the newest fold whose test rows have begun decides.

    Args:
        policies: one a fold.
        starts: (folds,) first decision of each, counted from the first decision of the stage; the first is 0.
        rows: (D, F) market rows to decide on instead of the ones given (the shuffled control).
        late: decisions by which those rows are late; what goes by the clock is shown as old a time.
    """

    def __init__(
        self, policies: Sequence[DecidesBatch], starts: list[int], rows: FloatArray | None = None, late: int = 0
    ) -> None:
        self.policies, self.starts, self.rows, self.late = policies, starts, rows, late
        self.columns = None if rows is None else np.flatnonzero(np.abs(rows).sum(0) > 0.0)

    def shifted(self, rows: FloatArray, late: int) -> FoldPolicies:
        """The same policies, deciding on rows (D, F) of another time: in a circle, so many decisions late."""
        return FoldPolicies(self.policies, self.starts, np.roll(rows, late, axis=0), late)

    def at(self, fill_time: IntArray) -> FoldPolicies:
        """The same policies for decisions that are filled at these times."""
        seen, ends = np.roll(fill_time, self.late), [*self.starts[1:], len(fill_time)]
        parts = [timed(p, seen[a:b]) for p, a, b in zip(self.policies, self.starts, ends, strict=True)]
        return FoldPolicies(parts, self.starts, self.rows, self.late)

    def bands(self, rows: FloatArray) -> Bands | None:
        """Every decision's no-trade bands, each fold's from its own policy; None where one reads the account.

        A policy remembers volatility from the rows before its own, as whoever takes over an account does.
        """
        seen = rows if self.rows is None else self.rows
        ends = [*self.starts[1:], len(seen)]
        parts = [_bands(p, seen, a, b) for p, a, b in zip(self.policies, self.starts, ends, strict=True)]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        return Bands(*(np.concatenate(leaves) for leaves in zip(*known, strict=True)))

    def decide_batch(self, states: Any, memory: Any = None) -> tuple[Any, Any]:
        step, inner = memory or (0, None)
        turn = int(np.searchsorted(self.starts, step, side="right")) - 1
        if self.starts[turn] == step:
            inner = None  # a fresh policy starts with a fresh memory
        if self.rows is not None:
            states = states.copy()
            states[:, self.columns] = self.rows[step, self.columns]
        multipliers, inner = self.policies[turn].decide_batch(states, inner)
        return multipliers, (step + 1, inner)


def _bands(policy: DecidesBatch, rows: FloatArray, first: int, end: int) -> Bands | None:
    before = min(first, getattr(policy, "lookback", 0))
    found = bands_of(policy, rows[first - before : end])
    return found if found is None or not before else found.after(before)


def fold_policies(
    work: WalkForwardPlan, trained: Mapping[Key, TrainedFold], part: str, seeds: tuple[int, ...]
) -> FoldPolicies:
    """The walk-forward's policy on one part, made of the given seeds."""
    policies = [policy_of([trained[part, fold, seed] for seed in seeds]) for fold in range(len(work.folds))]
    return FoldPolicies(policies, [fold.test.start - work.start_row for fold in work.folds])
