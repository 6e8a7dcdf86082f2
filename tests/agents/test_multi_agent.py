"""The portfolio agent: dimensions from the symbols, one bundle for all of them, wishes kept inside the gross cap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.envs import FREE, bars_of
from helpers.multi import random_panel, symbols
from himari_rl.agents.config import PPOConfig, config_type
from himari_rl.agents.kinds import build
from himari_rl.agents.multi_ppo_agent import MultiPPOAgent
from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.data.panel import panel_of
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.physics import Physics, market_of
from himari_rl.errors import BundleError, ConfigError
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.bundle import write_bundle
from himari_rl.policy.runtime import load_policy
from himari_rl.training.band_ledger import BandLedger
from himari_rl.training.engine import run
from himari_rl.training.export import bundled
from himari_rl.training.gradient import autograd_step, gradient_step
from himari_rl.training.job import training_data
from himari_rl.training.optimiser import FlatAdamW
from himari_rl.training.sight import Sight


def test_the_promised_line_makes_an_agent_of_52_numbers_and_three_multipliers() -> None:
    agent = PPOAgent(PPOConfig(state_dim=52, action_dim=3, hidden_dim=256))
    multipliers, _ = agent.decide(torch.zeros(5, 52))
    assert multipliers.shape == (5, 3)
    assert isinstance(build(config_type("multi")()), MultiPPOAgent)


@pytest.mark.parametrize("assets", [2, 3, 20])
def test_a_bundle_answers_for_each_symbol_as_the_agent_does(assets: int, tmp_path: Path) -> None:
    panel = random_panel(assets, 150, 1)
    encoder, environment = StateEncoder(panel.symbols), TradingEnvConfig(episode_bars=20)
    rows, _ = market_of(panel, encoder, environment)
    config = config_type("multi")(state_dim=encoder.state_dim, action_dim=assets, hidden_dim=16)
    agent = build(config, torch.Generator().manual_seed(1))
    agent.normaliser.fit(rows, np.ones(rows.shape[1], bool), False)
    with torch.no_grad():
        agent.out.weight.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(2))
    manifest = write_bundle(
        tmp_path / "b", *bundled([agent], [0], encoder, environment, training_data(panel), rows, {})
    )
    assert (manifest.kind, manifest.symbols, manifest.action_dim) == ("multi", panel.symbols, assets)
    policy = load_policy(tmp_path / "b")
    for state in rows[::40].astype(np.float32):
        expected = agent.decide(torch.as_tensor(state)[None])[0][0].numpy()
        assert policy.decide(state).multipliers == pytest.approx(expected, abs=1e-5)
    spread = np.array([policy.decide(state).multipliers for state in rows[::10].astype(np.float32)])
    assert spread.std(axis=0).min() > 1e-3  # every symbol is decided


def test_symbols_in_another_order_are_another_encoder(tmp_path: Path) -> None:
    panel = random_panel(2, 150, 1)
    encoder, environment = StateEncoder(panel.symbols), TradingEnvConfig(episode_bars=20)
    rows, _ = market_of(panel, encoder, environment)
    agent = build(config_type("multi")(state_dim=encoder.state_dim, action_dim=2, hidden_dim=8))
    write_bundle(tmp_path / "b", *bundled([agent], [0], encoder, environment, training_data(panel), rows, {}))
    path = tmp_path / "b" / "manifest.json"
    swapped = path.read_text().replace("C00", "CXX").replace("C01", "C00").replace("CXX", "C01")
    assert swapped != path.read_text()
    path.write_text(swapped)
    with pytest.raises(BundleError):
        load_policy(tmp_path / "b")
    assert StateEncoder(panel.symbols[::-1]).schema_hash != encoder.schema_hash


@pytest.mark.parametrize(("assets", "first"), [(2, 0.75), (3, 0.5), (20, 0.075)])
@pytest.mark.parametrize("head", ["band", "centre"])
def test_a_fresh_agent_buys_three_quarters_of_equity_however_many_assets_there_are(assets, first, head) -> None:
    states = torch.zeros(1, StateEncoder(symbols(assets)).state_dim)
    states[0, 3 : 16 * assets : 16] = 1.0  # BUY everywhere, in cash
    config = config_type("multi")(state_dim=states.shape[1], action_dim=assets, head=head)
    multipliers = build(config, torch.Generator().manual_seed(0)).decide(states)[0]
    assert multipliers[0].tolist() == pytest.approx([first] * assets, abs=0.05)
    assert 0.5 * multipliers.sum() == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("change", [{"first_gross": 0.0}, {"first_half": -0.1}])
def test_a_fresh_band_without_width_is_refused(change) -> None:
    with pytest.raises(ConfigError, match="both above 0"):
        config_type("multi")(**change)


def still_physics() -> Physics:
    """Three assets that never move and cost nothing: no reward says anything about a position."""
    panel = panel_of([bars_of(np.full(200, 100.0), symbol=f"S{a}") for a in range(3)])
    environment = TradingEnvConfig(episode_bars=50, **FREE)
    encoder = StateEncoder(panel.symbols)
    return Physics(market_of(panel, encoder, environment)[1], environment, encoder)


class Descent(FlatAdamW):
    """No momentum: it stops where the pull stops."""

    def _step(self, gradient: torch.Tensor) -> None:
        self._weights.sub_(gradient, alpha=self.learning_rate)


@pytest.mark.parametrize("hand", [True, False])
@pytest.mark.parametrize("pull", [0.1, 0.0])
def test_the_gross_pull_brings_wishes_inside_the_cap_and_nothing_else_does(pull: float, hand: bool) -> None:
    physics = still_physics()
    config = replace(config_type("multi")(), num_envs=8, num_steps=10, hidden_dim=8, head="centre", gross_penalty=pull,
                     first_gross=1.5)  # fmt: skip
    agent = build(config, torch.Generator().manual_seed(0))
    optimiser = Descent(agent, 0.2, 0.0, agent.config.max_grad_norm)
    sight, ledger = Sight(agent, physics), BandLedger(physics, pull)
    for _ in range(60):
        state = physics.reset(8, torch.Generator().manual_seed(1))
        if hand:
            ((_, played),) = run([gradient_step(agent, sight, ledger, optimiser, state, None, 1.0)])
        else:
            _, _, played = autograd_step(agent, physics, optimiser, state, None, torch.tensor(1.0))
    wanted = (0.5 * played.mean.detach()).sum(-1)
    if pull:
        assert 0.95 < float(wanted.max()) < 1.02
    else:
        assert float(wanted.min()) > 1.45  # where it began: half of equity in each
