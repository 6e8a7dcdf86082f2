"""The planted edge is as small as the data can show, and too little data is said to be too little."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from helpers.evaluation import ledger
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.errors import StorageError
from himari_rl.evaluation.backtest import BASE, POLICY, backtest, stage
from himari_rl.evaluation.baselines import ONE
from himari_rl.experiments import power
from himari_rl.experiments.controls import _planted
from himari_rl.experiments.power import EDGES, KnownLaw, Power, planted_in, planted_power

LONG, SHORT = synthetic_bars(12_000, 5, edge=0.0), synthetic_bars(1200, 5, edge=0.0)


def test_longer_histories_are_asked_for_smaller_edges() -> None:
    both = [planted_power(bars, len(bars) // 3, len(bars) // 3, ledger(), 0) for bars in (LONG, SHORT)]
    assert both[0].enough
    assert both[0].edge < 0.5
    assert not both[1].enough
    assert both[1].edge == EDGES[-1]


def test_no_edge_is_planted_that_the_training_rows_cannot_teach() -> None:
    taught = planted_power(LONG, 4000, 800, ledger(), 0)
    assert taught.edge * np.sqrt(800) >= power.TAUGHT
    assert planted_power(LONG, 4000, 8000, ledger(), 0).edge < taught.edge


def test_the_power_of_no_edge_is_no_more_than_a_false_alarm() -> None:
    sigma = np.array([np.diff(np.log(LONG.close)).std()])
    assert power._powers(LONG, 4000, ledger(), [1e-9], sigma, 0) == [0.0]


def long_run_z(series: np.ndarray, lags: int = 100) -> float:
    """Mean over its standard error from Bartlett-weighted autocovariances (Newey & West 1987), not from blocks."""
    away = series - series.mean()
    covariances = [float(away[k:] @ away[: len(away) - k]) / len(away) for k in range(lags + 1)]
    variance = covariances[0] + 2.0 * sum((1.0 - k / (lags + 1)) * c for k, c in enumerate(covariances) if k)
    return float(series.mean()) / math.sqrt(variance / len(series))


def counted_power(edge: float, sigma: np.ndarray) -> float:
    """How often a learner with half of the known law's advantage shows both that it beats 1.0 and that it earns.

    By counting normal draws around half of each z, with the z of the same three twins by another estimator.
    """
    spec, laws = ledger(), {f"{width:g}": KnownLaw(edge, sigma, ledger(), width) for width in (1.0, 4.0, 8.0, 16.0)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in laws}
    for path in range(3):
        twin = planted_in(LONG, np.random.default_rng([0, path]), edge)
        result = backtest(laws, stage(twin, spec, 4000), spec, variants=(BASE,), rng=np.random.default_rng(0))
        one = result.run(ONE)
        for name, pairs in found.items():
            mine = result.run(name)
            gain = mine.log_growth - one.log_growth
            gain = gain - 6.7 / 2 * (mine.portfolio_return**2 - one.portfolio_return**2)
            own = mine.log_growth.mean() / mine.log_growth.std(ddof=1) * math.sqrt(len(gain))
            pairs.append((long_run_z(gain), own))
    advantage, alone = max((np.mean(pairs, axis=0) for pairs in found.values()), key=min)
    draws = np.random.default_rng(9).normal(size=(2, 200_000))
    return float(np.mean((0.5 * advantage + draws[0] > 1.96) & (0.5 * alone + draws[1] > 1.645)))


@pytest.mark.parametrize("edge", [0.1, 0.125, 0.15])
def test_the_stated_power_is_how_often_a_learner_that_keeps_half_shows_it(edge: float) -> None:
    """The two ways to miss are added up in the code, so the stated power may lie below the counted one, not above."""
    sigma = np.array([np.diff(np.log(LONG.close)).std()])
    (stated,), counted = power._powers(LONG, 4000, ledger(), [edge], sigma, 0), counted_power(edge, sigma)
    assert stated == pytest.approx(counted, abs=0.03)


def test_what_the_strongest_honest_edge_is_worth_is_what_its_best_rule_earns_on_its_twins() -> None:
    """Bar by bar, with the utility written out; a stronger edge than that would be refused as too good."""
    sigma, spec = np.array([np.diff(np.log(LONG.close)).std()]), ledger()
    laws = {f"{width:g}": KnownLaw(0.15, sigma, spec, width) for width in (1.0, 4.0, 8.0, 16.0)}
    earned: dict[str, list[float]] = {name: [] for name in laws}
    for path in range(3):
        twin = planted_in(LONG, np.random.default_rng([0, path]), 0.15)
        result = backtest(laws, stage(twin, spec, 4000), spec, variants=(BASE,), rng=np.random.default_rng(0))
        one = result.run(ONE)
        for name, utilities in earned.items():
            mine = result.run(name)
            squares = np.mean(mine.portfolio_return**2 - one.portfolio_return**2)
            utilities.append(float(np.mean(mine.log_growth - one.log_growth) - 6.7 / 2 * squares))
    found = planted_power(LONG, 4000, 4000, spec, 0)
    assert found.honest == pytest.approx(8760 * max(np.mean(each) for each in earned.values()), rel=1e-3)
    assert found.honest > 0.5


def test_too_little_data_fails_the_control_even_where_the_edge_was_found() -> None:
    spec, edge = ledger(), 0.6
    sigma = np.array([np.diff(np.log(LONG.close)).std()])
    twin = planted_in(LONG, np.random.default_rng(3), edge)
    on = stage(twin, spec, 4000)
    result = backtest({POLICY: KnownLaw(edge, sigma, spec, 8.0)}, on, spec, rng=np.random.default_rng(0))
    for stated in (0.99, 0.4):
        control = _planted(result, Power(edge, stated), np.random.default_rng(0), {})
        assert control.passed == (stated > 0.95)
        assert ("TOO LITTLE DATA" in control.sentence) == (stated < 0.95)
        assert control.numbers["power"] == stated


def test_edges_played_together_have_the_power_that_each_has_alone() -> None:
    sigma = np.array([np.diff(np.log(SHORT.close)).std()])
    edges = [0.2, 0.4, 0.6]
    alone = [power._powers(SHORT, 400, ledger(), [edge], sigma, 0)[0] for edge in edges]
    assert power._powers(SHORT, 400, ledger(), edges, sigma, 0) == alone
    assert len(set(alone)) == 3


def test_what_was_found_is_kept_for_the_same_question_and_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (400, 400, ledger(), 0)
    found = planted_power(SHORT, *asked, tmp_path)
    assert list(tmp_path.iterdir()) == []  # only who holds the folder writes into it
    power.keep(found, tmp_path)
    played: list[float] = []
    monkeypatch.setattr(
        power, "_powers", lambda bars, start, spec, edges, *more: [played.append(e) or 1.0 for e in edges]
    )
    assert planted_power(SHORT, *asked, tmp_path) == found
    assert played == []
    others = [
        (SHORT[1:], *asked),
        (SHORT, 401, *asked[1:]),
        (SHORT, 400, 401, *asked[2:]),
        (SHORT, 400, 400, ledger(commission_rate=0.002), 0),
        (SHORT, 400, 400, ledger(), 1),
    ]
    monkeypatch.setattr(power, "ROWS_TOGETHER", 1)
    for question in others:
        before = len(played)
        planted_power(*question, tmp_path)
        assert len(played) == before + 1
    monkeypatch.setattr(power, "KEPT", 0.4)
    planted_power(SHORT, *asked, tmp_path)
    assert len(played) == len(others) + 1
    damaged = (tmp_path / power.KEPT_IN).read_bytes().replace(b'"power": 0.', b'"power": 1.')
    (tmp_path / power.KEPT_IN).write_bytes(damaged)
    with pytest.raises(StorageError, match="damaged"):
        planted_power(SHORT, *asked, tmp_path)
