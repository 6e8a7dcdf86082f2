"""Certification of the portfolio: one asset alone, heads that do not know each other, and the bars on the weights."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from helpers.certification import made_up
from helpers.multi import named_rival
from himari_rl.agents.config import PPOConfig
from himari_rl.certification import certificates, certify, suites
from himari_rl.certification.attempts import GRADING_SEED, config_for, market_for
from himari_rl.certification.certificates import judged
from himari_rl.certification.grading import grade, graded_naively
from himari_rl.certification.markets import market_named
from himari_rl.certification.references import naive_policies
from himari_rl.certification.suites import Heads, independent_heads, suite_for
from himari_rl.certification.thresholds import Budget, Suite, Threshold

pytestmark = pytest.mark.usefixtures("cold_cache")


def constant_policy(multiplier: float) -> SimpleNamespace:
    return SimpleNamespace(decide_batch=lambda states, memory=None: (np.full((len(states), 1), multiplier), memory))


@pytest.mark.parametrize("asset", [0, 1, 2])
def test_one_asset_alone_has_the_moments_that_it_has_among_the_others(asset: int) -> None:
    market = market_named("M5b")
    alone, one_history = market_for(f"M5b/{asset}")
    z = np.array([[-1.0, 0.5, 2.0]])
    for power in (1, 2):
        among, chance = market.law(z, 9)
        own, own_chance = alone.law(z[:, asset : asset + 1])
        expected = float((among[0, :, asset] ** power * chance[0]).sum())
        assert float((own[0, :, 0] ** power * own_chance[0]).sum()) == pytest.approx(expected, rel=1e-6)
    assert (alone.cost, one_history) == (0.0, False)


def test_heads_at_their_own_kelly_fraction_are_the_policy_that_ignores_correlation() -> None:
    """mu / s^2 of each asset, shrunk into the gross cap by the product's risk function: the naive row's definition."""
    market = market_named("M5-corner")
    kelly = np.array(market.mus) / np.array(market.sigmas) ** 2
    assert kelly.sum() > 1.0  # the cap binds, so that its proportion is tested too
    heads = Heads([constant_policy(2.0 * w) for w in kelly])
    naive = graded_naively(market, GRADING_SEED, naive_policies(market))["ignoring correlation"]
    assert grade(market, heads, GRADING_SEED).share == pytest.approx(naive.share, abs=1e-9)


def test_each_head_reads_its_own_block_and_no_other() -> None:
    echo = SimpleNamespace(decide_batch=lambda states, memory=None: (states[:, :1], memory))
    states = np.arange(2 * 52.0).reshape(2, 52)
    assert Heads([echo] * 3).decide_batch(states)[0].tolist() == states[:, [0, 16, 32]].tolist()


@pytest.fixture
def no_naive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the naive policies' walks out: they judge nothing."""
    monkeypatch.setattr(certificates, "naive_policies", lambda market: {})


@pytest.mark.usefixtures("no_naive")
@pytest.mark.parametrize(
    ("weights", "passed"), [((0.52, 0.0, 0.27), True), ((0.52, 0.029, 0.27), True), ((0.52, 0.031, 0.27), False)]
)
def test_the_weight_that_the_optimum_leaves_at_zero_has_to_be_found(weights, passed: bool) -> None:
    threshold = suite_for("multi").thresholds["M5-corner"]
    certificate = judged("M5-corner", made_up("M5-corner", [0.98] * 3, weights=weights), threshold)
    assert certificate.passed is passed
    assert "where the optimum has none" in certificate.reason


@pytest.mark.usefixtures("no_naive")
@pytest.mark.parametrize(("gross", "passed"), [(1.0, True), (1.0 + 9e-7, True), (1.0 + 2e-6, False)])
def test_the_gross_cap_is_a_threshold_of_its_own(gross: float, passed: bool) -> None:
    threshold = suite_for("multi").thresholds["M5c"]
    assert (
        judged("M5-corner", made_up("M5-corner", [0.999], weights=(0.6, 0.0, 0.4), gross_max=gross), threshold).passed
        is passed
    )


def test_what_is_trained_beside_the_policy_stands_with_the_naive_and_judges_nothing() -> None:
    heads = made_up("M5-corner", [0.7])[0].grade
    certificate = judged(
        "M5-corner", made_up("M5-corner", [0.98]), Threshold(median=0.97), {"independent heads": heads}
    )
    assert certificate.naive["independent heads"] == 0.7
    assert {"equal", "best single", "ignoring correlation"} < set(certificate.naive)
    assert certificate.passed


def test_one_recipe_serves_all_markets_of_the_portfolio_and_real_data() -> None:
    suite = suite_for("multi")
    assert {config_for(market_for(name)[0], suite.config) for name in suite.thresholds} == {suite.config}


def test_the_heads_are_base_policies_each_trained_on_its_own_asset_with_the_whole_budget(monkeypatch) -> None:
    """Trained to perfection they are the row that ignores correlation; on M5-corner that is .725."""
    asked, budget = [], Budget(bars=3_000_000)
    market = market_named("M5-corner")

    def learn(name: str, seed: int, config: PPOConfig, budget: Budget) -> tuple[float, None]:
        asked.append((name, seed, config, budget))
        alone = market_for(name)[0]
        return 2.0 * alone.mu / alone.sigma**2, None

    monkeypatch.setattr(suites, "learn", learn)
    monkeypatch.setattr(suites, "bundle_of", lambda name, multiplier, *others: constant_policy(multiplier))
    assert independent_heads(market.name, 3, budget)["independent heads"].share == pytest.approx(0.725, abs=0.001)
    assert asked == [(f"M5-corner/{asset}", 3, PPOConfig(), budget) for asset in range(3)]


def test_rivals_are_trained_beside_the_attempts_and_reach_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certify, "local_pool", lambda jobs: None)  # pools are test_certify.py's
    suite = Suite(config=PPOConfig(), budget=Budget(bars=100_000), thresholds={}, rivals=named_rival)
    (certificate,) = certify.certify(["M2"], [4, 5], suite, jobs=1)
    assert certificate.naive["a rival on M2 with seed 4"] == 0.1  # million bars
