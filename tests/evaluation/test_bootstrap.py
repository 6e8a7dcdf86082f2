"""The bootstrap without copies against the same resamples copied row by row, and its draws against arch's."""

from __future__ import annotations

import numpy as np
import pytest

from himari_rl.evaluation import metrics, statistics
from himari_rl.evaluation.backtest import Backtest, Run, Variant
from himari_rl.evaluation.bootstrap import BlockSums, Drawdowns, batches, drawn
from himari_rl.evaluation.comparison import _resampled, compare, measured
from himari_rl.evaluation.portfolio import PortfolioCurve, gates
from himari_rl.features.encoder import herfindahl

ROWS = 1_003  # no multiple of anything
BLOCKS = (1.0, 3.4, 40.0, 5_000.0)


def accounts(width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-growth, utility and growth from close to close of some accounts, the last one in cash."""
    rng = np.random.default_rng(seed)
    growth = rng.standard_t(3, (ROWS, width)) * 0.01 + 1e-4
    growth[:, -1] = 0.0
    return growth, growth - 3.35 * growth**2, growth + rng.normal(0.0, 1e-3, growth.shape) * (growth != 0.0)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_draws_are_those_of_arch(block: float) -> None:
    from arch.bootstrap import StationaryBootstrap

    theirs = StationaryBootstrap(block, np.arange(ROWS), seed=np.random.default_rng(1))
    expected = [data[0] for data, _ in theirs.bootstrap(20)]
    ours = [each.rows() % ROWS for each in drawn(ROWS, np.random.default_rng(1), 20, block)]
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("block", BLOCKS)
def test_means_and_drawdowns_are_those_of_the_copied_rows(block: float) -> None:
    growth, _, _ = accounts(4)
    sums, paths = BlockSums(growth), Drawdowns(growth)
    some = list(drawn(ROWS, np.random.default_rng(2), 60, block))
    copies = [growth[each.rows() % ROWS] for each in some]
    np.testing.assert_allclose([sums.means(each) for each in some], [c.mean(axis=0) for c in copies], atol=1e-15)
    found = np.concatenate([paths.deepest(part) for part in batches(iter(some), 7)])
    deepest = [[metrics.max_drawdown(np.cumsum(column)) for column in copy.T] for copy in copies]
    np.testing.assert_allclose(found, deepest, atol=1e-13)
    assert (found[:, -1] == 0.0).all()
    alone = [BlockSums(growth[:, :1]).means(each)[0] for each in some]
    np.testing.assert_allclose(alone, [c[:, 0].mean() for c in copies], atol=1e-15)


@pytest.mark.parametrize("rows", [2, 15, 16, 17, 33])
def test_a_path_of_any_length_has_its_drawdown(rows: int) -> None:
    gained = np.random.default_rng(rows).normal(size=(rows, 2)) * 0.1
    whole = Drawdowns(gained).deepest(list(drawn(rows, np.random.default_rng(0), 40, 4.0)))
    copies = [gained[each.rows() % rows] for each in drawn(rows, np.random.default_rng(0), 40, 4.0)]
    expected = [[metrics.max_drawdown(np.cumsum(column)) for column in copy.T] for copy in copies]
    np.testing.assert_allclose(whole, expected, atol=1e-14)


@pytest.mark.parametrize("block", BLOCKS)
def test_what_a_comparison_draws_is_what_copies_of_its_series_give(block: float) -> None:
    growth, useful, marked = accounts(3)
    some = list(drawn(ROWS, np.random.default_rng(3), 80, block))
    alone, paired = _resampled(growth, useful, marked, iter(some))
    copies = [measured(*(part[each.rows() % ROWS] for part in (growth, useful, marked))) for each in some]
    np.testing.assert_allclose(alone, copies, atol=1e-12)
    expected = [copy[:, :1] - copy[:, 1:] for copy in copies]
    np.testing.assert_allclose(paired, expected, atol=1e-12)


def test_accounts_that_are_the_same_in_a_resample_differ_there_by_exactly_nothing() -> None:
    """A difference in three rows of a thousand: where none of them is drawn, copies tie, and the rest is a sign."""
    growth, useful, marked = (np.repeat(part[:, :1], 2, axis=1) for part in accounts(2))
    for part in (growth, useful, marked):
        part[[7, 300, 900], 1] += 0.01
    some = list(drawn(ROWS, np.random.default_rng(4), 200, 1.0))
    _, paired = _resampled(growth, useful, marked, iter(some))
    hit = np.array([np.isin([7, 300, 900], each.rows() % ROWS).any() for each in some])
    assert 0 < hit.sum() < len(hit)
    assert (paired[~hit] == 0.0).all()
    assert (paired[hit, 0] != 0.0).all()


def test_the_interval_of_a_mean_is_that_of_the_copies() -> None:
    series = accounts(2)[0][:, 0]
    plain = statistics.resample(series[:, None], lambda rows: rows.mean(axis=0), np.random.default_rng(5))
    expected = statistics.interval(float(series.mean()), plain[:, 0])
    found = statistics.mean_interval(series, np.random.default_rng(5))
    for name in ("estimate", "lower", "upper", "positive", "standard_error"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-11, abs=1e-16)


def test_a_comparison_has_the_intervals_of_its_copies() -> None:
    growth, _, marked = accounts(3)
    runs = {
        (name, "x1"): Run(
            strategy=name,
            variant=Variant("x1"),
            log_growth=growth[:, k],
            marked_log_equity=marked[:, k].cumsum(),
            portfolio_return=np.expm1(growth[:, k]),
            exposure=growth[:, k : k + 1],
            multiplier=growth[:, k : k + 1],
            active=np.ones((ROWS, 1), bool),
            cost=np.zeros(ROWS),
            traded=np.zeros(ROWS),
        )
        for k, name in enumerate(("a", "b", "cash"))
    }
    time = 3_600_000 * np.arange(ROWS + 1)
    result = Backtest(
        symbols=("X",), fill_time=time[:-1], end_time=int(time[-1]), asset_return=growth[:, :1], runs=runs
    )
    asked = {"risk_aversion": 6.7, "confidence": 0.9, "replications": 150}
    own, paired = compare(result, "a", ("b", "cash"), np.random.default_rng(6), **asked)
    useful = growth - 0.5 * 6.7 * np.expm1(growth) ** 2
    both = np.hstack([growth[:, :1] - growth[:, 1:], useful[:, :1] - useful[:, 1:]])
    draws = statistics.resample(
        np.hstack([growth, useful, marked]),
        lambda rows: measured(*np.hsplit(rows, 3)),
        np.random.default_rng(6),
        replications=150,
        block=statistics.block_length(both),
    )
    year = result.bars_per_year
    for k, (name, scale) in enumerate((("growth", year), ("utility", year), ("sharpe", year**0.5), ("drawdown", 1.0))):
        for found, drew in ((own, draws[:, k, 0]), (paired["b"], draws[:, k, 0] - draws[:, k, 1])):
            interval = getattr(found, name)
            lower, upper = np.quantile(drew, [0.05, 0.95]) * scale
            assert (interval.lower, interval.upper) == (pytest.approx(lower, rel=1e-9), pytest.approx(upper, rel=1e-9))


def test_a_portfolios_rules_have_the_intervals_of_its_copies() -> None:
    rng = np.random.default_rng(7)
    curves = [PortfolioCurve(rng.normal(1e-4, 0.01, ROWS), rng.uniform(0.0, 0.4, (ROWS, 3))) for _ in range(2)]
    curves[0].exposure[::5] = 0.0
    found = gates(*curves, ("A", "B", "C"), 8_760.0, np.random.default_rng(8), 120)

    def figures(rows: np.ndarray) -> list[np.ndarray]:
        of = []
        for curve in curves:
            growth, held = curve.log_growth[rows], curve.exposure[rows]
            size = np.abs(held).mean(axis=0)
            share = herfindahl(held).mean() / (np.abs(held).sum(axis=1) > 0.0).mean()
            ratio = growth.mean() / growth.std(ddof=1) * 8_760.0**0.5
            of.append(np.array([ratio, share, *(size / size.sum())]))
        return of

    block = statistics.block_length(np.column_stack([curve.log_growth for curve in curves]))
    drew = np.array([figures(each.rows() % ROWS) for each in drawn(ROWS, np.random.default_rng(8), 120, block)])
    true = figures(np.arange(ROWS))
    for k, rule in enumerate(found):
        for part, estimate, draws in (
            (rule.value, true[0][k], drew[:, 0, k]),
            (rule.difference, true[0][k] - true[1][k], drew[:, 0, k] - drew[:, 1, k]),
        ):
            assert part.estimate == pytest.approx(estimate, rel=1e-9, abs=1e-12)
            assert part.lower == pytest.approx(np.quantile(draws, 0.025), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.95, -0.4])
@pytest.mark.parametrize("rows", [60, 500, 5_001])
def test_the_block_length_is_that_of_arch(memory: float, rows: int) -> None:
    from arch.bootstrap import optimal_block_length

    rng = np.random.default_rng(rows)
    series = rng.normal(size=rows)
    for i in range(1, rows):
        series[i] += memory * series[i - 1]
    expected = float(optimal_block_length(series)["stationary"].iloc[0])
    assert statistics.block_length(series) == pytest.approx(max(1.0, expected), rel=1e-9)
