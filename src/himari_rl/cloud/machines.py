"""What a training job runs on and what that costs: the profiles of config/gcp_deployment.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from himari_rl.config import require_ranges
from himari_rl.errors import ConfigError

PROFILES = ("t4", "l4", "cpu", "run-job")


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """A Vertex AI machine and its price."""

    places: tuple[str, ...] = ("us-central1/n1-standard-4",)
    """REGION/MACHINE, tried in turn when one is sold out."""
    accelerator: str = ""
    """Of Vertex AI's accelerator types; empty: none."""
    accelerators: int = 0
    """How many of them."""
    usd_per_hour: float = 1.0
    """List price in us-central1, everything in it; others may cost more, and the time-out counts with this."""
    spot_usd_per_hour: float = 1.0
    """The same as a spot machine, which may be taken away at any time."""
    speed: float = 1.0
    """Training speed as a multiple of the machine's that the estimates were measured on."""
    start_s: float = 180.0
    """Seconds of a job that are paid for before training begins: container and imports."""

    def __post_init__(self) -> None:
        require_ranges(
            self, {"usd_per_hour": (0, 1e4), "spot_usd_per_hour": (0, 1e4), "speed": (1e-3, 1e3), "start_s": (0, 1e5)}
        )
        if not self.places or any(len(place.split("/")) != 2 for place in self.places):
            raise ConfigError(f"places {', '.join(self.places)}", "REGION/MACHINE, one or more")
        if bool(self.accelerator) != bool(self.accelerators):
            raise ConfigError(f"{self.accelerators} accelerators of type {self.accelerator!r}", "both or none")

    def price(self, spot: bool = False) -> float:
        """US dollars an hour."""
        return self.spot_usd_per_hour if spot else self.usd_per_hour

    def describe(self) -> str:
        """The machine in a few words."""
        machine = self.places[0].partition("/")[2]
        return f"{machine} + {self.accelerators} {self.accelerator}" if self.accelerators else machine


@dataclass(frozen=True, kw_only=True)
class T4Config(MachineConfig):
    """The card's machine."""

    places: tuple[str, ...] = ("us-central1/n1-standard-4", "us-east1/n1-standard-4", "europe-west4/n1-standard-4")
    """REGION/MACHINE, tried in turn when one is sold out. T4 exists with N1 machines alone."""
    accelerator: str = "NVIDIA_TESLA_T4"
    """Of Vertex AI's accelerator types."""
    accelerators: int = 1
    """How many of them."""
    usd_per_hour: float = 0.621
    """List price in us-central1: .2185 the machine, .4025 the T4."""
    spot_usd_per_hour: float = 0.25
    """The same as a spot machine; moves from month to month."""


@dataclass(frozen=True, kw_only=True)
class L4Config(MachineConfig):
    """The newer, dearer and easier to get GPU."""

    places: tuple[str, ...] = ("us-central1/g2-standard-4", "us-east4/g2-standard-4", "europe-west4/g2-standard-4")
    """REGION/MACHINE, tried in turn when one is sold out."""
    accelerator: str = "NVIDIA_L4"
    """Of Vertex AI's accelerator types."""
    accelerators: int = 1
    """How many of them."""
    usd_per_hour: float = 0.813
    """List price in us-central1, L4 in it."""
    spot_usd_per_hour: float = 0.33
    """The same as a spot machine; moves from month to month."""


@dataclass(frozen=True, kw_only=True)
class CpuConfig(MachineConfig):
    """No GPU: what these small nets need."""

    places: tuple[str, ...] = ("us-central1/e2-standard-4", "us-east1/e2-standard-4", "europe-west4/e2-standard-4")
    """REGION/MACHINE, tried in turn when one is sold out."""
    usd_per_hour: float = 0.154
    """List price in us-central1."""
    spot_usd_per_hour: float = 0.062
    """The same as a spot machine; moves from month to month."""


@dataclass(frozen=True, kw_only=True)
class RunJobConfig:
    """A Cloud Run job: tasks of one process each, begun in seconds, in parallel."""

    regions: tuple[str, ...] = ("us-central1", "us-east1", "europe-west4")
    """Tried in turn."""
    cpu: int = 1
    """vCPUs of a task."""
    memory: str = "2Gi"
    """Memory of a task."""
    tasks: int = 0
    """How many a walk-forward is shared out to; 0: one for each fold and seed. Everything else is one task."""
    parallelism: int = 50
    """Tasks at a time."""
    retries: int = 3
    """How often a task that failed is begun again; it goes on from what is in the bucket."""
    usd_per_vcpu_s: float = 0.000018
    """List price of a vCPU-second."""
    usd_per_gib_s: float = 0.000002
    """List price of a GiB-second."""
    speed: float = 1.0
    """Training speed as a multiple of the machine's that the estimates were measured on."""
    start_s: float = 20.0
    """Seconds of a task that are paid for before training begins: container and imports."""

    def __post_init__(self) -> None:
        ranges = {"cpu": (1, 8), "tasks": (0, 10_000), "parallelism": (1, 10_000), "retries": (0, 10)}
        require_ranges(self, {**ranges, "speed": (1e-3, 1e3), "start_s": (0, 1e5)})
        if not self.memory.endswith("Gi") or not self.memory[:-2].isdigit():
            raise ConfigError(f"run_job.memory {self.memory}", "whole GiB", "for example 2Gi")
        if not self.regions:
            raise ConfigError("run_job.regions is empty", "one or more")

    def price(self, spot: bool = False) -> float:
        """US dollars an hour of one task."""
        return 3600 * (self.cpu * self.usd_per_vcpu_s + int(self.memory[:-2]) * self.usd_per_gib_s)

    def describe(self) -> str:
        """The machine in a few words."""
        return f"{self.cpu} vCPU, {self.memory} a task"


@dataclass(frozen=True, kw_only=True)
class MachinesConfig:
    """The profiles, and where their prices come from."""

    price_date: str = "2026-09"
    """Month of the prices. They change: compare with the first bill."""
    price_source: str = "us-central1: cloud.google.com/run/pricing; N1, T4 as others quote; L4, E2, spot remembered"
    """Where the prices come from."""
    t4: T4Config = field(default_factory=T4Config)
    """The card's machine."""
    l4: L4Config = field(default_factory=L4Config)
    """A newer GPU."""
    cpu: CpuConfig = field(default_factory=CpuConfig)
    """No GPU."""
    run_job: RunJobConfig = field(default_factory=RunJobConfig)
    """A Cloud Run job."""

    def profile(self, name: str) -> MachineConfig | RunJobConfig:
        """The machine of a profile's name.

        Raises:
            ConfigError: there is none.
        """
        if name not in PROFILES:
            raise ConfigError(f"profile {name!r}", f"one of {', '.join(PROFILES)}")
        found: MachineConfig | RunJobConfig = getattr(self, name.replace("-", "_"))
        return found


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """How a job is begun and followed."""

    profile: Literal["t4", "l4", "cpu", "run-job"] = "t4"
    """What it runs on, of the section machines."""
    spot: bool = False
    """On machines that may be taken away: cheaper, and the job goes on from its last checkpoint."""
    max_cost: float = 5.0
    """US dollars that one launch may cost at most: the job's time-out, and its own stop with a checkpoint."""
    attempts: int = 6
    """How often a place is asked, before the next one is."""
    pause_s: float = 2.0
    """Before the second attempt; doubles from one to the next, up to 30 s."""
    call_s: float = 60.0
    """Deadline of one call."""
    pending_s: float = 900.0
    """A job that has not begun to run by then is cancelled, and the next place is tried."""
    poll_s: float = 10.0
    """Between two looks at a job that is followed."""

    def __post_init__(self) -> None:
        require_ranges(
            self, {"max_cost": (1e-9, 1e6), "attempts": (1, 100), "pause_s": (0, 600), "call_s": (0.01, 3600)}
        )
        require_ranges(self, {"pending_s": (0, 1e6), "poll_s": (0.001, 3600)})


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """What was planned to be spent, and what this run may."""

    max_cost: float = float("inf")
    """US dollars after which a run stops by itself, with a checkpoint that the same command goes on from."""
    usd_per_hour: float = 0.0
    """Price of the machine that a run is on; 0: nobody pays, nothing is metered."""
    total_usd: float = 400.0
    """All that the plan grants."""
    base_usd: float = 30.0
    """Planned for the base policy."""
    lstm_usd: float = 40.0
    """Planned for the recurrent policy."""
    multi_usd: float = 60.0
    """Planned for the portfolio policy."""

    def __post_init__(self) -> None:
        require_ranges(self, {"max_cost": (1e-9, float("inf")), "usd_per_hour": (0, 1e4), "total_usd": (0, 1e9)})

    def planned(self, model: str) -> float | None:
        """Of the card, for a model; None where it has no plan."""
        return {"base": self.base_usd, "lstm": self.lstm_usd, "multi": self.multi_usd}.get(model)


@dataclass(frozen=True, kw_only=True)
class EstimateConfig:
    """How long the card's commands took where they were measured: 1000 episodes, five seeds, bars of 2018 to 2025."""

    base_s: float = 25.0
    """Of trainer.py, from start to the gate's verdict."""
    lstm_s: float = 80.0
    """Of trainer_lstm.py."""
    multi_s: float = 120.0
    """Of trainer_multiasset.py."""
    fold_s: float = 5.0
    """Of one fold and seed of a walk-forward of the base policy."""
    certify_s: float = 600.0
    """Of `himari certify base`."""
    measured: str = "2026-11-28, CPU seconds of one core: base measured, the others scaled"
    """When and on what."""

    def __post_init__(self) -> None:
        require_ranges(self, dict.fromkeys(("base_s", "lstm_s", "multi_s", "fold_s", "certify_s"), (0.0, 1e7)))

    def seconds(self, model: str) -> float:
        """Of a model's whole command, or of a walk-forward's fold and seed."""
        found: float = getattr(self, f"{'fold' if model == 'walk-forward' else model}_s")
        return found
