"""An agent that learns wholly by PPO has thresholds of its own, and reaches them because of its recipe."""

from __future__ import annotations

import pytest

from helpers.certification import made_up
from himari_rl.agents.config import PPOConfig, config_type
from himari_rl.certification.attempts import attempt
from himari_rl.certification.certificates import judged
from himari_rl.certification.suites import suite_for
from himari_rl.certification.thresholds import Budget

pytestmark = pytest.mark.usefixtures("cold_cache")


@pytest.mark.parametrize("market", ["M2", "M4"])
@pytest.mark.parametrize(("share", "passed"), [(0.951, True), (0.949, False)])
def test_ppo_is_asked_for_95_per_cent(market: str, share: float, passed: bool) -> None:
    suite = suite_for("base", agent=PPOConfig(recipe="ppo"))
    assert judged(market, made_up(market, [share] * 3), suite.thresholds[market]).passed is passed


def test_the_default_is_asked_for_what_it_was() -> None:
    assert suite_for("base").thresholds["M2"].median == 0.97
    assert suite_for("base", agent=PPOConfig()).thresholds.keys() == suite_for("base").thresholds.keys()


@pytest.mark.parametrize("kind", ["base", "lstm", "multi"])
def test_no_certificate_is_empty(kind: str) -> None:
    assert suite_for(kind, agent=config_type(kind)(recipe="ppo")).thresholds


def test_a_narrow_clip_from_scratch_would_not_earn_the_name() -> None:
    """A quarter of the budget: the recipe is on its way, with PPO's usual clip it has hardly begun (LOG.md: .49)."""
    budget = Budget(bars=1_000_000, distinct=1_000_000)
    ours, usual = (
        attempt("M2", 100, PPOConfig(recipe="ppo", **clip), budget)[0].grade for clip in ({}, {"clip_coef": 0.21})
    )
    assert ours.share > 0.9
    assert usual.share < 0.7
