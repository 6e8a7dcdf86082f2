"""The budget that fits the job: plans double while the believed reward grows, and end at the bound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.envs import random_bars
from helpers.training import SMALL
from himari_rl.agents.config import PPOConfig
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.experiments.recipe import budget_line
from himari_rl.features.encoder import StateEncoder
from himari_rl.training.budget import objective
from himari_rl.training.checkpoint import load_checkpoint, save_checkpoint
from himari_rl.training.engine import run
from himari_rl.training.job import NetJob, train_many
from himari_rl.training.preparation import fitted, prepared
from himari_rl.training.trainer import Trainer

BARS, WORLD = random_bars(300, 3), TradingEnvConfig(episode_bars=20)
ROLLOUT = SMALL["num_envs"] * SMALL["num_steps"]


def job(rollouts: int = 20, **settings: object) -> NetJob:
    agent = PPOConfig(**SMALL, plan_rollouts=3, **settings)  # type: ignore[arg-type]
    rows, physics, beliefs = prepared([BARS], agent, WORLD)
    config = fitted(agent, StateEncoder(BARS.symbols), beliefs)
    return NetJob(physics=physics, config=config, rows=rows, total_bars=rollouts * ROLLOUT, seed=0)


def grows_until(rollout: int, monkeypatch) -> None:
    """An objective that grows by 1 a rollout up to one, and no more after it."""

    def known(trainer: Trainer):
        return float(min(trainer.state.rollout, rollout)), 1.0
        yield

    monkeypatch.setattr("himari_rl.training.budget.objective", known)


@pytest.mark.parametrize(("until", "trained"), [(0, 3), (1, 3), (2, 6), (4, 12), (8, 20), (1000, 20)])
def test_a_plan_is_doubled_while_the_objective_grows(until: int, trained: int, monkeypatch) -> None:
    """3, 6, 12 rollouts, looked at after thirds: 1 and 2, 2 and 4, 4 and 8; then the bound, which has no look."""
    grows_until(until, monkeypatch)
    rates: list[float] = []
    looked = replace(job(), watch=lambda trainer: rates.append(trainer.state.metrics["learning_rate"]))
    (found,) = train_many([looked])
    assert found.state.rollout == found.rollouts == trained
    assert found.state.averaged == max(1, round(0.3 * trained))
    config = found.agent.config
    last = config.final_learning_rate + (1 - config.final_learning_rate) / trained
    assert rates[-1] == pytest.approx(config.learning_rate * last)  # the schedule ends with the plan


def test_a_little_growth_is_none(monkeypatch) -> None:
    grows_until(1000, monkeypatch)
    assert train_many([job(growth=1.5)])[0].rollouts == 3
    assert train_many([job(growth=0.5)])[0].rollouts == 20


def test_raw_returns_train_the_whole_budget() -> None:
    found = train_many([job(rollouts=5, beliefs=False)])[0]
    assert found.state.rollout == found.rollouts == found.most_rollouts == 5


def test_the_objective_is_a_number_without_a_draw() -> None:
    (trained,) = train_many([job(rollouts=2)])
    before = trained.generator.get_state()
    first, again = run([objective(trained)])[0], run([objective(trained)])[0]
    assert first == again
    assert torch.equal(trained.generator.get_state(), before)
    trained.__class__ = type("Bare", (Trainer,), {"ledger": None, "sight": None})  # bar by bar through the physics
    assert run([objective(trained)])[0] == pytest.approx(first, rel=1e-6)


def test_a_run_resumed_inside_any_plan_ends_in_the_same_weights(tmp_path: Path, monkeypatch) -> None:
    grows_until(1000, monkeypatch)
    whole = train_many([job(8)])[0]
    assert whole.rollouts == 8
    expected = torch.cat([p.detach().flatten() for p in whole.agent.parameters()])
    for at in (1, 2, 3, 4, 7):

        def stop(trainer: Trainer, at: int = at) -> None:
            trainer.paused = trainer.state.rollout == at
            if trainer.paused:
                save_checkpoint(tmp_path / "c", trainer, "bars")

        train_many([replace(job(8), watch=stop)])
        resume = replace(job(8), prepare=lambda trainer: load_checkpoint(tmp_path / "c", trainer, "bars"))
        again = train_many([resume])[0]
        assert again.rollouts == whole.rollouts, at
        assert np.array_equal(torch.cat([p.detach().flatten() for p in again.agent.parameters()]), expected), at


def test_the_line_says_what_may_be_trained() -> None:
    assert "500,000 bars at most: 160,000 at first, doubled" in budget_line(PPOConfig(), 1000, 500)
    assert "500,000 bars, all trained" in budget_line(PPOConfig(beliefs=False), 1000, 500)
