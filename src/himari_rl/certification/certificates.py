"""All seeds of one market against its threshold, beside the naive policies on the same paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from himari_rl.certification.attempts import GRADING_SEED, Attempt, grading_size, market_for
from himari_rl.certification.grading import Grade, graded_naively, reference
from himari_rl.certification.law import KnownMarket
from himari_rl.certification.references import naive_policies
from himari_rl.certification.thresholds import Check, Threshold

STUCK = 0.3  # share of the optimum: a seed below it has not learned less, it has not learned


@dataclass(frozen=True)
class Certificate:
    """All seeds of one market against its threshold."""

    market: str
    attempts: tuple[Attempt, ...]
    threshold: Threshold
    passed: bool
    reason: str
    naive: dict[str, float]  # share of the optimum of each naive policy, same paths

    @property
    def shares(self) -> list[float]:
        """The share that the threshold is about, one a seed."""
        return [a.grade.share_over_constant if self.threshold.over_constant else a.grade.share for a in self.attempts]

    @property
    def median(self) -> float:
        return median(self.shares)

    @property
    def worst(self) -> float:
        return min(self.shares)

    @property
    def interval(self) -> tuple[float, float]:
        return interval([a.grade for a in self.attempts])

    @property
    def over_constant(self) -> float:
        return median(a.grade.share_over_constant for a in self.attempts)

    @property
    def turnover(self) -> float:
        return median(a.grade.turnover for a in self.attempts)

    @property
    def seconds(self) -> float:
        """Training seconds of the median seed."""
        return median(a.seconds for a in self.attempts)

    @property
    def stepped(self) -> int:
        return self.attempts[0].bars

    def to_dict(self) -> dict[str, Any]:
        """For --json."""
        numbers = ("median", "worst", "interval", "over_constant", "turnover", "seconds", "stepped")
        return {
            "market": self.market,
            "passed": self.passed,
            "reason": self.reason,
            **{name: getattr(self, name) for name in numbers},
            "seeds": [{"seed": a.seed, "seconds": a.seconds, **asdict(a.grade)} for a in self.attempts],
            "naive": self.naive,
        }


def interval(grades: Sequence[Grade]) -> tuple[float, float]:
    """95 % interval of the median seed's share, over the graded paths (the same for all) and over seeds."""
    shares = [g.share for g in grades]
    between_seeds = float(np.std(shares, ddof=1)) / np.sqrt(len(shares)) if len(shares) > 1 else 0.0
    half = 1.96 * float(np.hypot(median(g.share_error for g in grades), between_seeds))
    return median(shares) - half, median(shares) + half


def judged(
    name: str,
    attempts: tuple[Attempt, ...],
    threshold: Threshold | None,
    rivals: Mapping[str, Grade] | None = None,
) -> Certificate:
    """A market's attempts against its threshold; without one it is only reported. `rivals` stand with the naive."""
    market, _ = market_for(name)
    naive = graded_naively(market, GRADING_SEED, naive_policies(market), **grading_size(market)) | dict(rivals or {})
    shares = {n: g.share for n, g in naive.items()}
    certificate = Certificate(name, attempts, threshold or Threshold(), True, "reported, no threshold", shares)
    if threshold is None:
        return certificate
    checks = _checks(certificate, market, naive)
    failed = [text for ok, text in checks if not ok]
    reason = "fell short: " + "; ".join(failed) if failed else "; ".join(text for _, text in checks)
    return replace(certificate, passed=not failed, reason=reason)


def _checks(certificate: Certificate, market: KnownMarket, naive: Mapping[str, Grade]) -> list[Check]:
    """Everything that the threshold asks, in the order in which it is told."""
    threshold, grades = certificate.threshold, [a.grade for a in certificate.attempts]
    if threshold.aside:
        return _stands_aside(grades)
    if threshold.nothing:
        return _knows_nothing(grades)
    beside = [] if threshold.beside is None else [threshold.beside(grades, naive)]
    return [
        *_stuck(certificate),
        *_shares(certificate),
        *_weights(threshold, grades, market),
        *_turnover(certificate),
        *beside,
    ]


def _stands_aside(grades: Sequence[Grade]) -> list[Check]:
    exposure, busiest = max(g.exposure for g in grades), max(g.turnover for g in grades)
    return [
        (exposure < 0.02, f"no edge, stands aside: exposure {exposure:.4f} < .02"),
        (busiest < 0.001, f"turnover {busiest:.5f} < .001"),
    ]


def _knows_nothing(grades: Sequence[Grade]) -> list[Check]:
    over = [g.share_over_constant for g in grades]
    between_seeds = float(np.std(over)) / np.sqrt(len(over))
    error = float(np.hypot(np.mean([g.over_constant_error for g in grades]), between_seeds))
    mean = float(np.mean(over))
    return [(mean <= 2.0 * error, f"shuffled: {mean:+.3f} over the best constant, not above 2 x {error:.3f}")]


def _stuck(certificate: Certificate) -> list[Check]:
    pairs = zip(certificate.attempts, certificate.shares, strict=True)
    stuck = [str(a.seed) for a, share in pairs if share < STUCK]
    return [(False, f"ALARM: seed {', '.join(stuck)} stuck below {STUCK}")] if stuck else []


def _shares(certificate: Certificate) -> list[Check]:
    asked = certificate.threshold
    what = "over the best constant" if asked.over_constant else "of the optimum"
    checks = [(certificate.median >= asked.median, f"median {certificate.median:.3f} >= {asked.median} {what}")]
    if np.isfinite(asked.worst):
        checks.append((certificate.worst >= asked.worst, f"worst {certificate.worst:.3f} >= {asked.worst}"))
    return checks


def _weights(threshold: Threshold, grades: Sequence[Grade], market: KnownMarket) -> list[Check]:
    """Of a portfolio: what the optimum leaves out, and the gross cap."""
    checks = []
    if np.isfinite(threshold.left_out):
        none = np.array(reference(market, GRADING_SEED).optimum.weights) < 1e-6
        most = max(float(np.array(g.weights)[none].max()) for g in grades)
        told = f"weight {most:.4f} < {threshold.left_out} where the optimum has none"
        checks.append((most < threshold.left_out, told))
    if np.isfinite(threshold.gross):
        most = max(g.gross_max for g in grades)
        checks.append((most <= threshold.gross, f"gross {most:.7f} <= {threshold.gross:.6f}"))
    return checks


def _turnover(certificate: Certificate) -> list[Check]:
    low, high = certificate.threshold.turnover
    if not np.isfinite(high):
        return []
    found = certificate.turnover
    return [(low <= found <= high, f"turnover {found:.4f} in {low}-{high}")]
