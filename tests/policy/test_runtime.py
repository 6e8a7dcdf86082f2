"""The runtime against ten-line twins in float64, written from the definition and from nothing else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.bundle import make_bundle, make_manifest, valid_state, valid_states
from himari_rl.errors import BundleError, StateError
from himari_rl.policy.bundle import read_bundle
from himari_rl.policy.network import band_many, band_one
from himari_rl.policy.runtime import Policy, load_policy

TOLERANCE = 1e-5  # float32 against float64


def sigmoid(z: float) -> float:
    return 1.0 / (1.0 + math.exp(-z))


def twin(folder: Path, state: list[float], memory: dict[Any, Any]) -> list[float]:
    """Multipliers by plain Python loops; `memory` maps (member, layer) to lists (h, c) and is advanced."""
    manifest, tensors = read_bundle(folder)
    n, net = manifest.normaliser, manifest.network
    answers = []
    for i in range(len(manifest.seeds)):
        w = {name: array.astype(float) for name, array in tensors.items()}
        x = [
            max(-n.clip, min(n.clip, (s - m) / d)) * k for s, m, d, k in zip(state, n.mean, n.std, n.keep, strict=True)
        ]
        for k in range(net.lstm_layers):
            size = net.lstm_hidden
            h, c = memory.get((i, k), ([0.0] * size, [0.0] * size))
            z = w[f"{i}.lstm.{k}.weight_ih"] @ x + w[f"{i}.lstm.{k}.weight_hh"] @ h + w[f"{i}.lstm.{k}.bias"]
            gate_i, gate_f, gate_g, gate_o = (z[size * j : size * (j + 1)] for j in range(4))
            c = [sigmoid(f) * old + sigmoid(a) * math.tanh(g) for f, old, a, g in zip(gate_f, c, gate_i, gate_g)]  # noqa: B905
            x = h = [sigmoid(o) * math.tanh(cell) for o, cell in zip(gate_o, c, strict=True)]
            memory[i, k] = (h, c)
        for k in range(len(net.hidden)):
            x = [math.tanh(z) for z in w[f"{i}.trunk.{k}.weight"] @ x + w[f"{i}.trunk.{k}.bias"]]
        out = w[f"{i}.out.weight"] @ x + w[f"{i}.out.bias"]
        answers.append([head(net.head, out, state, a, manifest.action_dim) for a in range(manifest.action_dim)])
    return [sum(column) / len(column) for column in zip(*answers, strict=True)]


def head(kind: str, out: Any, state: list[float], a: int, assets: int) -> float:
    def clip(value: float, low: float, high: float) -> float:
        return max(low, min(high, value))

    if kind == "centre":
        return clip(1.0 + out[a], 0.0, 2.0)
    if kind == "squash":
        return 1.0 + math.tanh(out[a])
    _, sell, hold, buy, _, _, _, _, size, side, *_ = state[16 * a :]
    m_prev = 2.0 * size * side * (buy - sell + hold * side)
    centre, half = 1.0 + out[a], 0.05 * math.exp(clip(out[assets + a], -6.0, 3.7))
    return clip(m_prev, clip(centre - half, 0.0, 2.0), clip(centre + half, 0.0, 2.0))


CASES = [
    ("base", "band", (0,), (128, 128)),
    ("base", "centre", (0,), (7,)),
    ("base", "squash", (0, 1, 2), (16, 16, 16)),
    ("base", "centre", (0,), ()),
    ("multi", "band", (0, 1), (32,)),
    ("multi", "squash", (0,), (8, 8)),
    ("lstm", "band", (0,), (16,)),
    ("lstm", "centre", (0, 1), ()),
]


@pytest.mark.parametrize(("kind", "head_kind", "seeds", "hidden"), CASES)
def test_the_runtime_computes_what_the_definition_says(
    tmp_path: Path, kind: str, head_kind: str, seeds: tuple[int, ...], hidden: tuple[int, ...]
) -> None:
    folder = make_bundle(tmp_path, kind, head_kind, seeds, hidden, scale=2.0)
    policy = load_policy(folder)
    memory, twins = None, {}
    answers = []
    for state in valid_states(30, policy.manifest.action_dim, seed=5).tolist():
        decision = policy.decide(state, memory)
        np.testing.assert_allclose(decision.multipliers, twin(folder, state, twins), atol=TOLERANCE)
        memory = decision.memory
        answers.append(decision.multipliers)
    assert np.std(answers) > 0.01  # the control: the answers move, so agreeing is not trivial


@pytest.mark.parametrize(("kind", "head_kind", "seeds", "hidden"), CASES)
def test_a_batch_answers_as_its_states_one_by_one(
    tmp_path: Path, kind: str, head_kind: str, seeds: tuple[int, ...], hidden: tuple[int, ...]
) -> None:
    policy = load_policy(make_bundle(tmp_path, kind, head_kind, seeds, hidden, scale=2.0))
    batch, singles = None, [None] * 5
    for step in range(4):
        states = valid_states(5, policy.manifest.action_dim, seed=step)
        multipliers, batch = policy.decide_batch(states, batch)
        for row, state in enumerate(states):
            decision = policy.decide(state, singles[row])
            np.testing.assert_allclose(multipliers[row], decision.multipliers, atol=1e-6)
            np.testing.assert_allclose(batch[row], decision.memory, atol=1e-6)
            singles[row] = decision.memory


def test_memory_changes_the_answer_and_is_never_changed_in_place(tmp_path: Path) -> None:
    policy = load_policy(make_bundle(tmp_path, "lstm", scale=3.0))
    first, second = valid_states(2, seed=3)
    start = policy.initial_memory()
    assert start.shape == (2 * 2 * 64,)
    after = policy.decide(first, start).memory
    assert not start.any()
    kept = after.copy()
    with_past, without = policy.decide(second, after), policy.decide(second)
    np.testing.assert_array_equal(after, kept)
    assert abs(with_past.multipliers - without.multipliers)[0] > 1e-3
    assert policy.decide(second, policy.initial_memory()).multipliers == without.multipliers


def test_a_policy_without_memory_has_a_memory_of_size_zero(tmp_path: Path) -> None:
    policy = load_policy(make_bundle(tmp_path))
    assert policy.memory_size == 0
    assert policy.decide(valid_state(), policy.initial_memory()).memory.shape == (0,)
    assert policy.decide_batch(valid_states(3))[1].shape == (3, 0)


def test_earlier_answers_are_not_overwritten_by_later_ones(tmp_path: Path) -> None:
    policy = load_policy(make_bundle(tmp_path, "lstm", scale=3.0))
    one, two = valid_states(2, seed=3)
    first = policy.decide(one)
    copies = first.multipliers.copy(), first.memory.copy()
    policy.decide(two)
    np.testing.assert_array_equal(first.multipliers, copies[0])
    np.testing.assert_array_equal(first.memory, copies[1])


def zeroed(kind: str, head_kind: str, **biases: list[float]) -> Policy:
    """A policy whose output is exactly the given bias, whatever the state."""
    manifest = make_manifest(kind, network={"head": head_kind, "hidden": ()})
    outputs = manifest.action_dim * (2 if head_kind == "band" else 1)
    weight = np.zeros((outputs, manifest.state_dim), np.float32)
    return Policy(manifest, {"0.out.weight": weight, "0.out.bias": np.array(biases["out"], np.float32)})


@pytest.mark.parametrize(
    ("size", "side", "action", "answer"),
    [
        (0.5, 1.0, "buy", 1.0),  # m_prev = 1.0, inside the band: no trade
        (0.6, 1.0, "buy", 1.05),  # m_prev = 1.2, above it: down to the upper edge
        (0.1, 1.0, "buy", 0.95),  # m_prev = 0.2, below it: up to the lower edge
        (0.5, 1.0, "hold", 1.0),  # holding a long keeps the long's direction
        (0.5, -1.0, "hold", 1.0),  # holding a short, the short's: side * side = 1
        (0.5, -1.0, "sell", 1.0),
        (0.5, -1.0, "buy", 0.95),  # short while the signal buys: m_prev = -1
        (0.0, 0.0, "hold", 0.95),  # flat: m_prev = 0
    ],
)
def test_the_band_head_draws_a_no_trade_band_around_its_centre(
    size: float, side: float, action: str, answer: float
) -> None:
    """out = (0, 0): centre 1, half width 0.05."""
    state = valid_state()
    state[1:4] = [float(action == name) for name in ("sell", "hold", "buy")]
    state[8:10] = size, side
    policy = zeroed("base", "band", out=[0.0, 0.0])
    assert policy.decide(state).multipliers[0] == pytest.approx(answer, abs=1e-7)
    assert policy.decide_batch(np.array([state]))[0][0, 0] == pytest.approx(answer, abs=1e-7)


def test_the_widest_band_never_trades_and_the_narrowest_always_does() -> None:
    state = valid_state()
    state[1:4], state[8:10] = [0.0, 0.0, 1.0], [0.7, 1.0]
    assert zeroed("base", "band", out=[0.0, 99.0]).decide(state).multipliers[0] == pytest.approx(
        1.4
    )  # 0.05 e^3.7 = 2.02
    assert zeroed("base", "band", out=[0.2, -99.0]).decide(state).multipliers[0] == pytest.approx(
        1.2 + 0.05 * math.exp(-6), abs=1e-6
    )


@pytest.mark.parametrize(
    ("head_kind", "out", "answer"), [("centre", 9.0, 2.0), ("centre", -9.0, 0.0), ("squash", 99.0, 2.0)]
)
def test_no_answer_leaves_zero_to_two(head_kind: str, out: float, answer: float) -> None:
    assert zeroed("base", head_kind, out=[out]).decide(valid_state()).multipliers[0] == answer


def test_the_ensemble_answers_its_mean_and_its_spread(tmp_path: Path) -> None:
    manifest = make_manifest(seeds=(0, 1), network={"head": "centre", "hidden": ()})
    weight = np.zeros((1, 16), np.float32)
    tensors = {f"{i}.out.weight": weight for i in range(2)} | {
        "0.out.bias": np.array([0.25], np.float32),
        "1.out.bias": np.array([-0.75], np.float32),
    }
    decision = Policy(manifest, tensors).decide(valid_state())
    assert decision.multipliers[0] == 0.75  # of 1.25 and 0.25
    assert decision.spread == 0.5


@pytest.mark.parametrize("length", [0, 1, 15, 17, 52])
def test_a_state_of_another_length_is_refused(tmp_path: Path, length: int) -> None:
    """Length 1 matters: numpy would broadcast one number over all sixteen."""
    policy = load_policy(make_bundle(tmp_path, hidden=(2,)))
    with pytest.raises(StateError, match=f"the state has {length} numbers; expected 16"):
        policy.decide([0.5] * length)
    with pytest.raises(StateError, match=r"expected \(B, 16\)"):
        policy.decide_batch(np.zeros((3, length)))


def test_a_state_with_nan_gives_an_error_and_not_a_number(tmp_path: Path) -> None:
    for head_kind in ("band", "centre", "squash"):
        policy = load_policy(make_bundle(tmp_path, head=head_kind, hidden=(4,), name=head_kind))
        state = valid_state()
        state[1:4], state[8:10] = [0.0, 0.0, 1.0], [0.3, 1.0]  # m_prev = 0.6: the band must not answer that
        policy.decide(state)  # the control
        state[11] = math.nan
        with pytest.raises(StateError, match="the state holds NaN"):
            policy.decide(state)
        with pytest.raises(StateError, match="the state holds NaN"):
            policy.decide_batch(np.array([valid_state(), state]))
        policy.decide(valid_state())  # and the buffers are clean afterwards


@pytest.mark.parametrize("position", [0, 1])
def test_a_band_whose_centre_or_width_is_nan_answers_nan_and_never_the_old_position(position: int) -> None:
    out = np.zeros((1, 2), np.float32)
    out[0, position] = math.nan
    state = valid_state()
    state[1:4], state[8:10] = [0.0, 0.0, 1.0], [0.5, 1.0]  # m_prev = 1.0, inside any band around 1
    assert math.isnan(band_one(out[0].tolist(), state)[0])
    assert np.isnan(band_many(out, np.array([state], np.float32))).all()
    assert band_one([0.0, 0.0], state) == [1.0]


@pytest.mark.filterwarnings("ignore:overflow|invalid value:RuntimeWarning")
def test_weights_that_overflow_to_nan_are_an_error_of_the_bundle() -> None:
    manifest = make_manifest(network={"head": "centre", "hidden": ()})
    weight = np.full((1, 16), 3e38, np.float32) * np.where(np.arange(16) % 2, 1, -1).astype(np.float32)
    policy = Policy(manifest, {"0.out.weight": weight, "0.out.bias": np.zeros(1, np.float32)})
    state = [5.0] * 16  # far outside: the products overflow to both infinities
    with pytest.raises(BundleError, match="answers no multiplier to a finite state"):
        policy.decide(state)


@pytest.mark.parametrize(
    "bad", [np.zeros(255, np.float32), np.full(256, np.nan, np.float32), np.zeros((1, 256), np.float32)]
)
def test_a_memory_of_another_policy_is_refused(tmp_path: Path, bad: np.ndarray) -> None:
    recurrent = load_policy(make_bundle(tmp_path, "lstm"))
    with pytest.raises(StateError, match="pass back the memory"):
        recurrent.decide(valid_state(), bad)
    with pytest.raises(StateError, match="this policy has no memory"):
        load_policy(make_bundle(tmp_path, name="base")).decide(valid_state(), np.zeros(256, np.float32))
