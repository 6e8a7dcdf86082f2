"""Cloud Run jobs by the Admin API v2: a walk-forward as one task for each fold and seed.

A job's name has its launch in it, so that creating it twice is refused by Google itself; what it runs is looked for in
its list of executions before it is run, since a lost answer would pay for every task twice.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from himari_rl.cloud.config import CloudConfig
from himari_rl.cloud.jobs import CloudJob
from himari_rl.cloud.machines import LaunchConfig, RunJobConfig
from himari_rl.cloud.patience import Patience
from himari_rl.cloud.rest import ConflictingError, RestApi

HOST = "run.googleapis.com"


class RunJobs:
    """One project's Cloud Run jobs."""

    def __init__(self, cloud: CloudConfig, launch: LaunchConfig) -> None:
        self._cloud, self._project = cloud, cloud.project_or_refusal()
        self._api = RestApi(cloud, HOST, launch.call_s)

    def find(self, region: str, job: CloudJob) -> str | None:
        """The name of this launch's execution in a region; None where nothing runs or ran."""
        found = self._executions(f"{self._parent(region)}/jobs/{job.name}")
        return str(found[0]["name"]) if found else None

    def create(
        self, region: str, job: CloudJob, machine: RunJobConfig, *, tasks: int, time_out_s: int, patience: Patience
    ) -> str:
        """Makes the job and runs it. Returns the execution's name.

        Raises:
            SoldOutError, LostAnswerError, CloudError: as it was answered.
        """
        parent = f"{self._parent(region)}/jobs"
        document = job_document(job, machine, self._cloud, tasks=tasks, time_out_s=time_out_s)
        if patience.repeat(partial(self._api.call, "GET", f"v2/{parent}/{job.name}")) is None:
            try:
                self._api.call("POST", f"v2/{parent}", document, jobId=job.name)
            except ConflictingError:  # ours: an earlier answer was lost
                patience.tell(f"{job.name} is there already")
        self._api.call("POST", f"v2/{parent}/{job.name}:run", {})
        return patience.repeat(partial(self.find, region, job)) or f"{parent}/{job.name}/executions/-"

    def look(self, execution: str) -> dict[str, Any]:
        """An execution's counts as they are now."""
        if execution.endswith("/-"):  # its name was not known yet
            found = self._executions(execution.partition("/executions/")[0])
            return found[0] if found else {}
        return self._api.call("GET", f"v2/{execution}") or {}

    def page(self, execution: str) -> str:
        """Where a person sees it."""
        _, project, _, region, _, job, *_ = execution.split("/")
        return f"https://console.cloud.google.com/run/jobs/details/{region}/{job}/executions?project={project}"

    def _executions(self, job: str) -> list[dict[str, Any]]:
        return self._api.pages(f"v2/{job}/executions", "executions")

    def _parent(self, region: str) -> str:
        return f"projects/{self._project}/locations/{region}"


def job_document(
    job: CloudJob, machine: RunJobConfig, cloud: CloudConfig, *, tasks: int, time_out_s: int
) -> dict[str, Any]:
    """The job as Cloud Run's Admin API v2 takes it."""
    container = {
        "image": cloud.image(cloud.training_image),
        "command": list(job.command),
        "env": [{"name": name, "value": value} for name, value in job.environment.items()],
        "resources": {"limits": {"cpu": str(machine.cpu), "memory": machine.memory}},
    }
    template = {
        "containers": [container],
        "maxRetries": machine.retries,
        "timeout": f"{min(time_out_s, 7 * 86_400)}s",
        "serviceAccount": cloud.account(cloud.trainer_account),
        "executionEnvironment": "EXECUTION_ENVIRONMENT_GEN2",
    }
    return {
        "labels": job.labels,
        "template": {
            "labels": job.labels,
            "taskCount": tasks,
            "parallelism": min(machine.parallelism, tasks),
            "template": template,
        },
    }


def state_of_execution(said: dict[str, Any]) -> tuple[str, bool]:
    """An execution in words, and whether it is over."""
    total, counts = said.get("taskCount", 0), {n: said.get(f"{n}Count", 0) for n in ("running", "succeeded", "failed")}
    words = ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "waiting"
    over = bool(said.get("completionTime")) or (total > 0 and counts["succeeded"] + counts["failed"] >= total)
    return f"{words} of {total} tasks", over
