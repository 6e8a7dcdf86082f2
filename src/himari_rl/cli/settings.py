"""Which command has which sections: the one table from a command to the dataclasses that configure it.

A section is loaded where it is asked for, so that `himari --help` reads none and `himari config show gate` no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module

from himari_rl.config import Given, Resolved, from_assignments, from_environment, from_yaml, resolve, settings_of
from himari_rl.errors import ConfigError

KINDS = ("base", "lstm", "multi")
SECTIONS = {
    "data": "himari_rl.data.config:DataConfig",
    "agent": "himari_rl.agents.config:PPOConfig",
    "environment": "himari_rl.envs.config:TradingEnvConfig",
    "train": "himari_rl.training.config:TrainConfig",
    "walk_forward": "himari_rl.experiments.config:WalkForwardConfig",
    "tune": "himari_rl.experiments.config:TuneConfig",
    "certify": "himari_rl.certification.config:CertifyConfig",
    "evaluate": "himari_rl.experiments.config:EvaluateConfig",
    "gate": "himari_rl.release.rules:GateRules",
    "serve": "himari_rl.serving.settings:ServeSettings",
    "run": "himari_rl.runner.config:RunConfig",
    "portfolio": "himari_rl.runner.config:PortfolioConfig",
    "risk": "himari_rl.policy.risk:RiskLimits",
    "halt": "himari_rl.runner.config:HaltConfig",
    "ab": "himari_rl.runner.config:AbConfig",
    "cloud": "himari_rl.cloud.config:CloudConfig",
    "launch": "himari_rl.cloud.machines:LaunchConfig",
    "machines": "himari_rl.cloud.machines:MachinesConfig",
    "estimate": "himari_rl.cloud.machines:EstimateConfig",
    "deploy": "himari_rl.cloud.deploy:DeployConfig",
    "monitoring": "himari_rl.cloud.signals:MonitorConfig",
    "budget": "himari_rl.cloud.machines:BudgetConfig",
}
COMMANDS = {
    "train": ("train", "data", "agent", "environment", "budget"),
    "walk-forward": ("walk_forward", "data", "agent", "environment", "gate", "budget"),
    "evaluate": ("evaluate", "data"),
    "register": ("walk_forward", "agent", "environment", "evaluate", "gate"),
    "tune": ("tune", "data", "agent", "environment"),
    "certify": ("certify", "agent", "budget"),
    "gate": ("gate",),
    "serve": ("serve",),
    "run": ("run", "portfolio", "risk", "halt", "ab"),
    "ab": ("ab",),
    "cloud-train": ("cloud", "train", "data", "agent", "environment", "evaluate", "gate", "budget"),  # vertex_training/
    "launch": ("cloud", "launch", "machines", "estimate", "budget"),
    "cost": ("cloud", "launch", "machines", "estimate", "budget"),
    "deploy": ("cloud", "deploy", "monitoring", "budget"),
    "monitoring": ("cloud", "deploy", "monitoring"),
}


def section_type(section: str, kind: str = KINDS[0]) -> type:
    """The dataclass of a section; an agent's depends on its kind.

    Raises:
        ConfigError: no such kind.
    """
    if section == "agent":
        from himari_rl.agents.config import config_type

        return config_type(kind)
    module, _, name = SECTIONS[section].partition(":")
    found: type = getattr(import_module(module), name)
    return found


def sections_of(command: str, kind: str = KINDS[0]) -> dict[str, type]:
    """The sections of a command, each with its dataclass.

    Raises:
        ConfigError: no such command or kind.
    """
    if command not in COMMANDS:
        raise ConfigError(f"command {command!r}", f"one of {', '.join(COMMANDS)}")
    return {section: section_type(section, kind) for section in COMMANDS[command]}


@cache
def every_key() -> frozenset[str]:
    """Every key of every command and kind."""
    types = [(section, section_type(section, kind)) for section in SECTIONS for kind in KINDS]
    return frozenset(setting.key for section, made in types for setting in settings_of(made, section))


def resolved(
    command: str,
    kind: str = KINDS[0],
    file: str | None = None,
    assignments: Sequence[str] = (),
    options: Iterable[Given] = (),
    rules: str | None = None,
) -> Resolved:
    """A command's sections: default < rules file < `--config` < HIMARI_* < `--set` < plain option.

    Args:
        rules: the gate's own file; without it config/gates.yaml, where there is one.

    Raises:
        ConfigError: a key or a value that cannot be. StorageError: a file that cannot be read.
    """
    sections = sections_of(command, kind)
    given: list[Given] = []
    if "gate" in sections:
        from himari_rl.release.rules import rules_given

        given += rules_given(rules)
    if file is not None:
        from himari_rl.storage import name_of, read_bytes

        given += from_yaml(read_bytes(file), name_of(file))
    for section in sections.keys() & {"serve", "run"}:
        given += from_environment(sections[section], section, os.environ)
    given += from_assignments(assignments)
    given += options
    user = f"himari {command}" + (f" {kind}" if "agent" in sections else "")
    return resolve(sections, given, known=every_key, user=user)
