"""The PPO update against hand calculations, and truncation against termination."""

from __future__ import annotations

import math

import pytest
import torch

from helpers.envs import random_bars
from helpers.training import agent_of, free_physics, physics_of, rolled, trainer_of, trend
from himari_rl.agents.config import PPOConfig
from himari_rl.agents.distributions import log_prob
from himari_rl.errors import ConfigError
from himari_rl.training import trainer as trainer_module
from himari_rl.training.optimiser import FlatAdamW
from himari_rl.training.ppo import Batch, NewPolicy, explained_variance, gae, normalised, ppo_loss, update

F64 = torch.float64


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)[:, None]


def test_gae_is_the_hand_calculation() -> None:
    reward, value = column(1.0, 2.0, 3.0), column(0.5, 1.0, 2.0)
    final, none = torch.tensor([4.0], dtype=F64), torch.zeros(3, 1, dtype=torch.bool)
    advantage, target = gae(reward, value, final, none, gamma=0.5, lam=0.5)
    # delta = r + .5 V' - V: 1 + .5 - .5 = 1;  2 + 1 - 1 = 2;  3 + 2 - 2 = 3;   A = delta + .25 A'
    assert advantage[:, 0].tolist() == [1 + 0.25 * 2.75, 2 + 0.25 * 3.0, 3.0]
    assert target[:, 0].tolist() == [1.6875 + 0.5, 2.75 + 1.0, 3.0 + 2.0]


def test_gae_stops_at_ruin_and_nowhere_else() -> None:
    reward, value = column(1.0, 2.0, 3.0), column(0.5, 1.0, 2.0)
    ruin = torch.tensor([[False], [True], [False]])
    advantage, _ = gae(reward, value, torch.tensor([4.0], dtype=F64), ruin, gamma=0.5, lam=0.5)
    # at the ruined bar delta = 2 - 1 = 1 and nothing of the next bar comes back
    assert advantage[:, 0].tolist() == [1 + 0.25 * 1.0, 1.0, 3.0]


def test_a_true_value_has_no_advantage_because_a_truncation_bootstraps() -> None:
    value = torch.full((5, 2), 1.0 / (1.0 - 0.9), dtype=F64)  # reward 1 for ever
    none = torch.zeros(5, 2, dtype=torch.bool)
    advantage, _ = gae(torch.ones_like(value), value, value[0], none, 0.9, 0.8)
    assert advantage.abs().max() < 1e-12


def test_a_truncation_treated_as_death_would_show() -> None:
    value = torch.full((5, 2), 10.0, dtype=F64)
    dead = torch.zeros(5, 2, dtype=torch.bool)
    dead[-1] = True
    advantage, _ = gae(torch.ones_like(value), value, value[0], dead, 0.9, 0.8)
    assert advantage[-1].tolist() == [-9.0, -9.0]


def test_the_trainer_bootstraps_an_ended_episode_from_its_own_final_observation(monkeypatch) -> None:
    agent = agent_of(advantage="gae", analytic_gradient_fraction=0.0)
    physics = physics_of(random_bars(300, 2), episode_bars=10)  # one rollout is one episode: all of them end in it
    trainer = trainer_of(agent, physics, 3)
    seen = {}

    def noted(reward, value, final, terminated, gamma, lam):
        seen.update(final=final, terminated=terminated, value=value)
        return gae(reward, value, final, terminated, gamma, lam)

    def unrolled(*arguments, **options):
        state, memory, played = real(*arguments, **options)
        seen.update(state=state, played=played)
        return state, memory, played

    real = trainer_module.unroll
    monkeypatch.setattr(trainer_module, "gae", noted)
    monkeypatch.setattr(trainer_module, "unroll", unrolled)
    before = [p.clone() for p in agent.critic.parameters()]
    trainer.one_rollout()
    assert bool((seen["state"].row == seen["state"].end).all())
    final, ended = seen["played"].states[-1], seen["state"]
    assert torch.equal(final, physics.observe(ended, physics.market.rows[ended.row]))
    assert float(final[:, 8].max()) > 0.1  # the position of the ended episode, not a fresh account
    with torch.no_grad():
        for parameter, value in zip(agent.critic.parameters(), before, strict=True):
            parameter.copy_(value)
        assert torch.equal(seen["final"], agent.value(final).double())
        fresh = final.clone()
        fresh[:, 8:11] = 0.0
        assert not torch.allclose(seen["final"], agent.value(fresh).double())
    assert not seen["terminated"].any()
    assert bool((trainer.state.env.account.log_equity == 0).all())  # and only then it begins anew


def batch(old: list[float], advantage: list[float], alive: list[float], target: list[float] | None = None) -> Batch:
    empty = torch.empty(0)
    return Batch(
        empty, None, None, empty, empty, column(*old), column(*advantage),
        None if target is None else column(*target), column(*alive),
    )  # fmt: skip


def test_the_clipped_loss_its_kl_and_its_clip_fraction_are_the_hand_calculation() -> None:
    part = batch([0.0] * 5, [1.0, 1.0, -1.0, -2.0, 9.0], [1, 1, 1, 1, 0], [1.0, 2.0, 3.0, 4.0, 99.0])
    ratios = [1.0, 1.5, 0.5, 1.1, 7.0]
    new = NewPolicy(column(*map(math.log, ratios)), torch.zeros(5, 1, dtype=F64))
    loss, stats = ppo_loss(part, new, PPOConfig(clip_coef=0.2, value_coefficient=0.5))
    # min(r A, clip(r) A): 1, 1.2, -.8, -2.2; the dead bar counts for nothing
    assert float(stats.policy) == pytest.approx(-(1.0 + 1.2 - 0.8 - 2.2) / 4)
    assert float(stats.clip_fraction) == pytest.approx(2 / 4)
    assert float(stats.kl) == pytest.approx(sum(r - 1 - math.log(r) for r in ratios[:4]) / 4)
    assert float(stats.value) == pytest.approx(0.5 * (1 + 4 + 9 + 16) / 4)
    assert float(loss) == pytest.approx(0.2 + 0.5 * 3.75)


def test_a_clipped_bar_gives_no_gradient_unless_it_leads_back() -> None:
    new = column(math.log(1.5), math.log(1.5)).requires_grad_()
    part = batch([0.0, 0.0], [1.0, -1.0], [1, 1])
    loss, _ = ppo_loss(part, NewPolicy(new, None), PPOConfig(clip_coef=0.2))
    (slope,) = torch.autograd.grad(loss, new)
    assert slope[0].item() == 0.0
    assert slope[1].item() == pytest.approx(0.75)


@pytest.mark.parametrize("head", ["band", "centre", "squash"])
def test_the_ratio_is_one_before_the_first_update(head: str) -> None:
    agent = agent_of(head=head)
    _, played = rolled(agent, physics_of(random_bars(200, 1)), 20, std=0.05)
    band, _ = agent.band(played.window.rows)
    again = log_prob(head, played.latent, band.mean(played.previous), torch.tensor(0.05, dtype=F64))
    assert float((again - played.log_prob).detach().abs().max()) < 1e-12  # vectorised tails round differently


def test_the_first_gradient_step_sees_no_divergence_and_the_next_ones_do() -> None:
    agent = agent_of(epochs=1, minibatch=10_000, head="centre")
    _, played = rolled(agent, physics_of(random_bars(200, 1)), 20, std=0.05)
    made = Batch(
        played.window.rows, None, None, played.previous, played.latent, played.log_prob,
        normalised(played.reward, played.alive), None, played.alive,
    )  # fmt: skip
    optimiser = FlatAdamW(agent, 1e-3, 0.0, 1.0)
    first = update(agent, optimiser, made, 0.05, torch.Generator().manual_seed(0))
    assert float(first["kl"]) == pytest.approx(0.0, abs=1e-15)
    assert float(first["clip_fraction"]) == 0.0
    assert float(first["policy"]) == pytest.approx(0.0, abs=1e-12)  # the mean normalised advantage
    second = update(agent, optimiser, made, 0.05, torch.Generator().manual_seed(0))
    assert float(second["kl"]) > 1e-6
    assert float(second["policy"]) < 0.0


def test_advantages_are_normalised_over_the_living() -> None:
    alive = torch.ones(4, 3, dtype=F64)
    alive[2:, 1] = 0.0
    advantage = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(0)) * 7 + 3
    out = normalised(advantage, alive)
    living = out[alive > 0]
    assert float(living.mean()) == pytest.approx(0.0, abs=1e-12)
    assert float(living.square().mean()) == pytest.approx(1.0, abs=1e-6)
    assert not out[alive == 0].any()


def test_explained_variance_is_one_for_a_true_critic_and_zero_for_a_constant() -> None:
    target = torch.randn(50, dtype=F64, generator=torch.Generator().manual_seed(0))
    assert float(explained_variance(target, target)) == 1.0
    assert float(explained_variance(torch.ones_like(target), target)) == pytest.approx(0.0, abs=1e-12)
    assert float(explained_variance(-target, target)) == pytest.approx(-3.0)


def test_a_ruined_account_counts_until_its_ruin_and_then_begins_anew() -> None:
    agent = agent_of(head="centre", analytic_gradient_fraction=0.0, learning_rate=1e-9)
    with torch.no_grad():
        agent.out.bias.fill_(3.0)
    physics = free_physics(trend(300, -0.2, noise=0.0), ruin=0.4)
    trainer = trainer_of(agent, physics, 4)
    seen = {}
    trainer.guard.check = lambda trajectory, *_: seen.update(played=trajectory)
    trainer.one_rollout()
    alive, terminated = seen["played"].alive, seen["played"].terminated
    # fully invested and marked at each close: exp(-.2 k) <= .4 first at k = 5
    assert (alive.sum(0) == 5).all()
    assert (terminated[4] & ~terminated[3]).all()
    assert (trainer.state.env.account.log_equity == 0).all()
    assert (trainer.state.env.account.held == 0).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma": 2.0}, {"epochs": 0}, {"minibatch": -1}, {"num_envs": -1}, {"num_steps": -5}, {"hidden_dim": 0},
        {"learning_rate": math.nan}, {"learning_rate": math.inf}, {"gae_lambda": -0.1}, {"clip_coef": 0.0},
        {"weight_decay": -1.0}, {"analytic_gradient_fraction": 1.5},
    ],
)  # fmt: skip
def test_a_number_that_no_training_can_use_is_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PPOConfig(**wrong)
