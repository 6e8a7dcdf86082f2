"""Each measure against a number computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from himari_rl.evaluation import metrics, statistics
from himari_rl.evaluation.comparison import measured
from himari_rl.evaluation.portfolio import PortfolioCurve, gates

G = np.log(np.array([1.1, 0.9, 1.2, 0.8]))


def test_growth_is_the_mean_log_return_on_the_bars_own_calendar() -> None:
    assert metrics.growth(G) == pytest.approx(math.log(1.1 * 0.9 * 1.2 * 0.8) / 4)
    assert metrics.growth(G, 8760.0) == pytest.approx(8760 * math.log(1.1 * 0.9 * 1.2 * 0.8) / 4)
    assert metrics.total_return(G) == pytest.approx(1.1 * 0.9 * 1.2 * 0.8 - 1)


def test_sharpe_and_volatility_annualise_by_the_root_of_the_bars_in_a_year() -> None:
    g = np.array([0.01, 0.03])
    assert metrics.volatility(g) == pytest.approx(0.01 * math.sqrt(2))
    assert metrics.sharpe(g) == pytest.approx(0.02 / (0.01 * math.sqrt(2)))
    assert metrics.sharpe(g, 8760.0) == pytest.approx(math.sqrt(8760) * metrics.sharpe(g))
    assert metrics.volatility(g, 8760.0) == pytest.approx(math.sqrt(8760) * metrics.volatility(g))


def test_drawdown_is_the_deepest_fall_from_a_peak_and_the_start_is_a_peak() -> None:
    assert metrics.max_drawdown(np.log([1.0, 2.0, 1.5, 3.0, 1.2])) == pytest.approx(0.6)
    assert metrics.max_drawdown(np.log([0.7, 0.9])) == pytest.approx(0.3)
    assert metrics.max_drawdown(np.log([1.1, 1.2])) == 0.0
    assert str(metrics.max_drawdown(np.zeros(3))) == "0.0"


def test_exposures_are_net_and_gross_over_assets() -> None:
    w = np.array([[0.5, -0.2], [0.1, 0.0]])
    assert metrics.mean_exposure(w) == pytest.approx((0.3 + 0.1) / 2)
    assert metrics.gross_exposure(w) == pytest.approx((0.7 + 0.1) / 2)


def test_turnover_and_cost_are_a_mean_and_a_sum() -> None:
    assert metrics.turnover(np.array([0.2, 0.0, 0.1])) == pytest.approx(0.1)
    assert metrics.cost_paid(np.array([0.002, 0.0, 0.001])) == pytest.approx(0.003)


def test_utility_charges_half_the_risk_aversion_times_the_squared_return() -> None:
    r = np.array([0.02, -0.01])
    expected = (math.log(1.02) + math.log(0.99)) / 2 - 6.7 / 2 * (0.0004 + 0.0001) / 2
    assert metrics.utility(np.log1p(r), r) == pytest.approx(expected)
    assert metrics.utility(np.log1p(r), r, 0.0) == pytest.approx(metrics.growth(np.log1p(r)))


def test_a_sharpe_ratio_of_one_is_worth_most_at_an_exposure_of_thirteen_to_fifteen_per_cent_volatility() -> None:
    """Aversion 6.7 plus log-growth's own half variance: the best volatility is 1 / 7.7 a year."""
    hours, sigma = 8760, 0.6
    bar = sigma / math.sqrt(hours) * np.array([1.0, -1.0]) + sigma * 1.0 / hours
    exposures = np.linspace(0.0, 1.0, 1001)
    worth = [metrics.utility(np.log1p(w * bar), w * bar, 6.7, hours) for w in exposures]
    assert exposures[int(np.argmax(worth))] * sigma == pytest.approx(1 / 7.7, abs=0.001)


def test_spread_and_saturation_count_only_where_the_multiplier_sizes_something() -> None:
    m = np.array([[0.0], [2.0], [1.0], [1.0]])
    assert metrics.action_spread(m) == pytest.approx(math.sqrt(0.5))
    assert metrics.saturation(m) == 0.5
    active = np.array([[False], [False], [True], [True]])
    assert (metrics.action_spread(m, active), metrics.saturation(m, active)) == (0.0, 0.0)
    assert metrics.saturation(m, np.zeros_like(active)) == 0.5


def test_the_one_sharpe_ratio_takes_numbers_and_arrays_and_is_0_where_nothing_moves() -> None:
    assert float(metrics.sharpe_ratio(0.02, 0.01)) == pytest.approx(2.0)
    found = metrics.sharpe_ratio(np.array([0.02, 0.0, -0.03]), np.array([0.01, 0.0, 0.02]))
    assert found == pytest.approx([2.0, 0.0, -1.5])
    assert np.isnan(metrics.sharpe_ratio(0.0, math.nan))  # not a number is no ratio of 0


def test_every_room_has_the_same_sharpe_ratio_of_the_same_account() -> None:
    """To the bit where the moments are taken alike; the twin is the definition in plain floats."""
    g = np.random.default_rng(3).normal(1e-4, 0.01, 500)
    deviation = math.sqrt(sum((x - sum(g) / 500) ** 2 for x in g) / 499)
    assert metrics.sharpe(g) == pytest.approx(sum(g) / 500 / deviation, rel=1e-12)
    assert metrics.sharpe(g) == float(metrics.sharpe_ratio(g.mean(), g.std(ddof=1)))
    assert statistics.moments(g).sharpe == metrics.sharpe(g)
    assert measured(*(g[:, None] for _ in range(3)))[2, 0] == pytest.approx(metrics.sharpe(g), rel=1e-12)
    curve = PortfolioCurve(g, np.ones((500, 1)))
    ratio, *_ = gates(curve, curve, ("A",), 1.0, np.random.default_rng(0), replications=2)
    assert ratio.value.estimate == pytest.approx(metrics.sharpe(g), rel=1e-12)


def test_utility_is_one_formula_for_training_and_for_judging() -> None:
    """Reward and verdict, bit for bit; the twin is the definition of one bar."""
    torch = pytest.importorskip("torch")
    from himari_rl.envs.rewards import mean_variance

    rng = np.random.default_rng(4)
    growth, earned = 1.0 + rng.normal(0.0, 0.01, 50), rng.normal(0.0, 0.01, 50)
    logs = torch.from_numpy(growth).log().numpy()
    found = metrics.utility_per_bar(logs, earned, 6.7)
    assert found.tolist() == mean_variance(torch.from_numpy(growth), torch.from_numpy(earned), 6.7).tolist()
    assert found.tolist() == pytest.approx(
        [math.log(g) - 6.7 / 2 * r * r for g, r in zip(growth, earned, strict=True)], rel=1e-12
    )


def test_growth_per_year_of_several_accounts_is_that_of_each() -> None:
    both = np.column_stack([G, 2.0 * G])
    assert metrics.mean_growth(both, 8760.0) == pytest.approx([metrics.growth(G, 8760.0), metrics.growth(2 * G, 8760)])
