"""The bundle that ships, asked again: does it still decide, and does it answer here as it did when it was exported?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himari_rl.errors import StorageError
from himari_rl.evaluation import metrics
from himari_rl.evaluation.record import CURVES, SHIPPED
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.release.lines import Line, line
from himari_rl.release.rules import GateRules
from himari_rl.release.statistical import sizing
from himari_rl.schema import FloatArray

PARITY = 1e-5  # as training/export.py asks of numpy and torch


def shipped_lines(
    bundle: str | Path, curves: Mapping[str, NDArray[Any]], verdict: Mapping[str, Any], rules: GateRules
) -> list[Line]:
    """Action spread, saturation and parity of the bundle, on the newest decisions of its own window.

    The judged policies of the folds must not have collapsed either: the worse of the two counts.

    Raises:
        BundleError: the bundle is damaged. StorageError: its states are not in the curves.
    """
    names = [f"{SHIPPED}{name}" for name in ("state", "multiplier", "active")]
    if missing := [name for name in names if name not in curves]:
        raise StorageError(
            f"{CURVES} lacks {missing[0]}", "the curves of this release", "run himari walk-forward again"
        )
    states, written, active = (curves[name] for name in names)
    answers = asked_again(load_policy(bundle), np.asarray(states, float))
    spread, saturation = metrics.action_spread(answers, active), metrics.saturation(answers, active)
    whose = f"; the bundle that ships {{:.3g}} on its newest {len(answers):,} decisions, the judged policies {{:.3g}}"
    worse = min(spread, verdict["spread"]), max(saturation, verdict["saturation"])
    lines = [
        *sizing(worse[0], worse[1], rules, whose.format(spread, verdict["spread"]))[:1],
        *sizing(worse[0], worse[1], rules, whose.format(saturation, verdict["saturation"]))[1:],
    ]
    same = answers.shape == written.shape
    difference = float(np.abs(answers - written).max()) if same else math.inf
    why = f"largest difference to its answers at export, {len(answers):,} decisions"
    return [*lines, line("parity", min(difference, 2.0), "<=", PARITY, why)]


def asked_again(policy: Policy, states: FloatArray) -> FloatArray:
    """(N, A) answers to states (N, F) in their order, with the memory that they leave."""
    if not policy.memory_size:
        return policy.decide_batch(states)[0]
    memory, found = None, []
    for state in states:
        answer, memory = policy.decide_batch(state[None], memory)
        found.append(answer[0])
    return np.array(found)
