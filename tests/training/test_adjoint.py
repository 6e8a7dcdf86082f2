"""The adjoint by hand against autograd through `Physics`, which is the definition: values, slopes, kinks, ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.worlds import F64, accounts, world
from himari_rl.agents.distributions import Band
from himari_rl.envs.physics import EnvState, Physics
from himari_rl.policy.risk import RiskLimits
from himari_rl.training import engine
from himari_rl.training.band_ledger import BandLedger

T, N = 12, 40  # bars, accounts


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
    "believed": {"reward": "believed"},
    "believed, long, turnover": {"reward": "believed", "allow_short": False, "turnover_penalty": 0.01},
    "believed, stuck, tight": {"reward": "believed", "stuck": 0.3, "limits": RiskLimits(max_leverage=0.4)},
    "cannot be traded": {"stuck": 0.3},
    "cannot be traded, tight": {"stuck": 0.3, "limits": RiskLimits(max_leverage=0.4), "gross": 0.1},
    "ruin": {"wild": 0.2, "limits": RiskLimits.off(2.0), "max_position_pct": 1.0},
    "ruin and stop": {"wild": 0.1, "stuck": 0.1},
    "free of cost": {"commission_rate": 0.0, "slippage_bps": 0.0},
}


@pytest.mark.parametrize("in_numpy", [True, False], ids=["numpy", "torch"])
@pytest.mark.parametrize("assets", [1, 3])
@pytest.mark.parametrize("kind", ["band", "centre"])
@pytest.mark.parametrize("case", CASES)
def test_the_adjoint_is_autograds(case: str, kind: str, assets: int, in_numpy: bool) -> None:
    for seed in range(3 if in_numpy else 1):  # torch's arrays are a GPU's
        settings = dict(CASES[case])
        gross = settings.pop("gross", 0.0)
        physics = world(seed, assets, **settings)
        state = accounts(physics, seed)
        low, high = edges(physics, seed, kind)
        objective, slopes, after, alive, mean = by_definition(physics, state, low, high, gross)
        ledger = BandLedger(physics, gross, in_numpy=in_numpy)
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


@pytest.mark.parametrize(
    ("case", "assets"), [("ruin", 1), ("ruin and stop", 3), ("cannot be traded, tight", 3), ("plain", 1)]
)
def test_the_worlds_hold_what_they_are_for(case: str, assets: int) -> None:
    """Ruin, growth held above nothing, the daily stop, the gross cap, shorts, positions in cash: each is met."""
    settings = dict(CASES[case])
    settings.pop("gross", None)
    physics = world(0, assets, **settings)
    state = accounts(physics, 0)
    low, high = (edge.detach() for edge in edges(physics, 0, "band"))
    ledger = BandLedger(physics)
    turn = ledger.turn(state, T)
    (answer,) = engine.answered([turn.ask(ledger.to_bars(low), ledger.to_bars(high), carried=True)])
    path, most = answer.path, ledger.rules.max_leverage
    gross = np.abs(path.exposure).reshape(T, -1, N).sum(1)
    assert (path.exposure < 0).any()
    assert (path.exposure == 0).any()
    assert (turn.market.cap < 2.0).any()
    assert (turn.market.side == 0).any()
    if "ruin" in case:
        assert 0 < turn.alive.sum() < turn.alive.size
        assert (path.growth == 1e-9).any() or case != "ruin"
    if "tight" in case:
        assert turn.market.cannot.any()
        assert (np.abs(gross - most) < 1e-12).any()
    if case != "ruin":
        assert (path.free == 0.0).any()
    assert (path.position == ledger.to_bars(low)).any()  # a tie


def once(ask: engine.LedgerAsk) -> engine.Asking[engine.LedgerAnswer]:
    """A net that asks once."""
    return (yield ask)


@pytest.mark.parametrize("assets", [1, 3])
def test_the_company_changes_no_bit(assets: int) -> None:
    """1, 2, 5, 40 nets' accounts together, on markets of every kind: each gets the bits that it gets alone."""
    kinds = [
        {"stuck": 0.2}, {"allow_short": False}, {"reward": "believed"}, {"wild": 0.2}, {"limits": RiskLimits.off()}
    ]  # fmt: skip
    worlds = [world(seed, assets, **kind) for seed, kind in enumerate(kinds)]
    asks = []
    for k in range(40):
        ledger = BandLedger(worlds[k % 5], 0.1 * (k % 3 == 0))
        low, high = (ledger.to_bars(edge.detach()) for edge in edges(worlds[k % 5], k, "band"))
        asks.append(ledger.turn(accounts(worlds[k % 5], k), T).ask(low, high, carried=True))
    alone = [engine.run([once(ask)])[0] for ask in asks]
    for count in (2, 5, 40):
        for first in range(0, 40, count):
            together = engine.run([once(ask) for ask in asks[first : first + count]])
            for one, other in zip(alone[first : first + count], together, strict=True):
                pairs = zip((*one.path, *one.after, *one[2:4]), (*other.path, *other.after, *other[2:4]), strict=True)
                assert all(np.array_equal(a, b) for a, b in pairs)
