"""Custom jobs of Vertex AI (Gemini Enterprise Agent Platform), by google-cloud-aiplatform, which keeps the old name.

The library does not repeat CreateCustomJob, and a lost answer would start a second paid job: so each job is labelled
with its launch, and is looked for by that label before it is created.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from himari_rl.cloud.config import CloudConfig
from himari_rl.cloud.jobs import LAUNCH_LABEL, CloudJob
from himari_rl.cloud.machines import LaunchConfig, MachineConfig
from himari_rl.cloud.patience import LostAnswerError, SoldOutError
from himari_rl.errors import CloudError, not_installed

PENDING = ("JOB_STATE_QUEUED", "JOB_STATE_PENDING", "JOB_STATE_UNSPECIFIED")
DONE, FAILED, CANCELLED = "JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED"
GIVEN_UP = (CANCELLED, "JOB_STATE_CANCELLING")  # what waited too long for its machine goes on ending for minutes
ENDED = (DONE, FAILED, CANCELLED, "JOB_STATE_EXPIRED", "JOB_STATE_PARTIALLY_SUCCEEDED")
_RESOURCE_EXHAUSTED = 8  # google.rpc.Code
_NO_MACHINE = ("insufficient", "resource_exhausted", "stockout", "out of capacity", "exceed quota")


class VertexJobs:
    """One project's custom jobs."""

    def __init__(self, cloud: CloudConfig, launch: LaunchConfig) -> None:
        try:
            aiplatform = import_module("google.cloud.aiplatform")
        except ImportError as error:
            raise not_installed("a job on Vertex AI", error, "gcp") from error
        self._sdk, self._cloud, self._launch = aiplatform, cloud, launch
        self._project = cloud.project_or_refusal()

    def enter(self, region: str) -> None:
        """Every call from now on goes to this region."""
        more: dict[str, Any] = {}
        if self._cloud.vertex_endpoint:
            nobody = import_module("google.auth.credentials").AnonymousCredentials()
            more = {"api_endpoint": self._cloud.vertex_endpoint, "credentials": nobody}
        self._sdk.init(project=self._project, location=region, **more)

    def find(self, region: str, job: CloudJob) -> Any | None:
        """The job of this launch in a region; a second one, if ever, is cancelled."""
        self.enter(region)
        with _calling(f"list of jobs in {region}"):
            found = self._sdk.CustomJob.list(filter=f'labels.{LAUNCH_LABEL}="{job.labels[LAUNCH_LABEL]}"')
        found = [each for each in found if state_of(each) not in GIVEN_UP and not sold_out(each)]
        for surplus in found[1:]:
            self.cancel(surplus)
        return found[0] if found else None

    def create(self, place: str, job: CloudJob, machine: MachineConfig, *, time_out_s: int, spot: bool) -> Any:
        """Asks for the job once.

        Raises:
            SoldOutError, LostAnswerError, CloudError: as it was answered.
        """
        region, _, name = place.partition("/")
        self.enter(region)
        spec: dict[str, Any] = {"machine_type": name}
        if machine.accelerators:
            spec |= {"accelerator_type": machine.accelerator, "accelerator_count": machine.accelerators}
        container = {
            "image_uri": self._cloud.image(self._cloud.training_image),
            "command": list(job.command),
            "env": [{"name": name, "value": value} for name, value in job.environment.items()],
        }
        custom = self._sdk.CustomJob(
            display_name=job.name,
            worker_pool_specs=[{"machine_spec": spec, "replica_count": 1, "container_spec": container}],
            base_output_dir=job.output or f"gs://{self._cloud.bucket}/jobs/{job.name}",
            staging_bucket=f"gs://{self._cloud.bucket}",
            labels=job.labels,
        )
        more: dict[str, Any] = {}
        if spot:
            strategy = import_module("google.cloud.aiplatform_v1.types").Scheduling.Strategy
            more = {
                "scheduling_strategy": strategy.SPOT,
                "restart_job_on_worker_restart": True,
                "max_wait_duration": int(self._launch.pending_s),
            }
        with _calling(f"new job in {region}"):
            custom.submit(
                service_account=self._cloud.account(self._cloud.trainer_account),
                timeout=time_out_s,
                create_request_timeout=self._launch.call_s,
                **more,
            )
        return custom

    def look(self, custom: Any) -> str:
        """The state of a job now."""
        with _calling("look at a job"):
            custom._sync_gca_resource()
        return state_of(custom)

    def cancel(self, custom: Any) -> None:
        """Asks for a job's end."""
        with _calling("cancellation"):
            custom.cancel()

    @staticmethod
    def reason(custom: Any) -> str:
        """Why a job ended as it did; empty where it says nothing."""
        return " ".join(str(custom._gca_resource.error.message).split())

    def page(self, custom: Any) -> str:
        """Where a person sees it."""
        region, number = custom.resource_name.split("/")[3], custom.resource_name.rpartition("/")[2]
        return (
            f"https://console.cloud.google.com/vertex-ai/locations/{region}/training/{number}?project={self._project}"
        )


def state_of(custom: Any) -> str:
    """Of what the library read last."""
    return str(custom._gca_resource.state.name)


def sold_out(custom: Any) -> bool:
    """Whether a job failed since its place had no machine."""
    error = custom._gca_resource.error
    said = str(error.message).lower()
    return state_of(custom) == FAILED and (
        error.code == _RESOURCE_EXHAUSTED or any(word in said for word in _NO_MACHINE)
    )


@contextmanager
def _calling(what: str) -> Iterator[None]:
    """The client's errors as ours."""
    from google.api_core import exceptions as said

    unsure: Sequence[type[Exception]] = (
        said.ServiceUnavailable,
        said.DeadlineExceeded,
        said.GatewayTimeout,
        said.InternalServerError,
        said.Unknown,
        said.Aborted,
        said.RetryError,
    )
    try:
        yield
    except said.ResourceExhausted as error:
        raise SoldOutError(f"{what}: {_line(error)}", "", "another region, a larger quota, or a later hour") from error
    except tuple(unsure) as error:
        raise LostAnswerError(f"{what}: {_line(error)}", "", "try again") from error
    except said.GoogleAPICallError as error:
        raise CloudError(f"{what}: {_line(error)}", "", "see the project's permissions and settings") from error
    except (ValueError, RuntimeError) as error:  # what the library finds wrong before it calls
        raise CloudError(f"{what}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
