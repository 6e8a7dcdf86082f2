"""How the server runs on Cloud Run, as a service file, as terraform's variables, and as the commands in their order."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from himari_rl.cloud.config import UNNAMED, CloudConfig
from himari_rl.cloud.dashboard import alerts, query_of, threshold
from himari_rl.cloud.machines import BudgetConfig
from himari_rl.cloud.signals import SIGNALS, MonitorConfig
from himari_rl.config import require_ranges

SERVICE_FILE = "config/service.yaml"
VARIABLES_FILE = "deploy/terraform/himari.auto.tfvars.json"
RENDERED = "build/service.yaml"
SCRAPE_SECRET = "himari-rungmp"  # nosec B105 - the name of a secret
METRICS_PORT = 9090
APIS = ("run", "aiplatform", "artifactregistry", "storage", "monitoring", "logging", "secretmanager", "billingbudgets")


@dataclass(frozen=True, kw_only=True)
class DeployConfig:
    """The server on Cloud Run."""

    service: str = "himari-rl-api"
    """Name of the service."""
    alias: str = "aliases/champion.json"
    """What it serves: an alias or a bundle's folder in the bucket."""
    account: str = "himari-server"
    """Service account it runs as: a name in the project, or a whole address. It reads the bucket, nothing else."""
    invokers: tuple[str, ...] = ()
    """Who may call it, as IAM members: serviceAccount:layer2@... Nobody else may: the service is not public."""
    cpu: int = 1
    """vCPUs of an instance; the server uses one."""
    memory: str = "512Mi"
    """Of an instance."""
    min_instances: int = 0
    """0 scales to zero, and the next request waits for a cold start. Profile steady has one at least."""
    max_instances: int = 10
    """More are not started."""
    concurrency: int = 80
    """Requests at a time in one instance."""
    timeout_s: int = 10
    """Of a request."""
    log_every: int = 1
    """One log line for every so many answers; the log-based metrics count these lines."""
    sidecar: str = "us-docker.pkg.dev/cloud-ops-agents-artifacts/cloud-run-gmp-sidecar/cloud-run-gmp-sidecar:1.2.0"
    """Managed Prometheus sidecar of profile steady."""
    attempts: int = 5
    """How often a call of the set-up of monitoring is repeated."""
    pause_s: float = 1.0
    """Before the second attempt; doubles."""
    keep_days: int = 90
    """The bucket keeps older versions of an object for so long."""

    def __post_init__(self) -> None:
        require_ranges(self, {"cpu": (1, 8), "min_instances": (0, 1000), "max_instances": (1, 1000)})
        require_ranges(self, {"concurrency": (1, 1000), "timeout_s": (1, 3600), "log_every": (0, 10**6)})
        require_ranges(self, {"attempts": (1, 100), "pause_s": (0, 600), "keep_days": (1, 3650)})


def service_document(deploy: DeployConfig, cloud: CloudConfig, monitor: MonitorConfig) -> dict[str, Any]:
    """What `gcloud run services replace` takes."""
    steady = monitor.profile == "steady"
    environment = {
        "MODEL_PATH": f"gs://{cloud.bucket}/{deploy.alias}",
        "HIMARI_ALLOW_ANONYMOUS": "1",  # Cloud Run's IAM checks who calls
        "HIMARI_LOG_EVERY": str(deploy.log_every),
        # without a CPU between requests the alias is looked at within one
        **({"HIMARI_METRICS_PORT": str(METRICS_PORT)} if steady else {"HIMARI_THROTTLED": "1"}),
    }
    server: dict[str, Any] = {
        "name": "server",
        "image": cloud.image(cloud.serving_image),
        "ports": [{"name": "http1", "containerPort": 8080}],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "resources": {"limits": {"cpu": str(deploy.cpu), "memory": deploy.memory}},
        "startupProbe": {
            "httpGet": {"path": "/ready", "port": 8080},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": 30,
        },
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 30, "timeoutSeconds": 2},
    }
    annotations = {
        "autoscaling.knative.dev/minScale": str(max(deploy.min_instances, 1) if steady else deploy.min_instances),
        "autoscaling.knative.dev/maxScale": str(deploy.max_instances),
        "run.googleapis.com/cpu-throttling": "false" if steady else "true",
        "run.googleapis.com/startup-cpu-boost": "true",
        "run.googleapis.com/execution-environment": "gen2",
    }
    inside: dict[str, Any] = {
        "containerConcurrency": deploy.concurrency,
        "timeoutSeconds": deploy.timeout_s,
        "serviceAccountName": cloud.account(deploy.account),
        "containers": [server],
    }
    if steady:
        annotations["run.googleapis.com/container-dependencies"] = json.dumps({"collector": ["server"]})
        mount = {"name": "scrape", "mountPath": "/etc/rungmp"}
        inside["containers"].append({"name": "collector", "image": deploy.sidecar, "volumeMounts": [mount]})
        secret = {"secretName": SCRAPE_SECRET, "items": [{"key": "latest", "path": "config.yaml"}]}
        inside["volumes"] = [{"name": "scrape", "secret": secret}]
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {
            "name": deploy.service,
            "labels": {"cloud.googleapis.com/location": cloud.region, "product": "himari-rl"},
            "annotations": {"run.googleapis.com/ingress": "all"},
        },
        "spec": {"template": {"metadata": {"annotations": annotations}, "spec": inside}},
    }


def service_text(deploy: DeployConfig, cloud: CloudConfig, monitor: MonitorConfig) -> str:
    """config/service.yaml."""
    import yaml

    head = (
        "# Made from config/gcp_deployment.yaml by `himari deploy --write`; a test compares them. "
        f"{UNNAMED} is filled in by\n# `himari deploy --render FILE`. "
        "Not public: Cloud Run's IAM asks every caller for an identity.\n"
    )
    return head + str(yaml.safe_dump(service_document(deploy, cloud, monitor), sort_keys=False, width=120))


def variables(deploy: DeployConfig, cloud: CloudConfig, monitor: MonitorConfig, budget: BudgetConfig) -> dict[str, Any]:
    """deploy/terraform/himari.auto.tfvars.json: all that terraform needs, but for project and billing account."""
    titles = [policy["displayName"] for policy in alerts(monitor, deploy.service)]
    watched = [signal for signal in SIGNALS if signal.alarm]
    return {
        "region": cloud.region,
        "bucket": cloud.bucket,
        "keep_days": deploy.keep_days,
        "repository": cloud.repository,
        "serving_image": cloud.serving_image,
        "trainer_account": cloud.trainer_account,
        "server_account": deploy.account,
        "scrape_secret": SCRAPE_SECRET,
        "invokers": list(deploy.invokers),
        "service": {
            "name": deploy.service,
            "alias": deploy.alias,
            "cpu": str(deploy.cpu),
            "memory": deploy.memory,
            "min_instances": deploy.min_instances,
            "max_instances": deploy.max_instances,
            "concurrency": deploy.concurrency,
            "timeout_s": deploy.timeout_s,
            "log_every": deploy.log_every,
        },
        "email": monitor.email,
        "budget_usd": budget.total_usd,
        "alerts": [
            {
                "signal": signal.key,
                "display_name": title,
                "title": signal.title,
                "query": f"({query_of(signal, monitor, deploy.service)}) {signal.alarm} {threshold(signal, monitor):g}",
                "duration": signal.lasts,
                "cure": f"{signal.cure}.",
            }
            for signal, title in zip(watched, titles, strict=True)
        ],
    }


def commands(deploy: DeployConfig, cloud: CloudConfig, monitor: MonitorConfig) -> list[tuple[str, list[str]]]:
    """What to run, in order: why, and the words of the command."""
    project = cloud.project_named() or UNNAMED
    here = f"--project={project}"
    train, serve = cloud.image(cloud.training_image), cloud.image(cloud.serving_image)
    host = f"{cloud.region}-docker.pkg.dev"
    plan: list[tuple[str, list[str]]] = [
        ("the APIs", ["gcloud", "services", "enable", *(f"{api}.googleapis.com" for api in APIS), here]),
        ("terraform's own parts", ["terraform", "-chdir=deploy/terraform", "init"]),
        (
            "bucket, registry, accounts and their rights, what the sidecar scrapes, alerts, billing budget",
            ["terraform", "-chdir=deploy/terraform", "apply", f"-var=project={project}"],
        ),
        (
            "bars, if they are not there yet",
            ["gcloud", "storage", "rsync", "data", f"gs://{cloud.bucket}/{cloud.data}"],
        ),
        ("docker may push", ["gcloud", "auth", "configure-docker", host, "--quiet"]),
        ("the training image", ["docker", "build", "-f", "vertex_training/Dockerfile", "-t", train, "."]),
        ("to the registry", ["docker", "push", train]),
        ("the server's image", ["docker", "build", "-f", "cloud_run/Dockerfile", "-t", serve, "."]),
        ("to the registry", ["docker", "push", serve]),
    ]
    region = f"--region={cloud.region}"
    plan += [
        ("the service file with the project in it", ["himari", "deploy", "--render", RENDERED]),
        ("the service", ["gcloud", "run", "services", "replace", RENDERED, region, here]),
    ]
    for member in deploy.invokers:
        who = [f"--member={member}", "--role=roles/run.invoker"]
        plan.append(
            (
                "who may call it",
                ["gcloud", "run", "services", "add-iam-policy-binding", deploy.service, *who, region, here],
            )
        )
    return [
        *plan,
        ("dashboard, alerts, log-based metrics", ["himari", "monitoring"]),
        ("what it serves, and where", ["gcloud", "run", "services", "describe", deploy.service, region, here]),
    ]
