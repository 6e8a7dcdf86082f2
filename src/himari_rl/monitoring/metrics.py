"""Every metric's name, meaning and buckets, in one place: dashboards and alerts are checked against this table.

The request path only adds to plain numbers (a fraction of a microsecond); the Prometheus text is made when
somebody asks for it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from himari_rl.schema import FloatArray

REQUESTS = "himari_requests"
ERRORS = "himari_errors"
LATENCY = "himari_decision_seconds"
MULTIPLIER = "himari_multiplier"
OUT_OF_DISTRIBUTION = "himari_out_of_distribution"
RISK_LIMITED = "himari_risk_limited"
CONFIDENCE = "himari_confidence"
DRIFT = "himari_drift"
SWAPS = "himari_swaps"
RELOAD_FAILURES = "himari_reload_failures"
JOB_FAILURES = "himari_job_failures"
LOG_LINES_DROPPED = "himari_log_lines_dropped"
SHADOW = "himari_shadow"
SHADOW_DIFFERENCE = "himari_shadow_difference"
READY = "himari_ready"
POLICY = "himari_policy_info"

HELP = {
    REQUESTS: "Requests answered with a decision",
    ERRORS: "Requests refused, by HTTP status and cause",
    LATENCY: "Time to validate and decide, in seconds",
    MULTIPLIER: "Multipliers answered, all symbols",
    OUT_OF_DISTRIBUTION: "Decisions on a state further out than 99.9 % of the training states",
    RISK_LIMITED: "Decisions that a risk limit shrank",
    CONFIDENCE: "Confidence of decisions",
    DRIFT: "Largest distance between the familiarity of the states served since the last swap and the uniform one of "
    "the training states (Kolmogorov-Smirnov, in tenths; 0 no drift, 1 all states strange)",
    SWAPS: "Policies swapped in after the first",
    RELOAD_FAILURES: "Looks at the source that found nothing valid: the policy before went on",
    JOB_FAILURES: "Failures of the server's background jobs, by job; each began anew",
    LOG_LINES_DROPPED: "Log lines that could not be written, by cause: too many waited (full), or stderr refused them",
    SHADOW: "Requests offered to the challenger in the shadow, by what became of them",
    SHADOW_DIFFERENCE: "Absolute difference of the challenger's multiplier to the champion's, the largest symbol",
    READY: "1 when a valid policy is loaded and warm",
    POLICY: "The policy being served; its value is always 1",
}
LATENCY_BUCKETS = (10e-6, 20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 5e-3, 20e-3, 100e-3)  # seconds
TENTHS = tuple(i / 10 for i in range(1, 11))
DIFFERENCE_BUCKETS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
MULTIPLIER_BUCKETS = (0.0, 0.25, 0.5, 0.75, 0.95, 1.05, 1.25, 1.5, 1.75, 2.0)


class Histogram:
    """Counts per bucket and a sum, without locks: one event loop writes it."""

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self.bounds = buckets
        self._bounds = np.array(buckets)
        self.counts = [0] * (len(buckets) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Counts a value; a bucket holds those up to and including its bound."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add_many(self, values: FloatArray) -> None:
        """`add` of each."""
        places = self._bounds.searchsorted(values)
        for place, count in enumerate(np.bincount(places, minlength=len(self.counts)).tolist()):
            self.counts[place] += count
        self.sum += float(values.sum())

    def family(self, name: str) -> HistogramMetricFamily:
        """Cumulative buckets, as Prometheus wants them."""
        total, buckets = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, total))
        return HistogramMetricFamily(name, HELP[name], buckets=buckets, sum_value=self.sum)


class Metrics:
    """What one server process has seen since it started. Register it as a Prometheus collector or call `text`."""

    def __init__(self) -> None:
        self.requests = 0
        self.out_of_distribution = 0
        self.risk_limited = 0
        self.swaps = 0
        self.reload_failures = 0
        self.errors: Counter[tuple[int, str]] = Counter()  # by status and cause
        self.job_failures: Counter[str] = Counter()
        self.lines_dropped: Counter[str] = Counter(full=0, refused=0)
        self.latency = Histogram(LATENCY_BUCKETS)
        self.multiplier = Histogram(MULTIPLIER_BUCKETS)
        self.confidence = Histogram(TENTHS)
        self.familiarity = Histogram(TENTHS)
        self.shadow: Counter[str] = Counter(decided=0, dropped=0, failed=0, skipped=0)
        self.shadow_difference = Histogram(DIFFERENCE_BUCKETS)
        self.policy: dict[str, str] | None = None  # labels of the policy being served

    def decided(
        self, multipliers: list[float], confidence: float, familiarity: float, outside: bool, limited: bool
    ) -> None:
        """One decision. Written out: a call of Histogram.add costs as much as the rest."""
        histogram = self.multiplier
        for value in multipliers:
            histogram.counts[bisect_left(MULTIPLIER_BUCKETS, value)] += 1
            histogram.sum += value
        self.confidence.counts[bisect_left(TENTHS, confidence)] += 1
        self.confidence.sum += confidence
        self.familiarity.counts[bisect_left(TENTHS, familiarity)] += 1
        self.out_of_distribution += outside
        self.risk_limited += limited

    def decided_many(
        self, multipliers: FloatArray, confidence: FloatArray, familiarity: FloatArray, outside: int, limited: int
    ) -> None:
        """`decided` of a batch: multipliers (B, A), the rest (B,), and how many were outside or limited."""
        self.multiplier.add_many(multipliers.ravel())
        self.confidence.add_many(confidence)
        self.familiarity.add_many(familiarity)
        self.out_of_distribution += outside
        self.risk_limited += limited

    def answered(self, seconds: float) -> None:
        """One request, and how long it took."""
        self.requests += 1
        self.latency.counts[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self.latency.sum += seconds

    def swapped(self, version: str, kind: str, *, first: bool) -> None:
        """Another policy answers from now on; drift is measured against its own training states."""
        self.policy = {"model_version": version, "kind": kind}
        self.swaps += not first
        self.familiarity = Histogram(TENTHS)

    @property
    def drift(self) -> float:
        """Kolmogorov-Smirnov distance of the familiarities served to the uniform distribution, at the tenths."""
        total, below, worst = sum(self.familiarity.counts), 0, 0.0
        for bound, count in zip(TENTHS, self.familiarity.counts[:-1], strict=True):
            below += count
            worst = max(worst, abs(below / total - bound)) if total else 0.0
        return worst

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's collector protocol."""
        yield CounterMetricFamily(REQUESTS, HELP[REQUESTS], value=self.requests)
        errors = CounterMetricFamily(ERRORS, HELP[ERRORS], labels=["status", "cause"])
        for (status, cause), count in sorted(self.errors.items()):
            errors.add_metric([str(status), cause], count)
        yield errors
        yield self.latency.family(LATENCY)
        yield self.multiplier.family(MULTIPLIER)
        yield self.confidence.family(CONFIDENCE)
        for name, value in (
            (OUT_OF_DISTRIBUTION, self.out_of_distribution),
            (RISK_LIMITED, self.risk_limited),
            (SWAPS, self.swaps),
            (RELOAD_FAILURES, self.reload_failures),
        ):
            yield CounterMetricFamily(name, HELP[name], value=value)
        yield GaugeMetricFamily(DRIFT, HELP[DRIFT], value=self.drift)
        for name, label, counts in (
            (JOB_FAILURES, "job", self.job_failures),
            (LOG_LINES_DROPPED, "cause", self.lines_dropped),
            (SHADOW, "outcome", self.shadow),
        ):
            family = CounterMetricFamily(name, HELP[name], labels=[label])
            for outcome, number in counts.items():
                family.add_metric([outcome], number)
            yield family
        yield self.shadow_difference.family(SHADOW_DIFFERENCE)
        yield GaugeMetricFamily(READY, HELP[READY], value=float(self.policy is not None))
        if self.policy is not None:
            policy = GaugeMetricFamily(POLICY, HELP[POLICY], labels=list(self.policy))
            policy.add_metric(list(self.policy.values()), 1.0)
            yield policy

    def text(self) -> bytes:
        """The Prometheus exposition of all of it."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)
