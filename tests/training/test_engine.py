"""Many nets in one program: each ends in the weights that it has alone, and its own guard, stop and resume."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from helpers.envs import random_bars
from helpers.multi import random_panel
from helpers.training import SMALL, physics_of, trend
from himari_rl.agents.config import LSTMPPOConfig, MultiPPOConfig, PPOConfig
from himari_rl.agents.networks import map_memory
from himari_rl.data.panel import Panel
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.errors import CollapseError
from himari_rl.features.encoder import StateEncoder
from himari_rl.schema import Bars
from himari_rl.training import gradient, trainer
from himari_rl.training.checkpoint import load_checkpoint, save_checkpoint
from himari_rl.training.job import NetJob, train_many
from himari_rl.training.preparation import fitted, prepared
from himari_rl.training.trainer import Trainer

TINY = {**SMALL, "num_envs": 8, "minibatch": 40}
CONFIGS: dict[str, PPOConfig] = {
    "base": PPOConfig(**TINY),
    "centre": PPOConfig(**TINY, head="centre"),
    "gae": PPOConfig(**TINY, advantage="gae"),
    "account": PPOConfig(**TINY, account_inputs=True),
    "lstm": LSTMPPOConfig(**TINY, lstm_hidden_dim=8),
    "multi": MultiPPOConfig(**TINY),
    "believed": PPOConfig(**TINY),
    "believed multi": MultiPPOConfig(**TINY),
}


def job(kind: str, seed: int, market: int = 0, rollouts: int = 4, **environment: Any) -> NetJob:
    """Half gradient, half PPO, on one of several markets."""
    several, agent = "multi" in kind, replace(CONFIGS[kind], beliefs="believed" in kind)
    history: Bars | Panel = random_panel(3, 300, market) if several else random_bars(200, market, gaps=0.05)
    world = TradingEnvConfig(**{"episode_bars": 20, "allow_short": market % 2 == 0, **environment})
    encoder = StateEncoder(history.symbols)
    rows, physics, beliefs = prepared([history], agent, world)
    config = replace(fitted(agent, encoder, beliefs), analytic_gradient_fraction=0.5)
    bars = rollouts * config.num_envs * config.num_steps
    return NetJob(physics=physics, config=config, rows=rows, total_bars=bars, seed=seed)


def weights(trained: Trainer) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in trained.agent.parameters()]).numpy()


def test_1_2_5_40_nets_together_end_in_the_same_bits() -> None:
    """Seeds, markets, costs, kinds of net and budgets as they come."""
    kinds = ["base", "believed", "believed", "multi", "lstm", "centre", "believed multi", "gae"]
    jobs = [
        job(kinds[k % 8], k, k % 3, rollouts=3 + k % 2, commission_rate=0.001 * (1 + k % 5 // 4)) for k in range(40)
    ]
    alone = [weights(train_many([each])[0]) for each in jobs]
    assert len({each.tobytes() for each in alone}) == 40
    for count in (2, 5, 40):
        for first in range(0, 40, count):
            together = train_many(jobs[first : first + count])
            for one, other in zip(alone[first : first + count], together, strict=True):
                assert np.array_equal(one, weights(other)), count


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_net_that_goes_on_in_other_company_ends_in_the_same_bits(kind: str, tmp_path) -> None:
    """Stopped after any rollout, resumed beside others: what it would have been without either."""
    (whole,) = train_many([job(kind, 3)])
    for at in (1, 2, 3):

        def stop(trained: Trainer, at: int = at) -> None:
            trained.paused = trained.state.rollout == at
            if trained.paused:
                save_checkpoint(tmp_path / "c", trained, "bars")

        train_many([replace(job(kind, 3), watch=stop), job(kind, 4)])
        resumed = replace(job(kind, 3), prepare=lambda trained: load_checkpoint(tmp_path / "c", trained, "bars"))
        again = train_many([job("base", 5), resumed, job(kind, 6, 1)])[1]
        assert np.array_equal(weights(again), weights(whole)), at


def test_one_stops_early_and_the_others_go_on() -> None:
    seen: list[int] = []

    def stop(trained: Trainer) -> None:
        trained.paused = trained.state.rollout == 2
        seen.append(trained.state.rollout)

    first, second = train_many([replace(job("base", 0), watch=stop), job("base", 1)])
    assert seen == [1, 2]
    assert (first.state.rollout, second.state.rollout) == (2, 4)
    assert np.array_equal(weights(second), weights(train_many([job("base", 1)])[0]))


def test_a_collapse_is_its_own_nets_and_stops_the_run() -> None:
    """Stuck at 0 in a rising market, beside one that is right to stand aside."""

    def at_zero(trained: Trainer) -> None:
        with torch.no_grad():
            trained.agent.out.bias.fill_(-50.0)

    def stuck(per_bar: float) -> NetJob:
        config = PPOConfig(**TINY, head="centre", learning_rate=1e-9)
        physics = physics_of(trend(300, per_bar), commission_rate=0.0, slippage_bps=0.0, reward="log_growth")
        rows = physics.market.rows.double().numpy()
        return NetJob(physics=physics, config=config, rows=rows, total_bars=12 * 80, seed=0, prepare=at_zero)

    (right,) = train_many([stuck(-0.002)])
    assert right.guard.stuck == right.rollouts == 12
    with pytest.raises(CollapseError, match=r"stuck at multiplier 0 \(rollout 5 of 12\)"):
        train_many([stuck(-0.002), stuck(0.002)])


def test_seconds_are_shared_out() -> None:
    alone = train_many([job("base", 0)])[0]
    together = train_many([job("base", k) for k in range(3)])
    assert alone.seconds > 0.0
    assert all(each.seconds > 0.0 for each in together)


@pytest.mark.parametrize("kind", ["base", "centre", "lstm", "multi", "believed", "believed multi"])
def test_a_rollout_by_hand_learns_what_autograd_learns(kind: str, monkeypatch) -> None:
    """The whole trainer in double precision, both stages, with the adjoint and without it."""

    def double(trained: Trainer) -> None:
        physics = trained.physics
        physics.market = replace(physics.market, rows=physics.market.rows.double())
        trained.__init__(  # type: ignore[misc]
            trained.agent.double(), physics, 4 * 80, torch.Generator().manual_seed(1)
        )

        trained.state.memory = map_memory(torch.Tensor.double, trained.state.memory)

    by_hand = train_many([replace(job(kind, 7), prepare=double)])[0]
    assert by_hand.ledger is not None
    monkeypatch.setattr(trainer, "by_hand", lambda agent, physics: False)
    plain = train_many([replace(job(kind, 7), prepare=double)])[0]
    assert plain.ledger is None
    assert np.allclose(weights(by_hand), weights(plain), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "environment", "hand"),
    [
        ("base", {}, True),
        ("base", {"reward": "log_growth", "turnover_penalty": 0.1}, True),
        ("base", {"reward": "differential_sharpe"}, False),
        ("base", {"drawdown_penalty": 0.1}, False),
        ("account", {}, False),
        ("multi", {}, True),
        ("lstm", {}, True),
        ("believed", {}, True),
        ("believed multi", {}, True),
    ],
)
def test_what_has_no_adjoint_is_left_to_autograd(kind: str, environment: dict, hand: bool, monkeypatch) -> None:
    calls: list[str] = []
    for name in ("gradient_step", "autograd_step"):
        work = getattr(gradient, name)
        monkeypatch.setattr(trainer, name, lambda *args, work=work, name=name: (calls.append(name), work(*args))[1])
    train_many([job(kind, 0, **environment)])
    assert set(calls) == {"gradient_step" if hand else "autograd_step"}
