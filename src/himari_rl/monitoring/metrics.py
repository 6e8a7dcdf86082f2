"""Every metric's name, meaning and buckets, in one place: dashboards and alerts are checked against this table.

The request path only adds to plain numbers (a fraction of a microsecond); the Prometheus text is made when
somebody asks for it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

REQUESTS = "himari_requests"
ERRORS = "himari_errors"
LATENCY = "himari_decision_seconds"
MULTIPLIER = "himari_multiplier"
OUT_OF_DISTRIBUTION = "himari_out_of_distribution"
READY = "himari_ready"
POLICY = "himari_policy_info"

HELP = {
    REQUESTS: "Decisions answered",
    ERRORS: "Requests refused, by HTTP status",
    LATENCY: "Time from the parsed body to the decision, validation included, in seconds",
    MULTIPLIER: "Multipliers answered, all symbols",
    OUT_OF_DISTRIBUTION: "Decisions on a state further out than 99.9 % of the training states",
    READY: "1 when a valid policy is loaded and warm",
    POLICY: "The policy being served; its value is always 1",
}
LATENCY_BUCKETS = (10e-6, 20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 5e-3, 20e-3, 100e-3)  # seconds
MULTIPLIER_BUCKETS = (0.0, 0.25, 0.5, 0.75, 0.95, 1.05, 1.25, 1.5, 1.75, 2.0)


class Histogram:
    """Counts per bucket and a sum, without locks: one event loop writes it."""

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self.bounds = buckets
        self.counts = [0] * (len(buckets) + 1)
        self.sum = 0.0

    def add(self, *values: float) -> None:
        """Counts values; a bucket holds those up to and including its bound."""
        for value in values:
            self.counts[bisect_left(self.bounds, value)] += 1
            self.sum += value

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
        self.errors: Counter[int] = Counter()
        self.latency = Histogram(LATENCY_BUCKETS)
        self.multiplier = Histogram(MULTIPLIER_BUCKETS)
        self.policy: dict[str, str] | None = None  # labels of the policy being served

    def count(self, seconds: float, multipliers: list[float]) -> None:
        """One decision: how long it took and what it answered."""
        self.requests += 1
        self.latency.add(seconds)
        self.multiplier.add(*multipliers)

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's collector protocol."""
        yield CounterMetricFamily(REQUESTS, HELP[REQUESTS], value=self.requests)
        errors = CounterMetricFamily(ERRORS, HELP[ERRORS], labels=["status"])
        for status, count in sorted(self.errors.items()):
            errors.add_metric([str(status)], count)
        yield errors
        yield self.latency.family(LATENCY)
        yield self.multiplier.family(MULTIPLIER)
        yield CounterMetricFamily(OUT_OF_DISTRIBUTION, HELP[OUT_OF_DISTRIBUTION], value=self.out_of_distribution)
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
