"""The physics core: many accounts on one market, in batch. Every environment face is a view of it.

The clock, once more, because the earlier attempt broke it here:

    observe at the close of bar t  ->  decide m_t  ->  fill at open[t+1]  ->  earn open[t+1] .. open[t+2]
    the next observation (close of bar t+1) marks the position at close[t+1] and never sees open[t+2]

State goes in, state comes out; nothing is mutated. What does not depend on the agent (features, returns, caps) is
computed once for the whole history and gathered by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from himari_rl.data.panel import Panel
from himari_rl.envs import rewards
from himari_rl.envs.config import BELIEVED, TradingEnvConfig
from himari_rl.errors import ConfigError
from himari_rl.features.contract import ACTION_BUY, ACTION_SELL, WIDTH
from himari_rl.features.encoder import StateEncoder, write_account
from himari_rl.policy.account import Account, MarketMove, Move, Trades, flat_account, move, no_trades, track
from himari_rl.policy.clock import MarketPath, decisions_of
from himari_rl.policy.code import of_hash
from himari_rl.policy.ledger import Costs
from himari_rl.schema import Bars, FloatArray


class Belief(NamedTuple):
    """What training believes of each decision, instead of the noisy return. Leaves are (D, A), risk (D, A, A)."""

    drift: Tensor  # expected return of the next bar
    risk: Tensor  # aversion times doubt times covariance: the price of w'w


@dataclass(frozen=True)
class Market:
    """Everything the agent cannot change, one row per decision. D rows in all, several paths end to end."""

    rows: Tensor  # (D, F) float32 market features; account columns are 0
    moves: MarketMove  # (D, A) float64, new_day (D,)
    base: Tensor  # (D, A)
    cap: Tensor  # (D, A)
    side: Tensor  # (D, A) what Layer 2 asks for: +1 BUY, -1 SELL, 0 HOLD
    path_start: Tensor  # (P,) first row of each path
    path_rows: Tensor  # (P,) rows of each path
    belief: Belief | None = None  # what the `believed` reward pays for

    @classmethod
    def build(
        cls,
        rows: Sequence[np.ndarray],
        timelines: Sequence[MarketPath],
        device: str = "cpu",
        beliefs: Sequence[Sequence[np.ndarray]] | None = None,
    ) -> Market:
        """Joins paths. Each path has rows (D, F) and a timeline whose arrays are (D,) or (D, A).

        Args:
            beliefs: drift (D, A) and risk (D, A, A) of each path, for the `believed` reward.
        """

        def joined(parts: Sequence[np.ndarray], dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(np.concatenate(parts), dtype=dtype, device=device)

        def assets(parts: Sequence[np.ndarray], dtype: torch.dtype = torch.float64) -> Tensor:
            return joined([p.reshape(len(p), -1) for p in parts], dtype)

        lengths = np.array([len(r) for r in rows])
        width = WIDTH * timelines[0].base.reshape(lengths[0], -1).shape[1]
        side = [r[:, ACTION_BUY:width:WIDTH] - r[:, ACTION_SELL:width:WIDTH] for r in rows]
        moves = MarketMove(
            tradable=assets([t.moves.tradable for t in timelines], torch.bool),
            to_close=assets([t.moves.to_close for t in timelines]),
            to_open=assets([t.moves.to_open for t in timelines]),
            funding=assets([t.moves.funding for t in timelines]),
            new_day=joined([t.moves.new_day for t in timelines], torch.bool),
        )
        return cls(
            rows=torch.cat([torch.as_tensor(r, dtype=torch.float32) for r in rows]).to(device),
            moves=moves,
            base=assets([t.base for t in timelines]),
            cap=assets([t.cap for t in timelines]),
            side=joined(side, torch.float64),
            path_start=torch.as_tensor(np.cumsum(lengths) - lengths, device=device),
            path_rows=torch.as_tensor(lengths, device=device),
            belief=None
            if beliefs is None
            else Belief(*(joined(leaves, torch.float64) for leaves in zip(*beliefs, strict=True))),
        )

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    @property
    def assets(self) -> int:
        return int(self.base.shape[1])


def market_of(
    bars: Bars | Panel, encoder: StateEncoder, environment: TradingEnvConfig, device: str = "cpu"
) -> tuple[FloatArray, Market]:
    """(D, F) market rows of one history and the market they describe, one row per decision."""
    rows, line = decisions_of(
        bars,
        encoder,
        environment,
    )
    return rows, Market.build([rows], [line], device)


class EnvState(NamedTuple):
    """N environments. `row` is the decision at hand; the episode is over when `row` reaches `end`."""

    row: Tensor  # (N,) int64
    end: Tensor  # (N,) int64
    account: Account
    trades: Trades
    log_peak: Tensor  # (N,) highest marked log-equity of the episode
    moments: tuple[Tensor, Tensor]  # (N,) each, for differential_sharpe


class Window(NamedTuple):
    """The market of a batch of decisions, gathered. Leaves are (..., A); rows is (..., F)."""

    rows: Tensor
    moves: MarketMove
    base: Tensor
    cap: Tensor
    side: Tensor
    belief: Belief | None = None

    def at(self, step: int) -> Window:
        moves = MarketMove(*(leaf[step] for leaf in self.moves))
        belief = None if self.belief is None else Belief(*(leaf[step] for leaf in self.belief))
        return Window(self.rows[step], moves, self.base[step], self.cap[step], self.side[step], belief)


class Outcome(NamedTuple):
    """What one step did to N environments."""

    reward: Tensor  # (N,)
    log_growth: Tensor  # (N,) fill to fill
    terminated: Tensor  # (N,) bool: ruin
    truncated: Tensor  # (N,) bool: the episode's length is up
    moved: Move
    moves: MarketMove

    @property
    def price_pnl(self) -> Tensor:
        """(N,) sum w R, fraction of the equity before the fill."""
        pnl: Tensor = (self.moved.exposure * self.moves.to_open).sum(-1)
        return pnl

    @property
    def funding(self) -> Tensor:
        """(N,) sum w F paid, fraction of the equity before the fill."""
        paid: Tensor = (self.moved.exposure * self.moves.funding).sum(-1)
        return paid


def _on(costs: Costs | float, device: torch.device) -> Costs | float:
    """The same, each asset's rates as a tensor."""
    if not isinstance(costs, Costs) or isinstance(costs.rate, float):
        return costs
    return Costs(torch.as_tensor(costs.rate, device=device), costs.impact)


class Physics:
    """The rules of one market under one config: pure functions of `EnvState`."""

    def __init__(self, market: Market, config: TradingEnvConfig, encoder: StateEncoder) -> None:
        longest = int(market.path_rows.max()) if len(market) else 0
        if longest <= config.episode_bars:  # the observation after the last decision needs a row of its own
            raise ConfigError(
                f"{longest + 2} bars",
                f"at least {config.episode_bars + 3} for episodes of {config.episode_bars}",
                "bring a longer history or training span, or fewer episode_bars",
            )
        self.market, self.config = market, config
        self._own_reward = of_hash(config.reward) if config.own_reward else None
        self.costs = config.costs if config.charges.off else _on(config.costs, market.rows.device)
        self.device = market.rows.device
        self._long_enough = torch.nonzero(market.path_rows > config.episode_bars)[:, 0]
        if config.reward == BELIEVED and market.belief is None:
            raise ConfigError(
                "the reward believed without beliefs",
                "a market whose beliefs were fitted on training rows",
                "train with it; elsewhere choose reward mean_variance",
            )
        if market.rows.shape[1] not in (encoder.state_dim, encoder.state_dim + 3 * market.assets):
            raise ConfigError(f"market rows of {market.rows.shape[1]} features", f"the encoder's {encoder.state_dim}")

    def reset(self, count: int, generator: torch.Generator, *, at: Tensor | None = None) -> EnvState:
        """Fresh accounts at random starts (or at rows `at`), in cash, a whole episode ahead of them."""
        if at is None:
            pick = torch.randint(len(self._long_enough), (count,), generator=generator, device=self.device)
            path = self._long_enough[pick]
            room = self.market.path_rows[path] - self.config.episode_bars
            uniform = torch.rand(count, generator=generator, device=self.device, dtype=torch.float64)
            at = self.market.path_start[path] + (uniform * room).long()
        zeros = torch.zeros(count, self.market.assets, dtype=torch.float64, device=self.device)
        account = flat_account(zeros)
        none = account.log_equity
        return EnvState(at, at + self.config.episode_bars, account, no_trades(zeros), none, (none, none))

    def window(self, row: Tensor) -> Window:
        """Gathers the market at decision rows of any shape (...)."""
        m, flat = self.market, row.flatten()

        def at(x: Tensor) -> Tensor:  # x[row], four times as fast
            return x.index_select(0, flat).reshape(*row.shape, *x.shape[1:])

        belief = None if m.belief is None else Belief(*map(at, m.belief))
        return Window(at(m.rows), MarketMove(*map(at, m.moves)), at(m.base), at(m.cap), at(m.side), belief)

    def previous(self, account: Account, window: Window) -> Tensor:
        """(N, A) the observed position in multiplier units, on the side that Layer 2 now asks for.

        The same number as `held_multipliers` of the observation, without a detour through float32.
        """
        size = torch.where(window.side == 0, account.marked.abs(), window.side * account.marked)
        return size / self.config.max_position_pct

    def observe(self, state: EnvState, rows: Tensor) -> Tensor:
        """(..., N, F) float32: the market's rows with the account's columns written in."""
        observation, trades = rows.clone(), state.trades
        write_account(
            observation, state.account.marked, trades.marked_pnl, trades.win_rate, self.config.max_position_pct
        )
        return observation

    def gross_excess(self, multiplier: Tensor, window: Window) -> Tensor:
        """(...) gross exposure of the multipliers above the cap, fraction of equity."""
        gross = (torch.minimum(multiplier, window.cap) * window.base).abs().sum(-1)
        return (gross - self.config.limits.max_leverage).clamp_min(0.0)

    def advance(self, account: Account, multiplier: Tensor, window: Window) -> tuple[Account, Move]:
        """The money of one step (differentiable in `multiplier` and `account.held`)."""
        config = self.config
        return move(account, multiplier, window.base, window.cap, window.moves, self.costs, config.limits)

    def step(
        self, state: EnvState, multiplier: Tensor, window: Window, *, tracked: bool = True
    ) -> tuple[EnvState, Outcome]:
        """One decision of N environments. `tracked=False` skips what only the observation needs."""
        config = self.config
        held = state.account.held
        account, moved = self.advance(state.account, multiplier, window)
        trades = track(state.trades, held, moved, window.moves, self.costs) if tracked else state.trades
        log_peak = torch.maximum(state.log_peak, account.marked_log_equity)
        reward, moments = self.reward(moved, held, window, account, log_peak, state.moments)
        row = state.row + 1
        outcome = Outcome(
            reward=reward,
            log_growth=account.log_equity - state.account.log_equity,
            terminated=account.marked_log_equity <= np.log(config.ruin),
            truncated=row >= state.end,
            moved=moved,
            moves=window.moves,
        )
        return EnvState(row, state.end, account, trades, log_peak, moments), outcome

    def reward(
        self,
        moved: Move,
        held: Tensor,
        window: Window,
        account: Account,
        log_peak: Tensor,
        moments: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(N,) unscaled reward of a move, and the moments that differential_sharpe carries."""
        config = self.config
        if window.belief is not None and config.reward == BELIEVED:
            reward = rewards.believed(moved.exposure, moved.cost, *window.belief)
        elif self._own_reward is not None:
            earned = (moved.exposure * window.moves.to_open).sum(-1)
            turnover = (moved.exposure - held).abs().sum(-1)
            reward = rewards.own(self._own_reward, config.reward, moved.growth, earned, moved.cost, turnover)
        elif config.reward == "log_growth":
            reward = rewards.log_growth(moved.growth)
        elif config.reward == "mean_variance":
            portfolio_return = (moved.exposure * window.moves.to_open).sum(-1)
            reward = rewards.mean_variance(moved.growth, portfolio_return, config.risk_aversion)
        else:
            reward, *after = rewards.differential_sharpe(moved.growth, *moments, config.sharpe_rate)
            moments = (after[0], after[1])
        if config.turnover_penalty:
            reward = reward - rewards.turnover_penalty((moved.exposure - held).abs().sum(-1), config.turnover_penalty)
        if config.drawdown_penalty:
            reward = reward - rewards.drawdown_penalty(account.marked_log_equity, log_peak, config.drawdown_penalty)
        return reward, moments
