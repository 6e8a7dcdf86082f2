"""What a runner counts, as Prometheus text: decisions, fallbacks by cause, refusals by reason, latency, halts."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import numpy as np

DECISIONS, FALLBACKS, REJECTIONS = (
    "himari_run_decisions_total",
    "himari_run_fallbacks_total",
    "himari_run_rejections_total",
)
HALTED, ANSWER_MS = "himari_run_halted", "himari_run_answer_milliseconds"
DRIFT, DRIFT_LIMIT = "himari_run_drift", "himari_run_drift_limit"
RUN_HELP = {
    DECISIONS: "Decisions journalled and told, by source",
    FALLBACKS: "Decisions without the policy's answer, by cause",
    REJECTIONS: "Signals refused, by reason",
    HALTED: "1 for each account and cause that is halted now",
    DRIFT: "How far a feature, a multiplier or the confidence is from its training distribution, by measure",
    DRIFT_LIMIT: "What is drift, of the same",
    ANSWER_MS: "Milliseconds from question to answer or fallback, of the newest decisions, by quantile",
}
STALE = "stale"
_KEPT = 10_000
QUANTILES = (0.5, 0.99, 0.999)


class RunnerCounts:
    """Since the process started."""

    def __init__(self) -> None:
        self.sources: Counter[str] = Counter()
        self.causes: Counter[str] = Counter()
        self.rejections: Counter[str] = Counter()
        self._latencies: deque[float] = deque(maxlen=_KEPT)

    def decided(self, source: str, cause: str, latency_ms: float, count: int) -> None:
        """One question, for so many symbols."""
        self.sources[source] += count
        if cause:
            self.causes[cause] += count
        self._latencies.append(latency_ms)

    def rejected(self, reason: str) -> None:
        """One signal that was refused; a stale one is a fallback too, as whoever sent it goes on without us."""
        self.rejections[reason] += 1
        self.causes[reason] += reason == STALE

    def latency_ms(self, quantile: float) -> float:
        """Of the newest decisions; 0 before the first."""
        return float(np.quantile(self._latencies, quantile)) if self._latencies else 0.0

    def text(
        self,
        halts: Sequence[tuple[str, str, str]],
        drifts: Sequence[tuple[str, str, str, str, float, float]] = (),
    ) -> str:
        """The Prometheus text.

        Args:
            halts: strategy, symbols and cause.
            drifts: strategy, symbols, feature, measure, value and limit.
        """
        watched = [
            (f'strategy="{_safe(s)}",symbols="{_safe(a)}",feature="{_safe(f)}",measure="{m}"', value, limit)
            for s, a, f, m, value, limit in drifts
        ]
        lines: list[str] = []
        families = (
            (DECISIONS, "counter", [(f'source="{k}"', v) for k, v in sorted(self.sources.items())]),
            (FALLBACKS, "counter", [(f'cause="{k}"', v) for k, v in sorted(self.causes.items())]),
            (REJECTIONS, "counter", [(f'reason="{k}"', v) for k, v in sorted(self.rejections.items())]),
            (HALTED, "gauge", [(f'strategy="{_safe(s)}",symbols="{_safe(a)}",cause="{c}"', 1) for s, a, c in halts]),
            (DRIFT, "gauge", [(labels, value) for labels, value, _ in watched]),
            (DRIFT_LIMIT, "gauge", [(labels, limit) for labels, _, limit in watched if limit < float("inf")]),
            (ANSWER_MS, "gauge", [(f'quantile="{q}"', self.latency_ms(q)) for q in QUANTILES]),
        )
        for name, kind, values in families:
            lines += [f"# HELP {name} {RUN_HELP[name]}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{{{labels}}} {value:g}" for labels, value in values]
        return "\n".join(lines) + "\n"


def _safe(value: str) -> str:
    """A label's value: the text format has three characters to escape."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
