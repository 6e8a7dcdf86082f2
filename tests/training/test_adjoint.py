"""The adjoint by hand against autograd through `Physics`, which is the definition: values, slopes, kinks, ties."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.envs import bars_of
from himari_rl.agents.distributions import Band
from himari_rl.data.panel import panel_of
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.physics import EnvState, Physics, market_of
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.risk import RiskLimits
from himari_rl.training import engine
from himari_rl.training.band_ledger import BandLedger

T, N = 12, 40
F64 = torch.float64


def world(seed: int, assets: int, *, wild: float = 0.0, stuck: float = 0.0, **config) -> Physics:
    """A market drawn at random: BUY, SELL and HOLD, caps of 0 to 2, funding, gaps and bars that cannot be traded.

    Args:
        wild: share of bars that move by up to everything.
        stuck: share of bars that cannot be traded.
    """
    rng = np.random.default_rng(seed)
    each = [
        bars_of(100.0 * np.exp(np.cumsum(rng.normal(0, 0.01, 80))), symbol=f"S{a}", action=rng.integers(-1, 2, 80))
        for a in range(assets)
    ]
    bars = each[0] if assets == 1 else panel_of(each)
    encoder = StateEncoder(bars.symbols)
    environment = TradingEnvConfig(**{"episode_bars": 20, "allow_short": True, "max_position_pct": 0.4, **config})
    physics = Physics(market_of(bars, encoder, environment)[1], environment, encoder)
    market, shape = physics.market, physics.market.base.shape

    def drawn(values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=F64)

    jumps = np.where(rng.random(shape) < wild, rng.uniform(-1.0, 2.0, shape), 0.0)
    moves = market.moves._replace(
        tradable=torch.as_tensor(rng.random(shape) >= stuck),
        to_close=drawn(rng.normal(0, 0.01, shape) + jumps),
        to_open=drawn(rng.normal(0, 0.01, shape) + jumps),
        funding=drawn(rng.normal(0, 1e-4, shape) * (rng.random(shape) < 0.2)),
        new_day=torch.as_tensor(rng.random(shape[0]) < 0.2),
    )
    caps = drawn(rng.choice([0.0, 1.0, 1.5, 2.0], shape))
    physics.market = replace(market, moves=moves, cap=caps)
    return physics


def accounts(physics: Physics, seed: int) -> EnvState:
    """Accounts in mid-episode: some in cash, some with a position, some stopped, some near ruin."""
    rng = np.random.default_rng(seed)
    state = physics.reset(N, torch.Generator().manual_seed(seed))
    shape = state.account.held.shape
    sign = 1.0 if physics.config.allow_short is False else rng.choice([-1.0, 1.0], shape)
    held = torch.as_tensor(sign * rng.uniform(0, 0.8, shape) / shape[1] * (rng.random((N, 1)) < 0.8))
    equity = torch.as_tensor(np.where(rng.random(N) < 0.2, np.log(physics.config.ruin) + 0.01, rng.normal(0, 0.1, N)))
    account = state.account._replace(
        held=held,
        marked=held * torch.as_tensor(rng.uniform(0.98, 1.02, shape)),
        log_equity=equity,
        marked_log_equity=equity,
        day_log_equity=equity + torch.as_tensor(rng.uniform(0.0, 0.015, N)),
        stopped=torch.as_tensor(rng.random(N) < 0.1) & (physics.config.limits.daily_loss_stop < 1.0),
    )
    return state._replace(account=account)


def edges(physics: Physics, seed: int, kind: str) -> tuple[Tensor, Tensor]:
    """(T, N, A) band edges in [0, 2]; a share of them at the bounds, where max and min tie."""
    rng = np.random.default_rng([seed, 9])
    shape = (T, N, physics.market.assets)
    centre = rng.uniform(-0.5, 2.5, shape)
    half = rng.uniform(0.0, 0.6, shape) if kind == "band" else np.zeros(shape)
    low, high = (torch.as_tensor(np.clip(x, 0.0, 2.0)).requires_grad_() for x in (centre - half, centre + half))
    return low, (high if kind == "band" else low)


def by_definition(physics: Physics, state: EnvState, low: Tensor, high: Tensor, gross: float):
    """Objective, its slopes and the accounts after, by autograd through the physics, bar by bar."""
    band = Band(low, high, low)
    window = physics.window(state.row + torch.arange(T)[:, None])
    alive, rewards, weights, means = torch.ones(N, dtype=F64), [], [], []
    for t in range(T):
        now = window.at(t)
        mean = band.at(t).mean(physics.previous(state.account, now))
        state, outcome = physics.step(state, mean, now, tracked=False)
        rewards.append(outcome.reward)
        weights.append(alive)
        means.append(mean)
        alive = alive * ~outcome.terminated
    weight = torch.stack(weights)
    objective = (torch.stack(rewards) * weight).sum() / weight.sum().clamp_min(1.0)
    excess = physics.gross_excess(torch.stack(means), window).mean()
    slopes = torch.autograd.grad(objective - gross * excess, [low] if high is low else [low, high])
    return objective.detach(), slopes, state, weight, torch.stack(means).detach()


def agree(found: Tensor, expected: Tensor) -> None:
    """Within 1e-10 of the largest."""
    scale = float(expected.abs().max()) or 1.0
    assert float((found - expected).abs().max()) <= 1e-10 * scale


CASES = {
    "plain": {},
    "long": {"allow_short": False},
    "no limits": {"limits": RiskLimits.off()},
    "tight gross cap": {"limits": RiskLimits(max_leverage=0.3), "gross": 0.1},
    "half the usual base": {"max_position_pct": 0.5, "gross": 0.1},
    "log-growth": {"reward": "log_growth"},
    "turnover": {"turnover_penalty": 0.01},
    "cannot be traded": {"stuck": 0.3},
    "cannot be traded, tight": {"stuck": 0.3, "limits": RiskLimits(max_leverage=0.4), "gross": 0.1},
    "ruin": {"wild": 0.2, "limits": RiskLimits.off(2.0), "max_position_pct": 1.0},
    "ruin and stop": {"wild": 0.1, "stuck": 0.1},
    "free of cost": {"commission_rate": 0.0, "slippage_bps": 0.0},
}


@pytest.mark.parametrize("assets", [1, 3])
@pytest.mark.parametrize("kind", ["band", "centre"])
@pytest.mark.parametrize("case", CASES)
def test_the_adjoint_is_autograds(case: str, kind: str, assets: int) -> None:
    for seed in range(4):
        settings = dict(CASES[case])
        gross = settings.pop("gross", 0.0)
        physics = world(seed, assets, **settings)
        state = accounts(physics, seed)
        low, high = edges(physics, seed, kind)
        objective, slopes, after, alive, mean = by_definition(physics, state, low, high, gross)
        ledger = BandLedger(physics, gross_penalty=gross)
        played = ledger.turn(state, T)
        (answer,) = engine.answered([played.ask(ledger.to_bars(low), ledger.to_bars(high), carried=kind == "band")])
        found = played.result(answer)
        agree((found.reward * found.alive).sum() / found.alive.sum(), objective)
        assert torch.equal(found.alive, alive)
        assert torch.allclose(found.mean, mean, atol=1e-12, rtol=0.0)
        for name in ("held", "marked", "log_equity", "marked_log_equity", "day_log_equity"):
            a, b = getattr(found.after.account, name), getattr(after.account, name)
            assert torch.allclose(a, b, atol=1e-12, rtol=1e-12), (seed, name)
        assert torch.equal(found.after.account.stopped, after.account.stopped)
        assert torch.equal(found.after.row, after.row)
        assert torch.allclose(found.after.log_peak, after.log_peak, atol=1e-12)
        own = [ledger.from_bars(x) for x in answer[2 : 3 if high is low else 4]]
        for mine, theirs in zip(own, slopes, strict=True):
            agree(mine, theirs)
        assert any(bool(each.any()) for each in slopes)
