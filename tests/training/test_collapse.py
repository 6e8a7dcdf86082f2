"""The collapse guard: it stops a policy stuck where that costs, and leaves one alone that is right to stay."""

from __future__ import annotations

import pytest
import torch

from helpers.envs import random_bars
from helpers.training import agent_of, free_physics, physics_of, rolled, trainer_of, trend
from himari_rl.errors import CollapseError
from himari_rl.training.checkpoint import load_checkpoint, save_checkpoint
from himari_rl.training.collapse import PATIENCE, CollapseGuard

RISING, FALLING = trend(300, 0.002), trend(300, -0.002)


def stuck(bias: float, **config: object):
    """An agent whose raw output lies so far outside that nothing brings it back."""
    agent = agent_of(head="centre", learning_rate=1e-9, **config)
    with torch.no_grad():
        agent.out.bias.fill_(bias)
    return agent


@pytest.mark.parametrize(("bias", "bars", "bound"), [(50.0, FALLING, "2"), (-50.0, RISING, "0")])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_policy_stuck_at_a_costly_bound_stops_the_run_and_says_why(bias, bars, bound, share) -> None:
    trainer = trainer_of(stuck(bias, analytic_gradient_fraction=share), free_physics(bars), 20)
    with pytest.raises(CollapseError) as caught:
        trainer.run()
    message = str(caught.value)
    assert message.startswith(f"the policy is stuck at multiplier {bound} (rollout {PATIENCE} of 20), where a constant")
    assert "lower --learning-rate" in message
    assert caught.value.exit_code == 1
    assert trainer.state.rollout == PATIENCE


@pytest.mark.parametrize(("bias", "bars"), [(-50.0, FALLING), (50.0, RISING)])
def test_standing_aside_or_all_in_is_no_collapse_where_it_is_right(bias, bars) -> None:
    trainer = trainer_of(stuck(bias), free_physics(bars), 12)
    trainer.run()
    assert trainer.state.rollout == 12
    assert trainer.guard.stuck == 12


def test_standing_aside_in_a_market_without_an_edge_is_no_collapse() -> None:
    trainer = trainer_of(stuck(-50.0), physics_of(trend(300, 0.0, noise=0.01), reward="mean_variance"), 12)
    trainer.run()
    assert trainer.guard.stuck == 12


def test_a_policy_that_leaves_the_bound_starts_with_a_clean_slate() -> None:
    physics = free_physics(FALLING)
    guard = CollapseGuard(physics)
    _, bad = rolled(stuck(50.0), physics, 10)
    _, moving = rolled(agent_of(), physics, 10)
    for rollout in range(PATIENCE - 1):
        guard.check(bad, rollout, 20)
    guard.check(moving, PATIENCE, 20)
    assert guard.stuck == 0
    for rollout in range(PATIENCE - 1):
        guard.check(bad, rollout, 20)
    with pytest.raises(CollapseError):
        guard.check(bad, PATIENCE, 20)


@pytest.mark.parametrize("reward", ["log_growth", "mean_variance", "differential_sharpe"])
def test_the_alternatives_are_judged_by_the_reward_that_the_run_pays(reward: str) -> None:
    physics = physics_of(random_bars(200, 6), reward=reward, drawdown_penalty=0.1, turnover_penalty=0.01, ruin=1e-6)
    _, played = rolled(stuck(50.0), physics, 20)
    again = CollapseGuard(physics)._constant_reward(played, 2.0)
    assert torch.allclose(again, played.reward, rtol=1e-12, atol=1e-15)
    assert not torch.allclose(CollapseGuard(physics)._constant_reward(played, 1.0), played.reward)


def test_exploration_around_a_right_bound_is_not_held_against_it() -> None:
    physics = free_physics(FALLING)
    guard = CollapseGuard(physics)
    for rollout in range(3 * PATIENCE):
        _, noisy = rolled(stuck(-50.0), physics, 10, std=0.2, seed=rollout)
        _, quiet = rolled(stuck(-50.0), physics, 10, seed=rollout)
        assert noisy.reward.sum() < quiet.reward.sum()  # the noise does cost
        guard.check(noisy, rollout, 20)
    assert guard.stuck == 3 * PATIENCE


def test_evidence_from_before_the_policy_moved_is_forgotten() -> None:
    physics = free_physics(FALLING)
    guard = CollapseGuard(physics)
    rollouts = [rolled(agent, physics, 10)[1] for agent in (stuck(50.0), agent_of(), stuck(-50.0))]
    for trajectory, times in zip(rollouts, (PATIENCE - 1, 1, PATIENCE), strict=True):
        for _ in range(times):
            guard.check(trajectory, 1, 20)  # standing aside is right here, whatever was done before
    assert guard.stuck == PATIENCE


def test_a_resumed_run_remembers_how_long_it_was_stuck(tmp_path) -> None:
    first, second = (trainer_of(stuck(50.0), free_physics(FALLING), 20) for _ in range(2))
    for _ in range(PATIENCE - 1):
        first.one_rollout()
    save_checkpoint(tmp_path / "c", first, "bars")
    load_checkpoint(tmp_path / "c", second, "bars")
    messages = []
    for trainer in (first, second):
        with pytest.raises(CollapseError) as caught:
            trainer.one_rollout()
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
