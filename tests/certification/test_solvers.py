"""The solvers of the known-optimum markets against closed forms, other discretisations and the published table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize, minimize_scalar

from himari_rl.certification.__main__ import main
from himari_rl.certification.generators import HiddenRegime, Predictable
from himari_rl.certification.law import KnownMarket, normal_nodes
from himari_rl.certification.markets import MARKETS, market_named
from himari_rl.certification.portfolios import PortfolioMarket
from himari_rl.certification.solvers import dynamic
from himari_rl.certification.solvers.belief import memoryless_exposure, myopic
from himari_rl.certification.solvers.optimum import solution
from himari_rl.certification.solvers.portfolio import growth_of, optimal_weights, project
from himari_rl.errors import ConfigError
from himari_rl.schema import FloatArray

pytestmark = pytest.mark.usefixtures("cold_cache")

FIGURES = {  # per bar x 1e4 (times risk aversion for M4r), tolerance; docs/known_optimum.md says where each is from
    "M1": (2.8803, 0.00005),
    "M1c": (2.8124, 0.0001),
    "M2": (6.1624, 0.006),  # cubic interpolation in z; the solver's 201-state chain sits .004 above
    "M2h": (8.268, 0.006),
    "M3": (22.6205, 0.012),  # limit of 481 beliefs
    "M3z": (23.1418, 0.015),  # Poisson equation, below
    "M4": (5.813, 0.001),
    "M4b": (7.643, 0.001),
    "M4r": (5.850, 0.001),
    "M4r-costly": (3.33, 0.006),
    "M6": (0.0, 1e-9),
}
BANDS = [  # market, visible value, low, high
    ("M1c", 0.0, 0.26, 0.34),
    ("M2", -1.0, 0.0, 0.115),
    ("M2", 0.0, 0.32, 0.68),
    ("M2", 1.0, 0.885, 1.0),
    ("M2h", 0.0, 0.09, 0.91),
    ("M4", 0.0, 0.925, 0.97),
    ("M4", 1.0, 0.045, 0.07),
    ("M4b", 0.0, 0.75, 0.83),
    ("M4b", 1.0, 0.175, 0.22),
    ("M4r", 0.0, 0.935, 0.96),
    ("M4r", 1.0, 0.055, 0.065),
    ("M4r-costly", 0.0, 0.65, 0.965),
]


@pytest.mark.parametrize("name", FIGURES)
def test_the_optimum_is_the_published_figure(name: str) -> None:
    market = market_named(name)
    figure, tolerance = FIGURES[name]
    assert solution(market).growth * 1e4 * (market.risk_aversion or 1.0) == pytest.approx(figure, abs=tolerance)


@pytest.mark.parametrize(("name", "x", "low", "high"), BANDS)
def test_the_no_trade_band_is_the_published_one(name: str, x: float, low: float, high: float) -> None:
    found = [float(edge) for edge in solution(market_named(name)).band(np.array(x))]
    assert found == pytest.approx([low, high], abs=0.0055)  # the table's grid is .005


def test_m1_has_the_kelly_fraction_and_the_growth_of_its_closed_form() -> None:
    best = solution(market_named("M1"))
    fraction = (2 * 0.512 - 1) / 0.08
    growth = 0.512 * np.log(1 + fraction * 0.08) + 0.488 * np.log(1 - fraction * 0.08)
    assert best.low[0] == pytest.approx(0.30, abs=1e-5) == fraction
    assert best.growth == pytest.approx(growth, abs=1e-9)
    assert growth * 1e4 == pytest.approx(2.8803, abs=5e-5)


@pytest.mark.parametrize("name", ["M2", "M4", "M4r"])
def test_without_a_cost_the_band_closes_on_the_exposure_that_is_best_for_one_bar(name: str) -> None:
    market = replace(market_named(name), cost=0.0)
    best = dynamic.solve(market) if name != "M2" else dynamic.solve(replace(market, phi=0.5))
    for i in range(0, len(best.states), 20):
        expected = one_bar_optimum(market, float(best.states[i]))
        assert best.low[i] == pytest.approx(expected, abs=2e-3)
        assert best.high[i] == pytest.approx(expected, abs=2e-3)


def one_bar_optimum(market: KnownMarket, x: float) -> float:
    outcomes, probabilities = (part[0] for part in market.law(np.array([[x]])))

    def loss(w: float) -> float:
        earned = w * outcomes[:, 0]
        if market.risk_aversion is None:
            return -float(probabilities @ np.log1p(earned))
        mean = probabilities @ earned
        return -float(mean - 0.5 * market.risk_aversion * (probabilities @ earned**2 - mean**2))

    found = float(minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-9}).x)
    return min((0.0, found, 1.0), key=loss)


@pytest.mark.parametrize(("name", "tolerance"), [("M2", 0.006), ("M2h", 0.006)])
def test_another_discretisation_of_z_finds_the_same_optimum(
    name: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic, "chain", lambda market: interpolated(market.phi))
    by_spline = dynamic.solve(market_named(name))
    assert by_spline.growth * 1e4 == pytest.approx(solution(market_named(name)).growth * 1e4, abs=tolerance)
    assert by_spline.growth * 1e4 == pytest.approx({"M2": 6.1624, "M2h": 8.268}[name], abs=0.0025)


def interpolated(phi: float, count: int = 61, width: float = 5.5) -> tuple[FloatArray, FloatArray]:
    """E[f(z') | z] of an AR(1) as a matrix: Gauss-Hermite in the shock, cubic interpolation in z. No Markov chain."""
    z = np.linspace(-width, width, count)
    nodes, weights = normal_nodes(15)
    after = np.clip(phi * z[:, None] + np.sqrt(1 - phi**2) * nodes, -width, width)
    return z, np.einsum("ikj,k->ij", CubicSpline(z, np.eye(count))(after), weights)


@pytest.mark.parametrize(("phi", "count"), [(0.97, 201), (0.9, 201), (0.5, 7)])
def test_the_chain_has_the_mean_variance_and_autocorrelation_of_the_ar1(phi: float, count: int) -> None:
    states, transition = dynamic.rouwenhorst(phi, count)
    np.testing.assert_allclose(transition.sum(1), 1.0, atol=1e-12)
    stationary = dynamic.binomial(count - 1, 0.5)
    np.testing.assert_allclose(stationary @ transition, stationary, atol=1e-12)
    assert stationary @ states == pytest.approx(0.0, abs=1e-12)
    assert stationary @ states**2 == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(transition @ states, phi * states, atol=1e-11)
    np.testing.assert_allclose(transition @ states**2, phi**2 * states**2 + 1 - phi**2, atol=5.1 / np.sqrt(count))


def test_m3_without_a_cost_is_the_poisson_equation_of_the_filter() -> None:
    market = market_named("M3z")
    assert isinstance(market, HiddenRegime)
    edge = np.log((1 - market.switch) / market.switch)
    odds = np.linspace(-edge, edge, 201)
    belief = 1 / (1 + np.exp(-odds))
    nodes, weights = normal_nodes(61)
    log_returns = np.concatenate([sign * market.drift - market.sigma**2 / 2 + market.sigma * nodes for sign in (1, -1)])
    chances = np.concatenate([weights * belief[:, None], weights * (1 - belief[:, None])], axis=1)
    likelihood = [np.exp(-((nodes_of(log_returns, market, sign)) ** 2) / 2) for sign in (1, -1)]
    up = belief[:, None] * likelihood[0] / (belief[:, None] * likelihood[0] + (1 - belief[:, None]) * likelihood[1])
    after = up * (1 - market.switch) + (1 - up) * market.switch
    carry = np.einsum("ikj,ik->ij", CubicSpline(odds, np.eye(201))(np.log(after / (1 - after))), chances)
    grid = np.linspace(0, 1, 1001)
    reward = np.stack([(np.log1p(w * np.expm1(log_returns)) * chances).sum(1) for w in grid], 1)
    equations = np.eye(201) - carry
    equations[:, 0] = 1.0  # h(0) = 0, and the growth takes its place
    growth = np.linalg.solve(equations, reward.max(1))[0]
    assert growth * 1e4 == pytest.approx(23.1418, abs=2e-4)
    np.testing.assert_allclose(myopic(market, belief), grid[reward.argmax(1)], atol=2e-3)


def nodes_of(log_returns: FloatArray, market: HiddenRegime, sign: int) -> FloatArray:
    return (log_returns - (sign * market.drift - market.sigma**2 / 2)) / market.sigma


def test_one_return_justifies_the_exposure_of_bayes_rule_and_no_more() -> None:
    market = market_named("M3z")
    assert isinstance(market, HiddenRegime)
    seen = np.array([-2.0, 0.0, 2.0])
    up = 1 / (1 + np.exp(-2 * market.drift * (seen * market.sigma + market.sigma**2 / 2) / market.sigma**2))
    belief = 0.99 * up + 0.01 * (1 - up)
    kelly = np.clip(market.drift * (2 * belief - 1) / market.sigma**2, 0, 1)  # continuous-time approximation
    np.testing.assert_allclose(memoryless_exposure(market, seen), kelly, atol=0.03)


@pytest.mark.parametrize(
    ("name", "weights", "growth"),
    [
        ("M5", (0.1005, 0.0999, 0.4999), 4.8153),
        ("M5-corner", (0.524, 0.0, 0.270), 6.710),
        ("M5c", (0.0, 0.246, 0.754), 32.366),
    ],
)
def test_the_portfolio_optimum_is_the_published_one(name: str, weights: tuple[float, ...], growth: float) -> None:
    market = market_named(name)
    assert isinstance(market, PortfolioMarket)
    nowhere = np.zeros((1, 3))
    found = optimal_weights(market, nowhere, nodes=9)
    np.testing.assert_allclose(found[0], weights, atol=6e-4)
    assert growth_of(market, nowhere, found)[0] * 1e4 == pytest.approx(growth, abs=6e-4)


def test_visible_drifts_of_m5b_are_worth_9_69_by_quadrature_in_z_and_the_table_says_9_35() -> None:
    market = market_named("M5b")
    assert isinstance(market, PortfolioMarket)
    nodes, weights = normal_nodes(9)
    z = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), -1).reshape(-1, 3)
    chance = np.einsum("i,j,k->ijk", weights, weights, weights).ravel()
    best = growth_of(market, z, optimal_weights(market, z, nodes=3, steps=200))
    assert chance @ best * 1e4 == pytest.approx(9.691, abs=0.002)
    constant = growth_of(market, z, np.broadcast_to(optimal_weights(market, np.zeros((1, 3))), z.shape))
    assert chance @ constant * 1e4 == pytest.approx(4.818, abs=0.002)


def test_another_optimiser_finds_no_better_portfolio() -> None:
    market = market_named("M5b")
    assert isinstance(market, PortfolioMarket)
    z = np.random.default_rng(5).standard_normal((25, 3))
    ours = growth_of(market, z, optimal_weights(market, z))
    capped = [{"type": "ineq", "fun": lambda w: 1 - w.sum(), "jac": lambda w: -np.ones(3)}]
    for i in range(len(z)):
        outcomes, chances = (part[0] for part in market.law(z[i : i + 1], 9))

        def loss(w: FloatArray, outcomes: FloatArray = outcomes, chances: FloatArray = chances) -> float:
            return -1e4 * float(chances @ np.log1p(outcomes @ w))

        found = minimize(loss, np.full(3, 0.2), bounds=[(0, 1)] * 3, constraints=capped, method="SLSQP")
        assert ours[i] * 1e4 == pytest.approx(-found.fun, abs=2e-3)
        assert ours[i] * 1e4 > -found.fun - 1e-6


def test_the_projection_is_the_nearest_point() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.normal(0.3, 0.6, (200, 3))
    found = project(wanted)
    assert found.min() >= 0.0
    assert found.sum(-1).max() <= 1.0 + 1e-12
    allowed = rng.dirichlet(np.ones(4), 500)[:, :3]
    inward = ((wanted - found)[:, None, :] * (allowed[None] - found[:, None, :])).sum(-1)
    assert inward.max() < 1e-12  # the variational inequality that only the projection satisfies


def test_a_market_that_does_not_exist_is_refused_with_the_list_and_a_solver_refuses_a_strangers_market() -> None:
    with pytest.raises(ConfigError, match="M3z"):
        market_named("M99")
    with pytest.raises(ConfigError, match="visible state"):
        dynamic.solve(MARKETS["M3"])
    with pytest.raises(ConfigError, match="stationary"):
        Predictable(name="walk", phi=1.0)


def test_a_market_of_the_table_with_other_numbers_is_named_with_them() -> None:
    name = "M2:sigma=0.04,cost=0.001"
    assert market_named(name) == replace(MARKETS["M2"], name=name, sigma=0.04, cost=0.001)
    assert market_named("M4:sigmas=0.06:0.15").sigmas == (0.06, 0.15)
    assert market_named("M5:correlations=0.5:0.4:0.1").correlations == (0.5, 0.4, 0.1)
    assert market_named("M2:risk_aversion=3").risk_aversion == 3.0
    # M1's optimum in closed form: the Kelly fraction (p - q) / jump
    low, high = solution(market_named("M1:jump=0.06,up=0.512")).band(np.zeros(1))
    assert (low[0], high[0]) == pytest.approx((0.4, 0.4), abs=0.003)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("M2:", "one of cost"),
        ("M2:sigmas=0.1", "one of cost"),
        ("M2:shuffled=1", "one of cost"),
        ("M2:name=x", "one of cost"),
        ("M2:sigma=high", "numbers"),
        ("M2:sigma=nan", "from 0.001 to 1"),
        ("M2:sigma=-0.1", "from 0.001 to 1"),
        ("M2:sigma=0.1:0.2", "1 number"),
        ("M4:sigmas=0.1", "two or more"),
        ("M4:sigmas=0.1:0.2:0.3,mus=0.001:0.002", "3 numbers, or one"),
        ("M5:sigmas=0.06:0.08:0.05:0.07", "4 numbers, or one"),
        ("M5x8:correlations=0.2:0.3", "28 numbers, or one"),
        ("M5x1", "M5x2 to M5x100"),
        ("M5x101", "M5x2 to M5x100"),
        ("M5x8:correlations=-0.5", "positive definite"),
        ("R1:share=0.5,length=0.5", "from 1 to"),
        ("R1:place=top", "one of"),
        ("R2:sigmas=0.1", "2 number"),
        ("M5:correlations=0.9:0.9:-0.9", "positive definite"),
        ("M9:sigma=0.1", "M3z"),
        ("M2:mu=inf", "from -0.1 to 0.1"),
        ("M4:mus=inf:0", "from -0.1 to 0.1"),
        ("M3:drift=50", "from 0 to 0.1"),
        ("M2:risk_aversion=-5", "from 1 to 1000"),
        ("M5b:cost=0.0015", "only those"),  # a portfolio's band is not solved, nor M3 and M5 for another objective
        ("M5:risk_aversion=12.5", "only those"),
        ("M3z:risk_aversion=12.5", "only that"),
    ],
)
def test_a_number_that_a_market_cannot_take_is_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        market_named(name)


def test_the_table_in_the_documentation_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "known_optimum.md").read_text()
    shown = page.split("<!-- known-optimum-table -->")[1].split("```")[1]
    main()
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert printed == shown.strip("\n").splitlines()
    assert len(printed) == 24
