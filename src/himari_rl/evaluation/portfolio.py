"""Measures of a portfolio, and the product's rules for it: each beside its interval and the paired difference to equal
weight, because three assets held in equal parts pass two of the three rules without any policy.

    Sharpe ratio > 1.5 a year        Herfindahl index of exposure < 0.6        every asset > 20 % of exposure
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from himari_rl.evaluation import metrics, statistics
from himari_rl.evaluation.backtest import POLICY, Backtest, Run
from himari_rl.evaluation.baselines import Stage
from himari_rl.evaluation.bootstrap import BlockSums, drawn
from himari_rl.evaluation.portfolio_baselines import EQUAL
from himari_rl.evaluation.statistics import Interval
from himari_rl.features.encoder import herfindahl
from himari_rl.policy.ledger import Costs, fees
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.schema import FloatArray

SHARPE = "Sharpe ratio"
MIN_SHARPE, MAX_HERFINDAHL, MIN_ASSET_SHARE = 1.5, 0.6, 0.2  # what the product was specified with
REPLICATIONS = 1000


class PortfolioCurve(NamedTuple):
    """What a portfolio's rules read of one run."""

    log_growth: FloatArray  # (T,)
    exposure: FloatArray  # (T, A)


@dataclass(frozen=True, kw_only=True)
class PortfolioRule:
    """One rule on the portfolio. `difference` is paired: the policy minus equal weight."""

    name: str
    comparison: str  # what `value` must be against `threshold`
    threshold: float
    value: Interval
    difference: Interval
    passed: bool  # by the estimate
    sure: bool  # by the whole interval


@dataclass(frozen=True, kw_only=True)
class AssetPart:
    """What one asset did for the portfolio."""

    symbol: str
    share: float  # of exposure
    growth: float  # sum of w (R - F) minus its costs, per year, before compounding
    risk: float  # share of the portfolio's variance; the shares sum to 1


@dataclass(frozen=True, kw_only=True)
class PortfolioMeasures:
    """A policy's portfolio, measured."""

    gates: tuple[PortfolioRule, ...]
    parts: tuple[AssetPart, ...]
    diversification_ratio: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def shares(exposure: FloatArray) -> FloatArray:
    """(A,) mean |w| of each asset over the mean gross exposure of (T, A); 0 for an account that holds nothing."""
    size = np.abs(exposure).mean(axis=0)
    total = size.sum()
    return np.asarray(size / total if total > 0.0 else size)


def diversification_ratio(weights: FloatArray, covariance: FloatArray) -> float:
    """sum |w_i| sigma_i / sigma_portfolio, weights (A,), covariance (A, A); 1 is one asset (Choueifaty 2008)."""
    alone = float(np.abs(weights) @ np.sqrt(np.diag(covariance)))
    together = float(np.sqrt(weights @ covariance @ weights))
    return alone / together if together > 0.0 else 1.0


def risk_parts(earned: FloatArray) -> FloatArray:
    """(A,) shares of the variance of sum over assets, from each asset's part (T, A): cov(part, sum) / var(sum)."""
    total = earned.sum(axis=1)
    variance = float(total.var())
    if variance == 0.0:
        return np.zeros(earned.shape[1])
    return np.asarray(((earned - earned.mean(axis=0)) * (total - total.mean())[:, None]).mean(axis=0) / variance)


def measure(
    result: Backtest,
    on: Stage,
    ledger: LedgerSpec,
    rng: np.random.Generator,
    *,
    policy: str = POLICY,
    reference: str = EQUAL,
    replications: int = REPLICATIONS,
) -> PortfolioMeasures:
    """Measures one policy of a backtest.

    Args:
        ledger: whose costs the variant x1 paid, to give each asset its own.
        reference: the run that differences are taken to.
    """
    mine, other = (PortfolioCurve(run.log_growth, run.exposure) for run in map(result.run, (policy, reference)))
    return PortfolioMeasures(
        gates=gates(mine, other, on.symbols, result.bars_per_year, rng, replications),
        parts=_parts(result.run(policy), on, ledger.config.costs, result.bars_per_year),
        diversification_ratio=diversification_ratio(mine.exposure.mean(axis=0), np.cov(on.moves.to_open.T)),
    )


def gates(
    mine: PortfolioCurve,
    other: PortfolioCurve,
    symbols: Sequence[str],
    bars_per_year: float,
    rng: np.random.Generator,
    replications: int = REPLICATIONS,
    *,
    min_sharpe: float = MIN_SHARPE,
    max_herfindahl: float = MAX_HERFINDAHL,
    min_asset_share: float = MIN_ASSET_SHARE,
) -> tuple[PortfolioRule, ...]:
    """The rules for a portfolio, each beside its interval and the difference to another account on the same bars."""
    both, rows = [_columns(mine), _columns(other)], len(mine.log_growth)
    # summed from what a constant split holds, so that its share has one value and no interval of rounding
    bases = [np.concatenate([np.zeros(2), columns[0, 2:]]) for columns in both]

    def compared(away: Iterable[FloatArray]) -> FloatArray:
        ours, theirs = (_measures(part + base, rows, bars_per_year) for part, base in zip(away, bases, strict=True))
        return np.concatenate([ours, ours - theirs], axis=-1)

    block = statistics.block_length(np.column_stack([mine.log_growth, other.log_growth]))
    moved = [columns - base for columns, base in zip(both, bases, strict=True)]
    sums = [BlockSums(columns) for columns in moved]  # each alone: accounts that are the same differ by exactly nothing
    means = np.array([[own.means(each) for own in sums] for each in drawn(rows, rng, replications, block)])
    draws = compared(np.moveaxis(means, 1, 0))
    true = compared([columns.mean(axis=0) for columns in moved])
    found = [statistics.interval(e, d) for e, d in zip(true, draws.T, strict=True)]
    demands = [(SHARPE, ">", min_sharpe), ("Herfindahl index", "<", max_herfindahl)]
    demands += [(f"share of {symbol}", ">", min_asset_share) for symbol in symbols]
    idle = not np.abs(mine.exposure).any()
    answers = []
    for (name, comparison, threshold), value, difference in zip(
        demands, found[: len(demands)], found[len(demands) :], strict=True
    ):
        below = comparison == "<"
        passed = (value.estimate < threshold) if below else (value.estimate > threshold)
        sure = (value.upper < threshold) if below else (value.lower > threshold)
        answers.append(
            PortfolioRule(
                name=name,
                comparison=comparison,
                threshold=threshold,
                value=value,
                difference=difference,
                passed=bool(passed and not idle),
                sure=bool(sure and not idle),
            )
        )
    return tuple(answers)


def _columns(account: PortfolioCurve) -> FloatArray:
    """(T, 4 + A) log-growth and its square, Herfindahl index, whether anything is held, and |w|."""
    growth, size = account.log_growth, np.abs(account.exposure)
    return np.column_stack([growth, growth * growth, herfindahl(account.exposure), size.sum(axis=1) > 0.0, size])


def _measures(means: FloatArray, rows: int, bars_per_year: float) -> FloatArray:
    """(..., 2 + A) Sharpe ratio a year, concentration and shares, from the means (..., 4 + A) of `_columns`."""
    growth, square, concentration, held = (means[..., k] for k in range(4))
    deviation = np.sqrt(np.maximum(square - growth * growth, 0.0) * (rows / (rows - 1)))
    sharpe = metrics.sharpe_ratio(growth, deviation) * np.sqrt(bars_per_year)
    size = means[..., 4:]
    share = size / np.maximum(size.sum(axis=-1, keepdims=True), 1e-12)
    return np.concatenate([np.stack([sharpe, concentration / np.maximum(held, 1e-12)], axis=-1), share], axis=-1)


def _parts(run: Run, on: Stage, costs: Costs | float, bars_per_year: float) -> tuple[AssetPart, ...]:
    growth = np.exp(run.log_growth)[:, None]
    held = run.exposure * (1.0 + on.moves.to_open) / growth
    before = np.concatenate([np.zeros((1, held.shape[1])), held[:-1]])
    price = run.exposure * on.moves.to_open
    earned = price - run.exposure * on.moves.funding - fees(costs, np.abs(run.exposure - before))
    rows = zip(
        on.symbols, shares(run.exposure), metrics.mean_growth(earned, bars_per_year), risk_parts(price), strict=True
    )
    return tuple(AssetPart(symbol=s, share=float(w), growth=float(g), risk=float(r)) for s, w, g, r in rows)
