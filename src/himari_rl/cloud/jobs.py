"""What is launched: a container's command, what it may cost, and how long it will take. Nothing here asks a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from himari_rl.cloud.config import CloudConfig, label
from himari_rl.cloud.machines import EstimateConfig, MachineConfig, RunJobConfig
from himari_rl.cloud.meter import LAUNCH

MODELS = ("base", "lstm", "multi", "walk-forward", "certify")
SCRIPTS = {"base": "trainer.py", "lstm": "trainer_lstm.py", "multi": "trainer_multiasset.py"}
COSTS = "HIMARI_COSTS"
"""Environment variable: the cost ledger of a command that has no bucket in its settings."""
TRIALS = "HIMARI_TRIALS"
LAUNCH_LABEL = "himari_launch"  # underscores: a dash in a key would need care in a filter
USUAL_EPISODES, USUAL_SEEDS, USUAL_FOLDS = 1000, 5, 48


@dataclass(frozen=True, kw_only=True)
class WorkSize:
    """How much work a job is, beside the card's command."""

    episodes: int = USUAL_EPISODES
    seeds: int = USUAL_SEEDS
    folds: int = 1

    @property
    def pieces(self) -> int:
        """Folds times seeds: what a walk-forward is shared out by."""
        return self.folds * self.seeds


@dataclass(frozen=True, kw_only=True)
class CloudJob:
    """A command of the training image, with everything that makes it one job."""

    model: str
    """One of MODELS."""
    kind: str
    """Of the policy."""
    command: tuple[str, ...]
    """Of the container, in the repository's folder."""
    output: str
    """Folder that it writes, in the bucket; empty where it writes none."""
    size: WorkSize
    launch: str
    """Unlike every other launch's: a lost answer is recognised by it."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the job, fit for a resource's name."""
        return f"himari-{self.model}-{self.launch}"

    @property
    def labels(self) -> dict[str, str]:
        """What it is found by, and billed by."""
        return {LAUNCH_LABEL: label(self.launch), "himari_model": self.model, "himari_kind": self.kind}


@dataclass(frozen=True, kw_only=True)
class JobEstimate:
    """What a job will take on a profile, before it has begun."""

    profile: str
    machine: str
    usd_per_hour: float
    """Of one task."""
    tasks: int
    minutes: float
    """From the machine's start to the end, on the wall."""
    usd: float
    """All tasks."""


def estimated(
    job_model: str,
    size: WorkSize,
    profile: str,
    machine: MachineConfig | RunJobConfig,
    known: EstimateConfig,
    spot: bool,
) -> JobEstimate:
    """The card's command as it was measured, scaled by episodes, seeds and folds."""
    tasks = tasks_of(job_model, size, machine)
    work_s = known.seconds(job_model) * size.episodes / USUAL_EPISODES / machine.speed
    if job_model == "walk-forward":
        work_s *= size.pieces
    elif job_model != "certify":
        work_s *= size.seeds / USUAL_SEEDS
    task_s = machine.start_s + work_s / tasks
    waves = math.ceil(tasks / machine.parallelism) if isinstance(machine, RunJobConfig) else 1
    price = machine.price(spot)
    return JobEstimate(
        profile=profile,
        machine=machine.describe(),
        usd_per_hour=price,
        tasks=tasks,
        minutes=waves * task_s / 60,
        usd=tasks * task_s * price / 3600,
    )


def tasks_of(model: str, size: WorkSize, machine: MachineConfig | RunJobConfig) -> int:
    """How many processes a job is: a walk-forward as a Cloud Run job one for each fold and seed, all else one."""
    if not isinstance(machine, RunJobConfig) or model != "walk-forward":
        return 1
    return min(machine.tasks or size.pieces, 10_000)


def time_out_s(max_cost: float, machine: MachineConfig | RunJobConfig, tasks: int, spot: bool) -> int:
    """Seconds after which the platform stops a task: all tasks and all their attempts cost max_cost at most."""
    attempts = 1 + machine.retries if isinstance(machine, RunJobConfig) else 1
    price = machine.price(spot)
    return max(1, int(3600 * max_cost / (price * tasks * attempts))) if price else 7 * 86_400


def own_limit(share: float, machine: MachineConfig | RunJobConfig, start_s: float, spot: bool) -> float:
    """US dollars at which a task stops by itself: before the platform does, which counts from the container's start."""
    return max(share - machine.price(spot) * start_s / 3600, share / 2)


def command_of(model: str, kind: str, words: Sequence[str]) -> tuple[str, ...]:
    """The container's command: the card's script, or himari itself."""
    if model in SCRIPTS:
        return ("python", f"vertex_training/{SCRIPTS[model]}", *words)
    return ("python", "-m", "himari_rl", model, kind, *words)


def places_in(cloud: CloudConfig, bucket: str, launch: str) -> dict[str, str]:
    """What a job must know that no argument says."""
    known = {LAUNCH: launch}
    if bucket:
        known |= {COSTS: f"gs://{bucket}/{cloud.costs}", TRIALS: f"gs://{bucket}/{cloud.trials}"}
    return known
