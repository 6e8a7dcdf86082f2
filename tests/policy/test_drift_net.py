"""The drift net in numpy: torch is the definition, one bar at a time is the whole history, and a bundle carries it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from helpers import latent
from helpers.latent import SMALL, latent_bars
from himari_rl.errors import BundleError
from himari_rl.experiments.train import train
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.bundle import read_bundle
from himari_rl.policy.clock import decisions_of
from himari_rl.policy.drift_net import DriftNet, DriftRunner
from himari_rl.policy.manifest import Manifest
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.schema import FloatArray
from himari_rl.training.onnx_export import write_onnx


def drawn(inputs: int, cells: int, seed: int) -> tuple[DriftNet, nn.LSTM, nn.Linear]:
    """A net of random weights, and torch's form of it."""
    torch.manual_seed(seed)
    lstm, out = nn.LSTM(inputs, cells, batch_first=True).double(), nn.Linear(cells, 1).double()
    net = DriftNet(
        weight_ih=tuple(map(tuple, lstm.weight_ih_l0.tolist())),
        weight_hh=tuple(map(tuple, lstm.weight_hh_l0.tolist())),
        bias=tuple((lstm.bias_ih_l0 + lstm.bias_hh_l0).tolist()),
        out=tuple(out.weight[0].tolist()),
        constant=out.bias.item(),
    )
    return net, lstm, out


@pytest.mark.parametrize(("inputs", "cells"), [(11, 8), (12, 8), (3, 1)])
def test_torch_says_the_same(inputs: int, cells: int) -> None:
    net, lstm, out = drawn(inputs, cells, 0)
    x = np.random.default_rng(1).standard_normal((700, inputs))
    with torch.no_grad():
        theirs = out(lstm(torch.as_tensor(x)[None])[0])[0, :, 0].numpy()
    runner = DriftRunner(net)
    np.testing.assert_allclose(runner.history(x), theirs, atol=1e-12)
    memory, own = np.zeros((1, 2 * cells)), [0.0] * (2 * cells)
    for t in range(100):
        answer, memory = runner.advance(x[t : t + 1], memory)
        one, own = runner.one(x[t].tolist(), own)
        assert answer[0] == pytest.approx(theirs[t], abs=1e-12)
        assert one == pytest.approx(theirs[t], abs=1e-12)
    np.testing.assert_allclose(own, memory[0], atol=1e-12)


def test_weights_that_do_not_fit_together_are_refused() -> None:
    net, _, _ = drawn(11, 4, 2)
    given = net.model_dump()
    for wrong in (
        {"out": (1.0,)},
        {"bias": (0.0,) * 15},
        {"weight_hh": given["weight_ih"]},
        {"constant": float("nan")},
    ):
        with pytest.raises(ValidationError):
            DriftNet(**(given | wrong))


@pytest.fixture(scope="module", params=[False, True], ids=["long", "shorts"])
def heard(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, FloatArray]:
    """A policy whose drift net is believed, and market rows after its training rows."""
    bars = latent_bars(6000, 0, edge=0.6, sells=request.param)
    environment = latent.environment(request.param)
    policy = train(
        bars,
        "lstm",
        out=tmp_path_factory.mktemp("heard"),
        agent=SMALL,
        environment=environment,
        num_episodes=2,
        accept=["constant-columns"],
        seeds=2,
    )
    rows, _ = decisions_of(bars, StateEncoder(bars.symbols), environment)
    return policy, rows[4800:5300]


def test_the_bundle_carries_the_net_and_the_memory_holds_its_state(heard: tuple[Policy, FloatArray]) -> None:
    policy, _ = heard
    manifest = policy.manifest
    assert manifest.kind == "lstm"
    assert manifest.network.trunk == "mlp"
    assert manifest.beliefs is not None
    net = manifest.beliefs.drift_net
    assert net is not None
    assert policy.memory_size == (2 if manifest.ledger.allow_short else 1) + 2 * net.cells
    assert load_policy(policy.folder or "").manifest == manifest
    assert manifest.gap_rule == "advance"


def test_bar_by_bar_is_the_whole_history_at_once(heard: tuple[Policy, FloatArray]) -> None:
    policy, rows = heard
    found = policy.bands(rows)
    assert found is not None
    memory, batch = None, policy.initial_memory(1)
    for t, row in enumerate(rows):
        step = policy.step(row.tolist(), memory)
        answers, batch = policy.decide_batch(row[None], batch)
        assert step.multipliers == pytest.approx(found.low[t].mean(axis=0).tolist(), abs=5e-5)
        assert answers[0].tolist() == pytest.approx(step.multipliers, abs=5e-6)
        memory = step.memory
    assert memory is not None
    assert np.abs(memory[-policy.manifest.beliefs.drift_net.cells :]).max() > 0.01  # type: ignore[union-attr]  # known


def test_what_was_remembered_moves_the_answer_and_forgetting_it_shows(heard: tuple[Policy, FloatArray]) -> None:
    policy, rows = heard
    memory, moved = None, 0.0
    for row in rows:
        state = row.tolist()
        step = policy.step(state, memory)
        if memory is not None:
            forgot = memory.copy()
            forgot[2 if policy.manifest.ledger.allow_short else 1 :] = 0.0
            moved = max(moved, abs(policy.step(state, forgot).multipliers[0] - step.multipliers[0]))
        memory = step.memory
    assert moved > 0.01


def test_a_state_of_zeros_still_advances_the_memory(heard: tuple[Policy, FloatArray]) -> None:
    """No volatility at all: the net reads zeros, in one state and in a batch alike."""
    policy, rows = heard
    silent = rows[0].copy()
    silent[13] = 0.0
    memory = policy.initial_memory()
    one, many = policy.step(silent.tolist(), memory), policy.decide_batch(silent[None], memory[None])
    np.testing.assert_allclose(one.memory, many[1][0], atol=1e-6)


def test_no_other_kind_carries_a_net_and_no_graph_computes_it(heard: tuple[Policy, FloatArray], tmp_path: Path) -> None:
    policy, _ = heard
    given = policy.manifest.model_dump()
    with pytest.raises(ValidationError, match="a drift net in a policy of kind base"):
        Manifest(**(given | {"kind": "base"}))
    with pytest.raises(BundleError, match="has beliefs"):
        write_onnx(policy.folder or "", tmp_path / "policy.onnx")
    manifest, _ = read_bundle(policy.folder or "")
    assert manifest.beliefs is not None
    without = manifest.model_copy(update={"beliefs": manifest.beliefs.model_copy(update={"drift_net": None})})
    assert without.version != manifest.version
