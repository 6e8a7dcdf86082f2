"""The container's command as processes of this machine: what a job does, without the cloud around it."""

from __future__ import annotations

import os
import subprocess  # nosec B404 - no shell
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from himari_rl.cloud.jobs import CloudJob, tasks_of
from himari_rl.cloud.machines import MachineConfig, RunJobConfig
from himari_rl.errors import ConfigError


def run_here(
    job: CloudJob,
    machine: MachineConfig | RunJobConfig,
    root: Path,
    *,
    tell: Callable[[str], None] = lambda line: None,
) -> int:
    """Runs every task of the job, as many at a time as there are cores. Returns the first exit code that is not 0.

    Args:
        root: of the repository, where the image has its copy of vertex_training/.

    Raises:
        ConfigError: the scripts are not there.
    """
    command = [sys.executable if job.command[0] == "python" else job.command[0], *job.command[1:]]
    if command[1].endswith(".py"):
        command[1] = str(root / command[1])
        if not Path(command[1]).is_file():
            raise ConfigError(f"no {command[1]}", "a copy of the repository", "run it from one")
    tasks = tasks_of(job.model, job.size, machine)
    environment = {**os.environ, **job.environment}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root / "src"), environment.get("PYTHONPATH", "")]))

    def task(index: int) -> int:
        more = {"CLOUD_RUN_TASK_INDEX": str(index), "CLOUD_RUN_TASK_COUNT": str(tasks)} if tasks > 1 else {}
        code = subprocess.run(command, env={**environment, **more}, check=False).returncode  # nosec B603
        tell(f"task {index + 1} of {tasks} ended with {code}" if tasks > 1 else f"ended with {code}")
        return code

    at_a_time = min(os.cpu_count() or 1, getattr(machine, "parallelism", 1))
    with ThreadPoolExecutor(at_a_time) as pool:
        codes = list(pool.map(task, range(tasks)))
    return next((code for code in codes if code), 0)
