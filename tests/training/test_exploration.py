"""PPO's rollouts by the engine against the bar-by-bar rollout and the advantage that they stand for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from helpers.worlds import F64, accounts, world
from himari_rl.agents.config import PPOConfig
from himari_rl.agents.kinds import build
from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.envs.physics import Physics
from himari_rl.policy.risk import RiskLimits
from himari_rl.training.band_ledger import BandLedger
from himari_rl.training.engine import run
from himari_rl.training.exploration import explored
from himari_rl.training.gradient import counterfactual_advantage
from himari_rl.training.rollout import unroll
from himari_rl.training.sight import Sight

STEPS, COUNT = 12, 40
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "cannot be traded": {"stuck": 0.3, "turnover_penalty": 0.01},
    "no limits": {"limits": RiskLimits.off(), "reward": "log_growth"},
    "tight gross cap": {"limits": RiskLimits(max_leverage=0.4)},
    "believed": {"reward": "believed", "stuck": 0.2},
    "ruin": {"wild": 0.1, "max_position_pct": 1.0, "limits": RiskLimits.off(2.0)},
}


def moving_agent(physics: Physics, head: str) -> PPOAgent:
    """A net of double precision whose bands differ from bar to bar."""
    features, assets = physics.market.rows.shape[1], physics.market.assets
    config = PPOConfig(state_dim=features, action_dim=assets, hidden_dim=8, head=head)
    agent = build(config, torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        agent.out.weight.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(1))
    return agent


@pytest.mark.parametrize("assets", [1, 3])
@pytest.mark.parametrize("head", ["band", "centre", "squash"])
@pytest.mark.parametrize("case", CASES)
def test_a_rollout_with_noise_is_unrolls(case: str, head: str, assets: int) -> None:
    physics = world(1, assets, **CASES[case])
    agent, state = moving_agent(physics, head), accounts(physics, 2, COUNT)
    noise = torch.randn(STEPS, COUNT, assets, generator=torch.Generator().manual_seed(3), dtype=F64)
    with torch.no_grad():
        after, _, expected = unroll(agent, physics, state, STEPS, std=0.3, noise=noise)
    wanted = counterfactual_advantage(physics, expected, agent.config.gamma)
    ((_, found, advantage),) = run(
        [explored(agent, Sight(agent, physics), BandLedger(physics), state, None, 0.3, noise)]
    )
    for name in ("previous", "mean", "latent", "multiplier", "reward", "log_prob", "alive"):
        assert torch.allclose(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-11), name
    assert torch.equal(found.terminated, expected.terminated)
    assert torch.allclose(found.after.account.held, after.account.held, rtol=1e-10, atol=1e-12)
    assert torch.allclose(advantage, wanted, rtol=1e-8, atol=1e-10 * float(wanted.abs().max()))
    assert float(advantage.abs().max()) > 1e-5
