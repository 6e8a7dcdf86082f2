"""The planted edge is as small as the data can show, and too little data is said to be too little."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.evaluation import ledger
from himari_rl.data.synthetic import synthetic_bars
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
    assert power._power(LONG, 4000, ledger(), 1e-9, sigma, 0) == 0.0


def test_the_stated_power_is_how_often_a_learner_that_keeps_half_shows_it() -> None:
    """Twice the rule's own z is what half of it must have: counted on fresh paths, the rule itself is far above."""
    spec, edge = ledger(), 0.3
    sigma = np.array([np.diff(np.log(LONG.close)).std()])
    shown = []
    for path in range(10):
        twin = planted_in(LONG, np.random.default_rng([77, path]), edge)
        result = backtest(
            {POLICY: KnownLaw(edge, sigma, spec, 8.0)}, stage(twin, spec, 4000), spec,
            variants=(BASE,), rng=np.random.default_rng(0),
        )  # fmt: skip
        gain = result.run(POLICY).log_growth - result.run(ONE).log_growth
        shown.append(0.5 * power._z(gain) > 1.96)
    assert np.mean(shown) == pytest.approx(power._power(LONG, 4000, spec, edge, sigma, 0), abs=0.35)
    assert np.mean(shown) > 0.5


def test_too_little_data_fails_the_control_even_where_the_edge_was_found() -> None:
    spec, edge = ledger(), 0.6
    sigma = np.array([np.diff(np.log(LONG.close)).std()])
    twin = planted_in(LONG, np.random.default_rng(3), edge)
    on = stage(twin, spec, 4000)
    result = backtest({POLICY: KnownLaw(edge, sigma, spec, 8.0)}, on, spec, rng=np.random.default_rng(0))
    for stated in (0.99, 0.4):
        control = _planted(result, Power(edge, stated), np.random.default_rng(0))
        assert control.passed == (stated > 0.95)
        assert ("TOO LITTLE DATA" in control.sentence) == (stated < 0.95)
        assert control.numbers["power"] == stated
