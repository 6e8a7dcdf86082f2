"""Settings searched inside each fold: from training rows alone, counted, resumed, and the same in any pool."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.verdict import small_bars, small_settings
from himari_rl.config import as_dict
from himari_rl.errors import ConfigError, StorageError
from himari_rl.evaluation.record import read_run
from himari_rl.experiments import tune as tuning
from himari_rl.experiments.fold_search import search_all, search_fold
from himari_rl.experiments.run import run_walk_forward
from himari_rl.experiments.train_all import train_all
from himari_rl.experiments.tune import purged_splits
from himari_rl.experiments.walk_forward import REAL, WalkForwardPlan, plan
from himari_rl.schema import Bars
from himari_rl.storage import read_bytes
from himari_rl.training.fan_out import local_pool
from himari_rl.trials.ledger import Trials, span_of

TRIALS = 2


@pytest.fixture(autouse=True)
def two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search judges on fifteen splits; two are enough to see where it looks."""
    monkeypatch.setattr(tuning, "purged_splits", lambda rows, recipe: purged_splits(rows, recipe)[:2])


def searching(bars: Bars, controls: bool = False, **more: Any) -> WalkForwardPlan:
    settings = small_settings(train="40d", seeds=(0,), tune_trials=TRIALS, num_episodes=10, **more)
    return plan(bars, settings, controls=controls)


def test_a_search_reads_the_rows_its_policies_are_trained_on_and_nothing_later(tmp_path: Path) -> None:
    """Rows after the first fold's training rows times 5: its search answers the same, the next one's task changes."""
    bars = small_bars(62)
    work = searching(bars)
    last = work.folds[0].train.stop
    spoiled = {name: getattr(bars, name).copy() for name in ("open", "high", "low", "close")}
    for values in spoiled.values():
        values[last:] *= 5.0
    other = searching(replace(bars, **spoiled))
    for before, after in zip(work.searches(), other.searches(), strict=True):
        assert len(before.train) == work.train_rows(before.fold).stop - work.train_rows(before.fold).start
        assert (before.key == after.key) == (before.fold == 0)
    first = [p.searches()[0] for p in (work, other)]
    assert search_fold(first[0]) == search_fold(first[1])


def test_every_seed_of_a_fold_trains_with_what_its_search_chose(tmp_path: Path) -> None:
    work = searching(small_bars(62))
    seen: list[tuple[int, int]] = []
    found = train_all(work, tmp_path, None, lambda done, total: seen.append((done, total)))
    searches = work.searches()
    assert seen[-1] == (len(searches) + len(found), len(searches) + len(found))
    chosen = search_all(searches, tmp_path / "folds", None)
    for (part, fold, _), trained in found.items():
        settings = chosen[part, fold].settings
        assert trained.manifest.config["agent"] == as_dict(
            replace(work.settings.recipe.agent, **settings, state_dim=16, action_dim=1, anchored=True)
        )
        assert len(chosen[part, fold].tried) == TRIALS
    assert not plan(small_bars(62), replace(work.settings, tune_trials=0), controls=False).searches()


def test_a_pool_finds_the_same_settings_and_what_is_done_is_not_searched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # workers do not see the two splits: this search has all fifteen
    task = searching(small_bars(62)).searches()[0]
    here = search_all([task], tmp_path / "a", None)
    there = search_all([task], tmp_path / "b", local_pool(1))
    assert here == there
    assert read_bytes(tmp_path / "a" / task.name) == read_bytes(tmp_path / "b" / task.name)
    monkeypatch.setattr("himari_rl.experiments.fold_search.search_fold", None)  # would fail if it were called
    assert search_all([task], tmp_path / "a", None) == here
    with pytest.raises(StorageError, match="another walk-forward"):
        search_all([replace(task, trials=3)], tmp_path / "a", None)
    data = bytearray(read_bytes(tmp_path / "a" / task.name))
    data[-20] ^= 1
    (tmp_path / "a" / task.name).write_bytes(bytes(data))
    with pytest.raises(StorageError, match="damaged"):
        search_all([task], tmp_path / "a", None)


def test_the_run_says_what_was_chosen_and_pays_for_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIMARI_TRIALS", str(tmp_path / "trials.sqlite"))
    bars = small_bars(62)
    work = searching(bars, folds=1)
    document = run_walk_forward(bars, work.settings, tmp_path / "run", None)
    for fold in document["folds"]:
        assert set(fold["search"]["settings"]) == {
            "hidden_dim",
            "learning_rate",
            "weight_decay",
            "analytic_gradient_fraction",
        }
        assert fold["search"]["trials"] == TRIALS
    # the search of the shipped bundle reads rows that were judged, the fold's only rows before all of them
    judged = span_of(bars[work.start_row : work.stop_row])
    with Trials() as ledger:
        looks = [t for t in ledger.history(*judged) if t.purpose == "tune"]
        everything = [t for t in ledger.history() if t.purpose == "tune"]
    assert len(everything) == TRIALS * (len(work.folds) + 1)
    assert document["judgement"]["verdict"]["trials"] == 1 + len({(t.what, t.first_ms) for t in looks})
    again = run_walk_forward(bars, work.settings, tmp_path / "run", None)
    assert json.dumps(again) == json.dumps(read_run(tmp_path / "run")) == json.dumps(document)


def test_a_warm_start_of_searched_nets_is_refused() -> None:
    with pytest.raises(ConfigError, match="warm start"):
        small_settings(tune_trials=1, warm_start=True)
    with pytest.raises(ConfigError, match="trials"):
        small_settings(tune_trials=-1)


def test_the_search_keeps_its_part(tmp_path: Path) -> None:
    """A control is the same pipeline: the twins are searched on their own rows."""
    work = searching(small_bars(62), controls=True)
    parts = {task.part for task in work.searches()}
    assert parts == {"real", "driftless", "planted"}
    assert {task.part for task in work.searches((REAL,))} == {REAL}
