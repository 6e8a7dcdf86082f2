"""Certification of the recurrent agent: the memory claim, the line it has to beat, the base beside it, the alarm."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from helpers import himari_here
from helpers.certification import made_up
from himari_rl.agents.config import LSTMPPOConfig
from himari_rl.certification import attempts, certificates
from himari_rl.certification import certify as certification
from himari_rl.certification.attempts import attempt, config_for, market_for
from himari_rl.certification.certificates import Certificate, interval, judged
from himari_rl.certification.certify import _median_of
from himari_rl.certification.grading import Grade, grade, graded_naively
from himari_rl.certification.references import MEMORYLESS, ONE_LINE, naive_policies
from himari_rl.certification.suites import BASE_AGENT, base_agent, suite_for
from himari_rl.certification.thresholds import Budget, Suite, Threshold

pytestmark = pytest.mark.usefixtures("cold_cache")


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch):
    """Judges made-up seeds of a market beside naive policies and rivals with these shares, each known to `error`."""

    def judge(market: str, shares: list[float], error: float = 0.0025, **others: float) -> Certificate:
        grades = {n: one(share, error) for n, share in others.items()}
        rivals = {BASE_AGENT: grades.pop("base")} if "base" in grades else {}
        named = {"memoryless": MEMORYLESS, "line": ONE_LINE}
        naive = {named[n]: g for n, g in grades.items()}
        monkeypatch.setattr(certificates, "graded_naively", lambda market, seed, policies, **size: dict(naive))
        seeds = made_up(market, shares, share_error=error)
        return judged(market, seeds, suite_for("lstm").thresholds[market], rivals)

    return judge


def one(share: float, error: float) -> Grade:
    return made_up("M3z", [share], share_error=error)[0].grade


def test_the_interval_holds_the_error_of_the_paths_and_that_between_seeds() -> None:
    shares, error = [0.95, 0.96, 0.97, 0.98, 0.94], 0.004
    grades = [a.grade for a in made_up("M3", shares, share_error=error)]
    variance = sum((s - 0.96) ** 2 for s in shares) / 4 / 5
    half = 1.96 * (error**2 + variance) ** 0.5
    assert interval(grades) == pytest.approx((0.96 - half, 0.96 + half))
    assert interval(grades[:1]) == pytest.approx((0.95 - 1.96 * error, 0.95 + 1.96 * error))


@pytest.mark.parametrize(("base", "passed"), [(0.02, True), (0.147, True), (0.154, True), (0.158, False), (0.5, False)])
def test_the_base_agent_must_not_beat_what_is_best_without_memory(beside, base: float, passed: bool) -> None:
    """2 x sqrt(2) x .0025 = .0071 above .150 is noise; more would mean that the account or a feature remembers."""
    certificate = beside("M3z", [0.96] * 5, base=base, memoryless=0.150)
    assert certificate.passed is passed
    assert f"base agent {base:.3f}" in certificate.reason


@pytest.mark.parametrize(
    ("shares", "line", "passed"),
    [
        ([0.97, 0.96, 0.97, 0.98, 0.97], 0.794, True),
        (
            [0.97, 0.96, 0.97, 0.98, 0.97],
            0.985,
            False,
        ),  # the line that was measured
        ([0.97, 0.20, 0.97, 0.31, 0.97], 0.794, False),  # a median of .97 of which nobody can be sure
    ],
)
def test_the_interval_of_m3_must_exclude_the_one_line_rule(beside, shares, line: float, passed: bool) -> None:
    assert beside("M3", shares, line=line).passed is passed


def test_the_published_share_of_the_one_line_rule_is_asked_where_it_is_the_greater(beside) -> None:
    assert "above the one line's 0.810" in beside("M3", [0.97] * 5, line=0.794).reason
    assert "above the one line's 0.830" in beside("M3", [0.97] * 5, line=0.830).reason


@pytest.mark.parametrize(("base", "passed"), [(0.999, False), (0.991, True), (0.9, True)])
def test_memory_must_not_cost_more_than_two_hundredths_where_there_is_nothing_to_remember(
    beside, base: float, passed: bool
) -> None:
    assert beside("M4", [0.975] * 5, base=base).passed is passed


def test_a_seed_that_never_learned_raises_an_alarm_that_no_median_hides() -> None:
    threshold = Threshold(median=0.93)
    stuck = judged("M2", made_up("M2", [0.97, 0.96, 0.29, 0.98, 0.97]), threshold)
    assert stuck.median >= threshold.median
    assert not stuck.passed
    assert stuck.reason == "fell short: ALARM: seed 2 stuck below 0.3"
    assert judged("M2", made_up("M2", [0.97, 0.96, 0.31, 0.98, 0.97]), threshold).passed  # poor, and not stuck


def test_hidden_regimes_are_graded_on_twenty_thousand_chains_and_the_others_are_not(monkeypatch) -> None:
    asked: list[tuple[str, object]] = []

    def counted(market, policy, seed, **size):
        asked.append((market.name, size.get("chains")))
        return grade(market, policy, seed, **(size | {"chains": 50, "rows": 20, "burn_in": 10}))

    def naively(market, seed, policies, **size):
        asked.append((f"naive {market.name}", size.get("chains")))
        return {MEMORYLESS: one(0.15, 0.0025)}

    monkeypatch.setattr(attempts, "grade", counted)
    monkeypatch.setattr(certificates, "graded_naively", naively)
    monkeypatch.setattr(attempts, "require_learnable_from", lambda name, budget: None)
    small = LSTMPPOConfig(num_envs=10, num_steps=10, minibatch=100, lstm_hidden_dim=4, hidden_dim=4)
    for name in ("M3z", "M2"):
        done, _ = attempt(name, 0, small, Budget(bars=100, distinct=2_100))
        judged(name, (done,), None)
    assert asked == [("M3z", 20_000), ("naive M3z", 20_000), ("M2", None), ("naive M2", None)]


def test_of_few_chains_the_exact_memoryless_policy_itself_says_too_much() -> None:
    """Why twenty thousand: its error falls with the root of the chains, .011 on 1,000."""
    market = market_for("M3z")[0]
    policies = {MEMORYLESS: naive_policies(market)[MEMORYLESS]}
    few, more = (graded_naively(market, 5, policies, chains=n, rows=100)[MEMORYLESS] for n in (250, 1000))
    assert few.share_error == pytest.approx(2.0 * more.share_error, rel=0.3)
    assert more.share == pytest.approx(0.150, abs=4 * more.share_error)


def test_one_recipe_serves_every_market_and_only_a_hidden_position_takes_the_band_away() -> None:
    suite = suite_for("lstm")
    found = {name: config_for(market_for(name)[0], suite.config) for name in suite.thresholds}
    assert {name for name, config in found.items() if config != suite.config} == {"M3z"}
    assert replace(found["M3z"], head=suite.config.head) == suite.config


def test_the_base_agent_beside_it_has_the_base_agents_own_recipe_and_the_same_budget() -> None:
    budget = Budget(bars=100_000, distinct=100_000)
    (name, graded), *rest = base_agent("M2", 3, budget).items()
    assert (name, rest) == (BASE_AGENT, [])
    assert graded == attempt("M2", 3, suite_for("base").config, budget)[0].grade


def test_of_several_rivals_seeds_the_median_counts(monkeypatch) -> None:
    assert isinstance(suite_for("lstm"), Suite)
    assert suite_for("lstm").rival_seeds == 5
    seeds = [{"r": one(share, 0.0)} for share in (0.3, 0.9, 0.5)]
    assert _median_of(seeds)["r"].share == 0.5


def test_the_command_shows_the_base_agent_beside_the_recurrent_one_and_its_interval(monkeypatch) -> None:
    """The command as a process, with its workers, is test_certify.py's."""
    monkeypatch.setattr(certification, "local_pool", lambda jobs: None)
    asked = ["certify", "lstm", "--market", "M2", "--seeds", "1", "--num-episodes", "200", "--jobs", "1", "--json"]
    done = himari_here(*asked)
    assert done.returncode == 1  # far too few bars
    market = json.loads(done.stdout)["markets"][0]
    assert np.isfinite(market["naive"][BASE_AGENT])
    low, high = market["interval"]
    assert low < market["median"] < high
