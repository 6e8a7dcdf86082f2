"""The agent before it learned anything, and its options."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch

from helpers.envs import bars_of
from helpers.training import agent_of, free_physics, rolled, trainer_of, trend
from himari_rl.agents import ppo_agent
from himari_rl.agents.config import HEADS, PPOConfig
from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.errors import ConfigError
from himari_rl.policy.network import held_multipliers


def flat_states(count: int, seed: int = 0) -> torch.Tensor:
    """Every direction and tier, every other feature over its whole range, no position."""
    rng = np.random.default_rng(seed)
    states = np.zeros((count, 16), np.float32)
    states[:, 0] = rng.random(count)
    states[np.arange(count), 1 + rng.integers(0, 3, count)] = 1.0
    states[np.arange(count), 4 + rng.integers(0, 4, count)] = 1.0
    states[:, 11:13] = rng.uniform(-1, 1, (count, 2))
    states[:, 13:16] = rng.random((count, 3))
    return torch.from_numpy(states)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("seed", range(5))
def test_a_fresh_agent_answers_one_from_cash_whatever_it_sees(head: str, seed: int) -> None:
    agent = PPOAgent(PPOConfig(head=head), torch.Generator().manual_seed(seed))
    states = flat_states(500)
    agent.normaliser.fit(states.numpy().astype(float), np.ones(16, bool), False)
    answers, _ = agent.decide(states)
    assert answers.shape == (500, 1)
    assert float((answers - 1.0).abs().max()) < 0.05


def test_a_fresh_agent_keeps_the_base_position() -> None:
    states = flat_states(500)
    states[:, 1:4] = torch.tensor([0.0, 0.0, 1.0])
    states[:, 8], states[:, 9] = 0.5, 1.0  # the base position, long
    assert float((agent_of().decide(states)[0] - 1.0).abs().max()) < 0.05


@pytest.mark.parametrize(
    ("action", "size", "side", "expected"),
    [("buy", 0.5, 1, 1.0), ("sell", 0.25, -1, 0.5), ("hold", 0.75, -1, 1.5), ("hold", 0.75, 1, 1.5),
     ("buy", 0.5, -1, -1.0), ("sell", 0.5, 1, -1.0), ("buy", 0.0, 0, 0.0)],
)  # fmt: skip
def test_the_observed_position_is_read_on_the_side_layer_2_asks_for(action, size, side, expected) -> None:
    state = torch.zeros(1, 16)
    state[0, 1 + ("sell", "hold", "buy").index(action)] = 1.0
    state[0, 8], state[0, 9] = size, side
    assert float(held_multipliers(state, 1)) == expected


def test_the_position_read_from_the_observation_is_the_one_of_the_rollout() -> None:
    rng = np.random.default_rng(3)
    prices = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.01, 200)))
    physics = free_physics(bars_of(prices, action=rng.integers(-1, 2, 200)), episode_bars=40)
    _, played = rolled(agent_of(num_envs=30), physics, 40, std=0.3, observed=True)
    read = held_multipliers(played.states[:-1], 1).double()
    assert torch.allclose(read.clamp(-2, 2), played.previous.clamp(-2, 2), atol=1e-6)
    assert played.previous.abs().max() > 0.5


def beyond_the_bound(pull: float) -> float:
    """The largest answer after training on a falling market, from raw outputs that lie far above 2."""
    agent = agent_of(
        head="centre",
        range_penalty=pull,
        learning_rate=0.1,
        analytic_gradient_fraction=1.0,
        weight_average_fraction=0.01,
        num_envs=6,
    )
    with torch.no_grad():
        agent.out.bias.fill_(1.5)
    physics = free_physics(trend(100, -0.002))
    trainer = trainer_of(agent, physics, 50)
    trainer.guard.check = lambda *_: None
    trainer.run()
    return float(agent.decide(physics.market.rows)[0].max())


def test_an_agent_outside_the_bounds_comes_back() -> None:
    assert beyond_the_bound(pull=0.01) < 0.5


def test_without_the_pull_it_never_would() -> None:
    assert beyond_the_bound(pull=0.0) == 2.0


def test_the_same_generator_makes_the_same_agent_and_leaves_the_global_one_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = agent_of(1), agent_of(1), agent_of(2)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.out.weight, other.out.weight)


def test_what_the_net_must_not_read_does_not_move_its_answer() -> None:
    states = flat_states(100)
    agent = agent_of()
    visible = np.ones(16, bool)
    visible[12] = False
    with torch.no_grad():
        agent.out.weight.normal_(generator=torch.Generator().manual_seed(0))
    agent.normaliser.fit(states.numpy().astype(float), visible, False)
    changed = states.clone()
    changed[:, 12] = 0.9
    changed[:, [10, 14]] = 0.7  # account numbers are not read either, by default
    assert torch.equal(agent.decide(states)[0], agent.decide(changed)[0])
    changed[:, 13] = 0.9
    assert not torch.equal(agent.decide(states)[0], agent.decide(changed)[0])


def test_the_cards_own_call_works() -> None:
    assert doctest.testmod(ppo_agent).failed == 0


def test_settings_that_make_no_agent_are_refused() -> None:
    for wrong in ({"head": "beta"}, {"advantage": "td"}, {"analytic_gradient_fraction": 1.5}):
        with pytest.raises(ConfigError, match=r"; expected "):
            PPOConfig(**wrong)
