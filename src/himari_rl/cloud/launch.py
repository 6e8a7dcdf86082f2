"""Begins a job in the first place that has a machine, and follows it to its end.

A place is REGION/MACHINE on Vertex AI and a region of Cloud Run. Whatever happens to a call or to this program, one
launch is one job: it is looked for by its label in every place before it is created anywhere. What a job may cost is
its time-out, which the platform keeps even if nobody is watching.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from himari_rl.cloud import vertex_jobs
from himari_rl.cloud.config import CloudConfig
from himari_rl.cloud.jobs import CloudJob, tasks_of, time_out_s
from himari_rl.cloud.machines import LaunchConfig, MachineConfig, RunJobConfig
from himari_rl.cloud.patience import Patience, SoldOutError
from himari_rl.cloud.run_jobs import RunJobs, state_of_execution
from himari_rl.cloud.vertex_jobs import VertexJobs
from himari_rl.errors import RefusedError

LINE_S = 30.0
"""Between two lines about a job whose state has not changed."""


@dataclass(frozen=True)
class Launched:
    """A job that was begun, and how it stands."""

    name: str
    """Resource name."""
    place: str
    state: str
    page: str
    """Where a person sees it."""


def launch(
    job: CloudJob,
    machine: MachineConfig | RunJobConfig,
    cloud: CloudConfig,
    how: LaunchConfig,
    *,
    follow: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> Launched:
    """Begins the job, or finds the one that this launch has begun already, and follows it.

    Args:
        follow: until its end. Without it a job that is waiting for its machine is left waiting.

    Raises:
        RefusedError: it ended badly, or every place is sold out.
        CloudError: a call was refused, or nothing answered any more.
    """
    patience = Patience(how.attempts, how.pause_s, tell)
    if isinstance(machine, RunJobConfig):
        return _as_run_job(job, machine, RunJobs(cloud, how), how, patience, follow)
    return _on_vertex(job, machine, VertexJobs(cloud, how), how, patience, follow)


def _on_vertex(
    job: CloudJob, machine: MachineConfig, jobs: VertexJobs, how: LaunchConfig, patience: Patience, follow: bool
) -> Launched:
    limit, tell = time_out_s(how.max_cost, machine, 1, how.spot), patience.tell
    for region in dict.fromkeys(place.partition("/")[0] for place in machine.places):
        if found := patience.repeat(partial(jobs.find, region, job)):
            tell(f"this launch has its job already: {found.resource_name}")
            with _sold_out_said(region, tell):
                return _followed(found, region, jobs, how, patience, follow)
    for place in machine.places:
        with _sold_out_said(place, tell):
            find = partial(jobs.find, place.partition("/")[0], job)
            create = partial(jobs.create, place, job, machine, time_out_s=limit, spot=how.spot)
            begun = patience.once(find, create)
            tell(f"{begun.resource_name}, labels {job.labels}, stops after {limit:,} s; {jobs.page(begun)}")
            return _followed(begun, place, jobs, how, patience, follow)
    raise RefusedError(
        f"no machine in {', '.join(machine.places)}",
        "one place that has one",
        "try later, --profile cpu, or more places",
    )


@contextmanager
def _sold_out_said(place: str, tell: Callable[[str], None]) -> Iterator[None]:
    """A place without a machine is said, and the next one is tried."""
    try:
        yield
    except SoldOutError as error:
        tell(f"{place} is sold out: {error}")


def _followed(
    begun: Any, place: str, jobs: VertexJobs, how: LaunchConfig, patience: Patience, follow: bool
) -> Launched:
    """The job at its end, or as it is now.

    Raises:
        SoldOutError: it waited too long for its machine, and was cancelled, or failed for want of one.
    """
    tell, started, told = patience.tell, time.monotonic(), -LINE_S
    before, running_since = "", None
    while True:
        state = patience.repeat(partial(jobs.look, begun))
        now = time.monotonic()
        if state not in vertex_jobs.PENDING and running_since is None:
            running_since = now
        if state != before or now - told >= LINE_S:
            before, told = state, now
            tell(f"{state.removeprefix('JOB_STATE_').lower()} for {now - (running_since or started):.0f} s")
        if vertex_jobs.sold_out(begun):
            raise SoldOutError(jobs.reason(begun) or f"{place} has no machine")
        if state in vertex_jobs.ENDED:
            break
        if not follow:
            return Launched(begun.resource_name, place, state, jobs.page(begun))
        if state in vertex_jobs.PENDING and now - started >= how.pending_s:
            patience.repeat(partial(jobs.cancel, begun))
            raise SoldOutError(f"{place}: no machine within {how.pending_s:g} s", "", "the job there is cancelled")
        time.sleep(how.poll_s)
    if state != vertex_jobs.DONE:
        raise RefusedError(
            f"{begun.resource_name} ended as {state.removeprefix('JOB_STATE_').lower()}: {jobs.reason(begun)}",
            "",
            f"see {jobs.page(begun)}; the same command goes on from the last checkpoint",
        )
    return Launched(begun.resource_name, place, state, jobs.page(begun))


def _as_run_job(
    job: CloudJob, machine: RunJobConfig, jobs: RunJobs, how: LaunchConfig, patience: Patience, follow: bool
) -> Launched:
    tasks, tell = tasks_of(job.model, job.size, machine), patience.tell
    limit = time_out_s(how.max_cost, machine, tasks, how.spot)
    for region in machine.regions:  # one that had no room before may have it now, and the job runs in another already
        if there := patience.repeat(partial(jobs.find, region, job)):
            tell(f"this launch has its job already: {there}")
            return _execution_followed(there, region, jobs, how, patience, follow)
    for region in machine.regions:
        with _sold_out_said(region, tell):
            create = partial(jobs.create, region, job, machine, tasks=tasks, time_out_s=limit, patience=patience)
            execution = patience.once(partial(jobs.find, region, job), create)
            tell(f"{execution}, {tasks} tasks, each stops after {limit:,} s; {jobs.page(execution)}")
            return _execution_followed(execution, region, jobs, how, patience, follow)
    raise RefusedError(f"no room in {', '.join(machine.regions)}", "one region that has it", "try later")


def _execution_followed(
    execution: str, region: str, jobs: RunJobs, how: LaunchConfig, patience: Patience, follow: bool
) -> Launched:
    before, told = "", -LINE_S
    while True:
        said = patience.repeat(partial(jobs.look, execution))
        state, over = state_of_execution(said)
        now = time.monotonic()
        if state != before or now - told >= LINE_S:
            before, told = state, now
            patience.tell(state)
        if over or not follow:
            break
        time.sleep(how.poll_s)
    if said.get("failedCount") or said.get("cancelledCount"):
        raise RefusedError(f"{execution}: {state}", "", f"see {jobs.page(execution)}; the same command goes on")
    return Launched(execution, region, state, jobs.page(execution))
