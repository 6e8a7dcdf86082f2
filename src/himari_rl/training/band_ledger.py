"""Between the trainer's accounts (torch) and the engine's arrays: bars gathered, rewards with their slopes, and back.

A band that does not depend on the account lets all its bars be played at once, by the loops of engine.py. Rewards are
functions of what a bar was (exposure, trade, growth): their slopes in those are all that the way back needs, so another
reward is another function like `earned`. A reward that carries a memory of its own (differential Sharpe ratio,
drawdown penalty) is left to autograd, and so is a net that reads the account: `playable` says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.envs.config import BELIEVED, TradingEnvConfig
from himari_rl.envs.physics import EnvState, Physics
from himari_rl.policy.ledger import namespace
from himari_rl.schema import MAX_MULTIPLIER
from himari_rl.training.adjoint import (
    AccountStart,
    Array,
    BandBatch,
    BandEdges,
    LedgerRules,
    MarketBars,
    PlayedPath,
    RewardSlopes,
    mean_of,
    share,
)
from himari_rl.training.engine import LedgerAnswer, LedgerAsk

PLAYED_REWARDS = (BELIEVED, "log_growth", "mean_variance")


def playable(config: TradingEnvConfig) -> bool:
    """Whether the reward's adjoint is written here; if not, autograd does it."""
    return config.reward in PLAYED_REWARDS and not config.drawdown_penalty


def by_hand(agent: PPOAgent, physics: Physics) -> bool:
    """Whether this agent's rollouts in this environment can be played by the engine."""
    return playable(physics.config) and not agent.reads_account


class Rollout(NamedTuple):
    """T decisions of N accounts, time first: what the trainer and its guard look at."""

    first: EnvState  # before the first of them
    after: EnvState  # after the last
    previous: Tensor  # (T, N, A) held position in multiplier units, as observed
    mean: Tensor  # (T, N, A) the policy's mean action
    latent: Tensor  # (T, N, A) what was drawn, before its bounds
    multiplier: Tensor  # (T, N, A) what the ledger was given
    reward: Tensor  # (T, N) unscaled
    alive: Tensor  # (T, N) 1.0 until the account was ruined, 0.0 after
    terminated: Tensor  # (T, N) bool
    log_prob: Tensor  # (T, N) of the draw; empty where none was drawn


class BelievedBars(NamedTuple):
    """What training believes of T bars of M accounts: (T, M), or (T, A, M) and (T, A, A, M) with several assets."""

    drift: Array
    risk: Array


class BandLedger:
    """Plays bands on the accounts of one market.

    Args:
        gross_penalty: weight of the gross exposure above the cap, in units of the scaled objective.
        in_numpy: whether the engine is given numpy's arrays or torch's; numpy's on a CPU, unless somebody says so.
    """

    def __init__(self, physics: Physics, gross_penalty: float = 0.0, *, in_numpy: bool | None = None) -> None:
        config, market = physics.config, physics.market
        self.physics, self.config, self.gross_penalty = physics, config, gross_penalty
        self.rules = LedgerRules(
            config.max_position_pct, config.cost_rate, config.limits.max_leverage, config.limits.daily_loss_stop
        )
        self._numpy = physics.device.type == "cpu" if in_numpy is None else in_numpy
        moves = market.moves
        self._columns = [self.array(x) for x in (market.side, market.base, market.cap, moves.to_close, moves.to_open)]
        self._funding = self.array(moves.funding) if bool((moves.funding != 0).any()) else None
        self._cannot = None if bool(moves.tradable.all()) else self.array(~moves.tradable)
        self._new_day = self.array(moves.new_day)
        believed = market.belief if config.reward == BELIEVED else None
        self._belief = None if believed is None else [self.array(leaf) for leaf in believed]

    def turn(self, state: EnvState, steps: int) -> Turn:
        """The next bars of these accounts."""
        rows = state.row + torch.arange(steps, device=self.physics.device)[:, None]
        index = self.array(rows)
        side, base, cap, to_close, to_open = (self._at(column, index) for column in self._columns)
        market = MarketBars(
            side=side,
            base=base,
            cap=cap,
            to_close=to_close,
            to_open=to_open,
            earned=to_open if self._funding is None else to_open - self._at(self._funding, index),
            new_day=self._at(self._new_day, index),
            cannot=None if self._cannot is None else self._at(self._cannot, index),
        )
        account = state.account
        log_equity, day = self.array(account.log_equity), self.array(account.day_log_equity)
        start = AccountStart(
            held=self._of_account(account.held),
            marked=self._of_account(account.marked),
            free=self.array(1.0 - account.stopped.double()),
            over_stop=namespace(day).exp(log_equity - day) * self.rules.fresh,
        )
        belief = None if self._belief is None else BelievedBars(*(self._at(column, index) for column in self._belief))
        return Turn(self, state, rows, market, start, log_equity, belief)

    def array(self, tensor: Tensor) -> Array:
        return tensor.detach().numpy() if self._numpy else tensor.detach()

    def tensor(self, array: Array) -> Tensor:
        """Back again, without a copy."""
        return torch.from_numpy(array) if self._numpy else array

    def _of_account(self, tensor: Tensor) -> Array:
        """(N, A) -> (N,) of one asset, (A, N) of several."""
        array = self.array(tensor)
        return array[:, 0] if array.shape[1] == 1 else _contiguous(array.T)

    def _at(self, column: Array, index: Array) -> Array:
        """(D,), (D, A) or (D, A, A) at rows (T, N): (T, N) of one asset; (T, A, N), (T, A, A, N) of several."""
        if column.ndim > 1 and column.shape[1] == 1:
            column = column.reshape(len(column))
        found = np.take(column, index, 0) if self._numpy else column[index]
        if found.ndim == 2:
            return found
        last = (0, 2, 1) if found.ndim == 3 else (0, 2, 3, 1)
        return _contiguous(found.transpose(last) if self._numpy else found.permute(last))

    def to_bars(self, edge: Tensor) -> Array:
        """(T, N, A) of the net -> (T, N) of one asset, (T, A, N) of several, in the ledger's precision."""
        array = self.array(edge.double())
        return array[..., 0] if array.shape[-1] == 1 else _contiguous(array.swapaxes(1, 2))

    def from_bars(self, array: Array) -> Tensor:
        """The inverse of `to_bars`: (T, N, A)."""
        return self.tensor(array if array.ndim == 2 else _contiguous(array.swapaxes(1, 2))).reshape(
            array.shape[0], array.shape[-1], -1
        )


@dataclass
class Turn:
    """T bars of the accounts of one net, before and after they are played."""

    ledger: BandLedger
    first: EnvState
    rows: Tensor  # (T, N) decision rows
    market: MarketBars
    start: AccountStart
    log_equity: Array
    belief: BelievedBars | None  # where the reward is the believed one
    edges: BandEdges | None = None
    reward: Array = None
    alive: Array = None
    terminated: Array = None
    log_growth: Array = None
    marked: Array = None  # (T, N) equity at the close over equity at the first bar

    def ask(
        self,
        low: Array,
        high: Array,
        *,
        carried: bool,
        shift: Array | None = None,
        slopes: bool = True,
        unit: float = 1.0,
    ) -> LedgerAsk:
        """What is asked of the engine for a band.

        Args:
            low, high: edges as `BandLedger.to_bars` gives them.
            shift: exploration added to the mean; then there are no slopes.
            slopes: also asks for the slopes of unit times the mean reward of the living, less the gross penalty.
        """
        batch = BandBatch(self.market, self.start, BandEdges(low, high, shift, carried))
        self.edges = batch.edges

        def of_reward(path: PlayedPath) -> RewardSlopes:
            return self._slopes(batch, path, unit)

        return LedgerAsk(batch, self.ledger.rules, of_reward if slopes else None)

    def _slopes(self, batch: BandBatch, path: PlayedPath, unit: float) -> RewardSlopes:
        slopes = self._earn(path)
        weight = self.alive * (unit / max(float(self.alive.sum()), 1.0))
        each = weight if batch.market.base.ndim == 2 else weight[:, None]

        def weighted(slope: Array | float) -> Array | float:
            return slope if isinstance(slope, float) and not slope else slope * each

        gross = self._gross_slope(batch, path)
        return RewardSlopes(slopes.growth * weight, weighted(slopes.exposure), weighted(slopes.traded), gross)

    def _gross_slope(self, batch: BandBatch, path: PlayedPath) -> Array | None:
        """Of -gross_penalty times the mean gross exposure above the cap (Physics.gross_excess), in the mean."""
        penalty, most = self.ledger.gross_penalty, self.ledger.rules.max_leverage
        if not penalty:
            return None
        xp, market = namespace(path.growth), batch.market
        mean = mean_of(batch.edges, path.position)
        wanted = xp.minimum(mean, market.cap) * market.base
        gross = abs(wanted)
        if gross.ndim == 3:
            gross = gross.sum(1)[:, None]
        above = gross >= most
        if not bool(above.any()):
            return None
        each = xp.sign(wanted) * market.base * share(market.cap, mean)
        return each * above * (-penalty / path.growth.shape[0] / path.growth.shape[1])

    def _earn(self, path: PlayedPath) -> RewardSlopes:
        """Notes reward, ruin and equity of the path; the reward's slopes."""
        xp, physics = namespace(path.growth), self.ledger.physics
        self.log_growth = xp.log(path.growth)
        equity = xp.cumprod(path.growth, 0)
        self.marked = path.marked_growth + 0.0
        self.marked[1:] *= equity[:-1]
        self.terminated = self.marked <= physics.config.ruin * xp.exp(-self.log_equity)
        self.alive = xp.ones_like(path.growth)
        if bool(self.terminated.any()):
            self.alive[1:] = xp.cumprod(xp.where(self.terminated, 0.0, self.alive)[:-1], 0)
        self.reward, slopes = self.earned(path, self.log_growth)
        return slopes

    def earned(self, path: PlayedPath, log_growth: Array) -> tuple[Array, RewardSlopes]:
        """The reward of each bar (T, N) played like this, and its slopes in growth, exposure and |trade|."""
        config = self.ledger.config
        if self.belief is not None:
            return believed(config, path, self.belief)
        return earned(config, path, log_growth, self.market)

    def result(self, answer: LedgerAnswer) -> Rollout:
        """What was played, in the trainer's shapes."""
        path, after, ledger, edges = answer.path, answer.after, self.ledger, self.edges
        if edges is None:
            raise RuntimeError("an answer without a question")
        if self.reward is None:
            self._earn(path)
        mean = ledger.from_bars(mean_of(edges, path.position))
        latent = mean if edges.shift is None else mean + ledger.from_bars(edges.shift)
        return Rollout(
            first=self.first,
            after=self._after(path, after),
            previous=ledger.from_bars(path.position),
            mean=mean,
            latent=latent,
            multiplier=latent.clamp(0.0, MAX_MULTIPLIER),
            reward=ledger.tensor(self.reward),
            alive=ledger.tensor(self.alive),
            terminated=ledger.tensor(self.terminated),
            log_prob=torch.empty(0),
        )

    def _after(self, path: PlayedPath, last: AccountStart) -> EnvState:
        """The accounts after the last bar; trades are not followed, only an observation needs them."""
        first, account, ledger = self.first, self.first.account, self.ledger
        xp = namespace(path.growth)
        total = self.log_equity + self.log_growth.sum(0)
        marked = total - self.log_growth[-1] + xp.log(path.marked_growth[-1])
        peak = self.log_equity + xp.log(xp.amax(self.marked, 0))
        return first._replace(
            row=first.row + len(path.growth),
            account=account._replace(
                held=self._held(last.held),
                marked=self._held(last.marked),
                log_equity=ledger.tensor(total),
                marked_log_equity=ledger.tensor(marked),
                day_log_equity=ledger.tensor(self._day(total, last)),
                stopped=ledger.tensor(last.free) == 0.0,
            ),
            log_peak=torch.maximum(first.log_peak, ledger.tensor(peak)),
        )

    def _held(self, array: Array) -> Tensor:
        """(N,) or (A, N) -> (N, A), memory of its own."""
        tensor = self.ledger.tensor(array)
        return tensor[:, None].clone() if tensor.ndim == 1 else tensor.T.contiguous()

    def _day(self, total: Array, last: AccountStart) -> Array:
        """(N,) log-equity at the first open of each account's day."""
        xp, new_day = namespace(self.log_growth), self.market.new_day
        if self.ledger.rules.daily_loss_stop < 1.0:  # followed bar by bar
            return total - xp.log(last.over_stop / self.ledger.rules.fresh)
        steps, count = new_day.shape
        turns = xp.arange(1, steps + 1, device=new_day.device)[:, None] * new_day
        newest = xp.amax(turns, 0)  # 1 is the first bar, 0 is none
        before = self.log_equity + xp.cumsum(self.log_growth, 0) - self.log_growth
        there = before[xp.clip(newest - 1, 0, None), xp.arange(count, device=new_day.device)]
        return xp.where(newest > 0, there, self.ledger.array(self.first.account.day_log_equity))


def earned(
    config: TradingEnvConfig, path: PlayedPath, log_growth: Array, market: MarketBars
) -> tuple[Array, RewardSlopes]:
    """envs/rewards.py's reward of each bar (T, N), and its slopes in growth, exposure and |trade|."""
    reward, slopes = log_growth, RewardSlopes(1.0 / path.growth, 0.0, 0.0)
    if config.reward == "mean_variance" and config.risk_aversion:
        gained = _over_assets(path.exposure * market.to_open)
        reward = reward - 0.5 * config.risk_aversion * gained**2
        each = gained if market.to_open.ndim == 2 else gained[:, None]
        slopes = slopes._replace(exposure=(-config.risk_aversion * each) * market.to_open)
    return _less_turnover(config, path, reward, slopes)


def believed(config: TradingEnvConfig, path: PlayedPath, belief: BelievedBars) -> tuple[Array, RewardSlopes]:
    """`earned` of envs/rewards.py's `believed`: w'drift - c |dw| - w' risk w / 2, whose growth earns nothing."""
    each = path.exposure if path.exposure.ndim == 2 else path.exposure[:, None]
    price = belief.risk * each
    price = price if price.ndim == 2 else price.sum(2)
    reward = _over_assets(path.exposure * (belief.drift - 0.5 * price))
    reward = reward - config.cost_rate * _over_assets(abs(path.traded))
    none = namespace(path.growth).zeros_like(path.growth)
    return _less_turnover(config, path, reward, RewardSlopes(none, belief.drift - price, -config.cost_rate))


def _less_turnover(
    config: TradingEnvConfig, path: PlayedPath, reward: Array, slopes: RewardSlopes
) -> tuple[Array, RewardSlopes]:
    penalty = config.turnover_penalty
    if not penalty:
        return reward, slopes
    return reward - penalty * _over_assets(abs(path.traded)), slopes._replace(traded=slopes.traded - penalty)


def _over_assets(each: Array) -> Array:
    return each if each.ndim == 2 else each.sum(1)


def _contiguous(array: Any) -> Array:
    return np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array.contiguous()
