"""Tuning inside the training span: Optuna over a few settings, judged by combinatorial purged cross-validation.

    tune(bars, ...)      `himari tune`: the training part of a history, each trial in the trial ledger as it ends
    search(train, ...)   the search itself, on training rows: fold_search.py nests it in a walk-forward

Every trial is written to the trial ledger with the span that it was judged on, so that a walk-forward over the same
bars pays for it. The study lives in SQLite: a killed one continues. Nothing after `train_test`'s gap is ever read.
The probability of backtest overfitting over all trials comes with the answer: near .5 the winner is luck.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import torch

from himari_rl.agents.config import PPO_RECIPE, PPOConfig
from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.config import as_dict, config_hash
from himari_rl.data.facts import recorded
from himari_rl.data.panel import Panel
from himari_rl.data.splits import train_test
from himari_rl.envs.physics import Physics
from himari_rl.errors import DataError
from himari_rl.experiments.arguments import accepted_facts
from himari_rl.experiments.config import TuneConfig
from himari_rl.experiments.folds import MEASURED_BARS, gains, measured
from himari_rl.experiments.overfitting import backtest_overfitting
from himari_rl.experiments.recipe import Recipe
from himari_rl.experiments.run_folder import require_ledger
from himari_rl.features.encoder import StateEncoder
from himari_rl.schema import Bars, FloatArray
from himari_rl.storage import announce, require_writable, write_atomic
from himari_rl.storage.mirror import shown
from himari_rl.training.device import one_thread
from himari_rl.training.job import NetJob, train_many, training_data
from himari_rl.training.preparation import fitted, prepared
from himari_rl.trials.fingerprint import paths_of
from himari_rl.trials.ledger import Trials, look_of, span_of

N_FOLDS, TEST_FOLDS = 6, 2  # 15 splits; every row is judged five times
STUDY, BEST = "study.sqlite", "best.json"


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What a study found."""

    settings: dict[str, float]
    gain: float  # utility a year over multiplier 1.0, mean over splits, of the best trial
    trials: int
    overfitting: float | None  # probability that the winner is below the median out of sample; None for one trial


def space(trial: optuna.Trial, agent: PPOConfig) -> dict[str, float]:
    """What is searched: a few numbers that shape a small net and how long it learns."""
    found: dict[str, float] = {
        "hidden_dim": trial.suggest_categorical("hidden_dim", [8, 16, 32, 64]),
        "learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
    }
    if agent.recipe != PPO_RECIPE:  # which is PPO from the first rollout to the last
        found["analytic_gradient_fraction"] = trial.suggest_float("analytic_gradient_fraction", 0.3, 1.0)
    return found


def tune(
    bars: Bars | Panel,
    recipe: Recipe,
    trials: int,
    out: Path,
    *,
    seed: int = TuneConfig.seed,
    test_fraction: float = TuneConfig.test_fraction,
    progress: Callable[[int, int], None] = lambda done, total: None,
    accept: Sequence[str] = (),
) -> Tuned:
    """Searches the training part of `bars` and writes every trial to the trial ledger.

    Raises:
        DataError: too few bars for the splits, or a finding not accepted.
        StorageError: the study or the ledger cannot be written.
    """
    train, _ = train_test(bars, test_fraction)
    facts = recorded(accepted_facts(train, accept), accept)
    require_ledger()
    require_writable(out)
    paths = paths_of(train)

    def record(chosen: Recipe, params: dict[str, float]) -> None:
        with Trials() as ledger:
            what = look_of(config_hash(chosen), train, shown(out.resolve()))
            ledger.look("tune", *span_of(train), what, params, paths=paths)

    tuned = search(train, recipe, trials, out, seed=seed, record=record, progress=progress)
    said = {"recipe": as_dict(recipe), "recipe_hash": config_hash(recipe), "test_fraction": test_fraction} | facts
    write_atomic(out / BEST, (json.dumps(vars(tuned) | said, indent=2) + "\n").encode())
    return tuned


def search(
    train: Bars | Panel,
    recipe: Recipe,
    trials: int,
    out: Path,
    *,
    seed: int = 0,
    record: Callable[[Recipe, dict[str, float]], None] = lambda chosen, params: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tuned:
    """Runs trials until the study has `trials` of them.

    Args:
        trials: in all, earlier calls on the same folder included.
        out: folder of the study.
        record: called with each trial's recipe and its settings once it has been judged.
    """
    splits = purged_splits(len(train), recipe)
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # what fails is said once, by us
    sha256 = training_data(train)["sha256"]
    study = optuna.create_study(
        study_name=f"{recipe.agent.__class__.__name__}-{sha256[:12]}-{config_hash(recipe)}",
        storage=f"sqlite:///{out / STUDY}",
        direction="maximize",
        load_if_exists=True,
    )
    done = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]

    def objective(trial: optuna.Trial) -> float:
        chosen = recipe.with_agent(space(trial, recipe.agent))
        with one_thread():
            series = judged_rows(train, chosen, splits, seed)
        rows = io.BytesIO()
        np.save(rows, series)
        write_atomic(out / f"rows-{trial.number}.npy", rows.getvalue())
        record(chosen, dict(trial.params))
        return float(series.mean()) * train.bars_per_year

    for number in range(len(done), trials):  # a sampler of its own for each trial: a continued study draws anew
        study.sampler = optuna.samplers.TPESampler(
            seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        )
        study.optimize(objective, n_trials=1)
        announce(out / STUDY)
        progress(number + 1, trials)
    finished = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    matrix = np.column_stack([np.load(out / f"rows-{t.number}.npy") for t in finished])
    luck = backtest_overfitting(matrix, blocks=8).probability if len(finished) > 1 else None
    return Tuned(settings=study.best_params, gain=study.best_value, trials=len(finished), overfitting=luck)


def purged_splits(rows: int, recipe: Recipe) -> list[tuple[list[FloatArray], list[FloatArray]]]:
    """Combinatorial purged cross-validation: (training segments, test segments), each a run of consecutive rows.

    Raises:
        DataError: segments shorter than an episode.
    """
    from skfolio.model_selection import CombinatorialPurgedCV

    if rows // N_FOLDS <= 2 * recipe.purge_bars + MEASURED_BARS:
        raise DataError(f"{rows} training rows", f"{N_FOLDS} folds longer than their gaps", "bring a longer history")
    cv = CombinatorialPurgedCV(
        n_folds=N_FOLDS, n_test_folds=TEST_FOLDS, purged_size=recipe.purge_bars, embargo_size=recipe.purge_bars
    )
    least = recipe.environment.episode_bars + 3
    found = []
    for train, tests in cv.split(np.zeros((rows, 1))):
        kept = [run for run in _runs(train) if len(run) >= least]
        found.append((kept, list(tests)))
    if any(not kept or min(map(len, tests)) < MEASURED_BARS + 3 for kept, tests in found):
        raise DataError(f"{rows} training rows", f"{N_FOLDS} folds of an episode each", "bring a longer history")
    return found


def judged_rows(
    bars: Bars | Panel, recipe: Recipe, splits: list[tuple[list[FloatArray], list[FloatArray]]], seed: int
) -> FloatArray:
    """(T,) objective over multiplier 1.0 at each row, mean over the splits that tested it."""
    encoder = StateEncoder.of(bars)
    environment = recipe.environment
    jobs, found = [], []
    for kept, _ in splits:
        segments = [bars[int(run[0]) : int(run[-1]) + 1] for run in kept]
        rows, physics, beliefs = prepared(segments, recipe.agent, environment)
        found.append(beliefs)
        config = fitted(recipe.agent, encoder, beliefs)
        jobs.append(NetJob(physics=physics, config=config, rows=rows, total_bars=recipe.bars, seed=seed))
    total, count = np.zeros(len(bars)), np.zeros(len(bars))
    for trainer, beliefs, (_, tests) in zip(train_many(jobs), found, splits, strict=True):
        for run in tests:
            first, last = int(run[0]), int(run[-1])
            there = measured(bars[first : last + 1], environment, encoder, beliefs)
            gain = _gain_by_row(trainer.agent, there)
            total[first : first + len(gain)] += gain
            count[first : first + len(gain)] += 1
    return np.divide(total, count, out=np.zeros(len(bars)), where=count > 0)


def _gain_by_row(agent: PPOAgent, physics: Physics) -> FloatArray:
    """Objective less that of multiplier 1.0 for consecutive stretches of 50 bars, each from cash."""
    stretches = (int(physics.market.path_rows[0]) - 1) // MEASURED_BARS
    found: FloatArray = gains(agent, physics, torch.arange(stretches) * MEASURED_BARS).T.reshape(-1).double().numpy()
    return found


def _runs(rows: FloatArray) -> list[FloatArray]:
    """Consecutive stretches of sorted row numbers."""
    return list(np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1))
