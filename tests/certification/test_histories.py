"""Learning from one history of bars: what is graded, what earns nothing, and the certificates that come of it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from himari_rl.agents.config import PPOConfig
from himari_rl.certification import certify as certification
from himari_rl.certification import histories
from himari_rl.certification.display import render_certificates
from himari_rl.certification.histories import (
    BURN_IN,
    OPTIMUM,
    YEAR,
    HistoryGrade,
    fresh,
    graded,
    history,
    history_for,
    is_history,
    learned,
)
from himari_rl.certification.history_certificates import HistoryAttempt, judged_history
from himari_rl.certification.markets import market_named
from himari_rl.certification.page import certificate_page
from himari_rl.certification.suites import HISTORIES, OF_EVERY_RUN, suite_for
from himari_rl.certification.thresholds import HistoryThreshold
from himari_rl.data.splits import train_test
from himari_rl.errors import ConfigError, LookAheadError
from himari_rl.evaluation.baselines import ONE
from himari_rl.evaluation.one_liners import BANDED
from himari_rl.features.contract import CONFIDENCE, VOLATILITY, VOLATILITY_SCALE
from himari_rl.schema import RISK_AVERSION

pytestmark = pytest.mark.usefixtures("cold_cache")

SEED = 77
FEW = 6  # histories to grade on


def by_rule(multiplier) -> SimpleNamespace:
    """A policy that reads its rows (B, 16) and nothing else."""
    return SimpleNamespace(decide_batch=lambda states, memory=None: (multiplier(states)[:, None], memory))


def volatility(states):
    return states[:, VOLATILITY] * VOLATILITY_SCALE


HALF = by_rule(lambda s: np.full(len(s), 0.5))


@pytest.mark.parametrize(
    ("name", "bars"),
    [("R1", 35_000), ("R1-two-years", 17_520), ("L0-one-year", 8_760), ("R1:edge=0.2-two-years", 17_520)],
)
def test_a_name_says_how_much_is_learned_from(name: str, bars: int) -> None:
    market, span = history_for(name)
    assert span == bars
    assert is_history(name)
    seen = history(market, 1000, 3)
    assert len(train_test(seen, histories.TEST / len(seen))[0]) == 1000  # all of it, and no row more


def test_other_markets_are_no_histories() -> None:
    for name in ("M2", "M4-one-history", "M5/0", "R1-one-history"):
        assert not is_history(name)
    with pytest.raises(ConfigError, match="learned as bars"):
        history_for("M2-two-years")


def test_every_seed_has_a_history_of_its_own_and_none_has_the_graded_ones() -> None:
    market = market_named("R1")
    closes = [history(market, 300, seed).close for seed in (0, 0, 1)]
    np.testing.assert_array_equal(closes[0], closes[1])
    first = np.log1p(fresh(market, SEED, 2).paths.returns[0, :200, 0])
    for other in (np.diff(np.log(closes[2]))[1:201], first):
        assert abs(np.corrcoef(np.diff(np.log(closes[0]))[1:201], other)[0, 1]) < 0.3


def test_a_constant_earns_what_its_closed_form_says_and_the_yardsticks_are_0_and_1() -> None:
    """Half of the base position is w = .25: E[w R] - 7.7 / 2 Var, less the cost of restoring it every bar."""
    market = market_named("R1")
    found = graded(market, {"half": HALF}, SEED, histories=FEW)
    on = fresh(market, SEED, FEW).paths.state[:, BURN_IN:, 0].mean()  # how often the edge was there
    w, sigma = 0.25, 0.006
    restored = 0.0015 * w * (1 - w) * sigma * np.sqrt(2 / np.pi)
    expected = YEAR * (w * on * 0.3 * sigma - (1 + RISK_AVERSION) / 2 * w * w * sigma**2 - restored)
    assert found["half"].utility == pytest.approx(expected, rel=0.03)
    assert found["half"].exposure == pytest.approx(w, abs=1e-3)
    assert found[OPTIMUM].over_one == pytest.approx(1.0)
    assert found[ONE].over_one == pytest.approx(0.0)


WRONG = {
    "always twice": lambda s: np.full(len(s), 2.0),
    "the other tail": lambda s: 2.0 * (s[:, CONFIDENCE] < 0.05),
    "the upper half": lambda s: 2.0 * (s[:, CONFIDENCE] > 0.5),
    "constant risk": lambda s: np.clip(0.003 / np.maximum(volatility(s), 1e-4), 0.0, 2.0),
    "more when it is wild": lambda s: np.where(volatility(s) > 0.007, 2.0, 0.3),
    "the other sign": lambda s: 2.0 * (s[:, CONFIDENCE] < 0.3),
}


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("R1", ("always twice", "the other tail", "the upper half")),
        ("R2", ("always twice", "constant risk", "more when it is wild")),
        ("planted", ("always twice", "the other sign")),
    ],
)
def test_neither_a_wrong_rule_nor_a_yardstick_reaches_the_threshold(name: str, rules: tuple[str, ...]) -> None:
    found = graded(market_named(name), {rule: by_rule(WRONG[rule]) for rule in rules}, SEED, histories=FEW)
    asked = HISTORIES[name]
    for rule in (*rules, ONE, BANDED):
        assert getattr(found[rule], asked.measure) < asked.median - 0.05, rule


def test_the_right_rule_read_from_the_features_reaches_it() -> None:
    """The positive control: what the threshold asks can be had from the sixteen numbers."""
    tail = by_rule(lambda s: 2.0 * (s[:, CONFIDENCE] > 0.95))
    assert graded(market_named("R1"), {"tail": tail}, SEED, histories=FEW)["tail"].over_one > 0.95
    timed = by_rule(lambda s: np.where(volatility(s) < 0.0075, 2.0, 0.3))
    found = graded(market_named("R2"), {"timed": timed}, SEED, histories=FEW)["timed"]
    assert found.over_one > HISTORIES["R2"].median + 0.1


def test_in_l0_the_banded_one_liner_loses_half_of_its_variance_and_cash_nothing() -> None:
    cash = by_rule(lambda s: np.zeros(len(s)))
    found = graded(market_named("L0"), {"half": HALF, "cash": cash}, SEED, histories=FEW)
    assert found["cash"].loss == 0.0
    assert found[BANDED].loss == 1.0
    assert found[BANDED].utility == pytest.approx(-(1 + RISK_AVERSION) / 2 * 0.15**2, rel=0.25)  # 15 % a year, about
    assert found["half"].loss > 0.5


def test_more_than_the_optimum_is_refused() -> None:
    year = {OPTIMUM: np.array([1.2, 1.2]), ONE: np.array([0.1, 0.1]), BANDED: np.array([0.2, 0.2])}
    with pytest.raises(LookAheadError, match="two conventions"):
        histories._grade("R1", year | {"mine": np.array([1.3, 1.31])}, "mine", (0.0, 0.0))
    assert histories._grade("R1", year | {"mine": np.array([1.1, 1.1])}, "mine", (0.0, 0.0)).over_one < 1.0


def test_the_default_learner_finds_nothing_in_a_shuffled_history(tmp_path: Path) -> None:
    """Negative control: learned from R1's returns beside an independent copy of its score, graded on R1."""
    true = market_named("R1")
    both = [market.simulate(1, 500, np.random.default_rng(0)) for market in (true, market_named("R1-shuffled"))]
    np.testing.assert_array_equal(both[0].returns, both[1].returns)
    assert not np.allclose(both[0].x, both[1].x)
    policy, _, _ = learned("R1-shuffled-two-years", 0, PPOConfig(), tmp_path, num_episodes=300)
    assert graded(true, {"0": policy}, SEED, histories=FEW)["0"].over_one < HISTORIES["R1"].median - 0.3


def made_up(name: str, shares: list[float], measure: str = "over_one") -> tuple[HistoryAttempt, ...]:
    one = HistoryGrade(
        market=name, utility=0.1, optimum=0.1, one=0.1, banded=0.1, over_one=0.1, over_one_error=0.0, over_banded=0.1,
        of_optimum=0.1, loss=0.1, exposure=0.2, turnover=0.0,
    )  # fmt: skip
    return tuple(HistoryAttempt(name, i, replace(one, **{measure: s}), 1.0, 1000) for i, s in enumerate(shares))


@pytest.mark.parametrize(
    ("shares", "threshold", "passed"),
    [
        ([0.9, 0.86, 0.2], HistoryThreshold(median=0.85), True),
        ([0.9, 0.84, 0.2], HistoryThreshold(median=0.85), False),
        ([0.9, 0.86, 0.2], HistoryThreshold(median=0.85, worst=0.5), False),
        ([0.3, 0.4, 0.9], HistoryThreshold(measure="loss", median=0.5), True),
        ([0.3, 0.6, 0.9], HistoryThreshold(measure="loss", median=0.5), False),
        ([0.3, 0.4, 0.9], HistoryThreshold(measure="loss", median=0.5, worst=0.8), False),
    ],
)
def test_the_median_and_the_worst_history_are_judged(shares, threshold: HistoryThreshold, passed: bool) -> None:
    found = judged_history("R1", made_up("R1", shares, threshold.measure), threshold)
    assert found.passed is passed
    assert found.reason.startswith("fell short") is not passed
    assert found.worst == (max if threshold.measure == "loss" else min)(shares)


def test_a_certificate_of_a_history_is_printed_within_eighty_columns_and_drawn() -> None:
    found = judged_history("R1-two-years", made_up("R1-two-years", [0.9, 0.88, 0.86]), HISTORIES["R1-two-years"])
    out = io.StringIO()
    render_certificates("base", [found], [], Console(file=out, width=80))
    assert max(map(len, out.getvalue().splitlines())) <= 80
    rows = [line.split() for line in out.getvalue().splitlines()]
    assert ["R1-two-years", "0.880", "0.860", "+10.0", "+10.0", "+10.0", "+10.0", "1.0"] in rows
    page = certificate_page([found, found], {})
    assert page.count("<svg") == 2
    assert "multiplier 1.0" in page
    assert found.to_dict()["worst"] == 0.86


def test_every_history_of_the_suite_exists_and_a_small_run_goes_the_whole_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certification, "local_pool", lambda jobs: None)  # pools are test_certify.py's
    assert all(is_history(name) for name in suite_for("base").histories)
    assert set(OF_EVERY_RUN) <= set(suite_for("base").histories)
    found = certification.certify(["L0-one-year", "M6"], [0, 1], suite_for("base", 20), jobs=1, history_seeds=1)
    assert [(c.market, len(c.attempts)) for c in found] == [("L0-one-year", 1), ("M6", 2)]
    assert "of what banded 15 % volatility loses" in found[0].reason
