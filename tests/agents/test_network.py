"""The LSTM trunk: its arithmetic by hand, its memory, its resets, and that gradients travel back through time."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from himari_rl.agents.config import LSTMPPOConfig
from himari_rl.agents.lstm_ppo_agent import LSTMPPOAgent
from himari_rl.agents.networks import LSTMTrunk, MLPTrunk
from himari_rl.errors import ConfigError
from himari_rl.policy.network import Lstm

CPU = torch.device("cpu")


def features(trunk: LSTMTrunk | MLPTrunk, x: Tensor, *rest: Any) -> tuple[Tensor, Any]:
    """The trunk's own features: an output layer that changes nothing is put on top."""
    plain = nn.Linear(trunk.outputs, trunk.outputs)
    with torch.no_grad():
        nn.init.eye_(plain.weight)
        nn.init.zeros_(plain.bias)
    return trunk(x, plain, *rest)


def trunk_of(seed: int = 0, layers: int = 2, hidden: tuple[int, ...] = (5,)) -> LSTMTrunk:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LSTMTrunk(3, 4, layers, hidden)


def sequence(steps: int = 9, count: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(steps, count, 3, generator=torch.Generator().manual_seed(seed))


def memory_of(seed: int, layers: int = 2, count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    h, c = torch.randn(2, layers, count, 4, generator=generator)
    return h, c


def one_cell(weights: dict[str, tuple[float, float, float]]) -> LSTMTrunk:
    """One input, one cell; for each gate (input weight, recurrent weight, bias)."""
    trunk = LSTMTrunk(1, 1, 1, ())
    with torch.no_grad():
        rows = [weights[gate] for gate in "ifgo"]
        trunk.lstm.weight_ih_l0.copy_(torch.tensor([[row[0]] for row in rows]))
        trunk.lstm.weight_hh_l0.copy_(torch.tensor([[row[1]] for row in rows]))
        trunk.lstm.bias_ih_l0.copy_(torch.tensor([row[2] for row in rows]))
        trunk.lstm.bias_hh_l0.zero_()
    return trunk


def test_gates_half_open_fill_the_cell_by_halves() -> None:
    """By hand: all gates at 1/2 give c_t = c_{t-1}/2 + 1/4, that is 1/4, 3/8, 7/16, and h_t = tanh(c_t)/2."""
    shut = (0.0, 0.0, 0.0)
    trunk = one_cell({"i": shut, "f": shut, "g": (0.0, 0.0, math.atanh(0.5)), "o": shut})
    h, (_, c) = features(trunk, torch.zeros(3, 1, 1))
    assert h[:, 0, 0].tolist() == pytest.approx([math.tanh(x) / 2 for x in (1 / 4, 3 / 8, 7 / 16)], abs=1e-7)
    assert c.item() == pytest.approx(7 / 16, abs=1e-7)


def test_two_steps_of_one_cell_equal_the_formulas_in_plain_python() -> None:
    weights = {"i": (0.3, -0.4, 0.1), "f": (0.5, 0.2, 1.0), "g": (-0.7, 0.6, 0.2), "o": (0.9, -0.1, -0.3)}
    h, c, expected = 0.0, 0.0, []
    for x in (1.5, -0.5):
        z = {gate: a * x + b * h + bias for gate, (a, b, bias) in weights.items()}
        i, f, o = (1.0 / (1.0 + math.exp(-z[gate])) for gate in "ifo")
        c = f * c + i * math.tanh(z["g"])
        h = o * math.tanh(c)
        expected.append(h)
    trunk = one_cell(weights)
    found, _ = features(trunk, torch.tensor([1.5, -0.5])[:, None, None])
    assert found[:, 0, 0].tolist() == pytest.approx(expected, abs=1e-6)
    parts = (getattr(trunk.lstm, f"{name}_l0").detach().numpy() for name in ("weight_ih", "weight_hh", "bias_ih"))
    runtime, memory = Lstm(*parts), np.zeros(2, np.float32)
    answers = [float(runtime.one(np.array([x, 1.0], np.float32), memory)[0]) for x in (1.5, -0.5)]
    assert answers == pytest.approx(expected, abs=1e-6)


def test_one_call_over_a_sequence_equals_one_call_for_each_step() -> None:
    trunk, x, memory = trunk_of(), sequence(), memory_of(2)
    whole, after = features(trunk, x, memory)
    steps = []
    for t in range(len(x)):
        step, memory = features(trunk, x[t : t + 1], memory)
        steps.append(step)
    assert torch.allclose(whole, torch.cat(steps), atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(after, memory, strict=True))


def test_without_a_memory_it_starts_from_zeros() -> None:
    trunk, x = trunk_of(), sequence()
    assert torch.equal(features(trunk, x)[0], features(trunk, x, trunk.initial_memory(6, CPU))[0])
    assert not torch.allclose(features(trunk, x)[0], features(trunk, x, memory_of(2))[0])


def test_resetting_in_the_middle_is_what_the_mask_does() -> None:
    """Each environment's answer is that of its own stretches, every one of them begun from zeros."""
    trunk, x, memory = trunk_of(), sequence(), memory_of(2)
    fresh = torch.zeros(9, 6, dtype=torch.bool)
    resets = {0: [4], 1: [4, 5], 2: [0], 3: [8], 4: [0, 3, 6]}  # environment 5 is never reset
    for n, steps in resets.items():
        fresh[steps, n] = True
    found, after = features(trunk, x, memory, fresh)
    for n in range(6):
        edges = sorted({0, *resets.get(n, []), 9})
        own = (memory[0][:, n : n + 1], memory[1][:, n : n + 1])
        parts = []
        for begin, end in pairwise(edges):
            own = None if begin in resets.get(n, []) else own
            part, own = features(trunk, x[begin:end, n : n + 1], own)
            parts.append(part)
        assert torch.allclose(found[:, n : n + 1], torch.cat(parts), atol=1e-6), n
        assert torch.allclose(after[0][:, n : n + 1], own[0], atol=1e-6), n
    ignored, _ = features(
        trunk, x, memory
    )  # the control: without the mask every reset environment differs, from its reset on
    differs = (ignored - found).abs().amax(-1) > 1e-6
    assert differs.any(0).tolist() == [True] * 5 + [False]
    assert not differs[:4, 0].any()
    assert differs[4:, 0].all()


def test_a_mask_without_a_reset_changes_nothing() -> None:
    trunk, x, memory = trunk_of(), sequence(), memory_of(2)
    assert torch.equal(
        features(trunk, x, memory, torch.zeros(9, 6, dtype=torch.bool))[0], features(trunk, x, memory)[0]
    )


def test_shuffling_a_sequence_changes_what_an_lstm_says_and_not_what_an_mlp_says() -> None:
    x = sequence()
    order = torch.tensor([3, 1, 4, 0, 5, 2, 8, 6, 7])
    lstm, mlp = trunk_of(), MLPTrunk(3, (4,))
    back = torch.argsort(order)
    assert torch.allclose(features(mlp, x[order])[0][back], features(mlp, x)[0], atol=1e-6)
    assert ((features(lstm, x[order])[0][back] - features(lstm, x)[0]).abs().amax((0, 2)) > 1e-3).all()


@pytest.mark.parametrize("layers", [1, 2])
def test_the_last_answer_depends_on_the_first_bar_and_the_gradient_says_so(layers: int) -> None:
    trunk, x = trunk_of(layers=layers), sequence().requires_grad_()
    features(trunk, x)[0][-1].sum().backward()
    assert (x.grad.abs().amax((1, 2)) > 0).all()
    assert all(p.grad.abs().max() > 0 for name, p in trunk.lstm.named_parameters() if "weight_hh" in name)


def test_sequences_of_one_bar_from_zeros_train_nothing_recurrent() -> None:
    """The negative control: what the earlier attempt did leaves the recurrent weights without any gradient."""
    trunk, x = trunk_of(), sequence()
    features(trunk, x.reshape(1, -1, 3))[0].sum().backward()
    recurrent = [p.grad for name, p in trunk.lstm.named_parameters() if "weight_hh" in name]
    assert len(recurrent) == 2
    assert all(grad.abs().max() == 0 for grad in recurrent)


def test_gates_start_orthogonal_and_the_forget_gate_open() -> None:
    trunk = trunk_of()
    for k in range(2):
        for gate in getattr(trunk.lstm, f"weight_hh_l{k}").chunk(4):
            assert torch.allclose(gate @ gate.T, torch.eye(4), atol=1e-5)
        bias = getattr(trunk.lstm, f"bias_ih_l{k}") + getattr(trunk.lstm, f"bias_hh_l{k}")
        assert bias.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8  # i, f, g and o


def test_the_product_cards_constructor_works_and_gives_the_memory_of_two_layers() -> None:
    config = LSTMPPOConfig(
        state_dim=16, action_dim=1, hidden_dim=128, lstm_hidden_dim=64, lstm_num_layers=2, learning_rate=3e-4
    )
    agent = LSTMPPOAgent(config)
    state = torch.zeros(7, 16)
    state[:, 3] = 1.0
    multiplier, memory = agent.decide(state)
    assert multiplier[:, 0].tolist() == pytest.approx([1.0] * 7, abs=0.1)  # a fresh agent does as Layer 2 says
    assert [tuple(part.shape) for part in memory] == [(2, 7, 64)] * 2
    again, _ = agent.decide(state, memory)
    assert not torch.equal(agent.band(state[None], memory)[0].low, agent.band(state[None])[0].low)
    assert torch.isfinite(again).all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lstm_hidden_dim": 0}, "2 LSTM layers of 0"),
        ({"lstm_num_layers": 0}, "0 LSTM layers of 64"),
        ({"account_inputs": True}, "account_inputs with an LSTM"),
    ],
)
def test_an_impossible_config_says_what_is_wrong(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LSTMPPOConfig(**wrong)
    LSTMPPOConfig()
