"""The backtest: what ships, on bars it never saw, beside the baselines, all in one ledger and one pass.

    for each bar t    observe (rows <= t, the account marked at close t) -> the bundle decides
                      fill at open t+1, earn to open t+2, mark at close t+1: policy/account.py

Every strategy runs at every variant (costs x1, x2, x3, and one bar of lag). Several plays (a history and its twins) go
through one loop, accounts side by side. Features are computed on all rows given; accounts start in cash at `start_row`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from himari_rl.data.panel import Panel
from himari_rl.data.table import stamp
from himari_rl.errors import DataError
from himari_rl.evaluation import baselines, metrics
from himari_rl.evaluation.baselines import HOLD_ALL, Orders, Stage, buy_and_hold, ewma_volatility, follow, later
from himari_rl.evaluation.known import Lane
from himari_rl.evaluation.stepping import Deciding, step_through
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.account import MarketMove
from himari_rl.policy.clock import decisions_of
from himari_rl.policy.ledger import drift, times
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.protocol import DecidesBatch
from himari_rl.schema import Bars, BoolArray, FloatArray, IntArray, bars_per_year

POLICY = "policy"
SEED = "seed "  # and its number: one member of an ensemble, beside the policy
MIN_DECISIONS = 100  # below that no statistic here means anything


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


@dataclass(frozen=True, kw_only=True, repr=False)
class Backtest:
    """Every strategy at every variant, on the same bars. `print` shows a table of the strategies at the base costs."""

    symbols: tuple[str, ...]
    fill_time: IntArray  # (D,) ms UTC of each decision's fill
    end_time: int  # ms UTC of the open to which the last decision earns
    asset_return: FloatArray  # (D, A) simple returns, fill to fill
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

    @property
    def bars_per_year(self) -> float:
        """Decisions a year of elapsed time, from the first fill to where the last decision has earned."""
        return self.per_year(slice(None))

    def per_year(self, part: slice) -> float:
        """Decisions a year of a contiguous part of them, by its own elapsed time."""
        start, stop, _ = part.indices(len(self))
        end = self.end_time if stop == len(self) else int(self.fill_time[stop])
        return float(bars_per_year(stop - start, int(self.fill_time[start]), end))

    @property
    def headline(self) -> str:
        """Symbols, decisions and span."""
        first, last = (stamp(int(self.fill_time[i])) for i in (0, -1))
        return f"{', '.join(self.symbols)}: {len(self):,} decisions, {first} to {last}"

    def __repr__(self) -> str:
        return f"Backtest({self.headline}; {len(self.strategies)} strategies, {len(self.variants)} variants)"

    def __str__(self) -> str:
        from himari_rl.evaluation.terminal import aligned, wrapped

        rows = [("strategy", "growth", "Sharpe", "volatility", "drawdown", "turnover", "cost")]
        rows.append(("", "%/y", "a year", "%/y", "%", "%/bar", "%"))
        for name in self.strategies:
            run = self.run(name, self.variants[0].name)
            g, year = run.log_growth, self.bars_per_year
            parts = (metrics.volatility(g, year), metrics.max_drawdown(run.marked_log_equity))
            told = [f"{100.0 * part:.1f}" for part in parts]
            spent = (f"{100.0 * metrics.turnover(run.traded):.2f}", f"{100.0 * metrics.cost_paid(run.cost):.1f}")
            grown = f"{100.0 * metrics.growth(g, year) + 0.0:+.1f}"
            rows.append((name, grown, f"{metrics.sharpe(g, year):.2f}", told[0], told[1], *spent))
        costs = f"In one ledger, at the costs of variant {self.variants[0].name}."
        return "\n".join((wrapped(self.headline), wrapped(costs), "", aligned(rows)))


def is_seed(strategy: str) -> bool:
    """Whether a strategy is one member of the judged ensemble."""
    return strategy.startswith(SEED)


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
        symbols, volatility = (bars.symbol,), ewma_volatility(bars)
    ledger.config.charges.require(symbols)
    rows, line = decisions_of(
        bars,
        StateEncoder.of(bars),
        ledger.config,
    )
    kept = slice(start_row, len(bars) - 2)

    def columns(values: Any) -> Any:
        return np.asarray(values)[kept].reshape(decisions, len(symbols))

    moves = line.moves
    return Stage(
        symbols=symbols,
        rows=rows[kept],
        moves=MarketMove(
            tradable=columns(moves.tradable),
            to_close=columns(moves.to_close),
            to_open=columns(moves.to_open),
            funding=columns(moves.funding),
            new_day=moves.new_day[kept],
        ),
        base=columns(line.base),
        cap=columns(line.cap),
        volatility=columns(volatility),
        fill_time=bars.timestamp[1:-1][kept],
        end_time=int(bars.timestamp[-1]),
        max_position_pct=ledger.max_position_pct,
    )


@dataclass(frozen=True, kw_only=True)
class Play:
    """Policies, and the baselines beside them, on one stage."""

    policies: Mapping[str, DecidesBatch]
    """By name; each decides for its own accounts, from its own positions."""
    on: Stage
    variants: Sequence[Variant] = VARIANTS
    allocations: Mapping[str, Orders] = field(default_factory=dict)
    """More baselines by name, which do not follow Layer 2."""


def backtest(
    policies: Mapping[str, DecidesBatch],
    on: Stage,
    ledger: LedgerSpec,
    *,
    variants: Sequence[Variant] = VARIANTS,
    rng: np.random.Generator,
    allocations: Mapping[str, Orders] | None = None,
) -> Backtest:
    """Runs policies and baselines at every variant: one `Play`.

    Args:
        ledger: costs and limits; the bundle's own, unless another question is asked.
        rng: draws the random baseline.
    """
    play = Play(policies=policies, on=on, variants=variants, allocations=allocations or {})
    return backtests([play], ledger, rng)[0]


class _Named(NamedTuple):
    """One account, and what it is called."""

    strategy: str
    variant: Variant
    on: Stage
    orders: Orders  # (D, A)


def backtests(plays: Sequence[Play], ledger: LedgerSpec, rng: np.random.Generator) -> list[Backtest]:
    """Runs several plays in one loop; their stages have as many decisions and assets each.

    Raises:
        DataError: they have not.
    """
    shapes = {play.on.base.shape for play in plays}
    if len(shapes) != 1:
        raise DataError(f"stages of {len(shapes)} shapes", "histories of one length", "run them one by one")
    lanes: list[_Named] = []
    deciding: list[Deciding] = []
    ends = []
    for play in plays:
        lags = np.array([variant.lag for variant in play.variants])
        for name, policy in play.policies.items():
            deciding.append(Deciding(policy, play.on, len(lanes) + np.arange(len(lags)), lags))
            nothing = np.zeros(play.on.base.shape)  # filled in bar by bar
            lanes += [
                _Named(name, variant, play.on, follow(play.on, nothing, variant.lag)) for variant in play.variants
            ]
        lanes += _baselines(play, rng)
        ends.append(len(lanes))
    costs = ledger.config.costs
    found = step_through(deciding, [Lane(n.on, n.orders, times(costs, n.variant.cost_multiple)) for n in lanes], ledger)
    runs = []
    for p, lane in enumerate(lanes):
        exposure, growth, moves = found.exposure[p], found.growth[p], lane.on.moves
        held = drift(exposure, moves.to_open, growth)
        before = np.concatenate([np.zeros_like(held[:1]), held[:-1]])
        runs.append(
            Run(
                strategy=lane.strategy,
                variant=lane.variant,
                log_growth=np.log(growth),
                marked_log_equity=found.marked[p],
                portfolio_return=(exposure * moves.to_open).sum(-1),
                exposure=exposure,
                multiplier=found.multiplier[p],
                active=lane.orders.base != 0.0,
                cost=found.cost[p],
                traded=np.abs(exposure - before).sum(-1),
            )
        )
    return [
        Backtest(
            symbols=play.on.symbols,
            fill_time=play.on.fill_time,
            end_time=play.on.end_time,
            asset_return=play.on.moves.to_open,
            runs={(run.strategy, run.variant.name): run for run in runs[start:end]},
        )
        for play, start, end in zip(plays, [0, *ends[:-1]], ends, strict=True)
    ]


def _baselines(play: Play, rng: np.random.Generator) -> list[_Named]:
    on = play.on
    made: list[_Named] = []
    for name, sized in baselines.multipliers(on, rng).items():
        made += [_Named(name, variant, on, follow(on, sized, variant.lag)) for variant in play.variants]
    made += [_Named(HOLD_ALL, variant, on, buy_and_hold(on, variant.lag)) for variant in play.variants]
    for name, orders in play.allocations.items():
        made += [_Named(name, variant, on, later(orders, variant.lag)) for variant in play.variants]
    return made
