"""Folds and seeds: training rows in, one file's bytes out for each. What a walk-forward fans out.

A task holds the training rows and nothing else, so neither the policy nor its normaliser can have seen a test row.
What is asked and what is found, a file, are in fold_files.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from himari_rl.agents.config import PPOConfig
from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.data.panel import Panel
from himari_rl.data.surrogates import bootstrapped, driftless
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.physics import Market, Physics
from himari_rl.errors import ConfigError
from himari_rl.experiments.fold_files import FoldTask, TrainedFold, packed
from himari_rl.experiments.recipe import Recipe
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.beliefs import Beliefs, moments
from himari_rl.policy.bundle import read_bundle
from himari_rl.policy.clock import decisions_of
from himari_rl.schema import Bars, FloatArray
from himari_rl.training.device import one_thread
from himari_rl.training.export import export
from himari_rl.training.job import NetJob, train_many
from himari_rl.training.preparation import fitted, prepared
from himari_rl.training.record import training_data
from himari_rl.training.rollout import unroll
from himari_rl.training.trainer import Trainer

MEASURED_ACCOUNTS, MEASURED_BARS = 64, 50  # of the objective on training or validation rows
PATIENCE_ROLLOUTS = 2  # between two looks at the validation slice


class EarlyStopping:
    """Keeps the weights that do best on a validation slice; watches a run and gives them back at its end.

    Args:
        judge: the slice's physics; None watches nothing and changes nothing.
    """

    def __init__(self, judge: Physics | None) -> None:
        self.judge = judge
        self.gain = -np.inf
        self.weights: list[torch.Tensor] = []

    def __call__(self, trainer: Trainer) -> None:
        if self.judge is None or trainer.state.rollout % PATIENCE_ROLLOUTS:
            return
        gain = mean_gain(trainer.agent, self.judge)
        if gain > self.gain:
            self.gain, self.weights = gain, [p.detach().clone() for p in trainer.agent.actor_parameters()]

    @torch.no_grad()
    def restore(self, agent: PPOAgent) -> None:
        """Puts the best weights back, unless the last ones are at least as good."""
        if self.judge is None or self.gain <= mean_gain(agent, self.judge):
            return
        for parameter, value in zip(agent.actor_parameters(), self.weights, strict=True):
            parameter.copy_(value)


def train_fold(task: FoldTask) -> bytes:
    """`train_folds` of one task."""
    return train_folds([task])[0]


def train_folds(tasks: Sequence[FoldTask]) -> list[bytes]:
    """Trains seeds, folds and twins in one program; the bytes of each one's file.

    Same task, same bytes but for the time they bear (SOURCE_DATE_EPOCH sets it), whatever it is trained together with;
    the first weights' bits are those of the machine.
    """
    with one_thread():
        places: dict[Hashable, Place] = {}
        begun = [_begun(task, places) for task in tasks]
        trained = train_many([job for job, _ in begun])
        ends = zip(tasks, trained, begun, strict=True)
        return [_ended(task, trainer, place) for task, trainer, (_, place) in ends]


@dataclass(frozen=True)
class Place:
    """Where one task's agent learns and is measured; seeds of the same rows and recipe share it."""

    encoder: StateEncoder
    rows: FloatArray  # (D, F) of the real history
    physics: Physics
    beliefs: Beliefs | None
    measured: Physics
    judge: Physics | None  # of the validation slice


def place_of(task: FoldTask) -> Place:
    """Encodes and splits a task's rows, and fits what is believed of those it learns from."""
    recipe, encoder, environment = task.recipe, StateEncoder.of(task.train), task.recipe.environment
    kept, held_out = _split(task.train, recipe)
    copies = _copies(kept, recipe, np.random.default_rng([task.seed, task.fold, 1]))
    rows, physics, beliefs = prepared([kept], recipe.agent, environment, copies=copies, others=task.others)
    judge = None if held_out is None else measured(held_out, environment, encoder, beliefs)
    return Place(encoder, rows, physics, beliefs, measured(kept, environment, encoder, beliefs), judge)


def _shared_place(task: FoldTask, places: dict[Hashable, Place]) -> Place:
    recipe, copied = task.recipe, task.recipe.bootstrap_paths + task.recipe.synthetic_paths
    agent = PPOConfig(beliefs=recipe.agent.beliefs, trust=recipe.agent.trust)  # nothing else of it shapes a place
    rows = [part.fingerprint for part in (task.train, *task.others)]  # a slice of the same bars is a new object
    same = repr(replace(recipe, agent=agent)), recipe.agent.drift_net
    key = *rows, *same, (task.seed, task.fold) if copied else None
    if key not in places:
        places[key] = place_of(task)
    return places[key]


def _begun(task: FoldTask, places: dict[Hashable, Place]) -> tuple[NetJob, tuple[Place, EarlyStopping]]:
    place, start = _shared_place(task, places), task.start
    stopping = EarlyStopping(place.judge)

    def prepare(trainer: Trainer) -> None:
        if start is not None:
            trainer.agent.start_from({name.split(".", 1)[1]: values for name, values in start.items()})

    job = NetJob(
        physics=place.physics,
        config=fitted(task.recipe.agent, place.encoder, place.beliefs),
        rows=place.rows,
        total_bars=task.recipe.bars,
        seed=int(np.random.SeedSequence([task.seed, task.fold]).generate_state(1)[0]),
        prepare=prepare,
        watch=stopping,
    )
    return job, (place, stopping)


def _ended(task: FoldTask, trainer: Trainer, begun: tuple[Place, EarlyStopping]) -> bytes:
    place, stopping = begun
    agent = trainer.agent
    stopping.restore(agent)
    gain = mean_gain(agent, place.measured)
    run = {"bars_asked": task.recipe.bars, "bars": trainer.state.bars, "fold": task.fold, "part": task.part}
    with tempfile.TemporaryDirectory() as folder:
        data, to = training_data(task.train), Path(folder) / "bundle"
        export(to, [agent], [task.seed], place.encoder, task.recipe.environment, data, place.rows, run, place.beliefs)
        manifest, tensors = read_bundle(to)
    return packed(task.key, TrainedFold(manifest, tensors, gain))


def measured(
    bars: Bars | Panel, environment: TradingEnvConfig, encoder: StateEncoder, beliefs: Beliefs | None = None
) -> Physics:
    """The rows of `bars` as a place to measure the mean-variance objective, in short stretches."""
    short = replace(environment, reward="mean_variance", episode_bars=MEASURED_BARS)
    rows, path = decisions_of(bars, encoder, short)
    if beliefs is not None:
        moment = moments(rows, len(encoder.symbols), shorts=beliefs.shorts)
        rows = np.column_stack([rows, beliefs.columns(rows, moment)])
    return Physics(Market.build([rows], [path]), short, encoder)


@torch.no_grad()
def mean_gain(agent: PPOAgent, physics: Physics) -> float:
    """Objective per bar less that of multiplier 1.0, from the same accounts in cash, spread over all rows."""
    room = int(physics.market.path_rows[0]) - MEASURED_BARS
    at = torch.linspace(0, room - 1, MEASURED_ACCOUNTS, dtype=torch.float64).long()
    return float(gains(agent, physics, at).mean())


@torch.no_grad()
def gains(agent: PPOAgent, physics: Physics, at: Tensor) -> Tensor:
    """(MEASURED_BARS, N) objective less that of multiplier 1.0, stretches from cash that begin at rows `at` (N,)."""
    state = physics.reset(len(at), torch.Generator(), at=at)
    _, _, played = unroll(agent, physics, state, MEASURED_BARS, agent.initial_memory(len(at)))
    reference = []
    for step in range(MEASURED_BARS):
        now = played.window.at(step)
        state, outcome = physics.step(state, torch.ones_like(state.account.held), now, tracked=False)
        reference.append(outcome.reward)
    return played.reward - torch.stack(reference)


def _split(bars: Bars | Panel, recipe: Recipe) -> tuple[Bars | Panel, Bars | Panel | None]:
    """Rows to learn from, and the purged validation slice after them."""
    if recipe.validation_fraction == 0.0:
        return bars, None
    first = len(bars) - round(len(bars) * recipe.validation_fraction)
    end = first - recipe.purge_bars
    if end < recipe.environment.episode_bars + 3 or len(bars) - first < MEASURED_BARS + 3:
        raise ConfigError(
            f"{len(bars)} training rows leave {max(end, 0)} to learn from and {len(bars) - first} to validate on",
            f"at least {recipe.environment.episode_bars + 3} and {MEASURED_BARS + 3}",
            "choose a longer --train or another validation fraction",
        )
    return bars[:end], bars[first:]


def _copies(bars: Bars | Panel, recipe: Recipe, rng: np.random.Generator) -> list[Bars]:
    """What is trained on beside the real history."""
    if not recipe.bootstrap_paths + recipe.synthetic_paths:
        return []
    if isinstance(bars, Panel):
        raise ConfigError(
            "bootstrapped or synthetic copies of a panel",
            "bootstrap_paths and synthetic_paths 0",
            "blocks and signs would tear the assets apart",
        )
    found = [bootstrapped(bars, rng) for _ in range(recipe.bootstrap_paths)]
    return found + [driftless(bars, rng) for _ in range(recipe.synthetic_paths)]
