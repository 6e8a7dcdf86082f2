"""What is watched and when it alarms, as PromQL, for the two ways to run the server (docs/GCP_RL_DEPLOYMENT_GUIDE.md).

    cheap    scale to zero: Cloud Run takes the CPU away after each answer, so nothing may depend on work between
             requests: Cloud Run's own metrics, and log-based ones made from the server's JSON lines
    steady   one warm instance and Google's Managed Prometheus sidecar, which scrapes /metrics

Names of metrics stand here as text, on purpose: a test holds them against what the code emits, so that a metric which
is renamed there fails a test instead of darkening a tile. @SERVICE@ is the service's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from himari_rl.config import require_ranges

CARD = "custom.googleapis.com/himari/rl/"
"""What the card calls its four metrics: the tiles keep these names, whatever their numbers come from."""
_RUN = '{monitored_resource="cloud_run_revision",service_name="@SERVICE@"}'
_BAD = '{monitored_resource="cloud_run_revision",service_name="@SERVICE@",response_code_class=~"4xx|5xx"}'
_NONE = '{monitored_resource="cloud_run_revision",service_name="@SERVICE@",response_code_class="5xx"}'
_REQUESTS = "run_googleapis_com:request_count"
_LOGGED = "logging_googleapis_com:user_himari_rl_"


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """What is watched, from where, and when it alarms."""

    profile: Literal["cheap", "steady"] = "cheap"
    """cheap: scale to zero, Cloud Run's metrics and logs; steady: one warm instance with the Prometheus sidecar."""
    email: str = ""
    """Who is told; empty: alerts are made without a channel, and that is said."""
    latency_ms: float = 150.0
    """Alarm: 95 % of the answers are faster than this, or it alarms."""
    error_ratio: float = 0.05
    """Alarm: share of requests that were refused or failed."""
    fallback_ratio: float = 0.05
    """Alarm: share of requests that got no decision (5xx), so that their client fell back to multiplier 1.0."""
    strange_ratio: float = 0.05
    """Alarm, cheap: share of answers further out than 99.9 % of the training states; one in a thousand is usual."""
    drift: float = 0.3
    """Alarm, steady: himari_drift; .12 is usual, three times the volatility gives .3."""
    quiet_hours: int = 3
    """Alarm: so many hours without a request."""
    job_usd: float = 20.0
    """Alarm: a training job has cost more."""

    def __post_init__(self) -> None:
        ratios = dict.fromkeys(("error_ratio", "fallback_ratio", "strange_ratio", "drift"), (0.0, 1.0))
        require_ranges(self, {**ratios, "latency_ms": (0, 1e6), "quiet_hours": (1, 168), "job_usd": (0, 1e6)})


@dataclass(frozen=True, kw_only=True)
class WatchedSignal:
    """One quantity: its tile, and its alarm if it has one."""

    key: str
    title: str
    unit: str
    cheap: str
    """Its query where the server scales to zero."""
    steady: str
    """Its query with the Prometheus sidecar."""
    alarm: Literal["", ">", "<"] = ""
    limit: str = ""
    """Field of MonitorConfig that is the alarm's threshold."""
    steady_limit: str = ""
    """The same where the steady query counts something else."""
    lasts: str = "300s"
    """How long it must be so."""
    cure: str = ""
    """What whoever is woken up does first."""

    def query(self, profile: str, service: str) -> str:
        """The PromQL for a profile."""
        return (self.steady if profile == "steady" else self.cheap).replace("@SERVICE@", service)


SIGNALS = (
    WatchedSignal(
        key="prediction_latency",
        title="prediction_latency, 95 %",
        unit="ms",
        cheap=f"histogram_quantile(0.95, sum by (le) (rate(run_googleapis_com:request_latencies_bucket{_RUN}[5m])))",
        steady=f"histogram_quantile(0.95, sum by (le) (rate(run_googleapis_com:request_latencies_bucket{_RUN}[5m])))",
        alarm=">",
        limit="latency_ms",
        cure="cold starts: one warm instance (deploy.min_instances 1); else look at prediction time and CPU",
    ),
    WatchedSignal(
        key="position_multiplier",
        title="position_multiplier, median",
        unit="times the base position",
        cheap=f"histogram_quantile(0.5, sum by (le) (rate({_LOGGED}position_multiplier_bucket{_RUN}[1h])))",
        steady="histogram_quantile(0.5, sum by (le) (rate(himari_multiplier_bucket[1h])))",
    ),
    WatchedSignal(
        key="api_errors",
        title="api_errors, share of requests",
        unit="share",
        cheap=f"sum(rate({_REQUESTS}{_BAD}[5m])) / sum(rate({_REQUESTS}{_RUN}[5m]))",
        steady="sum(rate(himari_errors_total[5m])) / (sum(rate(himari_errors_total[5m])) + "
        "sum(rate(himari_requests_total[5m])))",
        alarm=">",
        limit="error_ratio",
        cure="the log's `refused` lines and the answers' bodies say found, expected and cure",
    ),
    WatchedSignal(
        key="fallback_count",
        title="fallback_count, share of requests without a decision",
        unit="share",
        cheap=f"sum(rate({_REQUESTS}{_NONE}[5m])) / sum(rate({_REQUESTS}{_RUN}[5m]))",
        steady='sum(rate(himari_errors_total{status=~"5.."}[5m])) / (sum(rate(himari_errors_total[5m])) + '
        "sum(rate(himari_requests_total[5m])))",
        alarm=">",
        limit="fallback_ratio",
        cure="GET /ready says why no valid policy answers; himari rollback ALIAS brings the one before back",
    ),
    WatchedSignal(
        key="drift",
        title="drift from the training states",
        unit="share, or Kolmogorov-Smirnov distance",
        cheap=f"sum(rate({_LOGGED}out_of_distribution{_RUN}[6h])) / sum(rate({_LOGGED}answers{_RUN}[6h]))",
        steady="max(himari_drift)",
        alarm=">",
        limit="strange_ratio",
        steady_limit="drift",
        lasts="3600s",
        cure="the market is not the one of training: train on newer bars, judge, promote",
    ),
    WatchedSignal(
        key="traffic",
        title="requests an hour",
        unit="requests",
        cheap=f"sum(increase({_REQUESTS}{_RUN}[@QUIET@h])) or vector(0)",
        steady=f"sum(increase({_REQUESTS}{_RUN}[@QUIET@h])) or vector(0)",
        alarm="<",
        limit="1",
        cure="Layer 2 asks no more: see its own log, then the service's address and account",
    ),
    WatchedSignal(
        key="cost",
        title="cost of training jobs, largest",
        unit="USD",
        cheap=f"histogram_quantile(0.99, sum by (le) (rate({_LOGGED}cost_usd_bucket[1h])))",
        steady=f"histogram_quantile(0.99, sum by (le) (rate({_LOGGED}cost_usd_bucket[1h])))",
        alarm=">",
        limit="job_usd",
        lasts="0s",
        cure="himari cost shows each run; gcloud ai custom-jobs cancel ends one",
    ),
)


def log_metrics(service: str) -> dict[str, dict[str, Any]]:
    """The log-based metrics, by name: made by Cloud Logging from lines that are written anyway, at no cost."""
    own = f'resource.type="cloud_run_revision" AND resource.labels.service_name="{service}"'
    answers = f'{own} AND jsonPayload.event="answer"'
    jobs = '(resource.type="ml_job" OR resource.type="cloud_run_job") AND textPayload=~"cost so far"'
    tenths = {"linearBuckets": {"numFiniteBuckets": 20, "width": 0.1, "offset": 0.0}}
    powers = {"exponentialBuckets": {"numFiniteBuckets": 40, "growthFactor": 1.5, "scale": 0.001}}
    return {
        "himari/rl/prediction_latency": _distribution(
            "Milliseconds of a decision, without the network", answers, "EXTRACT(jsonPayload.latency_ms)", "ms", powers
        ),
        "himari/rl/position_multiplier": _distribution(
            "Multipliers answered; a portfolio's mean", answers, "EXTRACT(jsonPayload.position_multiplier)", "1", tenths
        ),
        "himari/rl/api_errors": _counter(
            "Requests refused or failed",
            f'{own} AND logName:"run.googleapis.com%2Frequests" AND httpRequest.status>=400',
        ),
        "himari/rl/fallback_count": _counter(
            "Requests without a decision",
            f'{own} AND logName:"run.googleapis.com%2Frequests" AND httpRequest.status>=500',
        ),
        "himari/rl/answers": _counter("Decisions answered", answers),
        "himari/rl/out_of_distribution": _counter(
            "Decisions on a strange state", f"{answers} AND jsonPayload.out_of_distribution=true"
        ),
        "himari/rl/cost_usd": _distribution(
            "What a training job has cost so far",
            jobs,
            r'REGEXP_EXTRACT(textPayload, "cost so far \\$([0-9.]+)")',
            "USD",
            powers,
        ),
    }


def _counter(description: str, chosen: str) -> dict[str, Any]:
    kind = {"metricKind": "DELTA", "valueType": "INT64", "unit": "1"}
    return {"description": description, "filter": chosen, "metricDescriptor": kind}


def _distribution(description: str, chosen: str, value: str, unit: str, buckets: Mapping[str, Any]) -> dict[str, Any]:
    kind = {"metricKind": "DELTA", "valueType": "DISTRIBUTION", "unit": unit}
    found = _counter(description, chosen)
    return found | {"metricDescriptor": kind, "valueExtractor": value, "bucketOptions": dict(buckets)}
