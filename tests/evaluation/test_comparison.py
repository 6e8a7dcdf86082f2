"""A policy beside its baselines: each measure by its definition, each difference paired."""

from __future__ import annotations

import math

import numpy as np
import pytest

from helpers.evaluation import Rule, bars_from, ledger, walk
from himari_rl.evaluation.backtest import BASE, LAGGED, Backtest, backtest, stage
from himari_rl.evaluation.comparison import compare
from himari_rl.evaluation.verdict import judge

ASKED = {"risk_aversion": 6.7, "confidence": 0.95, "replications": 300}


@pytest.fixture(scope="module")
def played() -> Backtest:
    on = stage(bars_from(walk(3_000, 7)), ledger())
    rules = {
        "policy": Rule(lambda states, step: 1.5),
        "seed 0": Rule(lambda states, step: 1.0 + 0.5 * (step % 2)),
    }
    return backtest(rules, on, ledger(), variants=(BASE, LAGGED), rng=np.random.default_rng(0))


def test_estimates_are_those_of_a_scalar_loop(played: Backtest) -> None:
    own, paired = compare(played, "policy", ("buy and hold", "cash"), np.random.default_rng(1), **ASKED)
    found = {}
    for name in ("policy", "buy and hold", "cash"):
        run = played.run(name)
        growth = run.log_growth.tolist()
        useful = [g - 6.7 / 2 * r * r for g, r in zip(growth, run.portfolio_return.tolist(), strict=True)]
        mean = sum(growth) / len(growth)
        deviation = math.sqrt(sum((g - mean) ** 2 for g in growth) / (len(growth) - 1))
        peak, depth = 0.0, 0.0
        for level in run.marked_log_equity.tolist():
            peak = max(peak, level)
            depth = max(depth, 1.0 - math.exp(level - peak))
        ratio = mean / deviation * math.sqrt(8766) if deviation else 0.0
        found[name] = (mean * 8766, sum(useful) / len(useful) * 8766, ratio, depth)
    year = played.bars_per_year / 8766  # the loop's year has 8,766 hours
    for scale, part, value in zip((year, year, math.sqrt(year), 1.0), vars(own).values(), found["policy"], strict=True):
        assert part.estimate == pytest.approx(value * scale, rel=1e-9)
    for name, measures in paired.items():
        for scale, part, mine, theirs in zip(
            (year, year, math.sqrt(year), 1.0), vars(measures).values(), found["policy"], found[name], strict=True
        ):
            assert part.estimate == pytest.approx((mine - theirs) * scale, rel=1e-9)
            assert part.lower <= part.upper


def test_differences_are_paired(played: Backtest) -> None:
    """Against itself nothing differs in any resample; against cash the interval is as wide as the policy's own."""
    own, paired = compare(played, "policy", ("policy", "cash"), np.random.default_rng(2), **ASKED)
    for part in vars(paired["policy"]).values():
        assert part.estimate == part.lower == part.upper == 0.0
    assert own.growth.upper > own.growth.lower
    assert paired["cash"].growth == own.growth


def test_a_verdict_compares_with_every_baseline_and_not_with_its_own_seeds(played: Backtest) -> None:
    found = judge(played, np.random.default_rng(3), replications=50)
    baselines = set(played.strategies) - {"policy", "multiplier 1.0", "seed 0"}
    assert baselines
    assert set(found.paired) == baselines
    assert judge(played, np.random.default_rng(3), replications=50, every=False).paired == {}


def test_the_number_of_baselines_changes_no_other_number(played: Backtest) -> None:
    pair = [judge(played, np.random.default_rng(3), replications=50, every=every) for every in (True, False)]
    assert pair[0].utility == pair[1].utility
    assert pair[0].lag == pair[1].lag
