"""The analytic gradient and the counterfactual advantage against finite differences of the ledger."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.envs import bars_of, random_bars
from helpers.training import agent_of, physics_of, rolled
from himari_rl.envs.physics import Physics
from himari_rl.policy.risk import RiskLimits
from himari_rl.training.gradient import counterfactual_advantage, mean_reward
from himari_rl.training.rollout import Trajectory, unroll

F64 = torch.float64
QUIET = RiskLimits(high_vol_volatility=9.0, crisis_volatility=9.0, crisis_risk=9.0, cascade_risk=9.0, daily_loss_stop=1)


def continuous_bars(rows: int, seed: int):
    """Each close is the next open, so the marked position is the held one; BUY, SELL and HOLD."""
    rng = np.random.default_rng(seed)
    prices = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.01, rows)))
    return bars_of(prices, action=rng.integers(-1, 2, rows))


@pytest.mark.parametrize("reward", ["log_growth", "mean_variance", "differential_sharpe"])
@pytest.mark.parametrize(("head", "account"), [("band", False), ("band", True), ("centre", False), ("squash", True)])
@pytest.mark.parametrize("noisy", [False, True])
def test_the_gradient_through_the_ledger_is_the_finite_difference(reward, head, account, noisy) -> None:
    agent = agent_of(5, head=head, account_inputs=account).double()
    physics = physics_of(random_bars(120, 3, sigma=0.02), reward=reward, drawdown_penalty=0.1, turnover_penalty=0.01)
    physics.market = replace(physics.market, rows=physics.market.rows.double())  # float32 would swallow the steps
    with torch.no_grad():  # a policy that moves
        agent.out.weight.normal_(0.0, 0.2, generator=torch.Generator().manual_seed(1))
    start = physics.reset(12, torch.Generator().manual_seed(2))
    noise = torch.randn(15, 12, 1, generator=torch.Generator().manual_seed(3), dtype=F64) if noisy else None

    def objective() -> torch.Tensor:
        # the same noise each time: what differs is the weights
        return unroll(agent, physics, start, 15, std=0.1 if noisy else None, noise=noise)[2].reward.mean()

    parameters = agent.actor_parameters()
    slopes = torch.autograd.grad(objective(), parameters)
    generator = torch.Generator().manual_seed(4)
    for _ in range(3):
        direction = [torch.randn(p.shape, generator=generator, dtype=F64) for p in parameters]
        values = []
        for step in (1e-6, -2e-6, 1e-6):
            with torch.no_grad():
                for p, d in zip(parameters, direction, strict=True):
                    p.add_(step * d)
                values.append(float(objective()))
        expected = (values[0] - values[1]) / 2e-6
        found = sum(float((s * d).sum()) for s, d in zip(slopes, direction, strict=True))
        assert found == pytest.approx(expected, rel=2e-5, abs=1e-9)


def scalar_step(physics: Physics, played: Trajectory, t: int, n: int, held: float, m: float) -> tuple[float, float]:
    """Reward and next held exposure, in floats from the ledger's formulas (no limits bind)."""
    base, r = float(played.window.base[t, n, 0]), float(played.window.moves.to_open[t, n, 0])
    w = min(max(m, 0.0), 2.0) * base
    growth = 1.0 + w * r - physics.config.cost_rate * abs(w - held)
    return math.log(growth) - physics.config.risk_aversion / 2 * (w * r) ** 2, w * (1.0 + r) / growth


def scalar_future(physics: Physics, played: Trajectory, t: int, n: int, held: float, gamma: float) -> float:
    """Discounted reward from bar t on of an account that arrives with `held`.

    It plays what was drawn, except that where the policy carried its position the other position is carried.
    """
    total = 0.0
    for s in range(t, played.reward.shape[0]):
        m = float(played.multiplier[s, n, 0])
        if played.mean[s, n, 0] == played.previous[s, n, 0]:
            drawn = float(played.before.account.held[s, n, 0])
            side = float(played.window.side[s, n, 0]) or math.copysign(1.0, drawn)
            m += side * (held - drawn) / physics.config.max_position_pct
        reward, held = scalar_step(physics, played, s, n, held, m)
        total += gamma ** (s - t) * reward
    return total


def test_the_counterfactual_advantage_is_the_finite_difference_of_the_ledger() -> None:
    gamma, steps = 0.9, 8
    agent = agent_of(3)
    physics = physics_of(continuous_bars(200, 5), limits=QUIET)
    _, played = rolled(agent, physics, steps, std=0.05)
    inside = played.mean == played.previous
    assert 0.1 < float(inside.double().mean()) < 0.95  # both kinds of bars are met
    advantage = counterfactual_advantage(physics, played, gamma)
    for n in range(12):
        for t in range(steps):
            held = float(played.before.account.held[t, n, 0])
            drawn, after = scalar_step(physics, played, t, n, held, float(played.multiplier[t, n, 0]))
            mean, mean_after = scalar_step(physics, played, t, n, held, float(played.mean[t, n, 0]))
            slope = 0.0
            if t + 1 < steps:
                ahead = [scalar_future(physics, played, t + 1, n, after + e, gamma) for e in (1e-6, -1e-6)]
                slope = (ahead[0] - ahead[1]) / 2e-6
            expected = drawn - mean + gamma * slope * (after - mean_after)
            assert float(advantage[t, n]) == pytest.approx(expected, rel=1e-5, abs=1e-10), (t, n)


def test_without_the_future_slope_the_comparison_would_fail() -> None:
    physics = physics_of(continuous_bars(200, 5), limits=QUIET)
    _, played = rolled(agent_of(3), physics, 8, std=0.05)
    gap = counterfactual_advantage(physics, played, 0.9) - counterfactual_advantage(physics, played, 0.0)
    assert float(gap[:-1].abs().max()) > 1e-5
    assert not gap[-1].any()


@pytest.mark.parametrize("reward", ["log_growth", "mean_variance", "differential_sharpe"])
def test_the_mean_actions_reward_is_the_reward_when_the_mean_is_played(reward: str) -> None:
    physics = physics_of(random_bars(200, 2), reward=reward, drawdown_penalty=0.1, turnover_penalty=0.01)
    _, played = rolled(agent_of(), physics, 20)
    assert torch.allclose(mean_reward(physics, played), played.reward, rtol=1e-12, atol=1e-15)
    assert not counterfactual_advantage(physics, played, 0.95).any()


@pytest.mark.parametrize("reward", ["log_growth", "mean_variance", "differential_sharpe"])
def test_no_reward_leaves_ppo_without_an_advantage(reward: str) -> None:
    physics = physics_of(random_bars(200, 2), reward=reward)
    _, played = rolled(agent_of(), physics, 20, std=0.05)
    assert float(counterfactual_advantage(physics, played, 0.95)[1:].abs().mean()) > 0.0
