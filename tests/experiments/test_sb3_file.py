"""A trained agent of Stable-Baselines3 answers here what it answers there, and comes back without its file."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import run_python
from helpers.verdict import small_bars
from himari_rl.data.panel import panel_of
from himari_rl.data.synthetic_panel import synthetic_panel
from himari_rl.errors import BundleError, ConfigError
from himari_rl.experiments.run import walk_forward
from himari_rl.experiments.sb3 import Sb3Factory
from himari_rl.experiments.sb3_file import Sb3File
from himari_rl.features.own import with_features
from himari_rl.policy import code
from himari_rl.policy.code import named, resolved
from himari_rl.policy.external import kept, restored
from himari_rl.release.gate import gate
from himari_rl.schema import Bars

gymnasium = pytest.importorskip("gymnasium")
torch = pytest.importorskip("torch")
sb3 = pytest.importorskip("stable_baselines3")
contrib = pytest.importorskip("sb3_contrib")
pytestmark = pytest.mark.filterwarnings("ignore")

SMALL: dict[str, Any] = {"train": "20d", "test": "10d", "step": "10d", "purge_bars": 24, "seeds": 1}
ROWS = np.random.default_rng(0).uniform(-1.0, 1.0, (40, 16)).astype(np.float32)
OFF_POLICY = ("SAC", "TD3", "TQC", "CrossQ")


class Walk(gymnasium.Env[Any, Any]):
    """Observations without a meaning, of any shape and actions; what SB3 needs to make an agent."""

    def __init__(self, features: int = 16, actions: tuple[float, float] = (-1.0, 1.0), assets: int = 1) -> None:
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (features,), np.float32)
        self.action_space = gymnasium.spaces.Box(*actions, (assets,), np.float32)

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


def made(path: Path, name: str = "PPO", world: Any = None, **options: Any) -> Any:
    """An agent of SB3 whose weights are far from where they begin, saved as SB3 saves, and loaded by SB3."""
    kind = getattr(sb3, name, None) or getattr(contrib, name)
    more = {"buffer_size": 100} if name in OFF_POLICY else {}
    network = "MlpLstmPolicy" if name == "RecurrentPPO" else "MlpPolicy"
    model = kind(network, world or Walk(), device="cpu", seed=0, **more, **options)
    other = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.policy.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=other)
    model.save(path)
    return kind.load(path, device="cpu")


def unpickles(*_: Any, **__: Any) -> Any:
    raise AssertionError("something was unpickled")


@pytest.fixture
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    import cloudpickle

    for module in (pickle, cloudpickle):
        for name in ("load", "loads"):
            monkeypatch.setattr(module, name, unpickles)
    monkeypatch.setattr(torch, "load", unpickles)


RELU = {"policy_kwargs": {"net_arch": {"pi": [8, 8], "vf": [4]}, "activation_fn": torch.nn.ReLU, "ortho_init": False}}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("PPO", {}),
        ("PPO", RELU),
        ("PPO", {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
        ("PPO", {"learning_rate": lambda left: 0.001 * left}),
        ("A2C", {}),
        ("TRPO", {}),
        ("ARS", {}),
        (
            "SAC",
            {"policy_kwargs": {"net_arch": [8], "activation_fn": torch.nn.ELU, "optimizer_class": torch.optim.SGD}},
        ),
        ("TD3", {"policy_kwargs": {"net_arch": [8]}}),
        ("TQC", {"policy_kwargs": {"net_arch": [8]}}),
        ("CrossQ", {"policy_kwargs": {"net_arch": [8]}}),
        ("RecurrentPPO", {"policy_kwargs": {"lstm_hidden_size": 8, "n_lstm_layers": 2}}),
    ],
)
@pytest.mark.parametrize("actions", [(-1.0, 1.0), (0.0, 2.0)])
def test_a_trained_agent_answers_as_sb3_does_before_and_after_it_was_kept(
    tmp_path: Path, name: str, options: dict[str, Any], actions: tuple[float, float], request: pytest.FixtureRequest
) -> None:
    theirs = made(tmp_path / "mine.zip", name, Walk(actions=actions), **options)
    factory = Sb3File(str(tmp_path / "mine.zip"))
    fitted, said = factory(small_bars(), 0), factory.reference()
    way, arrays = kept(fitted, factory)
    (tmp_path / "mine.zip").unlink()
    request.getfixturevalue("no_pickle")
    assert way == "arrays"
    assert not any("optim" in name for name in arrays)
    back = restored(way, arrays, Sb3Factory.of(said.name.partition(":")[2], said.settings))
    for policy in (fitted, back):
        memory, state, start = None, None, np.ones(len(ROWS), bool)
        for step in range(3):  # of what remembers, each answer hangs on those before
            rows = np.roll(ROWS, step, axis=0)
            mine, memory = policy.decide_batch(rows.astype(np.float64), memory)
            said, state = theirs.predict(rows, state, start, deterministic=True)
            start = np.zeros(len(ROWS), bool)
            expected = said.astype(np.float64) + (1.0 if actions[0] == -1.0 else 0.0)
            np.testing.assert_array_equal(mine, expected)
            assert mine.std() > 0.01
        assert (memory is not None) == (name == "RecurrentPPO")


def wide(bars_with: int = 0, symbols: tuple[str, ...] = ()) -> Any:
    """Bars with own features, or a panel."""
    if symbols:
        return panel_of([with_own(each) for each in synthetic_panel(symbols, 200, seed=0).each])
    return with_features(with_own(small_bars()), [f"x{i}" for i in range(bars_with)])


def with_own(bars: Bars) -> Bars:
    return replace(bars, extra={f"x{i}": np.arange(len(bars), dtype=np.float64) for i in range(2)})


@pytest.mark.parametrize(
    ("history", "features", "assets"), [(wide(2), 18, 1), (wide(0, ("A-USD", "B-USD", "C-USD")), 52, 3)]
)
def test_it_reads_own_features_and_sizes_several_symbols(
    tmp_path: Path, history: Any, features: int, assets: int
) -> None:
    theirs = made(tmp_path / "mine.zip", "PPO", Walk(features, assets=assets))
    rows = np.random.default_rng(1).uniform(-1.0, 1.0, (7, features)).astype(np.float32)
    mine, _ = Sb3File(str(tmp_path / "mine.zip"))(history, 0).decide_batch(rows)
    assert mine.shape == (7, assets)
    np.testing.assert_array_equal(mine, 1.0 + theirs.predict(rows, deterministic=True)[0].astype(np.float64))
    with pytest.raises(
        ConfigError, match=rf"mine.zip reads \({features},\).*expected \(16,\), the state of BTC-SYNTHETIC; judge"
    ):
        Sb3File(str(tmp_path / "mine.zip"))(small_bars(), 0)


def statistics(path: Path, features: int = 16, **options: Any) -> Any:
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    found = VecNormalize(DummyVecEnv([lambda: Walk(features)]), **options)
    rng = np.random.default_rng(2)
    if options.get("norm_obs", True):
        found.obs_rms.mean, found.obs_rms.var = rng.normal(size=features), rng.uniform(0.01, 0.5, features)
    found.save(str(path))
    return VecNormalize.load(str(path), DummyVecEnv([lambda: Walk(features)]))


@pytest.mark.parametrize("name", ["PPO", "SAC", "RecurrentPPO"])
@pytest.mark.parametrize("options", [{}, {"clip_obs": 0.7, "epsilon": 0.3}, {"norm_obs": False}])
def test_it_sees_states_as_vecnormalize_gives_them(tmp_path: Path, name: str, options: Any, monkeypatch: Any) -> None:
    theirs, world = made(tmp_path / "mine.zip", name), statistics(tmp_path / "world.pkl", **options)
    monkeypatch.chdir(tmp_path)
    factory = Sb3Factory.of("mine.zip:normalize=world.pkl")
    assert factory == Sb3File("mine.zip", normalize="world.pkl")
    back = restored(*kept(factory(small_bars(), 0), factory), factory)
    expected = 1.0 + theirs.predict(world.normalize_obs(ROWS), deterministic=True)[0].astype(np.float64)
    for policy in (factory(small_bars(), 0), back):
        np.testing.assert_array_equal(policy.decide_batch(ROWS)[0], expected)
    raw = 1.0 + theirs.predict(ROWS, deterministic=True)[0].astype(np.float64)
    assert np.array_equal(raw, expected) == (options == {"norm_obs": False})  # and not by accident


def test_an_agent_that_saw_standardised_numbers_is_not_shown_raw_ones_in_silence(tmp_path: Path) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    path = tmp_path / "mine.zip"
    for name, wrap in (("PPO", True), ("SAC", True), ("PPO", False)):
        world = DummyVecEnv([Walk])
        steps = {"n_steps": 64, "batch_size": 64} if name == "PPO" else {"buffer_size": 100}
        model = getattr(sb3, name)("MlpPolicy", VecNormalize(world) if wrap else world, device="cpu", seed=0, **steps)
        model.learn(64)
        model.save(path)
        if not wrap:
            Sb3File(str(path))(small_bars(), 0)  # its numbers were what they should be
            continue
        with pytest.raises(ConfigError, match=r"were standardised; expected .*normalize=FILE.pkl"):
            Sb3File(str(path))(small_bars(), 0)
        Sb3File(str(path), normalize="none")(small_bars(), 0)


class Odd(sb3.common.policies.ActorCriticPolicy):
    """A network of somebody's own."""


class Own(sb3.common.torch_layers.BaseFeaturesExtractor):
    """A feature extractor of somebody's own."""

    def __init__(self, space: Any) -> None:
        super().__init__(space, 16)

    def forward(self, rows: Any) -> Any:
        return rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world": Walk(actions=(-3.0, 3.0))}, r"acts in \(1,\), from -3 to 3; expected \(1,\).*rule:FILE.py:FUNCTION"),
        ({"world": Walk(actions=(0.0, 1.0))}, r"acts in \(1,\), from 0 to 1; expected"),
        ({"world": Walk(assets=2)}, r"acts in \(2,\), from -1 to 1; expected \(1,\), one for each symbol"),
        ({"world": Walk(52, assets=3)}, r"reads \(52,\), from -1 to 1; expected \(16,\), the state of BTC-SYNTHETIC"),
        (
            {"policy_kwargs": {"features_extractor_class": Own}},
            r"is built with <class .*Own'>; expected .*rule:FILE.py",
        ),
    ],
)
def test_what_cannot_answer_these_states_is_refused_with_a_cure(tmp_path: Path, options: Any, message: str) -> None:
    made(tmp_path / "mine.zip", "PPO", **options)
    with pytest.raises(ConfigError, match=message) as refused:
        Sb3File(str(tmp_path / "mine.zip"))(small_bars(), 0)
    assert "\n" not in str(refused.value)


def test_a_network_of_ones_own_and_discrete_actions_are_refused(tmp_path: Path) -> None:
    sb3.PPO(Odd, Walk(), device="cpu").save(tmp_path / "odd.zip")
    with pytest.raises(ConfigError, match=r"is built with <class .*Odd'>; expected networks of SB3.*rule:FILE.py"):
        Sb3File(str(tmp_path / "odd.zip"))(small_bars(), 0)
    world = Walk()
    world.action_space = gymnasium.spaces.Discrete(3)
    sb3.DQN("MlpPolicy", world, device="cpu", buffer_size=10).save(tmp_path / "dqn.zip")
    with pytest.raises(ConfigError, match=r"acts in Discrete\(3\); expected"):
        Sb3File(str(tmp_path / "dqn.zip"))(small_bars(), 0)


def test_the_algorithm_that_is_said_must_have_the_network_of_the_file(tmp_path: Path) -> None:
    made(tmp_path / "mine.zip", "SAC")
    path = tmp_path / "mine.zip"
    for said in ("", ":algorithm=SAC"):
        Sb3Factory.of(f"{path}{said}")(small_bars(), 0)
    with pytest.raises(
        ConfigError, match=r"the network of .*mine.zip is SACPolicy; expected one of PPO; sb3:.*mine.zip alone"
    ):
        Sb3Factory.of(f"{path}:algorithm=PPO")(small_bars(), 0)
    with pytest.raises(ConfigError, match="sb3:SACK; expected an algorithm"):
        Sb3Factory.of(f"{path}:algorithm=SACK")(small_bars(), 0)


def test_what_is_no_such_file_is_refused_in_one_line_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.zip"
    with pytest.raises(ConfigError, match=rf"no file {path}; expected what SB3 saved; check the path"):
        named(f"sb3:{path}")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}")
    for wrong in (path.read_bytes(), b"no zip"):
        path.write_bytes(wrong)
        with pytest.raises(ConfigError, match=r"mine.zip (is no file of Stable-Baselines3|has no readable)") as refused:
            Sb3File(str(path))(small_bars(), 0)
        assert "\n" not in str(refused.value)
    made(path)
    with pytest.raises(ConfigError, match=r"no file world.pkl"):
        named(f"sb3:{path}:normalize=world.pkl")
    with pytest.raises(
        ConfigError, match=r"with total_timesteps; expected algorithm or normalize: it is trained already"
    ):
        named(f"sb3:{path}:total_timesteps=5")
    with pytest.raises(ConfigError, match="name=value"):
        named(f"sb3:{path}:SAC")
    other = tmp_path / "world.pkl"
    statistics(other, 18)
    with pytest.raises(ConfigError, match=r"has statistics \(18,\); expected \(16,\)"):
        Sb3File(str(path), normalize=str(other))(small_bars(), 0)
    for wrong, message in ((pickle.dumps([1]), "is a list"), (b"", "cannot be read: EOFError")):
        other.write_bytes(wrong)
        with pytest.raises(ConfigError, match=message):
            Sb3File(str(path), normalize=str(other))(small_bars(), 0)


def test_an_exchanged_file_is_another_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, world = tmp_path / "mine.zip", tmp_path / "world.pkl"
    made(path)
    statistics(world)
    alone, both = Sb3File(str(path)), Sb3File(str(path), normalize=str(world))
    assert alone.reference().sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert both.reference().sha256 == hashlib.sha256(path.read_bytes() + world.read_bytes()).hexdigest()
    then = both.reference()
    monkeypatch.setattr(code, "_KNOWN", {})  # as another process
    assert resolved(then, told=True) == both
    statistics(world, clip_obs=5.0)
    monkeypatch.setattr(code, "_KNOWN", {})
    with pytest.raises(BundleError, match=r"is not the code that was judged: sha256"):
        resolved(then, told=True)
    assert both.reference().key != then.key


def test_it_goes_through_walk_forward_and_comes_back_where_nothing_may_be_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    theirs = made(tmp_path / "mine.zip")
    world = statistics(tmp_path / "world.pkl")
    _, factory = named("sb3:mine.zip:normalize=world.pkl")
    run = walk_forward(factory, small_bars(), out=tmp_path / "run", **SMALL)
    refused = {line.rule for line in gate(run.bundle).lines if not line.passed}
    assert refused  # it learned nothing
    before = theirs.predict(world.normalize_obs(ROWS[:1]), deterministic=True)[0]
    for path in ("mine.zip", "world.pkl"):
        (tmp_path / path).unlink()
    asks = (
        "import cloudpickle, pickle, torch, json, sys\n"
        "def no(*_, **__): raise AssertionError('unpickled')\n"
        "for module in (pickle, cloudpickle): module.load = module.loads = no\n"
        "torch.load = no\n"
        "import warnings; warnings.simplefilter('ignore')\n"
        "from himari_rl.policy.code import allow_code\nfrom himari_rl.policy.runtime import load_policy\n"
        f"TOLD; print(load_policy({str(run.bundle)!r}).step({ROWS[0].tolist()}).multipliers[0])"
    )
    found = run_python(asks.replace("TOLD", "allow_code()"), PYTHONPATH=":".join(sys.path))
    assert float(found.stdout) == pytest.approx(1.0 + float(before[0, 0]), abs=1e-6), found.stderr
    found = run_python(asks.replace("TOLD", "pass"), PYTHONPATH=":".join(sys.path))
    assert "was not told to run it" in found.stderr


def test_the_guard_against_unpickling_sees_the_loading_of_the_file(tmp_path: Path, no_pickle: None) -> None:
    made_before = sb3.PPO("MlpPolicy", Walk(), device="cpu")
    made_before.save(tmp_path / "mine.zip")
    with pytest.raises(ConfigError, match="something was unpickled"):
        Sb3File(str(tmp_path / "mine.zip"))(small_bars(), 0)


def test_a_description_names_only_networks_of_sb3(tmp_path: Path) -> None:
    made(tmp_path / "mine.zip")
    factory = Sb3File(str(tmp_path / "mine.zip"))
    arrays = factory(small_bars(), 0).arrays()
    said = json.loads(arrays["network"].tobytes())
    assert said["policy"] == "stable_baselines3.common.policies.ActorCriticPolicy"
    for wrong in ("subprocess.Popen", "stable_baselines3.PPO", "torch.nn.Linear", "stable_baselines3evil.A"):
        text = json.dumps(said | {"policy": wrong}).encode()
        with pytest.raises(BundleError, match=wrong):
            factory.restore(arrays | {"network": np.frombuffer(text, np.uint8)})


def test_what_is_not_installed_is_said_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "mine.zip")
    factory = Sb3File(str(tmp_path / "mine.zip"))
    arrays = factory(small_bars(), 0).arrays()
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    for ask in (lambda: factory(small_bars(), 0), lambda: factory.restore(arrays)):
        with pytest.raises(
            ConfigError, match=r"sb3:.*mine.zip needs stable_baselines3.*pip install 'himari-rl\[peers\]'"
        ):
            ask()


def test_options_that_are_classes_come_back_and_nameless_ones_are_refused() -> None:
    options = {"policy_kwargs": {"activation_fn": torch.nn.ReLU, "net_arch": [8]}, "n_steps": 32}
    factory = Sb3Factory("PPO", total_timesteps=64, num_envs=2, options=options)
    said = factory.reference()
    again = Sb3Factory.of(said.name.partition(":")[2], said.settings)
    assert again == factory
    fitted = factory(small_bars(), 0)
    back = again.restore(kept(fitted, factory)[1])
    np.testing.assert_array_equal(fitted.decide_batch(ROWS)[0], back.decide_batch(ROWS)[0])
    with pytest.raises(ConfigError, match=r"sb3:PPO with <function .*lambda.*factory of your own"):
        Sb3Factory("PPO", options={"learning_rate": lambda left: 0.001 * left}).reference()
