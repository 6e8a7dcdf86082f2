"""Training as anybody asks for it: a job's bundle, and its span in the trial ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from himari_rl.agents.config import PPOConfig, config_type
from himari_rl.data.panel import Panel
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.experiments.arguments import require_bars, settings_from
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.schema import Bars
from himari_rl.training.config import TrainConfig
from himari_rl.training.job import Job, TrainingResult, Watcher, run_job, training_part
from himari_rl.trials.ledger import Trials, span_of


def no_watch(trainer: object, seed: int) -> None:
    """Watches nothing."""


def train(
    bars: Bars | Panel,
    kind: str = "base",
    *,
    out: str | Path = "runs/train",
    agent: PPOConfig | None = None,
    environment: TradingEnvConfig | None = None,
    resume: bool = False,
    watch: Watcher = no_watch,
    **settings: Any,
) -> Policy:
    """Trains a policy on the first part of `bars` and writes `out`/bundle; what `himari train` does, same defaults.

    Args:
        kind: base, lstm, or multi with a panel.
        agent: network and learning; the kind's defaults if not given.
        environment: fees, limits, episode and reward.
        resume: goes on from the checkpoints in `out`.
        settings: fields of TrainConfig: num_episodes, seeds (how many, or which), test_fraction, save_interval, device.

    Raises:
        DataError: too few bars. ConfigError: a setting that does not exist. StorageError: `out` cannot be written.
        CollapseError: the policy degenerated.

    >>> from himari_rl.data.synthetic import synthetic_bars
    >>> small = PPOConfig(num_envs=20, hidden_dim=8, minibatch=500)
    >>> policy = train(synthetic_bars(1000, 0), out="train", agent=small, num_episodes=2, seeds=1)
    >>> policy.manifest.symbols
    ('BTC-SYNTHETIC',)
    """
    require_bars(bars, "train(bars, ...)")
    job = Job(
        agent=config_type(kind)() if agent is None else agent,
        environment=environment or TradingEnvConfig(),
        **vars(settings_from(TrainConfig, settings)),
    )
    return load_policy(recorded_job(job, bars, Path(out), resume=resume, watch=watch).bundle)


def recorded_job(
    job: Job, bars: Bars | Panel, out: Path, *, resume: bool = False, watch: Watcher = no_watch
) -> TrainingResult:
    """`run_job`, and its training span in the trial ledger: recorded, not counted as a look."""
    trained = run_job(job, bars, out, resume=resume, watch=watch)
    with Trials() as ledger:
        ledger.trained(*span_of(training_part(bars, job.test_fraction)), trained.manifest.version)
    return trained
