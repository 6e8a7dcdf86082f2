"""Markets and accounts drawn at random for the ledger's adjoint: gaps, caps, stops, shorts, ruin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers.envs import bars_of
from himari_rl.data.panel import panel_of
from himari_rl.envs.config import BELIEVED, TradingEnvConfig
from himari_rl.envs.physics import Belief, EnvState, Market, Physics, market_of
from himari_rl.features.encoder import StateEncoder

F64 = torch.float64


def world(seed: int, assets: int, *, wild: float = 0.0, stuck: float = 0.0, **config: Any) -> Physics:
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
    market = market_of(bars, encoder, environment)[1]
    if environment.reward == BELIEVED:
        market = replace(market, belief=beliefs(market, np.random.default_rng([seed, 1])))
    physics = Physics(market, environment, encoder)
    shape = market.base.shape

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


def beliefs(market: Market, rng: np.random.Generator) -> Belief:
    """Drifts and prices of risk drawn at random; the prices are symmetric, as a covariance's are."""
    rows, assets = market.base.shape
    factor = rng.normal(0, 0.05, (rows, assets, assets))
    drift = torch.as_tensor(rng.normal(0, 0.005, (rows, assets)), dtype=F64)
    return Belief(drift, torch.as_tensor(factor @ factor.swapaxes(1, 2), dtype=F64))


def accounts(physics: Physics, seed: int, count: int = 40) -> EnvState:
    """Accounts in mid-episode: some in cash, some with a position, some stopped, some near ruin."""
    rng = np.random.default_rng(seed)
    state = physics.reset(count, torch.Generator().manual_seed(seed))
    shape = state.account.held.shape
    sign = 1.0 if physics.config.allow_short is False else rng.choice([-1.0, 1.0], shape)
    held = torch.as_tensor(sign * rng.uniform(0, 0.8, shape) / shape[1] * (rng.random((count, 1)) < 0.8))
    equity = torch.as_tensor(
        np.where(rng.random(count) < 0.2, np.log(physics.config.ruin) + 0.01, rng.normal(0, 0.1, count))
    )
    account = state.account._replace(
        held=held,
        marked=held * torch.as_tensor(rng.uniform(0.98, 1.02, shape)),
        log_equity=equity,
        marked_log_equity=equity,
        day_log_equity=equity + torch.as_tensor(rng.uniform(0.0, 0.015, count)),
        stopped=torch.as_tensor(rng.random(count) < 0.1) & (physics.config.limits.daily_loss_stop < 1.0),
    )
    return state._replace(account=account)
