"""Certification end to end: small budgets, real bundles, and what must be refused."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from helpers import himari_here
from helpers.certification import made_up
from himari_rl.agents.config import PPOConfig
from himari_rl.certification import certify as certification
from himari_rl.certification.attempts import attempt, market_for, require_learnable_from
from himari_rl.certification.certificates import judged
from himari_rl.certification.display import render_certificates
from himari_rl.certification.generators import ConstantEdge
from himari_rl.certification.grading import compare, grade, reference
from himari_rl.certification.markets import market_named
from himari_rl.certification.page import certificate_page, learned_band
from himari_rl.certification.suites import suite_for
from himari_rl.certification.thresholds import Budget, Threshold
from himari_rl.certification.traps import Trapped
from himari_rl.errors import ConfigError, LookAheadError, RefusedError

pytestmark = pytest.mark.usefixtures("cold_cache")

SMALL = {"chains": 100, "rows": 100, "burn_in": 50}


@pytest.fixture(scope="module")
def learned():
    """M1 with half of the budget: a real run of the same road."""
    return attempt("M1", 3, PPOConfig(), Budget(bars=2_000_000, distinct=1_000_000))


def test_half_of_the_budget_already_reaches_95_per_cent_on_m1(learned) -> None:
    done, _ = learned
    assert 0.95 <= done.grade.share <= 1.0
    assert done.bars >= 2_000_000


def test_the_same_seed_learns_the_same_policy_and_another_one_does_not() -> None:
    small = Budget(bars=200_000, distinct=200_000)
    first, again, other = (attempt("M1", seed, PPOConfig(), small)[0].grade for seed in (3, 3, 4))
    assert first == again
    assert other.share != first.share


def test_the_page_draws_the_learned_band_around_the_kelly_fraction(learned) -> None:
    done, policy = learned
    low, high = learned_band(market_named("M1"), policy, np.zeros(1))
    assert low[0] - 0.05 <= 0.30 <= high[0] + 0.05
    drawn = judged("M1", (done,), Threshold(median=0.9))
    page = certificate_page([drawn], {"M1": policy})
    mixed = certificate_page([replace(drawn, market="M3z"), drawn, drawn], {"M1": policy})
    # a market that cannot be drawn may come first; one that stands there twice is drawn twice, under other anchors
    assert [text.count("<svg") for text in (page, mixed)] == [1, 2]
    anchors = re.findall(r'<section id="(.*?)">', mixed)
    assert len(anchors) == len(set(anchors)) == 4
    assert "<script src=" not in page
    assert "optimal: buy below" in page


def test_a_market_without_enough_bars_is_refused_with_the_number_needed() -> None:
    with pytest.raises(RefusedError, match=r"100 / SR\^2 = 1[0-9]{2},[0-9]{3} bars"):
        require_learnable_from("M1", Budget(bars=4_000_000, distinct=100_000))
    require_learnable_from("M1", Budget(bars=4_000_000, distinct=400_000))


def test_replaying_few_bars_often_does_not_make_a_market_learnable() -> None:
    with pytest.raises(RefusedError):
        require_learnable_from("M2", Budget(bars=10**9, distinct=10_000))


def test_a_share_above_one_is_a_bug_and_not_a_triumph() -> None:
    ref = reference(market_named("M2"), 5, **SMALL)
    impossible = replace(ref.optimum, growth=ref.optimum.growth * 1.05)
    with pytest.raises(LookAheadError, match=r"share 1\.05"):
        compare(ref, impossible)
    assert compare(ref, ref.optimum).share == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("shares", "threshold", "passed"),
    [
        ([0.98, 0.97, 0.96], Threshold(median=0.97), True),
        ([0.98, 0.96, 0.96], Threshold(median=0.97), False),
        ([0.99, 0.99, 0.93], Threshold(median=0.97, worst=0.94), False),
        ([0.99, 0.99, 0.94], Threshold(median=0.97, worst=0.94), True),
        ([0.99, 0.99, 0.99], Threshold(median=0.97, turnover=(0.03, 0.04)), False),
    ],
)
def test_the_median_the_worst_seed_and_the_turnover_are_all_judged(shares, threshold, passed) -> None:
    assert judged("M2", made_up("M2", shares), threshold).passed is passed


def test_standing_aside_means_little_exposure_and_no_turnover() -> None:
    threshold = Threshold(aside=True)
    assert judged("M6", made_up("M6", [0.0], exposure=0.01, turnover=0.0005), threshold).passed
    assert not judged("M6", made_up("M6", [0.0], exposure=0.03, turnover=0.0005), threshold).passed
    assert not judged("M6", made_up("M6", [0.0], exposure=0.01, turnover=0.002), threshold).passed


def test_knowledge_of_a_shuffled_market_is_refused() -> None:
    threshold = Threshold(nothing=True)
    assert judged("M2-shuffled", made_up("M2", [0.4] * 5, share_over_constant=0.01), threshold).passed
    assert not judged("M2-shuffled", made_up("M2", [0.4] * 5, share_over_constant=0.05), threshold).passed


def test_every_kind_has_markets_that_exist() -> None:
    for kind in ("base", "lstm", "multi"):
        for name in suite_for(kind, 2).thresholds:
            assert name.startswith(market_for(name)[0].name)


@pytest.mark.parametrize("name", ["M5/abc", "M5/1.0", "M5/", "M5/3", "M2/0", "M2/whatever"])
def test_an_asset_that_a_market_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no market"):
        market_for(name)
    assert market_for("M5/2-one-history") == (market_named("M5").alone(2), True)


def test_a_market_of_another_kind_is_refused_before_anything_is_trained() -> None:
    for kind, name in (("multi", "M2"), ("base", "M5")):
        with pytest.raises(ConfigError, match="asset"):
            certification.certify([name], [0], suite_for(kind))


def test_a_weak_edge_is_learned_from_more_bars_unless_somebody_says_how_many() -> None:
    suite, own = suite_for("base"), suite_for("base", 2)
    for name in ("M1", "M1:jump=0.06,up=0.512"):
        assert suite.budget_for(name) == Budget(bars=12_000_000, distinct=6_000_000)
        assert own.budget_for(name).bars == 1000
    assert suite.budget_for("M2") == suite.budget_for("M2-one-history") == Budget()


def test_the_same_market_twice_is_one() -> None:
    found = certification.certify(["M6", "M6"], [0], suite_for("base", 100), jobs=1)
    assert [(c.market, len(c.attempts)) for c in found] == [("M6", 1)]


def test_sb3_is_graded_by_the_same_grader() -> None:
    """A policy that is not ours: anything with `decide_batch` walks the same paths under the same law."""
    market = market_named("M1")

    def kelly(states, memory=None):
        return np.full((len(states), 1), 0.6), memory

    graded = grade(market, SimpleNamespace(decide_batch=kelly), 5, **SMALL)
    assert graded.share == pytest.approx(1.0, abs=1e-9)  # .6 of the base position .5 is the Kelly fraction .30
    assert isinstance(market, ConstantEdge)


def test_the_command_prints_one_json_document_and_exits_1_when_a_threshold_is_missed(tmp_path: Path) -> None:
    small = "--market M2 --seeds 1 --num-episodes 200 --jobs 1 --json"
    done = himari_here("certify", "base", *small.split())
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["passed"] is False
    assert document["markets"][0]["market"] == "M2"
    assert "fell short" in document["markets"][0]["reason"]
    assert "multiplier" in " ".join(document["markets"][0]["naive"])


def test_certificates_fit_eighty_columns_with_every_figure_of_a_market_in_its_row() -> None:
    """The first table wrapped its reasons into seven columns: the terminal most people have showed no figure whole."""
    names = ["M2", "M4r-one-history"]
    found = [judged(name, made_up(name, [0.99, 0.98, 0.97]), Threshold(median=0.975, worst=0.975)) for name in names]
    out = io.StringIO()
    render_certificates("base", found, [Trapped("M7 rho 0.05", True, "caught, t = 8")], Console(file=out, width=80))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    for name in names:
        assert [line.split()[1:] for line in lines if line.split()[:1] == [name]] == [
            ["0.980", "0.970", "0.000", "0.0200", "1.0", "0.0", "M"]
        ]
        assert f"REFUSE  {name}" in lines  # its worst seed, .970, is below .975
    assert "worst 0.970 >= 0.975" in out.getvalue()
    assert "always 1 -0.0" in out.getvalue()
    assert "pass    M7 rho 0.05" in lines
