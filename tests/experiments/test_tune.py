"""Tuning stays inside the training span, counts every trial, and continues where it was killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.multi import random_panel
from helpers.verdict import AGENT, small_bars, small_settings
from himari_rl.agents.config import config_type
from himari_rl.data.splits import train_test
from himari_rl.errors import DataError
from himari_rl.experiments import tune as tuning
from himari_rl.experiments.tune import purged_splits, tune
from himari_rl.trials.ledger import Trials, span_of

RECIPE = replace(small_settings().recipe, num_episodes=10)


def test_no_training_row_is_within_the_purge_of_a_test_row() -> None:
    splits = purged_splits(2000, RECIPE)
    assert len(splits) == 15  # 6 over 2
    tested = np.zeros(2000, int)
    for kept, tests in splits:
        for run in tests:
            tested[run] += 1
            for part in kept:
                assert part[-1] < run[0] - 24 or part[0] > run[-1] + 24
    assert (tested == 5).all()  # every row is tested by the 5 splits that hold its fold
    with pytest.raises(DataError, match="longer history"):
        purged_splits(200, RECIPE)


def test_a_study_counts_its_trials_continues_and_never_reads_the_test_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "purged_splits", lambda rows, recipe: purged_splits(rows, recipe)[:2])
    bars = small_bars(70)
    train, _ = train_test(bars)
    later = np.where(bars.timestamp > train.timestamp[-1], 5.0, 1.0)
    other = replace(bars, **{name: getattr(bars, name) * later for name in ("open", "high", "low", "close")})
    tune(bars, RECIPE, 1, tmp_path / "a")
    first = tune(bars, RECIPE, 2, tmp_path / "a")  # one more
    assert first.trials == 2
    assert 0.0 <= first.overfitting <= 1.0
    with Trials() as ledger:
        assert ledger.count(*span_of(train)) == 2
    again, elsewhere = (tune(data, RECIPE, 1, tmp_path / name) for data, name in ((bars, "b"), (other, "c")))
    assert again.gain == elsewhere.gain


def test_a_portfolio_is_tuned_on_its_panel_and_pays_as_one_market(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "purged_splits", lambda rows, recipe: purged_splits(rows, recipe)[:2])
    panel = random_panel(2, 1500, 3, gaps=0.0)
    recipe = replace(RECIPE, agent=config_type("multi")(**AGENT))
    told = ("constant-columns", "funding-unit")  # T2 in every row, and funding as large as a bar's return
    found = tune(panel, recipe, 1, tmp_path, accept=told)
    assert np.isfinite(found.gain)
    train, _ = train_test(panel)
    market, first, last = span_of(train)
    assert market.startswith("C00-USD+C01-USD")
    with Trials() as ledger:
        assert ledger.count(market, first, last) == 1
        assert [trial.purpose for trial in ledger.history(market)] == ["tune"]
