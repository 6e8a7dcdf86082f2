"""All seeds of one market that is learned from one history, against its threshold; each seed has its own history."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from himari_rl.agents.config import PPOConfig
from himari_rl.certification.attempts import GRADING_SEED, bundle_folder
from himari_rl.certification.histories import HistoryGrade, graded, history_for, learned
from himari_rl.certification.thresholds import MEASURES, HistoryThreshold


@dataclass(frozen=True)
class HistoryAttempt:
    """One seed on a history of its own."""

    market: str
    seed: int
    grade: HistoryGrade
    seconds: float  # of training
    bars: int


@dataclass(frozen=True)
class HistoryCertificate:
    """All seeds of one market against its threshold."""

    market: str
    attempts: tuple[HistoryAttempt, ...]
    measure: str
    passed: bool
    reason: str

    @property
    def shares(self) -> list[float]:
        """What the threshold is about, one a seed."""
        return [float(getattr(a.grade, self.measure)) for a in self.attempts]

    @property
    def median(self) -> float:
        return median(self.shares)

    @property
    def worst(self) -> float:
        return max(self.shares) if self.measure == "loss" else min(self.shares)

    @property
    def seconds(self) -> float:
        """Training seconds of the median seed."""
        return median(a.seconds for a in self.attempts)

    def of_median(self, what: str) -> float:
        """The median over seeds of any number of a grade."""
        return median(float(getattr(a.grade, what)) for a in self.attempts)

    def to_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "market": self.market,
            "passed": self.passed,
            "reason": self.reason,
            "measure": MEASURES[self.measure],
            "median": self.median,
            "worst": self.worst,
            "seconds": self.seconds,
            "seeds": [{"seed": a.seed, "seconds": a.seconds, **asdict(a.grade)} for a in self.attempts],
        }


def history_attempts(
    name: str,
    seeds: Sequence[int],
    agent: PPOConfig,
    *,
    num_episodes: int | None = None,
    device: str = "cpu",
    bundles: Path | None = None,
) -> list[HistoryAttempt]:
    """Trains every seed on a history of its own and grades all of them on the same fresh ones."""
    market, _ = history_for(name)
    with tempfile.TemporaryDirectory() as folder:
        there = {seed: bundle_folder(bundles or Path(folder), name, seed) for seed in seeds}
        done = {
            seed: learned(name, seed, agent, place, num_episodes=num_episodes, device=device)
            for seed, place in there.items()
        }
        grades = graded(market, {str(seed): policy for seed, (policy, _, _) in done.items()}, GRADING_SEED)
    return [HistoryAttempt(name, seed, grades[str(seed)], done[seed][1], done[seed][2]) for seed in seeds]


def judged_history(
    name: str, attempts: tuple[HistoryAttempt, ...], threshold: HistoryThreshold | None
) -> HistoryCertificate:
    """A history's attempts against its threshold; without one they are only reported."""
    measure = "over_one" if threshold is None else threshold.measure
    found = HistoryCertificate(name, attempts, measure, True, "reported, no threshold")
    if threshold is None:
        return found
    sign, asks = (-1.0, "<=") if measure == "loss" else (1.0, ">=")
    asked = [("median", found.median, threshold.median), ("worst", found.worst, threshold.worst)]
    checks = [
        (sign * value >= sign * bar, f"{what} {value:.3f} {asks} {bar:g}")
        for what, value, bar in asked
        if bar is not None
    ]
    failed = [text for holds, text in checks if not holds]
    told = f"{'; '.join(failed or [text for _, text in checks])} {MEASURES[measure]}"
    reason = f"fell short: {told}" if failed else told
    return HistoryCertificate(name, attempts, measure, not failed, reason)
