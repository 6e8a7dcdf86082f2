"""Export: the bundle answers as the agents do, or there is no bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.envs import random_bars
from helpers.training import agent_of
from himari_rl.agents.config import HEADS
from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.physics import market_of
from himari_rl.errors import BundleError
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.bundle import write_bundle
from himari_rl.policy.runtime import load_policy
from himari_rl.training.export import PARITY, bundled, check_parity
from himari_rl.training.job import training_data

BARS = random_bars(400, 12)
ENCODER = StateEncoder((BARS.symbol,))
ENVIRONMENT = TradingEnvConfig()
ROWS, _ = market_of(BARS, ENCODER, ENVIRONMENT)


def moved(seed: int, **config) -> PPOAgent:
    """An agent that answers differently to different states."""
    agent = agent_of(seed, **config)
    agent.normaliser.fit(ROWS, np.ones(16, bool), config.get("account_inputs", False))
    with torch.no_grad():
        agent.out.weight.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(seed))
    return agent


def exported(folder: Path, agents: list[PPOAgent]):
    seeds = list(range(len(agents)))
    return write_bundle(folder, *bundled(agents, seeds, ENCODER, ENVIRONMENT, training_data(BARS), ROWS, {}))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("account_inputs", [False, True])
def test_the_bundle_answers_as_the_mean_of_its_agents(head: str, account_inputs: bool, tmp_path: Path) -> None:
    agents = [moved(seed, head=head, account_inputs=account_inputs) for seed in range(3)]
    exported(tmp_path / "bundle", agents)
    states = ROWS.astype(np.float32)
    rng = np.random.default_rng(0)
    states[:, 8], states[:, 9] = rng.random(len(states)), rng.integers(-1, 2, len(states))
    answers, _ = load_policy(tmp_path / "bundle").decide_batch(states)
    expected = np.mean([agent.decide(torch.from_numpy(states))[0].numpy() for agent in agents], axis=0)
    assert np.abs(answers - expected).max() <= PARITY
    assert expected.std() > 0.05


@pytest.mark.parametrize("name", ["trunk.0.weight", "trunk.1.bias", "out.weight", "out.bias"])
def test_a_bundle_that_answers_otherwise_is_not_written(name: str, tmp_path: Path, monkeypatch) -> None:
    tensors = PPOAgent.tensors

    def nudged(self: PPOAgent) -> dict[str, np.ndarray]:
        changed = tensors(self)
        changed[name].flat[0] += 0.01
        return changed

    agents = [moved(0)]
    monkeypatch.setattr(PPOAgent, "tensors", nudged)
    with pytest.raises(BundleError, match=r"differ by \d\.\d\de-0[1-5]; expected at most 1e-05; nothing was exported"):
        exported(tmp_path / "bundle", agents)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    exported(tmp_path / "bundle", agents)


def test_a_nan_in_the_weights_is_refused(tmp_path: Path) -> None:
    agent = moved(0)
    with torch.no_grad():
        agent.out.bias[0] = torch.nan
    with pytest.raises(BundleError):
        exported(tmp_path / "bundle", [agent])
    assert list(tmp_path.iterdir()) == []


def test_parity_holds_with_room_to_spare(tmp_path: Path) -> None:
    agents = [moved(seed) for seed in range(2)]
    exported(tmp_path / "bundle", agents)
    assert check_parity(load_policy(tmp_path / "bundle"), agents, ROWS) < 1e-6


def test_the_manifest_says_what_was_trained_on_what(tmp_path: Path) -> None:
    manifest = exported(tmp_path / "bundle", [moved(0), moved(1)])
    assert list(manifest.seeds) == [0, 1]
    assert manifest.training_data.rows == 400
    assert manifest.training_data.synthetic is True
    assert str(manifest.training_data.start).startswith("2024-01-01")
    assert manifest.encoder_hash == ENCODER.schema_hash
    assert manifest.ledger.commission_rate == 0.001
    assert manifest.ledger.limits["daily_loss_stop"] == 0.02
