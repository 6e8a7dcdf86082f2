"""M5 with any number of assets and M4 with any number of regimes, by name."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from himari_rl.certification.attempts import encoder_for, market_for
from himari_rl.certification.generators import VolatilityRegimes
from himari_rl.certification.law import KnownMarket, normal_nodes
from himari_rl.certification.markets import market_named
from himari_rl.certification.observe import market_rows
from himari_rl.certification.portfolios import INVESTED, PortfolioMarket, symmetric_nodes
from himari_rl.certification.solvers.optimum import solution
from himari_rl.certification.solvers.portfolio import growth_of, optimal_weights
from himari_rl.features.contract import CASCADE_RISK
from himari_rl.schema import FloatArray

pytestmark = pytest.mark.usefixtures("cold_cache")

FOUR = "M5:sigmas=0.06:0.08:0.05:0.07,mus=0.00095:0.00153:0.00143:0.0021,correlations=0.6:0.2:0.3:0.1:0.4:0.2"


@pytest.mark.parametrize("dimension", [2, 5, 8, 20])
def test_the_symmetric_rule_is_exact_for_every_polynomial_of_degree_five(dimension: int) -> None:
    nodes, weights = symmetric_nodes(dimension)
    assert nodes.shape == (2 * dimension**2 + 1, dimension)
    x, y = nodes[:, 0], nodes[:, -1]
    moments = {1: (0.0, np.ones(len(x))), 2: (1.0, x**2), 3: (0.0, x**2 * y), 4: (3.0, x**4), 5: (0.0, x**3 * y**2)}
    for expected, values in moments.values():
        assert weights @ values == pytest.approx(expected + (values is moments[1][1]), abs=1e-9)
    assert weights @ (x**2 * y**2) == pytest.approx(1.0, abs=1e-9)


def another_optimum(market: PortfolioMarket, nodes: FloatArray, weights: FloatArray) -> tuple[FloatArray, float]:
    """SLSQP on other nodes (K, A) of the shocks."""
    count = market.assets_count
    grown = np.exp(nodes @ market.covariance_root().T + np.array(market.mus) - 0.5 * np.array(market.sigmas) ** 2) - 1.0
    found = minimize(
        lambda w: -1e4 * float(weights @ np.log1p(grown @ w)),
        np.full(count, 0.5 / count),
        jac=lambda w: -1e4 * (weights / (1.0 + grown @ w)) @ grown,
        bounds=[(0, 1)] * count,
        constraints=[{"type": "ineq", "fun": lambda w: 1 - w.sum(), "jac": lambda w: -np.ones(count)}],
        method="SLSQP",
        options={"ftol": 1e-9},
    )
    return found.x, -found.fun


def test_four_assets_have_the_optimum_of_a_product_of_nine_nodes_each() -> None:
    market = market_named(FOUR)
    assert isinstance(market, PortfolioMarket)
    points, chances = normal_nodes(9)
    nodes = np.stack(np.meshgrid(*[points] * 4, indexing="ij"), -1).reshape(-1, 4)
    weights = np.stack(np.meshgrid(*[chances] * 4, indexing="ij"), -1).reshape(-1, 4).prod(-1)
    expected, growth = another_optimum(market, nodes, weights)
    found = optimal_weights(market, np.zeros((1, 4)))
    np.testing.assert_allclose(found[0], expected, atol=2e-3)
    assert growth_of(market, np.zeros((1, 4)), found)[0] * 1e4 == pytest.approx(growth, rel=5e-4)


@pytest.mark.parametrize("count", [2, 5, 8, 20])
def test_n_assets_by_name_have_about_the_optimum_that_their_drifts_were_made_for(count: int) -> None:
    market = market_named(f"M5x{count}")
    assert isinstance(market, PortfolioMarket)
    assert (market.assets_count, len(market.correlations)) == (count, count * (count - 1) // 2)
    found = optimal_weights(market, np.zeros((1, count)))[0]
    wanted = np.where(np.arange(count) % 4 == 1, 0.0, np.linspace(2.0, 1.0, count))
    wanted *= INVESTED / wanted.sum()
    np.testing.assert_allclose(found, wanted, atol=0.02)
    assert found[wanted == 0.0].max() < 1e-6
    rng = np.random.default_rng(count)  # Monte Carlo with antithetic shocks
    shocks = rng.standard_normal((100_000, count))
    both = np.concatenate([shocks, -shocks])
    other, growth = another_optimum(market, both, np.full(len(both), 1.0 / len(both)))
    assert growth_of(market, np.zeros((1, count)), found[None])[0] * 1e4 == pytest.approx(growth, rel=0.02)
    np.testing.assert_allclose(found, other, atol=0.05)


def test_what_is_earned_without_a_large_array_is_what_the_law_says() -> None:
    for name in ("M5b", FOUR, "M5x8"):
        market = market_named(name)
        rng = np.random.default_rng(1)
        state, exposure = rng.standard_normal((2, 7, market.assets_count))
        for mine, plain in zip(
            market.earned(state, exposure), KnownMarket.earned(market, state, exposure), strict=True
        ):
            np.testing.assert_allclose(mine, plain, atol=1e-12)


def test_as_many_assets_are_seen_and_one_of_them_alone_is_a_market() -> None:
    market = market_named("M5x8")
    assert encoder_for(market).state_dim == 16 * 8 + 28 + 1
    assert market_rows(market, np.zeros((1, 8))).shape == (1, 157)
    assert market_for("M5x8/7")[0] == market.alone(7)


def test_one_number_stands_for_all_pairs_and_all_drifts() -> None:
    market = market_named("M5:sigmas=0.06:0.07,correlations=0.5,mus=0.002")
    assert (market.correlations, market.mus, market.betas) == ((0.5,), (0.002, 0.002), (0.0, 0.0))
    assert market_named("M4:sigmas=0.05:0.1:0.2").mus == (0.0024,) * 3


def test_three_regimes_have_the_optimum_of_an_independent_solver() -> None:
    market = market_named("M4-three")
    best = solution(market)
    assert best.growth * 1e4 == pytest.approx(4.305, abs=0.002)
    bands = [(0.923, 0.971), (0.206, 0.271), (0.046, 0.072)]
    for regime, (low, high) in zip((0.0, 0.5, 1.0), bands, strict=True):
        assert [float(edge) for edge in best.band(np.array(regime))] == pytest.approx([low, high], abs=0.002)
    assert solution(market_named("M4:sigmas=0.05:0.1:0.2")).growth == best.growth


def test_regimes_are_seen_as_equal_steps_and_follow_their_own_law() -> None:
    market = market_named("M4:sigmas=0.05:0.1:0.15:0.2")
    assert isinstance(market, VolatilityRegimes)
    paths = market.simulate(200, 500, np.random.default_rng(2))
    assert np.unique(market_rows(market, paths.x)[..., CASCADE_RISK]) == pytest.approx([0, 1 / 3, 2 / 3, 1])
    for seen, sigma in zip(market.regimes, market.sigmas, strict=True):
        assert np.log1p(paths.returns[paths.x == seen]).std() == pytest.approx(sigma, rel=0.03)
    np.testing.assert_allclose(market.transition().sum(1), 1.0)
    assert np.diag(market.transition()) == pytest.approx(0.98)
