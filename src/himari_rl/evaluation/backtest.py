"""The backtest: what ships, on bars it never saw, beside the baselines, all in one ledger and one pass.

    for each bar t    observe (rows <= t, the account marked at close t) -> the bundle decides
                      fill at open t+1, earn to open t+2, mark at close t+1: policy/account.py

Every strategy runs at every variant (costs x1, x2, x3, and one bar of lag), P accounts side by side as (P, A)
arrays. Features are computed on all rows given; accounts start in cash at `start_row`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from himari_rl.data.panel import Panel
from himari_rl.errors import DataError
from himari_rl.evaluation import baselines
from himari_rl.evaluation.baselines import HOLD_ALL, Plan, Stage, buy_and_hold, ewma_volatility, follow, later
from himari_rl.features.encoder import StateEncoder, write_account
from himari_rl.features.signals import reference_signals
from himari_rl.policy.account import Leg, Move, flat_account, move, no_trades, track
from himari_rl.policy.clock import decisions_of
from himari_rl.policy.ledger import drift
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.schema import Bars, BoolArray, FloatArray, IntArray

POLICY = "policy"
MIN_DECISIONS = 100  # below that no statistic here means anything


class Decider(Protocol):
    """Anything that answers states (B, F) with multipliers (B, A) and its new memory: a loaded bundle."""

    def decide_batch(self, states: Any, memory: Any = None) -> tuple[Any, Any]: ...


class Variant(NamedTuple):
    """One way to run every strategy."""

    name: str
    cost_multiple: float = 1.0
    lag: int = 0  # bars by which every decision is used too late


BASE, LAGGED = Variant("x1"), Variant("lag", lag=1)
VARIANTS = (BASE, Variant("x2", 2.0), Variant("x3", 3.0), LAGGED)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One account's history over D decisions."""

    strategy: str
    variant: Variant
    log_growth: FloatArray  # (D,) fill to fill, after costs and funding
    marked_log_equity: FloatArray  # (D,) log of equity over its start, at the close after each fill
    portfolio_return: FloatArray  # (D,) sum w R before costs and funding
    exposure: FloatArray  # (D, A) after the fill
    multiplier: FloatArray  # (D, A) as asked for, before limits
    active: BoolArray  # (D, A) where Layer 2 has a direction for the multiplier to size
    cost: FloatArray  # (D,) fraction of equity
    traded: FloatArray  # (D,) sum |dw|


@dataclass(frozen=True, kw_only=True)
class Backtest:
    """Every strategy at every variant, on the same bars."""

    symbols: tuple[str, ...]
    fill_time: IntArray  # (D,) ms UTC of each decision's fill
    bars_per_year: float
    runs: Mapping[tuple[str, str], Run]  # by strategy and variant name

    def run(self, strategy: str, variant: str = BASE.name) -> Run:
        return self.runs[strategy, variant]

    @property
    def strategies(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(strategy for strategy, _ in self.runs))

    @property
    def variants(self) -> tuple[Variant, ...]:
        return tuple({run.variant.name: run.variant for run in self.runs.values()}.values())

    def __len__(self) -> int:
        return int(self.fill_time.shape[0])


def stage(bars: Bars | Panel, ledger: LedgerSpec, start_row: int = 0) -> Stage:
    """What accounts meet from `start_row` on, on one asset or a panel; rows before it are history for the features.

    Raises:
        DataError: bars of another interval than the ledger's, or fewer than 100 decisions left.
    """
    if bars.interval_ms != ledger.interval_ms:
        found, expected = (f"{ms / 60_000:g}-minute bars" for ms in (bars.interval_ms, ledger.interval_ms))
        raise DataError(f"{bars.source} has {found}", expected, "evaluate on the interval the policy was trained on")
    decisions = len(bars) - 2 - start_row
    if decisions < MIN_DECISIONS:
        raise DataError(
            f"{max(decisions, 0)} decisions to judge in {bars.source}",
            f"at least {MIN_DECISIONS}",
            "bring a longer history or a larger --test-fraction",
        )
    if isinstance(bars, Panel):
        symbols, latest = bars.symbols, bars.rows()[0]
        volatility = np.stack([ewma_volatility(b)[row] for b, row in zip(bars.bars, latest.T, strict=True)], axis=1)
    else:
        if bars.signals is None:
            bars = replace(bars, signals=reference_signals(bars))
        symbols, volatility = (bars.symbol,), ewma_volatility(bars)
    rows, line = decisions_of(
        bars,
        StateEncoder(symbols),
        max_position_pct=ledger.max_position_pct,
        allow_short=ledger.allow_short,
        limits=ledger.risk_limits,
    )
    kept = slice(start_row, len(bars) - 2)

    def columns(values: Any) -> Any:
        return np.asarray(values)[kept].reshape(decisions, len(symbols))

    leg = line.leg
    return Stage(
        symbols=symbols,
        rows=rows[kept],
        leg=Leg(*(columns(leaf) for leaf in leg[:4]), new_day=leg.new_day[kept]),
        base=columns(line.base),
        cap=columns(line.cap),
        volatility=columns(volatility),
        fill_time=bars.timestamp[1:-1][kept],
        bars_per_year=bars.bars_per_year,
        max_position_pct=ledger.max_position_pct,
    )


def backtest(
    policies: Mapping[str, Decider],
    on: Stage,
    ledger: LedgerSpec,
    *,
    variants: Sequence[Variant] = VARIANTS,
    rng: np.random.Generator,
    allocations: Mapping[str, Plan] | None = None,
) -> Backtest:
    """Runs policies and baselines at every variant.

    Args:
        policies: by name; each decides for its own accounts, from its own positions.
        on: from `stage`.
        ledger: costs and limits; the bundle's own, unless another question is asked.
        rng: draws the random baseline.
        allocations: more baselines by name, which do not follow Layer 2.
    """
    sized = baselines.multipliers(on, rng)
    sized = {name: np.zeros(on.base.shape) for name in policies} | sized  # policies fill theirs bar by bar
    others = dict(allocations or {})
    accounts = [(name, variant) for name in (*sized, HOLD_ALL, *others) for variant in variants]
    plans = [
        later(others[name], variant.lag)
        if name in others
        else buy_and_hold(on, variant.lag)
        if name == HOLD_ALL
        else follow(on, sized[name], variant.lag)
        for name, variant in accounts
    ]
    plan = Plan(*(np.stack(leaves, axis=1) for leaves in zip(*plans, strict=True)))  # (D, P, A)
    rate = ledger.commission_rate + ledger.slippage_bps * 1e-4
    cost_rate = np.array([[variant.cost_multiple * rate] for _, variant in accounts])
    history = _walk(list(policies.values()), [variant.lag for variant in variants], on, ledger, plan, cost_rate)

    exposure, growth, marked, cost = history
    held = drift(exposure, on.leg.to_open[:, None], growth)
    before = np.concatenate([np.zeros_like(held[:1]), held[:-1]])
    traded = np.abs(exposure - before).sum(-1)
    earned = (exposure * on.leg.to_open[:, None]).sum(-1)
    runs = {
        (name, variant.name): Run(
            strategy=name,
            variant=variant,
            log_growth=np.log(growth[:, p]),
            marked_log_equity=marked[:, p],
            portfolio_return=earned[:, p],
            exposure=exposure[:, p],
            multiplier=plan.multiplier[:, p],
            active=plan.base[:, p] != 0.0,
            cost=cost[:, p],
            traded=traded[:, p],
        )
        for p, (name, variant) in enumerate(accounts)
    }
    return Backtest(symbols=on.symbols, fill_time=on.fill_time, bars_per_year=on.bars_per_year, runs=runs)


def _walk(
    policies: Sequence[Decider],
    lags: Sequence[int],
    on: Stage,
    ledger: LedgerSpec,
    plan: Plan,
    cost_rate: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """The bar loop. The first len(policies) * len(lags) accounts are the policies' and are filled into `plan` here.

    Returns:
        exposure (D, P, A), growth (D, P), marked log-equity (D, P), cost (D, P).
    """
    decisions, count, assets = plan.multiplier.shape
    own = len(policies) * len(lags)  # accounts that observe; baselines need no observation
    groups = [slice(i * len(lags), (i + 1) * len(lags)) for i in range(len(policies))]
    delay = np.tile(np.array(lags), len(policies))
    index = np.arange(own)
    limits = ledger.risk_limits
    account, trades = flat_account(np.zeros((count, assets))), no_trades(np.zeros((own, assets)))
    exposure = np.zeros((decisions, count, assets))
    growth, marked, cost = (np.zeros((decisions, count)) for _ in range(3))
    states = np.zeros((own, on.rows.shape[1]))
    wanted = np.zeros((own, assets))
    memories: list[Any] = [None] * len(policies)
    for t in range(decisions):
        if own:
            states[:] = on.rows[t]
            write_account(states, account.marked[:own], trades.marked_pnl, trades.win_rate, ledger.max_position_pct)
            for i, group in enumerate(groups):
                wanted[group], memories[i] = policies[i].decide_batch(states[group], memories[i])
            fits = t + delay < decisions
            plan.multiplier[t + delay[fits], index[fits]] = wanted[fits]
        leg = Leg(plan.tradable[t], on.leg.to_close[t], on.leg.to_open[t], on.leg.funding[t], on.leg.new_day[t])
        held = account.held
        account, moved = move(account, plan.multiplier[t], plan.base[t], plan.cap[t], leg, cost_rate, limits)
        if own:
            mine = Move(*(part[:own] for part in moved))
            trades = track(trades, held[:own], mine, leg._replace(tradable=leg.tradable[:own]), cost_rate[:own])
        exposure[t], cost[t], growth[t] = moved.exposure, moved.cost, moved.growth
        marked[t] = account.marked_log_equity
    return exposure, growth, marked, cost
