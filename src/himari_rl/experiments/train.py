"""Training as anybody asks for it: a job's bundle, and its span in the trial ledger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from himari_rl.agents.config import PPOConfig, config_type
from himari_rl.config import config_hash
from himari_rl.data.facts import recorded
from himari_rl.data.panel import Panel
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.errors import BundleError, StorageError
from himari_rl.experiments.arguments import accepted_facts, require_bars, settings_from
from himari_rl.experiments.recipe import budget_line
from himari_rl.experiments.run_folder import (
    TRAINING,
    RunIdentity,
    Tell,
    claimed,
    nothing_said,
    require_ledger,
    require_one,
)
from himari_rl.features.own import with_features
from himari_rl.policy.bundle import read_manifest
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.schema import Bars
from himari_rl.storage import join
from himari_rl.storage.mirror import workplace
from himari_rl.training.config import TrainConfig
from himari_rl.training.job import Job, TrainingResult, Watcher, run_job, trainable
from himari_rl.training.record import BUNDLE
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
    overwrite: bool = False,
    watch: Watcher = no_watch,
    accept: Sequence[str] = (),
    beliefs_from: Sequence[Bars] = (),
    features: Sequence[str] = (),
    **settings: Any,
) -> Policy:
    """Trains a policy on the first part of `bars` and writes `out`/bundle; what `himari train` does, same defaults.

    A finished run of the same settings and bars in `out` is not trained again: its policy is what comes back.

    Args:
        kind: base, lstm, or multi with a panel.
        agent: network and learning; the kind's defaults if not given.
        environment: fees, limits, episode and reward.
        resume: goes on from the checkpoints in `out`.
        overwrite: sets a run that is in `out` aside, renamed with the date; without it another run there is refused.
        accept: findings of `himari data audit` to go on with, by name; recorded with the run.
        beliefs_from: bars of other symbols, evidence for the beliefs beside the policy's own.
        features: columns of the data that the policy sees too, in this order (features/own.py).
        settings: fields of TrainConfig: num_episodes, seeds (how many, or which), test_fraction, save_interval, device.

    Raises:
        DataError: too few bars, or a finding not accepted. ConfigError: a setting that does not exist.
        StorageError: `out` holds another run, or cannot be written.
        CollapseError: the policy degenerated.

    >>> from himari_rl.data.synthetic import synthetic_bars
    >>> small = PPOConfig(num_envs=20, hidden_dim=8, minibatch=500)
    >>> policy = train(synthetic_bars(1000, 0), out="train", agent=small, num_episodes=2, seeds=1)
    >>> policy.manifest.symbols
    ('BTC-SYNTHETIC',)
    """
    require_bars(bars, "train(bars, ...)")
    if features:
        bars = with_features(bars, features)
    job = Job(
        agent=config_type(kind)() if agent is None else agent,
        environment=environment or TradingEnvConfig(),
        **vars(settings_from(TrainConfig, settings)),
    )
    options: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "watch": watch, "accept": accept}
    options["beliefs_from"] = beliefs_from
    with workplace(out) as folder:
        recorded_job(job, bars, folder, **options)
    return load_policy(join(out, BUNDLE))


def recorded_job(
    job: Job,
    bars: Bars | Panel,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    watch: Watcher = no_watch,
    accept: Sequence[str] = (),
    tell: Tell = nothing_said,
    beliefs_from: Sequence[Bars] = (),
) -> TrainingResult:
    """`run_job` on data with nothing refused, in a folder of its own; its training span is recorded in the trial
    ledger, not counted as a look.

    Args:
        tell: called with each line that a person must know before the training starts.

    Raises:
        StorageError: another run is in `out`, or one of the same settings that has not ended (--resume goes on).
    """
    require_one(resume, overwrite)
    said = recorded(accepted_facts(bars, accept), accept)
    train = trainable(job, bars)
    this = identity_of(job, train, beliefs_from)
    require_ledger()
    same = "a finished run is not trained again, --resume continues one that was cut off"
    with claimed(out, this, same=same, overwrite=overwrite, resume=resume, tell=tell) as there:
        if there is not None and not resume:
            return _finished(job, out, train.fingerprint, tell)
        tell(budget_line(job.agent, job.num_episodes, job.environment.episode_bars))
        trained = run_job(job, bars, out, resume=resume, watch=watch, said=said, others=beliefs_from)
        with Trials() as ledger:
            ledger.trained(*span_of(train), trained.manifest.version)
    return trained


def identity_of(job: Job, train: Bars | Panel, beliefs_from: Sequence[Bars] = ()) -> RunIdentity:
    """What makes two trainings the same run: the settings, the training bars, their symbols, and other evidence."""
    data = [train.fingerprint, ",".join(train.symbols), *(other.fingerprint for other in beliefs_from)]
    return RunIdentity(TRAINING, config_hash(job), " ".join(data))


def _finished(job: Job, out: Path, fingerprint: str, tell: Tell) -> TrainingResult:
    """The result of a run that is done already; nothing is trained.

    Raises:
        StorageError: it did not come to its end.
    """
    try:
        manifest = read_manifest(out / BUNDLE)
    except (BundleError, StorageError):
        manifest = None
    if manifest is None or (manifest.training_data.sha256, manifest.seeds) != (fingerprint, job.seeds):
        raise StorageError(
            f"{out} holds a run of these settings and bars that has not ended",
            "a finished one, or a new folder",
            "--resume continues it, --overwrite sets it aside and begins anew",
        )
    tell(
        f"already trained with these settings and bars ({manifest.created_at}, {manifest.code_version}): nothing to "
        "do; --overwrite sets it aside and trains again"
    )
    run = manifest.config.get("run")
    bars = run.get("bars", 0) if isinstance(run, dict) else 0
    return TrainingResult(out / BUNDLE, manifest, int(bars) if isinstance(bars, int) else 0, 0.0, {})
