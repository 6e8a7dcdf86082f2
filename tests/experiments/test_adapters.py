"""What people have, as policies: a table of past decisions by its own clock, an ONNX graph, an agent of SB3."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import run_python
from helpers.strangers import stranger
from helpers.verdict import small_bars
from himari_rl.errors import BundleError, ConfigError, DataError, StateError
from himari_rl.evaluation.record import read_curves
from himari_rl.experiments.adapters import OnnxFactory, RuleFactory, TableFactory, read_decisions
from himari_rl.experiments.run import walk_forward
from himari_rl.experiments.sb3 import Sb3Factory
from himari_rl.policy.code import described, named
from himari_rl.policy.runtime import load_policy
from himari_rl.release.gate import gate
from himari_rl.schema import HOUR_MS

SMALL: dict[str, Any] = {"train": "20d", "test": "10d", "step": "10d", "purge_bars": 24, "seeds": 1}


def write(path: Path, rows: list[tuple[object, object]]) -> TableFactory:
    path.write_text("time,multiplier\n" + "".join(f"{time},{value}\n" for time, value in rows))
    return TableFactory(str(path))


def test_a_decision_of_the_table_stands_from_the_next_fill_to_the_next_decision(tmp_path: Path) -> None:
    fills = HOUR_MS * np.arange(500_000, 500_006)
    rows = [(fills[0] - HOUR_MS, 0.5), (fills[2], 1.5), (fills[3] + 1, 0.25)]
    policy = write(tmp_path / "t.csv", rows)(small_bars(), 0).at(fills)
    said, memory = [], None
    for _ in fills:
        answer, memory = policy.decide_batch(np.zeros((1, 16)), memory)
        said.append(float(answer[0, 0]))
    # the row of fills[2] is known with that very fill and not before it, so that it counts from the next one on
    assert said == [0.5, 0.5, 0.5, 1.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("2024-01-01T00:00:00Z", 1.0), ("2024-01-01", 1.0)], "line 3: a time that is not after"),
        ([("yesterday", 1.0)], "line 2"),
        ([("2024-01-01", 2.5)], "multiplier 2.5; expected 0 to 2"),
        ([("2024-01-01", "nan")], "multiplier nan"),
        ([("1704067200", 1.0)], "too small for milliseconds"),
        ([], "time and multiplier"),
    ],
)
def test_a_table_that_is_none_is_refused_with_its_line(tmp_path: Path, rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_decisions(write(tmp_path / "t.csv", rows).path)


def test_times_with_and_without_a_zone_and_in_milliseconds_mean_the_same(tmp_path: Path) -> None:
    for text in ("2024-01-01T02:00:00+02:00", "2024-01-01 00:00", "2024-01-01T00:00:00Z", "1704067200000"):
        time, _ = read_decisions(write(tmp_path / "t.csv", [(text, 1.0)]).path)
        assert time.tolist() == [1_704_067_200_000]


def test_a_table_is_judged_on_its_own_time_and_does_not_ship(tmp_path: Path) -> None:
    bars = small_bars()
    rng = np.random.default_rng(0)
    decided = rng.uniform(0.0, 2.0, len(bars))
    table = write(tmp_path / "t.csv", list(zip(bars.timestamp, decided.round(6), strict=True)))
    run = walk_forward(table, bars, out=tmp_path / "run", **SMALL)
    curves = read_curves(run.folder)
    row = np.searchsorted(bars.timestamp, curves["fill_time"]) - 1
    np.testing.assert_array_equal(curves["multiplier"][:, 0], decided.round(6)[row])
    lines = {line.rule: line for line in gate(run.bundle).lines}
    assert not lines["ships"].passed
    with pytest.raises(StateError, match="table of past decisions"):
        load_policy(run.bundle).decide(np.zeros(16))
    late = write(tmp_path / "late.csv", list(zip(bars.timestamp[700:], decided[700:], strict=True)))
    with pytest.raises(DataError, match="judge it on the bars of its own time"):
        walk_forward(late, bars, out=tmp_path / "late", **SMALL)


def test_a_rule_that_answers_something_else_is_refused() -> None:
    not_a_number, too_few = (lambda states: np.full(len(states), np.nan)), (lambda states: states[:3, 0])
    for wrong, message in ((not_a_number, "NaN"), (too_few, "(3,)")):
        with pytest.raises(StateError) as refused:
            RuleFactory(wrong)(small_bars(), 0).decide_batch(np.ones((5, 16)))
        assert message in str(refused.value)


def test_an_onnx_graph_answers_what_it_computes_and_travels_in_the_bundle(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weight = np.zeros((16, 1), np.float32)
    weight[13] = 4.0
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["state", "w"], ["multiplier"])],
        "sized",
        [helper.make_tensor_value_info("state", onnx.TensorProto.FLOAT, ["B", 16])],
        [helper.make_tensor_value_info("multiplier", onnx.TensorProto.FLOAT, ["B", 1])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "p.onnx"
    path.write_bytes(model.SerializeToString())
    run = walk_forward(OnnxFactory(str(path)), small_bars(), out=tmp_path / "run", **(SMALL | {"folds": 1}))
    path.unlink()
    states = np.random.default_rng(0).uniform(0.0, 1.0, (9, 16))
    answers, _ = load_policy(run.bundle).decide_batch(states)
    np.testing.assert_allclose(answers[:, 0], np.clip(4.0 * states[:, 13], 0.0, 2.0), atol=1e-6)
    path.write_bytes(b"no graph")
    with pytest.raises(ConfigError, match="is no ONNX graph"):
        OnnxFactory(str(path))(small_bars(), 0)


def test_what_the_command_line_says_of_an_sb3_agent_becomes_its_settings() -> None:
    factory = Sb3Factory.of("SAC:total_timesteps=500,learning_rate=0.001,gamma=0.9")
    assert (factory.algorithm, factory.total_timesteps) == ("SAC", 500)
    assert dict(factory.options) == {"learning_rate": 0.001, "gamma": 0.9}
    said = factory.reference()
    assert Sb3Factory.of(said.name.partition(":")[2], said.settings) == factory
    assert json.loads(said.settings)["options"]["gamma"] == 0.9
    with pytest.raises(ConfigError, match="name=value"):
        Sb3Factory.of("PPO:fast")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("algorithm", "network", "more"),
    [
        ("PPO", {}, {"n_steps": 32}),
        ("SAC", {}, {}),
        ("RecurrentPPO", {"lstm_hidden_size": 8}, {"n_steps": 32}),
    ],
)
def test_an_sb3_agent_is_trained_in_the_ledger_kept_as_arrays_and_comes_back(
    algorithm: str, network: dict[str, int], more: dict[str, int]
) -> None:
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("sb3_contrib")
    options = {"policy_kwargs": {"net_arch": [8], **network}, **more}
    factory = Sb3Factory(algorithm, total_timesteps=64, num_envs=2, options=options)
    trained = factory(small_bars(), 3)
    back = factory.restore(trained.arrays())
    states = np.random.default_rng(0).uniform(0.0, 1.0, (1, 16))
    mine, memory = trained.decide_batch(states)
    theirs, other = back.decide_batch(states)
    np.testing.assert_array_equal(mine, theirs)
    if algorithm == "RecurrentPPO":
        np.testing.assert_array_equal(trained.decide_batch(states, memory)[0], back.decide_batch(states, other)[0])
    again = factory(small_bars(), 3)
    np.testing.assert_array_equal(again.decide_batch(states)[0], mine)


@pytest.mark.filterwarnings("ignore")
def test_an_sb3_agent_goes_through_the_walk_forward(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    code, factory = named("sb3:PPO:total_timesteps=64,num_envs=2,n_steps=32")
    assert code == described(factory)
    run = walk_forward(factory, small_bars(), out=tmp_path / "run", **(SMALL | {"folds": 1}))
    policy = load_policy(run.bundle)
    assert policy.manifest.external is not None
    assert policy.manifest.external.kept == "arrays"
    assert 0.0 <= policy.decide(np.zeros(16)).multipliers[0] <= 2.0


def test_what_is_not_installed_is_said_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(ConfigError, match=r"pip install 'himari-rl\[peers\]'"):
        Sb3Factory("PPO")(small_bars(), 0)


def test_code_that_nobody_allowed_or_that_was_edited_does_not_run(tmp_path: Path) -> None:
    module = stranger(tmp_path / "code", "served_rule")
    run = walk_forward(RuleFactory(module.steady), small_bars(), out=tmp_path / "run", **(SMALL | {"folds": 1}))
    source = Path(str(module.__file__))
    marked = source.read_text() + f"\nopen({str(tmp_path / 'ran')!r}, 'w').close()\n"

    def asked(told: str) -> str:
        code = "from himari_rl.policy.code import allow_code; from himari_rl.policy.runtime import load_policy; "
        code += f"{told}; print(load_policy({str(run.bundle)!r}).step([0.5] * 16).multipliers)"
        found = run_python(code, PYTHONPATH=":".join([str(source.parent), *sys.path]))
        return found.stdout + found.stderr

    assert "was not told to run it" in asked("pass")
    size = float(np.clip(module.steady(np.full((1, 16), 0.5))[0], 0.0, 2.0))
    assert float(asked("allow_code()").strip().strip("[]")) == pytest.approx(size, abs=1e-9)
    source.write_text(marked)
    assert "was not told to run it" in asked("pass")
    assert not (tmp_path / "ran").exists()
    assert "is not the code that was judged" in asked("allow_code()")
    assert not (tmp_path / "ran").exists()


def test_a_server_runs_it_only_where_it_was_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from himari_rl.policy import code
    from himari_rl.serving.settings import ServeSettings
    from himari_rl.serving.slot import Follower

    module = stranger(tmp_path / "code", "told_rule")
    run = walk_forward(RuleFactory(module.steady), small_bars(), out=tmp_path / "run", **(SMALL | {"folds": 1}))
    monkeypatch.setattr(code, "_KNOWN", {})  # as a process that did not judge it
    with pytest.raises(BundleError, match="--external-code"):
        Follower(run.bundle, ServeSettings()).changed()
    slot = Follower(run.bundle, ServeSettings(external_code=True)).changed()
    assert slot is not None
    state = [0.8, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0.01, 0.02, 0.5, 0.5, 0.1]
    expected = np.clip(module.steady(np.array([state]))[0], 0.0, 2.0)
    assert slot.policy.decide(state).multipliers[0] == pytest.approx(float(expected), rel=1e-6)
