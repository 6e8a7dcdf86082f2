"""What ships: the numpy runtime, and the ONNX graph, say what torch says, over ten thousand steps of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.bundle import make_bundle, valid_states
from helpers.envs import random_bars
from himari_rl.agents.config import LSTMPPOConfig
from himari_rl.agents.lstm_ppo_agent import LSTMPPOAgent
from himari_rl.cli import main
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.physics import market_of
from himari_rl.errors import BundleError, ConfigError
from himari_rl.evaluation.backtest import BASE, LAGGED, POLICY, Variant, backtest, stage
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.bundle import read_bundle, write_bundle
from himari_rl.policy.network import held_multipliers
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.schema import FloatArray
from himari_rl.serving.slot import Slot
from himari_rl.training.export import PARITY, bundled
from himari_rl.training.job import training_data

BARS = random_bars(400, 12)
ENCODER = StateEncoder((BARS.symbol,))
ENVIRONMENT = TradingEnvConfig()
ROWS, _ = market_of(BARS, ENCODER, ENVIRONMENT)
STEPS = 10_000


def agent_of(seed: int = 0, head: str = "band", **config: Any) -> LSTMPPOAgent:
    """An agent whose answers move with its inputs and its memory: the first weights of the output layer are tiny."""
    agent = LSTMPPOAgent(LSTMPPOConfig(head=head, **config), torch.Generator().manual_seed(seed))
    agent.normaliser.fit(ROWS, np.ones(16, bool), False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        agent.out.weight.normal_(0.0, 0.15, generator=generator)
        for name, parameter in agent.trunk.lstm.named_parameters():
            if name.startswith("bias"):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return agent


def exported(folder: Path, agents: list[LSTMPPOAgent]) -> Policy:
    write_bundle(
        folder, *bundled(agents, list(range(len(agents))), ENCODER, ENVIRONMENT, training_data(BARS), ROWS, {})
    )
    return load_policy(folder)


def walk_torch(agent: LSTMPPOAgent, states: FloatArray) -> FloatArray:
    """(T,) decided one by one."""
    memory, answers = None, []
    for state in torch.as_tensor(states, dtype=torch.float32):
        multiplier, memory = agent.decide(state[None], memory)
        answers.append(multiplier.item())
    return np.array(answers)


@torch.no_grad()
def unrolled(agent: LSTMPPOAgent, states: FloatArray) -> FloatArray:
    """(T,) decided in one pass over the sequence, as training walks it: a fifth of the time."""
    rows = torch.as_tensor(states, dtype=torch.float32)[:, None]
    band, _ = agent.band(rows)
    return np.asarray(band.mean(held_multipliers(rows, 1))[:, 0, 0].double())


@pytest.mark.parametrize(("head", "layers", "hidden"), [("band", 2, 1), ("squash", 1, 0)])
def test_numpy_and_torch_agree_over_ten_thousand_steps(head: str, layers: int, hidden: int, tmp_path: Path) -> None:
    agent = agent_of(head=head, lstm_num_layers=layers, hidden_layers=hidden)
    policy = exported(tmp_path / "bundle", [agent])
    states = valid_states(STEPS, seed=4)
    expected = unrolled(agent, states)
    assert np.abs(walk_torch(agent, states[:1000]) - expected[:1000]).max() <= PARITY
    found, memory = np.empty(STEPS), None
    for t, state in enumerate(states):
        multipliers, _, memory, *_ = policy.decide(state, memory)
        found[t] = multipliers[0]
    assert np.abs(found - expected).max() <= PARITY
    assert expected.std() > 0.02
    forgetful, _ = policy.decide_batch(states)  # the control: every state from zeros
    assert np.abs(forgetful[1:, 0] - expected[1:]).max() > 0.05


def test_an_ensemble_keeps_a_memory_for_each_member(tmp_path: Path) -> None:
    agents = [agent_of(seed) for seed in range(3)]
    policy = exported(tmp_path / "bundle", agents)
    assert policy.memory_size == 3 * 2 * 2 * 64  # members x layers x (h, c) x cells
    states = valid_states(200, seed=5)
    expected = np.mean([walk_torch(agent, states) for agent in agents], axis=0)
    memory, found = None, []
    for state in states:
        multipliers, memory = policy.decide_batch(state[None], memory)
        found.append(multipliers[0, 0])
    assert np.abs(np.array(found) - expected).max() <= PARITY


@pytest.mark.parametrize("name", ["lstm.0.weight_hh", "lstm.1.weight_ih", "lstm.1.bias", "trunk.0.weight"])
def test_a_bundle_whose_memory_goes_another_way_is_not_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """weight_hh acts only where the memory is not zero: a check of first steps alone would let it through."""
    tensors = LSTMPPOAgent.tensors

    def nudged(self: LSTMPPOAgent) -> dict[str, np.ndarray]:
        changed = tensors(self)
        changed[name] += 0.01
        return changed

    monkeypatch.setattr(LSTMPPOAgent, "tensors", nudged)
    with pytest.raises(BundleError, match=r"differ by .* nothing was exported"):
        exported(tmp_path / "bundle", [agent_of()])
    assert list(tmp_path.iterdir()) == []


class Forgetful:
    """The same policy, every decision from zeros."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def decide_batch(self, states: FloatArray, memory: None = None) -> tuple[FloatArray, None]:
        return self.policy.decide_batch(states)[0], None


def test_every_variant_of_a_backtest_has_a_memory_of_its_own(tmp_path: Path) -> None:
    policy = exported(tmp_path / "bundle", [agent_of()])
    ledger = policy.manifest.ledger
    on = stage(BARS, ledger)
    variants = (BASE, Variant("x3", 3.0), LAGGED)
    together = backtest({POLICY: policy}, on, ledger, variants=variants, rng=np.random.default_rng(0))
    for variant in variants:
        alone = backtest({POLICY: policy}, on, ledger, variants=(variant,), rng=np.random.default_rng(0))
        mine, own = together.run(POLICY, variant.name), alone.run(POLICY, variant.name)
        assert mine.multiplier == pytest.approx(own.multiplier, abs=1e-6)
        assert mine.log_growth == pytest.approx(own.log_growth, abs=1e-6)
    forgetful = backtest({POLICY: Forgetful(policy)}, on, ledger, variants=variants, rng=np.random.default_rng(0))
    remembered, forgot = together.run(POLICY).multiplier, forgetful.run(POLICY).multiplier
    assert remembered[0] == pytest.approx(forgot[0], abs=1e-6)
    assert np.abs(remembered - forgot).max() > 0.01


def test_an_agent_that_starts_from_an_export_answers_as_it_did(tmp_path: Path) -> None:
    """What a warm start of the walk-forward rests on; torch has two biases for the one that is exported."""
    old, new = agent_of(1, lstm_hidden_dim=8), agent_of(2, lstm_hidden_dim=8)
    states = valid_states(50, seed=2)
    assert np.abs(walk_torch(old, states) - walk_torch(new, states)).max() > 0.01
    new.start_from(old.tensors())
    np.testing.assert_allclose(walk_torch(new, states), walk_torch(old, states), atol=1e-6)
    for stranger in (agent_of(3, lstm_hidden_dim=4), agent_of(3, lstm_hidden_dim=8, lstm_num_layers=1)):
        with pytest.raises(ConfigError, match="another network"):
            stranger.start_from(old.tensors())


def test_the_manifest_says_what_becomes_of_the_memory_of_a_session_that_missed_bars(tmp_path: Path) -> None:
    for rule in ("reset", "advance"):
        agent = agent_of(0, lstm_hidden_dim=4, gap_rule=rule)
        assert Slot(exported(tmp_path / rule, [agent])).gap_rule == rule
    with pytest.raises(ConfigError, match="gap_rule 'skip'"):
        agent_of(0, gap_rule="skip")


# ---- ONNX: an extra; a machine without it says so


@pytest.mark.parametrize(
    ("kind", "head", "seeds", "hidden"),
    [
        ("lstm", "band", (0,), (16,)),
        ("lstm", "squash", (0, 1), ()),
        ("lstm", "centre", (0,), (8, 8)),
        ("base", "band", (0, 1, 2), (16, 16)),
        ("multi", "band", (0,), (16,)),
    ],
)
def test_the_onnx_graph_agrees_with_the_runtime_over_a_thousand_steps(
    kind: str, head: str, seeds: tuple[int, ...], hidden: tuple[int, ...], tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install himari-rl[onnx]")
    pytest.importorskip("onnx", reason="pip install himari-rl[onnx]")
    from himari_rl.training.onnx_export import write_onnx

    bundle = make_bundle(tmp_path, kind, head, seeds, hidden, scale=1.5)
    assert write_onnx(bundle, tmp_path / "policy.onnx") <= PARITY
    written = (tmp_path / "policy.onnx").read_bytes()
    assert main(["export", str(bundle), "--out", str(tmp_path / "again.onnx")]) == 0
    assert (tmp_path / "again.onnx").read_bytes() == written
    policy = load_policy(bundle)
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx", providers=["CPUExecutionProvider"])
    inputs = {given.name: given.shape for given in session.get_inputs()}
    assert inputs.get("memory", [None, 0])[1] == policy.memory_size
    ours = theirs = policy.initial_memory(2)
    states = valid_states(2000, policy.manifest.action_dim, seed=6).astype(np.float32).reshape(1000, 2, -1)
    worst, moved = 0.0, []
    for pair in states:
        expected, ours = policy.decide_batch(pair, ours)
        found, *memory = session.run(None, {"state": pair} | ({"memory": theirs} if memory_in(inputs) else {}))
        theirs = memory[0] if memory else theirs
        worst = max(worst, float(np.abs(found - expected).max()))
        moved.append(expected)
    assert worst <= PARITY
    assert np.std(moved) > 0.05
    if memory_in(inputs):  # the control: without its memory the graph says something else
        forgetful, _ = session.run(None, {"state": states[-1], "memory": np.zeros_like(theirs)})
        assert np.abs(forgetful - found).max() > 1e-3


def memory_in(inputs: dict[str, object]) -> bool:
    return "memory" in inputs


def test_an_onnx_graph_of_other_weights_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="pip install himari-rl[onnx]")
    pytest.importorskip("onnx", reason="pip install himari-rl[onnx]")
    from himari_rl.training.onnx_export import check_onnx, to_onnx

    policy = load_policy(make_bundle(tmp_path, "lstm", hidden=(8,)))
    manifest, tensors = read_bundle(tmp_path / "bundle")
    check_onnx(to_onnx(manifest, tensors), policy)
    tensors["0.lstm.1.weight_hh"] = tensors["0.lstm.1.weight_hh"] + np.float32(0.01)
    with pytest.raises(BundleError, match="the ONNX graph and the runtime differ by"):
        check_onnx(to_onnx(manifest, tensors), policy)
