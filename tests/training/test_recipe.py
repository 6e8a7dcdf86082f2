"""The recipe ppo: PPO from the first rollout to the last, on beliefs too, said in the run's record and its bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.envs import random_bars
from helpers.training import SMALL
from helpers.worlds import F64, accounts
from himari_rl.agents.config import CONFIGS, PPO_RECIPE, RECIPES, LSTMPPOConfig, PPOConfig
from himari_rl.cli import main
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.data.table import write_bars
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.errors import ConfigError
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.bundle import read_manifest
from himari_rl.training import trainer as trainer_module
from himari_rl.training.band_ledger import BandLedger
from himari_rl.training.engine import run
from himari_rl.training.exploration import SMALLEST_ANCHOR, deviations, explored
from himari_rl.training.gradient import counterfactual_advantage
from himari_rl.training.job import NetJob, train_many
from himari_rl.training.preparation import fitted, prepared
from himari_rl.training.rollout import unroll
from himari_rl.training.sight import Sight
from himari_rl.training.trainer import Trainer

STEPS, COUNT = 10, 12


def believed_job(watch: Any = lambda trainer: None, **agent: Any) -> NetJob:
    """Four rollouts on beliefs, of which the default recipe learns one by PPO."""
    bars, asked = random_bars(300, 0), PPOConfig(**(SMALL | agent))
    environment, encoder = TradingEnvConfig(episode_bars=20), StateEncoder((bars.symbol,))
    rows, physics, beliefs = prepared([bars], asked, environment)
    config = fitted(asked, encoder, beliefs)
    return NetJob(physics=physics, config=config, rows=rows, total_bars=4 * STEPS * COUNT, seed=0, watch=watch)


def refuse(*_: object) -> None:
    raise RuntimeError("an analytic gradient")


def test_every_rollout_is_ppos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "gradient_step", refuse)
    monkeypatch.setattr(trainer_module, "autograd_step", refuse)
    seen: list[dict[str, float]] = []
    (trained,) = train_many([believed_job(lambda t: seen.append(t.state.metrics), recipe=PPO_RECIPE)])
    assert trained.gradient_rollouts == 0
    assert [set(metrics) >= {"kl", "std"} for metrics in seen] == [True] * 4


def test_the_default_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "gradient_step", refuse)
    with pytest.raises(RuntimeError, match="analytic gradient"):
        train_many([believed_job()])


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_recipe_fills_in_what_nobody_changed(kind: str) -> None:
    ours = CONFIGS[kind](recipe=PPO_RECIPE).sized(True)
    assert {name: getattr(ours, name) for name in RECIPES[PPO_RECIPE]} == RECIPES[PPO_RECIPE]
    assert ours.sized() == ours
    assert CONFIGS[kind](recipe=PPO_RECIPE, clip_coef=0.3, final_std=0.05).sized().clip_coef == 0.3
    default = CONFIGS[kind]().sized()
    assert all(getattr(default, name) == getattr(CONFIGS[kind](), name) for name in RECIPES[PPO_RECIPE])


@pytest.mark.parametrize("kind", [PPOConfig, LSTMPPOConfig])
def test_half_a_gradient_is_no_ppo(kind: type[PPOConfig]) -> None:
    with pytest.raises(ConfigError, match=r"analytic_gradient_fraction 0\.5 with the recipe ppo"):
        kind(recipe=PPO_RECIPE, analytic_gradient_fraction=0.5)
    with pytest.raises(ConfigError, match="default or ppo"):
        kind(recipe="reinforce")


def anchored(recipe: str) -> Trainer:
    """An untrained trainer on beliefs whose bands differ from bar to bar."""
    job = believed_job(recipe=recipe)
    (trainer,) = train_many([replace(job, total_bars=1)])
    with torch.no_grad():
        trainer.agent.out.weight.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(1))
    return trainer


def test_the_noise_is_a_fraction_of_the_anchor() -> None:
    """The anchor is read from the rows by their columns; where it is nothing the noise is not."""
    trainer = anchored(PPO_RECIPE)
    physics, rows = trainer.physics, torch.tensor([[3, 4], [5, 6]])
    wanted = [[max(SMALLEST_ANCHOR, float(physics.market.rows[r, 16])) for r in each] for each in rows.tolist()]
    found = deviations(trainer.agent, physics, rows, 0.1)
    assert isinstance(found, torch.Tensor)
    assert torch.allclose(found[..., 0], 0.1 * torch.tensor(wanted, dtype=F64))
    physics.market.rows[3, 16] = 0.0
    smallest = torch.as_tensor(deviations(trainer.agent, physics, rows, 0.1))[0, 0, 0]
    assert float(smallest) == pytest.approx(0.1 * SMALLEST_ANCHOR)
    assert deviations(anchored("default").agent, physics, rows, 0.1) == 0.1


def test_a_rollout_with_noise_in_anchors_is_unrolls() -> None:
    trainer = anchored(PPO_RECIPE)
    agent, physics = trainer.agent, trainer.physics
    state = accounts(physics, 2, COUNT)
    noise = torch.randn(STEPS, COUNT, 1, generator=torch.Generator().manual_seed(3), dtype=F64)
    spread = deviations(agent, physics, state.row + torch.arange(STEPS)[:, None], 0.3)
    with torch.no_grad():
        _, _, expected = unroll(agent, physics, state, STEPS, std=spread, noise=noise)
    wanted = counterfactual_advantage(physics, expected, agent.config.gamma)
    sight, ledger = Sight(agent, physics), BandLedger(physics)
    ((_, found, advantage),) = run([explored(agent, sight, ledger, state, None, spread, noise)])
    for name in ("mean", "latent", "multiplier", "reward", "log_prob"):
        assert torch.allclose(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-8), name
    assert torch.allclose(advantage, wanted, rtol=1e-5, atol=1e-7 * float(wanted.abs().max()))
    drawn = (expected.latent - expected.mean) / noise
    assert torch.allclose(drawn, torch.as_tensor(spread), rtol=1e-9)


@pytest.mark.parametrize("right", [True, False])
def test_the_update_asks_with_the_deviations_that_were_played(right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first step the policy is the one that played: no divergence. With another deviation there is some."""
    true_update = trainer_module.update
    seen: list[float] = []

    def update(agent: Any, optimiser: Any, batch: Any, std: Any, *rest: Any) -> dict[str, torch.Tensor]:
        stats = true_update(agent, optimiser, batch, std if right else 0.1, *rest)
        seen.append(float(stats["kl"]))
        return stats

    monkeypatch.setattr(trainer_module, "update", update)
    train_many([believed_job(recipe=PPO_RECIPE, minibatch=STEPS * COUNT)])
    assert len(seen) == 4
    assert all(kl < 1e-9 for kl in seen) if right else all(kl > 1e-3 for kl in seen)


@pytest.mark.parametrize("recipe", ["default", "ppo"])
def test_the_record_and_the_bundle_say_the_recipe(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_bars(synthetic_bars(1000, 0), "BTC-SYNTHETIC_1h.parquet")
    small = ["--num-episodes", "2", "--seeds", "1", "--set", "agent.num_envs=20", "--set", "agent.minibatch=500"]
    words = ["train", "base", "--data", "BTC-SYNTHETIC_1h.parquet", "--out", "run", "--recipe", recipe, *small]
    assert main(words) == 0
    assert json.loads(Path("run/training.json").read_text())["job"]["agent"]["recipe"] == recipe
    agent = read_manifest(Path("run/bundle")).config["agent"]
    assert isinstance(agent, dict)
    assert agent["recipe"] == recipe
    assert agent["analytic_gradient_fraction"] == (0.0 if recipe == "ppo" else 0.9)
