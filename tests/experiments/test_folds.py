"""A fold whose training rows touch its test rows, or whose normaliser saw them, is impossible."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.verdict import small_bars, small_settings
from himari_rl.data.splits import Fold
from himari_rl.data.surrogates import bootstrapped, driftless, planted
from himari_rl.errors import ConfigError, DataError
from himari_rl.experiments import folds, train_all
from himari_rl.experiments.fold_files import FoldTask, unpacked
from himari_rl.experiments.folds import place_of, train_fold, train_folds
from himari_rl.experiments.walk_forward import PARTS, REAL, WalkForwardPlan, plan
from himari_rl.features.encoder import MARKET_COLUMNS, StateEncoder

BARS = small_bars(60)


@given(
    train=st.integers(5, 30),
    test=st.integers(1, 15),
    step=st.integers(1, 15),
    purge=st.integers(0, 200),
    embargo=st.integers(0, 30),
    expanding=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_task_holds_a_test_row_of_its_fold(
    train: int, test: int, step: int, purge: int, embargo: int, expanding: bool
) -> None:
    chosen = small_settings(
        train=f"{train}d", test=f"{test}d", step=f"{step}d", purge_bars=purge, embargo_bars=embargo, expanding=expanding
    )
    try:
        work = plan(BARS, chosen)
    except (ConfigError, DataError):
        return  # spans longer than the bars, or gaps that leave nothing
    require_apart(work, purge)


def require_apart(work: WalkForwardPlan, purge: int) -> None:
    """Every task of a plan ends `purge` rows before its fold's first test row."""
    for part, fold, seed in work.pieces():
        task = work.task((part, fold, seed))
        if fold < len(work.folds):
            first_test = int(BARS.timestamp[work.folds[fold].test.start])
            assert int(task.train.timestamp[-1]) < first_test - purge * BARS.interval_ms
        assert part in PARTS
    starts = [fold.test.start for fold in work.folds]
    assert starts == sorted(starts)


def test_the_property_sees_one_row_too_many() -> None:
    work = plan(BARS, small_settings())
    require_apart(work, 24)
    first, *others = work.folds
    longer = Fold(train=slice(first.train.start, first.train.stop + 1), test=first.test)
    with pytest.raises(AssertionError):
        require_apart(replace(work, folds=(longer, *others)), 24)


def test_a_fold_whose_rows_touch_cannot_be_made() -> None:
    Fold(train=slice(0, 100), test=slice(100, 120))
    with pytest.raises(ConfigError, match="reach into test rows"):
        Fold(train=slice(0, 101), test=slice(100, 120))


def test_the_normaliser_is_that_of_the_training_rows_and_of_no_others() -> None:
    work = plan(BARS, small_settings())
    task = work.task((REAL, 0, 0))
    found = np.array(unpacked(train_fold(task), task.key, "memory").manifest.normaliser.mean)
    rows = StateEncoder((BARS.symbol,)).market_rows(BARS)
    fold = work.folds[0]
    seen, with_test = rows[: fold.train.stop - 2].mean(0), rows[: fold.test.stop].mean(0)
    varied = [i for i in MARKET_COLUMNS if rows[: fold.train.stop - 2, i].std() > 1e-6]
    np.testing.assert_allclose(found[varied], seen[varied], rtol=1e-5, atol=1e-7)
    assert np.abs(found[varied] - with_test[varied]).max() > 1e-3  # the test can tell


def test_a_change_of_every_test_row_changes_no_weight() -> None:
    work = plan(BARS, small_settings())
    first = work.folds[0].test.start - 24  # the purge too
    later = np.where(np.arange(len(BARS)) >= first, 3.0, 1.0)
    prices = {name: getattr(BARS, name) * later for name in ("open", "high", "low", "close")}
    other = plan(replace(BARS, **prices), small_settings())
    weights = [unpacked(train_fold(t), t.key, "memory").tensors for t in (w.task((REAL, 0, 0)) for w in (work, other))]
    for name, values in weights[0].items():
        np.testing.assert_array_equal(values, weights[1][name])
    assert work.task((REAL, 1, 0)).key != other.task((REAL, 1, 0)).key  # the next fold trains on those rows


def test_a_driftless_twin_keeps_every_move_but_for_its_sign() -> None:
    twin = driftless(BARS, np.random.default_rng(0))
    moves, before = (np.diff(np.log(bars.close)) for bars in (twin, BARS))
    np.testing.assert_allclose(np.abs(moves + np.log(np.cosh(before))), np.abs(before), atol=1e-9)
    assert (twin.high >= np.maximum(twin.open, twin.close) * (1 - 1e-12)).all()
    assert (twin.low <= np.minimum(twin.open, twin.close) * (1 + 1e-12)).all()
    # the mean over both signs of each bar's simple return is zero: (e^(x-c) + e^(-x-c)) / 2 = 1 with c = log cosh x
    both = (np.exp(before - np.log(np.cosh(before))) + np.exp(-before - np.log(np.cosh(before)))) / 2
    np.testing.assert_allclose(both, 1.0, rtol=1e-12)


def test_a_planted_edge_has_the_stated_correlation_and_none_has_none() -> None:
    bars = small_bars(2000)
    for edge in (0.1, 0.0):
        twin = planted(bars, np.random.default_rng(1), edge)
        earned = twin.open[2:] / twin.open[1:-1] - 1.0
        z = twin.signals.confidence[:-2]
        assert np.corrcoef(z, earned)[0, 1] == pytest.approx(edge, abs=4 / np.sqrt(len(bars)))


def test_a_bootstrapped_history_is_made_of_blocks_of_the_real_one() -> None:
    path = bootstrapped(BARS, np.random.default_rng(2), block_bars=48)
    moves, real = (np.diff(np.log(bars.close)) for bars in (path, BARS))
    assert len(path) == len(BARS)
    np.testing.assert_array_equal(path.timestamp, BARS.timestamp)
    start = int(np.flatnonzero(np.isclose(real, moves[60], atol=1e-12))[0])
    np.testing.assert_allclose(moves[60:80], real[start : start + 20], atol=1e-12)
    with pytest.raises(ConfigError, match="block"):
        bootstrapped(BARS[:10], np.random.default_rng(0))


@pytest.mark.parametrize("option", ["bootstrap_paths", "synthetic_paths"])
def test_copies_are_learned_from_beside_the_real_rows_and_normalised_with_them_alone(option: str) -> None:
    work = plan(BARS, small_settings(), controls=False)
    plain = work.task((REAL, 0, 0))
    task = replace(plain, recipe=replace(plain.recipe, **{option: 2}))
    alone, beside = place_of(plain), place_of(task)
    assert len(alone.physics.market.path_rows) == 1
    assert len(beside.physics.market.path_rows) == 3
    np.testing.assert_array_equal(alone.rows, beside.rows)  # what the normaliser is fitted on
    assert alone.beliefs == beside.beliefs
    assert task.key != plain.key
    found, before = (unpacked(train_fold(t), t.key, "memory") for t in (task, plain))
    assert found.manifest.normaliser == before.manifest.normaliser
    assert any((found.tensors[name] != before.tensors[name]).any() for name in found.tensors)
    with pytest.raises(ConfigError, match="paths"):
        replace(plain.recipe, **{option: -1})


def test_other_symbols_end_with_the_training_rows_and_have_twins() -> None:
    other = small_bars(60, 1)
    work, alone = plan(BARS, small_settings(), others=[other]), plan(BARS, small_settings())
    for key in work.pieces():
        task = work.task(key)
        assert len(task.others) == 1
        assert task.others[0].timestamp[-1] <= task.train.timestamp[-1]
        assert task.key != alone.task(key).key
    real, twin = (work.task((part, 0, 0)).others[0].close for part in (REAL, "driftless"))
    assert (real != twin).any()


def test_training_spans_expand_unless_they_roll() -> None:
    grown, rolled = (plan(BARS, small_settings(expanding=each), controls=False) for each in (True, False))
    assert [fold.train.start for fold in grown.folds] == [0] * len(grown.folds)
    assert grown.bundle_rows == slice(0, len(BARS))
    assert all(fold.train.stop - fold.train.start <= 20 * 24 for fold in rolled.folds)
    assert rolled.bundle_rows.start > 0


def test_seeds_of_a_fold_fit_their_beliefs_once_and_the_next_fold_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a fold believes is the dearest part of its preparation and the same for each seed."""
    work = plan(BARS, small_settings(seeds=(0, 1, 2)), controls=False)
    made: list[int] = []

    def counted(task: FoldTask) -> folds.Place:
        made.append(task.fold)
        return place_of(task)

    monkeypatch.setattr(folds, "place_of", counted)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    tasks = [work.task((REAL, fold, seed), None) for fold in (0, 1) for seed in (0, 1, 2)]
    together = train_folds(tasks)
    assert made == [0, 1]
    assert [train_fold(task) for task in tasks] == together


def test_what_is_trained_together_has_few_nets_one_part_and_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of minutes five folds at once are gigabytes; seeds of one fold share their rows."""
    work = plan(BARS, small_settings(seeds=(0, 1)), controls=False)
    tasks = [work.task((REAL, fold, seed), None) for fold in range(4) for seed in (0, 1)]
    rows = [len(task.train) for task in tasks[::2]]

    def folds_of(most: int) -> list[list[int]]:
        monkeypatch.setattr(train_all, "MOST_ROWS", most)
        return [[task.fold for task in group] for group in train_all.together(tasks)]

    assert folds_of(sum(rows)) == [[0, 0, 1, 1, 2], [2, 3, 3]]
    assert folds_of(rows[0] + rows[1]) == [[0, 0, 1, 1], [2, 2], [3, 3]]
    assert folds_of(1) == [[0, 0], [1, 1], [2, 2], [3, 3]]
