"""Which kind to use, and why: a decision tree, base first, then LSTM, then multi-asset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from himari_rl.evaluation.baselines import CASH, ONE
from himari_rl.evaluation.statements import KEEP_ONE
from himari_rl.release.gate import GateAnswer

FIXED = ONE


@dataclass(frozen=True)
class Choice:
    """What to use, and every step that led there."""

    use: str  # base, lstm, multi; multiplier 1.0 or cash where none of them passes
    bundle: str | None
    steps: tuple[str, ...]


def decide(answers: Mapping[str, GateAnswer | None]) -> Choice:
    """Walks base -> LSTM -> multi-asset.

    The base must pass before the others are worth their complexity; an LSTM replaces it only where its own gate,
    which asks for more than the base by 0.2 of Sharpe ratio, passes; a portfolio replaces both where it passes. Where
    none does, multiplier 1.0 stays, unless it lost on the judged bars: then cash was better.

    Args:
        answers: the gate's answer by kind; None where there is no bundle yet.
    """
    steps: list[str] = []

    def passed(kind: str, what: str) -> bool:
        answer = answers.get(kind)
        if answer is None:
            steps.append(f"{what}: no bundle given, not considered")
            return False
        steps.append(f"{what}: {answer.reason}")
        return answer.passed

    use = FIXED
    if passed("base", "1. base PPO"):
        use = "base"
    else:
        base = answers.get("base")
        advice = KEEP_ONE if base is None else base.instead
        steps += [] if base is None else base.statements
        steps.append(f"without a base that passes, neither memory nor a portfolio is worth its complexity: {advice}")
        return Choice(FIXED if advice == KEEP_ONE else CASH, None, tuple(steps))
    if passed("lstm", "2. LSTM against the base"):
        use = "lstm"
    if passed("multi", "3. multi-asset portfolio"):
        use = "multi"
    answer = answers[use]
    steps.append(f"use {use}")
    return Choice(use, None if answer is None else answer.bundle, tuple(steps))
