"""The drift net: believed where the order of the bars says something, and not there at all where it does not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from safetensors.numpy import save

from helpers import latent
from helpers.latent import SMALL, latent_bars
from himari_rl.agents.config import LSTMPPOConfig, PPOConfig
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.experiments.fold_files import FoldTask, unpacked
from himari_rl.experiments.folds import train_folds
from himari_rl.experiments.recipe import Recipe
from himari_rl.experiments.train import train
from himari_rl.policy.beliefs import Beliefs, moments
from himari_rl.policy.bundle import read_bundle
from himari_rl.policy.drift_net import DriftRunner
from himari_rl.schema import Bars
from himari_rl.training import drift_net
from himari_rl.training.beliefs import ObservedPath, Prior, active_rows, fit_beliefs, fit_evidence
from himari_rl.training.drift_net import NetSeries, cross_fitted, net_series, windows, with_drift_net
from himari_rl.training.job import Job, run_job
from himari_rl.training.preparation import told_of
from himari_rl.training.trainer import Trainer

PRIOR, LEDGER = Prior(), latent.environment(False)
WIDE = 6000


@cache
def history(edge: float, seed: int = 0) -> ObservedPath:
    return told_of(latent_bars(WIDE, seed, edge=edge), LEDGER)


def shuffled(bars: Bars, seed: int) -> Bars:
    """The same confidences in another order: what they show now is noise."""
    assert bars.signals is not None
    confidence = np.random.default_rng(seed).permutation(bars.signals.confidence)
    return replace(bars, signals=replace(bars.signals, confidence=confidence))


def both(told: ObservedPath, seed: int = 0) -> tuple[Beliefs, Beliefs]:
    """Beliefs without a net, and as a net leaves them."""
    plain = fit_beliefs([told], LEDGER, PRIOR)
    return plain, with_drift_net(plain, [told], LEDGER, PRIOR, seed=seed)


@cache
def taught(edge: float) -> tuple[Beliefs, Beliefs]:
    """`both` of the history that several tests look at."""
    return both(history(edge))


def drift_of(beliefs: Beliefs, told: ObservedPath) -> np.ndarray:
    return beliefs.drifts(told.rows, moments(told.rows, 1, shorts=False))[:, 0]


def test_a_hidden_drift_is_heard_on_bars_that_no_net_was_fitted_on() -> None:
    plain, heard = taught(0.4)
    assert plain.drift_net is None
    assert heard.drift_net is not None
    later = told_of(latent_bars(WIDE, 9, edge=0.4), LEDGER)
    hidden = latent.hidden_drift(WIDE, np.random.default_rng(9))[:-2]
    without, with_net = (np.corrcoef(drift_of(beliefs, later), hidden)[0, 1] for beliefs in (plain, heard))
    assert with_net > without + 0.05


@pytest.mark.parametrize("seed", range(3))
def test_where_the_order_says_nothing_the_beliefs_are_those_before(seed: int) -> None:
    """The negative control: no drift at all. The same object comes back, so the policy is the base agent's."""
    plain, heard = both(history(0.0, seed))
    assert heard is plain


def test_what_one_bar_says_alone_needs_no_net() -> None:
    """A drift that the confidence shows without noise is all in the linear column; the net adds nothing to it."""
    bars = latent_bars(WIDE, 4, edge=0.0, shown=0.0)
    assert bars.signals is not None
    confidence = bars.signals.confidence
    z = np.array([NormalDist().inv_cdf(p) for p in confidence.tolist()])
    moves = np.diff(np.log(bars.close), prepend=np.log(100.0))
    moves[1:] += 0.3 * latent.SIGMA * z[:-1]
    close = 100.0 * np.exp(np.cumsum(moves))
    opened = np.concatenate([[100.0], close[:-1]])
    bars = replace(
        bars, open=opened, close=close, high=np.maximum(opened, close), low=np.minimum(opened, close),
        signals=replace(bars.signals, confidence=confidence),
    )  # fmt: skip
    plain, heard = both(told_of(bars, LEDGER))
    assert heard is plain
    assert np.corrcoef(drift_of(plain, told_of(bars, LEDGER)), z[:-2])[0, 1] > 0.9


def test_the_column_is_the_last_and_shrunk_as_the_nonlinear_ones() -> None:
    told = history(0.4)
    (part,) = active_rows(told, LEDGER, PRIOR)
    rng = np.random.default_rng(0)
    for strength in (0.05, 0.3):
        y = part.target(PRIOR)
        column = strength * y / y.std() + rng.standard_normal(len(y))
        column = (column - column.mean()) / column.std()
        fit = fit_evidence([part._replace(net_column=column)], PRIOR)
        last = fit.directions[-1]
        assert last.column == 2 + 11 + 57
        assert last.kept == pytest.approx(max(0.0, 1.0 - 10.0 / last.t**2))
        assert (fit.net_coefficient > 0.0) == (last.t**2 > 10.0)
    assert fit.net_coefficient > 0.0  # the strong one
    assert len(fit.evidence.coefficients) == 2 + 11 + 57  # the column's coefficient goes with the net


def test_a_net_that_is_wrong_out_of_fold_is_not_believed_upside_down() -> None:
    """Halves with different means answer for each other with the wrong mean: the sign is wrong by construction."""
    (part,) = active_rows(history(0.4), LEDGER, PRIOR)
    y = part.target(PRIOR)
    column = y / y.std() + np.random.default_rng(0).standard_normal(len(y))
    column = (column - column.mean()) / column.std()
    right, wrong = (fit_evidence([part._replace(net_column=sign * column)], PRIOR) for sign in (1.0, -1.0))
    assert (right.directions[-1].t, right.net_coefficient > 0.0) == (pytest.approx(-wrong.directions[-1].t), True)
    assert (wrong.directions[-1].kept, wrong.net_coefficient) == (0.0, 0.0)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A net that is heard, for tests that ask only whether it is the same one: a sixth of the steps."""
    monkeypatch.setattr(drift_net, "STEPS", 100)


@pytest.mark.usefixtures("few_steps")
def test_a_killed_run_is_resumed_with_the_same_net_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    bars = latent_bars(5000, 0, edge=0.6)
    job = Job(agent=SMALL, environment=LEDGER, num_episodes=12, save_interval=1, seeds=(0,))

    def die(trainer: Trainer, seed: int) -> None:
        if trainer.state.rollout == 1:
            raise InterruptedError

    run_job(job, bars, tmp_path / "whole")
    with pytest.raises(InterruptedError):
        run_job(job, bars, tmp_path / "cut", watch=die)
    run_job(job, bars, tmp_path / "cut", resume=True)
    (manifest, tensors), (again, other) = (read_bundle(tmp_path / name / "bundle") for name in ("whole", "cut"))
    assert manifest.beliefs is not None
    assert manifest.beliefs.drift_net is not None
    assert manifest.beliefs == again.beliefs
    assert save(tensors) == save(other)


def test_a_half_is_answered_for_by_the_net_of_the_other() -> None:
    """Out of fold: what the early half's targets are does not touch the early half's column."""
    told = net_series(history(0.4), taught(0.4)[0], LEDGER, PRIOR)
    middle = int(np.median(told.day))
    early = told.day < middle
    noise = np.random.default_rng(1).standard_normal(len(told.target))
    other = told._replace(target=np.where(early, noise, told.target))
    before, after = cross_fitted([told]), cross_fitted([other])
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(before.columns[0][early], after.columns[0][early])
    assert not np.array_equal(before.columns[0][~early], after.columns[0][~early])
    own = DriftRunner(before.net).history(told.inputs)
    assert not np.allclose(own[early], before.columns[0][early])  # the net that serves saw all of it


def test_the_net_is_fitted_as_the_evidence_is_by_the_variance_that_the_state_tells() -> None:
    """Weight 1 / h, target y s / sqrt(h) clipped at 8 deviations; rows where nothing can be held count nothing."""
    told = history(0.4)
    beliefs = fit_beliefs([told], LEDGER, PRIOR)
    evidence, series = beliefs.evidence, net_series(told, beliefs, LEDGER, PRIOR)
    (part,) = active_rows(told, LEDGER, PRIOR)
    graded = series.weight > 0.0
    assert graded.sum() == len(part.day)
    gamma = np.array(evidence.variance)
    h = np.exp(gamma[0] + evidence.scores.linear(part.seen) @ gamma[1:])
    np.testing.assert_allclose(series.weight[graded], 1.0 / h)
    left = part.side * part.earned - PRIOR.trust * PRIOR.aversion * part.earned**2 * part.wanted
    expected = np.clip(left / part.slow / np.sqrt(h), -8.0, 8.0) * np.sqrt(h) / evidence.deviation
    np.testing.assert_allclose(series.target[graded], expected)
    assert not series.target[~graded].any()


def test_what_comes_later_changes_no_answer_about_now() -> None:
    _, heard = taught(0.4)
    told = history(0.4, 5)
    other = told.rows.copy()
    other[3000:] = history(0.4, 6).rows[3000:]
    before, after = drift_of(heard, told), drift_of(heard, told._replace(rows=other))
    np.testing.assert_array_equal(before[:3000], after[:3000])
    assert not np.array_equal(before[3000:], after[3000:])


def test_the_same_seed_is_the_same_bits_and_another_is_not() -> None:
    _, first = taught(0.4)
    (_, again), (_, other) = (both(history(0.4), seed) for seed in (0, 1))
    assert first == again
    assert first != other


def test_windows_overlap_where_they_are_not_graded_and_lose_nothing_else() -> None:
    rows = 1000
    day = np.arange(rows) // 24
    told = NetSeries(np.arange(rows, dtype=float)[:, None], np.arange(rows, dtype=float), np.ones(rows), day)
    found = windows([told])
    graded = found.target[found.weight > 0].numpy()
    assert len(np.unique(graded)) == len(graded)  # none twice
    assert graded.max() == rows - 1
    assert rows - len(graded) < drift_net.WINDOW + drift_net.WARM
    assert (found.weight[:, : drift_net.WARM] == 0).all()
    assert (found.inputs[..., 0] == found.target).all()


def test_too_short_a_history_has_no_net() -> None:
    told = told_of(latent_bars(2000, 0, edge=0.6), LEDGER)
    plain, heard = both(told)
    assert heard is plain


def test_where_nothing_is_heard_the_policy_is_the_base_agent(tmp_path: Path) -> None:
    bars = synthetic_bars(3000, 0, edge=0.0)
    base = PPOConfig(num_envs=20, minibatch=500)
    found = {}
    for kind, agent in (("base", base), ("lstm", LSTMPPOConfig(num_envs=20, minibatch=500))):
        policy = train(bars, kind, out=tmp_path / kind, agent=agent, num_episodes=2, seeds=1)
        found[kind] = read_bundle(policy.folder or "")
    (base_manifest, base_tensors), (manifest, tensors) = found["base"], found["lstm"]
    assert manifest.kind == "lstm"
    assert manifest.beliefs == base_manifest.beliefs
    assert manifest.network == base_manifest.network
    assert manifest.gap_rule == base_manifest.gap_rule
    assert tensors.keys() == base_tensors.keys()
    assert all(np.array_equal(tensors[name], base_tensors[name]) for name in tensors)


def test_without_beliefs_it_is_the_recurrent_ppo(tmp_path: Path) -> None:
    agent = LSTMPPOConfig(beliefs=False, num_envs=20, num_steps=25, minibatch=500, lstm_hidden_dim=4, hidden_dim=4)
    policy = train(synthetic_bars(1000, 0), "lstm", out=tmp_path, agent=agent, num_episodes=1, seeds=1)
    assert policy.manifest.network.trunk == "lstm"
    assert policy.manifest.beliefs is None
    assert policy.memory_size == 16


def test_with_beliefs_what_was_left_open_is_the_base_agents() -> None:
    config = LSTMPPOConfig(lstm_hidden_dim=16).sized(True)
    base = PPOConfig().sized(True)
    for name in ("hidden_dim", "hidden_layers", "epochs", "learning_rate", "num_envs", "num_steps", "minibatch"):
        assert getattr(config, name) == getattr(base, name)
    assert config.sized(True) == config
    assert LSTMPPOConfig(hidden_dim=48).sized(True).hidden_dim == 48
    assert LSTMPPOConfig().sized(False).hidden == (64,)


def answers(tasks: list[FoldTask]) -> list[tuple[bytes, Beliefs]]:
    """Weights and beliefs of each fold."""
    found = []
    for task, data in zip(tasks, train_folds(tasks), strict=True):
        fold = unpacked(data, task.key, "a test")
        assert fold.manifest.beliefs is not None
        found.append((save(fold.tensors), fold.manifest.beliefs))
    return found


@pytest.mark.usefixtures("few_steps")
def test_together_or_alone_the_same_bytes() -> None:
    """Seeds of one place, another fold and a base agent on the same rows: 1, 2 and 5 together."""
    long, short = latent_bars(5000, 0, edge=0.6), latent_bars(4800, 1, edge=0.6)
    recurrent = Recipe(agent=SMALL, environment=LEDGER, num_episodes=2)
    base = Recipe(agent=PPOConfig(num_envs=20, hidden_dim=8, minibatch=500), environment=LEDGER, num_episodes=2)
    tasks = [FoldTask(part="real", fold=0, seed=seed, train=long, recipe=recurrent) for seed in range(2)]
    tasks += [FoldTask(part="real", fold=0, seed=0, train=long, recipe=base)]
    tasks += [FoldTask(part="real", fold=1, seed=seed, train=short, recipe=recurrent) for seed in range(2)]
    together = answers(tasks)
    assert answers(tasks[:1]) == together[:1]
    assert answers(tasks[3:5]) == together[3:5]
    assert all((found[1].drift_net is not None) == (i != 2) for i, found in enumerate(together))
    assert len({found[0] for found in together}) == len(tasks)
