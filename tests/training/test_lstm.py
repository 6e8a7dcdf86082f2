"""Training with memory: stored states, a ratio of one, memory carried and resumed; a market that only memory can win.

The earlier attempt re-evaluated every step from a zero state as a sequence of length one, so that nothing recurrent was
ever trained. Every test here fails for such an update, and the last lines of most of them show it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from helpers.envs import FREE, random_bars
from helpers.training import physics_of, trainer_of
from himari_rl.agents.config import LSTMPPOConfig, PPOConfig, config_type
from himari_rl.agents.distributions import log_prob
from himari_rl.agents.kinds import AGENTS, build
from himari_rl.agents.lstm_ppo_agent import LSTMPPOAgent
from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.physics import Market, Physics
from himari_rl.errors import ConfigError
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.account import MarketMove
from himari_rl.policy.clock import MarketPath
from himari_rl.policy.runtime import load_policy
from himari_rl.training.checkpoint import load_checkpoint, save_checkpoint
from himari_rl.training.job import Job, run_job
from himari_rl.training.ppo import Batch, Gather
from himari_rl.training.rollout import Trajectory, unroll
from himari_rl.training.trainer import Trainer

SMALL = {"num_envs": 12, "num_steps": 10, "hidden_dim": 8, "minibatch": 60, "lstm_hidden_dim": 8}
BARS = random_bars(600, 8)
STD = 0.05


def lstm_of(seed: int = 0, **config: Any) -> LSTMPPOAgent:
    """An agent whose answers really depend on its memory: the first weights of the output layer are tiny."""
    agent = LSTMPPOAgent(LSTMPPOConfig(**(SMALL | config)), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        agent.out.weight.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(seed))
    return agent


def noisy(agent: PPOAgent, physics: Physics, memory: Any = None, seed: int = 0) -> tuple[Trajectory, Any]:
    generator = torch.Generator().manual_seed(seed)
    state = physics.reset(agent.config.num_envs, generator)
    noise = torch.randn(agent.config.num_steps, agent.config.num_envs, 1, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        _, memory, played = unroll(agent, physics, state, len(noise), memory, std=STD, noise=noise)
    return played, memory


def batch_of(played: Trajectory, memory: Any) -> Batch:
    zero = torch.zeros_like(played.log_prob)
    return Batch(
        played.window.rows, None, memory, played.previous, played.latent, played.log_prob, zero, None, played.alive
    )


def ratio(agent: PPOAgent, part: Batch) -> Tensor:
    """New over old probability as the update computes it."""
    band, _ = agent.band(part.states, part.memory)
    spread = torch.tensor(STD, dtype=torch.float64)
    return (log_prob(agent.config.head, part.latent, band.mean(part.previous), spread) - part.log_prob).exp()


@pytest.mark.parametrize("head", ["band", "squash"])
def test_the_ratio_is_exactly_one_before_the_first_update(head: str) -> None:
    agent, physics = lstm_of(head=head), physics_of(BARS)
    _, memory = noisy(agent, physics, seed=1)  # a memory that is not zero, as every rollout but the first has
    played, _ = noisy(agent, physics, memory, seed=2)
    whole = batch_of(played, memory)
    with torch.no_grad():
        assert (ratio(agent, whole) - 1.0).abs().max() < 1e-12  # float64's rounding
    # with gradients torch runs another LSTM kernel, and products of another size round otherwise, in float32
    some = Gather(whole)(torch.tensor([7, 2, 11, 3]))
    for same in (whole, some):
        assert (ratio(agent, same) - 1.0).abs().max() < 1e-4

    from_zeros = whole._replace(memory=None)
    names = ("states", "previous", "latent", "log_prob")
    each_bar = from_zeros._replace(**{name: getattr(whole, name).flatten(0, 1)[None] for name in names})
    swapped = whole._replace(memory=tuple(part.flip(1) for part in memory))
    for wrong in (from_zeros, each_bar, swapped):
        assert (ratio(agent, wrong) - 1.0).abs().max() > 0.05


def test_minibatches_hold_whole_environments_with_their_own_first_memory() -> None:
    agent, physics = lstm_of(), physics_of(BARS)
    _, memory = noisy(agent, physics, seed=1)
    whole = batch_of(noisy(agent, physics, memory, seed=2)[0], memory)
    pick = torch.tensor([5, 0])
    part = Gather(whole)(pick)
    assert part.states.shape == (10, 2, 16)
    for column, n in enumerate(pick.tolist()):
        assert torch.equal(part.states[:, column], whole.states[:, n])
        assert torch.equal(part.latent[:, column], whole.latent[:, n])
        for mine, all_of_them in zip(part.memory, whole.memory, strict=True):
            assert torch.equal(mine[:, column], all_of_them[:, n])


@pytest.mark.parametrize("analytic_gradient_fraction", [0.0, 1.0], ids=["ppo", "gradient"])
def test_memory_is_carried_over_a_rollout_and_forgotten_at_an_episodes_end(analytic_gradient_fraction: float) -> None:
    config = {"analytic_gradient_fraction": analytic_gradient_fraction, "learning_rate": 1e-30}
    agent, physics = lstm_of(**config), physics_of(BARS)
    trainer = trainer_of(agent, physics, 4)
    starts = trainer.state.env.row.clone()
    trainer.one_rollout()  # episodes of 20 bars, rollouts of 10: every second account begins half-way
    ended = trainer.state.env.row != starts + 10
    assert ended.tolist() == [True, False] * 6
    for part in trainer.state.memory:
        assert (part[:, ended] == 0).all()
        assert (part[:, ~ended].abs().amax((0, 2)) > 0).all()
    first_rows = physics.market.rows[starts[None] + torch.arange(10)[:, None]]
    _, expected = agent.band(first_rows)
    for part, whole in zip(trainer.state.memory, expected, strict=True):
        assert torch.allclose(part[:, ~ended], whole[:, ~ended], atol=1e-6)


def test_two_rollouts_with_carried_memory_are_one_twice_as_long() -> None:
    agent, physics = lstm_of(), physics_of(BARS)
    state = physics.reset(12, torch.Generator().manual_seed(3))
    with torch.no_grad():
        _, _, long = unroll(agent, physics, state, 20)
        middle, memory, first = unroll(agent, physics, state, 10)
        _, _, second = unroll(agent, physics, middle, 10, memory)
        _, _, forgetful = unroll(agent, physics, middle, 10)
    assert torch.allclose(torch.cat([first.mean, second.mean]), long.mean, atol=1e-6)
    assert (forgetful.mean - long.mean[10:]).abs().max() > 0.01


def weights_after(rollouts: int, *, forget: bool, analytic_gradient_fraction: float = 0.5) -> Tensor:
    agent = lstm_of(analytic_gradient_fraction=analytic_gradient_fraction)
    trainer = trainer_of(agent, physics_of(BARS), rollouts)
    for _ in range(rollouts):
        if forget:
            trainer.state.memory = agent.initial_memory(12)
        trainer.one_rollout()
    return torch.cat([p.detach().flatten() for p in agent.actor_parameters()])


@pytest.mark.parametrize("analytic_gradient_fraction", [0.0, 1.0], ids=["ppo", "gradient"])
def test_a_run_that_carries_its_memory_learns_something_else_than_one_that_does_not(
    analytic_gradient_fraction: float,
) -> None:
    carried = weights_after(4, forget=False, analytic_gradient_fraction=analytic_gradient_fraction)
    assert torch.equal(carried, weights_after(4, forget=False, analytic_gradient_fraction=analytic_gradient_fraction))
    assert not torch.equal(
        carried, weights_after(4, forget=True, analytic_gradient_fraction=analytic_gradient_fraction)
    )
    assert torch.equal(  # the first rollout starts from zeros either way
        weights_after(1, forget=False, analytic_gradient_fraction=analytic_gradient_fraction),
        weights_after(1, forget=True, analytic_gradient_fraction=analytic_gradient_fraction),
    )


def final_weights(trainer: Trainer) -> list[Tensor]:
    trainer.run()
    return [p.detach().clone() for p in trainer.agent.parameters()]


@pytest.mark.parametrize("advantage", ["counterfactual", "gae"])
def test_a_resumed_run_ends_in_the_same_weights_bit_for_bit(advantage: str, tmp_path: Path) -> None:
    physics = physics_of(BARS)

    def fresh() -> Trainer:
        return trainer_of(lstm_of(advantage=advantage), physics, 6)

    expected = final_weights(fresh())
    stopped = fresh()
    for _ in range(3):
        stopped.one_rollout()
    save_checkpoint(tmp_path / "run", stopped, "data")
    resumed = fresh()
    load_checkpoint(tmp_path / "run", resumed, "data")
    for saved, loaded in zip(stopped.state.memory, resumed.state.memory, strict=True):
        assert saved.abs().max() > 0
        assert torch.equal(saved, loaded)
    assert all(map(torch.equal, expected, final_weights(resumed)))

    forgetful = fresh()  # the control: a checkpoint without the hidden state would not do
    load_checkpoint(tmp_path / "run", forgetful, "data")
    forgetful.state.memory = forgetful.agent.initial_memory(12)
    assert not all(map(torch.equal, expected, final_weights(forgetful)))


@pytest.mark.parametrize("at", [2, 5])
def test_a_job_that_died_and_is_resumed_writes_the_bundle_of_one_that_did_not(at: int, tmp_path: Path) -> None:
    """The whole road: five rollouts by gradient, five by PPO, a checkpoint after each, the memory in it."""
    job = Job(
        agent=LSTMPPOConfig(**(SMALL | {"analytic_gradient_fraction": 0.5, "beliefs": False})),
        environment=TradingEnvConfig(episode_bars=20),
        num_episodes=10 * 120 // 20, save_interval=6, seeds=(0,), device="cpu",
    )  # fmt: skip

    def die(trainer: Trainer, seed: int) -> None:
        if trainer.state.rollout == at:
            raise KeyboardInterrupt

    run_job(job, BARS, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_job(job, BARS, tmp_path / "died", watch=die)
    assert not (tmp_path / "died" / "bundle").exists()
    saved = load((tmp_path / "died" / "checkpoint-0.safetensors").read_bytes())
    memories = [value for name, value in saved.items() if "memory" in name]
    assert [tuple(part.shape) for part in memories] == [(2, 12, 8)] * 2  # h and c
    assert all(part.abs().max() > 0 for part in memories)
    rollouts: list[int] = []
    run_job(
        job, BARS, tmp_path / "died", resume=True, watch=lambda trainer, seed: rollouts.append(trainer.state.rollout)
    )
    assert rollouts == list(range(at + 1, 11))
    whole, died = (load_policy(tmp_path / name / "bundle").manifest for name in ("whole", "died"))
    assert whole.weights_sha256 == died.weights_sha256


def test_ppo_begins_with_an_optimiser_of_its_own() -> None:
    """Adam divides by the moments of earlier gradients. Those of the analytic gradient are of another size than PPO's:
    PPO's first steps were far too long and undid what the first stage had learned."""
    agent = lstm_of(analytic_gradient_fraction=0.5)
    trainer = trainer_of(agent, physics_of(BARS), 4)
    steps = []
    for _ in range(4):
        trainer.one_rollout()
        steps.append(trainer.optimiser.steps)
    each = 120 // 60  # gradient steps of a pass over one rollout
    ppo = each * agent.config.epochs
    assert steps == [each, 2 * each, ppo, 2 * ppo]


def test_the_class_follows_from_the_config() -> None:
    assert type(build(PPOConfig())) is PPOAgent
    assert type(build(LSTMPPOConfig())) is LSTMPPOAgent
    assert all(agent.kind == kind for kind, agent in AGENTS.items())
    assert config_type("lstm") is LSTMPPOConfig
    with pytest.raises(ConfigError, match="kind 'gru'; expected one of base, lstm"):
        config_type("gru")


def echo_market(bars: int, seed: int) -> Physics:
    """A coin is shown at row t and moves the price two bars later: with the newest coin alone nothing can be known."""
    rng = np.random.default_rng(seed)
    coin = rng.choice([-1.0, 1.0], bars)
    returns = np.zeros((bars, 1))
    returns[2:, 0] = 0.02 * coin[:-2]
    rows = np.zeros((bars, 16))
    rows[:, [3, 4]] = 1.0
    rows[:, 0] = 0.5 + 0.3 * coin
    moves = MarketMove(np.ones((bars, 1), bool), returns, returns, np.zeros((bars, 1)), np.zeros(bars, bool))
    line = MarketPath(moves, np.full((bars, 1), 0.5), np.full((bars, 1), 2.0))
    return Physics(Market.build([rows], [line]), TradingEnvConfig(episode_bars=100, **FREE), StateEncoder(("ECHO",)))


@pytest.mark.parametrize("analytic_gradient_fraction", [0.0, 1.0], ids=["ppo", "gradient"])
def test_what_was_shown_two_bars_ago_is_learned_with_memory_and_cannot_be_without(
    analytic_gradient_fraction: float,
) -> None:
    """The optimum holds 2 after a head and 0 after a tail: log(1.02)/2 = .0099 a bar; without memory it is 0."""
    optimum = np.log(1.02) / 2
    common = {"num_envs": 40, "num_steps": 20, "minibatch": 400, "head": "squash", "hidden_dim": 16, "hidden_layers": 1}
    common |= {
        "analytic_gradient_fraction": analytic_gradient_fraction,
        "initial_std": 0.3,
        "final_std": 0.1,
        "epochs": 1,
    }
    common |= {"learning_rate": 2e-2}
    shares = {}
    for config in (LSTMPPOConfig(**common, lstm_hidden_dim=16, lstm_num_layers=1), PPOConfig(**common)):
        agent = build(config, torch.Generator().manual_seed(0))
        physics = echo_market(4000, seed=1)
        agent.normaliser.fit(physics.market.rows.numpy(), np.arange(16) == 0, False)
        trainer_of(agent, physics, 60).run()
        fresh = echo_market(4000, seed=2)
        state = fresh.reset(200, torch.Generator().manual_seed(5))
        with torch.no_grad():
            _, _, played = unroll(agent, fresh, state, 100)
        shares[agent.kind] = float(played.reward[2:].mean()) / optimum
    assert shares["lstm"] > 0.9
    assert abs(shares["base"]) < 0.1
