"""A training job: bars in, a policy bundle out. What `himari train`, the demo and the cloud trainers all call."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from himari_rl.agents.config import PPOConfig, of_reward
from himari_rl.agents.kinds import build
from himari_rl.config import as_dict, config_hash
from himari_rl.data.checks import require_rows
from himari_rl.data.panel import Panel
from himari_rl.data.splits import train_test
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.physics import Physics
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.bundle import Manifest, write_bundle
from himari_rl.schema import Bars, BoolArray, FloatArray
from himari_rl.storage import write_atomic
from himari_rl.training.checkpoint import load_checkpoint, save_checkpoint
from himari_rl.training.config import TrainConfig
from himari_rl.training.device import fast_products, keep_freed_memory, one_thread, resolve_device
from himari_rl.training.engine import run
from himari_rl.training.export import bundled
from himari_rl.training.preparation import fitted, prepared
from himari_rl.training.record import BUNDLE, CHECKPOINT, RECORD
from himari_rl.training.record import training_data as training_data
from himari_rl.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Job(TrainConfig):
    """One training run of one agent in one environment."""

    agent: PPOConfig = field(default_factory=PPOConfig)
    """Network and learning."""
    environment: TradingEnvConfig = field(default_factory=TradingEnvConfig)
    """Fees, limits, episode and reward."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "agent", of_reward(self.agent, self.environment.own_reward))


@dataclass(frozen=True)
class TrainingResult:
    """What a job leaves behind."""

    bundle: Path
    manifest: Manifest
    bars: int  # stepped, all seeds together
    seconds: float  # in rollouts and updates, all seeds together
    metrics: dict[str, float]  # of the last seed's last rollout


Watcher = Callable[[Trainer, int], None]  # (trainer, seed), after each rollout


@dataclass(frozen=True, kw_only=True)
class NetJob:
    """One agent to train; every random number comes from one generator made from `seed`."""

    physics: Physics
    config: PPOConfig
    rows: FloatArray  # (D, F) training rows, on which the normaliser is fitted
    total_bars: int
    seed: int
    visible: BoolArray | None = None  # (F,) which features anything may read; None is all of them
    prepare: Callable[[Trainer], None] = lambda trainer: None
    """Called once before the first rollout (a resume loads its checkpoint here)."""
    watch: Callable[[Trainer], None] = lambda trainer: None
    """Called after each rollout."""


def train_many(jobs: Sequence[NetJob]) -> list[Trainer]:
    """Trains several agents in one program, in step (engine.py); each ends in the weights that it would have alone.

    Their markets, configs and budgets may differ; those that fit are stepped together. An error in one ends them all.
    """
    keep_freed_memory()
    with fast_products(), one_thread():  # the first weights come from a decomposition: products too
        trainers = [_begun(job) for job in jobs]
        run([trainer.training() for trainer in trainers])
    return trainers


def _begun(job: NetJob) -> Trainer:
    device, rows = job.physics.device, job.rows
    agent = build(job.config, torch.Generator().manual_seed(job.seed)).to(device)
    visible = np.ones(rows.shape[1], bool) if job.visible is None else job.visible
    agent.normaliser.fit(rows, visible, job.config.account_inputs)
    generator = torch.Generator(device).manual_seed(job.seed)
    trainer = Trainer(agent, job.physics, job.total_bars, generator, job.watch)
    job.prepare(trainer)
    return trainer


def train_agent(
    physics: Physics,
    config: PPOConfig,
    rows: FloatArray,
    total_bars: int,
    seed: int,
    *,
    visible: BoolArray | None = None,
    prepare: Callable[[Trainer], None] = lambda trainer: None,
    watch: Callable[[Trainer], None] = lambda trainer: None,
) -> Trainer:
    """`train_many` of one agent."""
    (trainer,) = train_many(
        [
            NetJob(
                physics=physics,
                config=config,
                rows=rows,
                total_bars=total_bars,
                seed=seed,
                visible=visible,
                prepare=prepare,
                watch=watch,
            )
        ]
    )
    return trainer


def run_job(
    job: Job,
    bars: Bars | Panel,
    out: Path,
    *,
    resume: bool = False,
    watch: Watcher = lambda trainer, seed: None,
    said: Mapping[str, Any] | None = None,
    others: Sequence[Bars] = (),
) -> TrainingResult:
    """Trains on the first part of `bars`, of one symbol or a panel, and writes `out`/bundle.

    Args:
        others: other symbols, whose rows up to the end of training are evidence for the beliefs too.
        said: what the data says of itself and what of it was accepted (data/facts.py), for the run's record.

    Raises:
        DataError: too few bars for one episode.
        StorageError: `out` cannot be written, or a checkpoint does not belong to this job.
        CollapseError: the policy degenerated; nothing is exported.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after each seed's rollout at hand and its checkpoint.
    """
    train = trainable(job, bars)
    device = resolve_device(job.device)
    encoder = StateEncoder.of(bars)
    rows, physics, beliefs = prepared([train], job.agent, job.environment, others=others, device=device)
    agent = fitted(job.agent, encoder, beliefs)
    data = training_data(train)
    total_bars = job.num_episodes * job.environment.episode_bars
    jobs = []
    with interrupt_between_rollouts() as interrupted:
        for seed in job.seeds:
            path = out / CHECKPOINT.format(seed=seed)

            def prepare(trainer: Trainer, path: Path = path) -> None:
                if resume and path.exists():
                    load_checkpoint(path, trainer, data["sha256"])
                # not before: a refused resume leaves the run as it was
                _start_record(out, job, data, encoder.symbols, said or {})

            def after_rollout(trainer: Trainer, path: Path = path, seed: int = seed) -> None:
                every = max(1, job.save_interval * job.environment.episode_bars // _bars_per_rollout(trainer))
                stop = interrupted()
                if stop or trainer.state.rollout % every == 0 or trainer.state.rollout == trainer.rollouts:
                    save_checkpoint(path, trainer, data["sha256"])
                watch(trainer, seed)
                trainer.paused = stop  # the others too, each after its own rollout and checkpoint

            jobs.append(
                NetJob(
                    physics=physics,
                    config=agent,
                    rows=rows,
                    total_bars=total_bars,
                    seed=seed,
                    prepare=prepare,
                    watch=after_rollout,
                )
            )
        trainers = train_many(jobs)
    stepped, seconds = sum(t.state.bars for t in trainers), sum(t.seconds for t in trainers)
    asked = total_bars * len(job.seeds)
    run: dict[str, Any] = {"num_episodes": job.num_episodes, "bars_asked": asked, "bars": stepped, "device": device}
    run |= {"accepted": said["accepted"]} if said and said["accepted"] else {}
    run |= {"beliefs_from": [other.symbol for other in others]} if beliefs is not None and others else {}
    agents = [trainer.agent for trainer in trainers]
    times = train.timestamp[: len(rows)]
    made = bundled(agents, job.seeds, encoder, job.environment, data, rows, run, beliefs, drift=times)
    manifest = write_bundle(out / BUNDLE, *made)
    return TrainingResult(out / BUNDLE, manifest, stepped, seconds, trainers[-1].state.metrics)


@contextmanager
def interrupt_between_rollouts() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM wait for the end of the rollout at hand, where the run's state is whole; a second does not.

    Yields a function that says whether one came. Another program's handler is never replaced, and outside the
    main thread there is none to set.
    """
    pressed = False

    def on_interrupt(number: int, frame: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        ordinary = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        before = {number: handler for number, handler in ordinary.items() if signal.getsignal(number) is handler}
    for number in before:
        signal.signal(number, on_interrupt)
    try:
        yield lambda: pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if pressed:
        raise KeyboardInterrupt


def trainable(job: Job, bars: Bars | Panel) -> Bars | Panel:
    """What a job learns from: all but the last part, and long enough for one episode.

    Raises:
        DataError: too few bars.
    """
    require_rows(bars, job.environment.episode_bars + 3, "train one episode")
    train = training_part(bars, job.test_fraction)
    require_rows(train, job.environment.episode_bars + 3, "train one episode")
    return train


def training_part(history: Bars | Panel, test_fraction: float) -> Bars | Panel:
    """What a job may learn from: all but the last part."""
    if isinstance(history, Panel):
        return train_test(history, test_fraction)[0]
    return train_test(history, test_fraction)[0]


def _bars_per_rollout(trainer: Trainer) -> int:
    return trainer.agent.config.num_envs * trainer.agent.config.num_steps


def _start_record(out: Path, job: Job, data: dict[str, Any], symbols: Sequence[str], facts: Mapping[str, Any]) -> None:
    """Writes what is about to be trained: an unwritable folder stops the job before it costs anything."""
    said = {"job": as_dict(job), "hash": config_hash(job), "symbols": list(symbols), "data": data, **facts}
    write_atomic(out / RECORD, (json.dumps(said, indent=2) + "\n").encode())
