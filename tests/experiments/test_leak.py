"""The earlier attempt's same-bar leak, rebuilt: the lag control names it and the gate refuses by it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.evaluation import Rule, bars_from, ledger, walk
from helpers.verdict import AGENT, accounts, figures_of, small_settings
from himari_rl.data.leaks import suspected_leaks
from himari_rl.data.panel import panel_of
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.evaluation.backtest import BASE, LAGGED, POLICY, backtest, stage
from himari_rl.evaluation.verdict import judge
from himari_rl.experiments.controls import _lag
from himari_rl.experiments.train_all import train_all
from himari_rl.experiments.walk_forward import PARTS, plan
from himari_rl.release.rules import GateRules
from himari_rl.release.statistical import statistical_lines


def judged(bar_known: int) -> tuple[bool, dict[str, object], int]:
    """A policy that holds where the confidence is high; it knows the sign of one bar, the earned one if 1."""
    opens = walk(6000, 11)
    earned = np.append(opens[2:] / opens[1:-1] - 1.0, [0.0, 0.0])  # row t: what the decision at t earns
    known = earned if bar_known == 1 else np.roll(earned, 2)  # two rows late: the bar that has just closed
    bars = bars_from(opens, confidence=np.where(known > 0.0, 0.9, 0.1))
    rule = Rule(lambda states, step: np.where(states[:, 0] > 0.5, 2.0, 0.0))
    free = ledger(commission_rate=0.0, slippage_bps=0.0)
    rng = np.random.default_rng(0)
    result = backtest({POLICY: rule}, stage(bars, free), free, variants=(BASE, LAGGED), rng=rng)
    control = _lag(judge(result, rng, replications=300))
    return control.passed, asdict(control), len(suspected_leaks(bars))


def judgement_with(control: dict[str, Any]) -> dict[str, Any]:
    """A judgement on which every rule passes, but for this control in the place of its own."""
    figures = figures_of(accounts())
    controls = [control if each["name"] == control["name"] else each for each in figures["controls"]]
    return figures | {"controls": controls}


def test_the_bar_it_earns_is_caught_by_the_lag_test_and_by_the_column_test_and_refused(tmp_path: Path) -> None:
    passed, control, leaks = judged(bar_known=1)
    assert not passed
    assert "look-ahead" in control["sentence"]
    assert leaks > 0
    found = statistical_lines({"kind": "base", "leaks": [], "judgement": judgement_with(control)}, GateRules())
    assert [line.rule for line in found if not line.passed] == ["control: lag"]


def test_the_bar_that_has_closed_is_no_leak() -> None:
    passed, _, leaks = judged(bar_known=-1)
    assert passed
    assert leaks == 0


def test_a_panel_walks_forward_with_both_twins(tmp_path: Path) -> None:
    from himari_rl.agents.config import config_type

    panel = panel_of([synthetic_bars(24 * 40, seed, symbol=name) for seed, name in enumerate(("A-USD", "B-USD"))])
    settings = small_settings(kind="multi", seeds=(0,), agent=config_type("multi")(**AGENT), num_episodes=5)
    work = plan(panel, settings)
    found = train_all(work, tmp_path, None)
    assert {part for part, _, _ in found} == set(PARTS)
    assert all(trained.manifest.action_dim == 2 for trained in found.values())


@pytest.mark.parametrize("part", [1, 2])
def test_a_panels_twins_keep_its_clock(part: int) -> None:
    panel = panel_of([synthetic_bars(24 * 40, seed, symbol=name) for seed, name in enumerate(("A-USD", "B-USD"))])
    twin = plan(panel, small_settings()).bars[PARTS[part]]
    np.testing.assert_array_equal(twin.timestamp, panel.timestamp)
    assert twin.symbols == panel.symbols
