"""The Python front door: its names, their examples, what it refuses, and the whole road in one file."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import json
import os
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import himari_rl
from helpers import ROOT, load_script, run_python
from himari_rl import evaluate, gate, load_policy, train, walk_forward
from himari_rl.agents.config import PPOConfig
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.errors import ConfigError, DataError, HimariError
from himari_rl.experiments.config import WalkForwardConfig
from himari_rl.experiments.walk_forward import Settings
from himari_rl.policy.bundle import read_bundle
from himari_rl.training.config import TrainConfig

NAMES = sorted(set(himari_rl.__all__) - {"__version__"})
SMALL = PPOConfig(num_envs=20, hidden_dim=8, minibatch=500)
PIPELINE = ROOT / "examples" / "pipeline.py"


MODULES = sorted(
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "src").rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("module", MODULES)
def test_every_docstring_example_runs(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(module))
    assert found.failed == 0
    assert found.attempted > 0


def test_an_example_that_is_wrong_is_noticed() -> None:
    wrong = types.ModuleType("wrong", ">>> 1 + 1\n3\n")
    assert doctest.testmod(wrong).failed == 1


@pytest.mark.parametrize("name", NAMES)
def test_each_name_has_an_example(name: str) -> None:
    assert ">>> " in (inspect.getdoc(getattr(himari_rl, name)) or "")


def test_the_types_name_what_the_door_names() -> None:
    tree = ast.parse((ROOT / "src" / "himari_rl" / "__init__.pyi").read_text())
    told = {
        alias.name: str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert told == {name: f"himari_rl.{module}" for name, module in himari_rl._HOME.items()}


def test_importing_the_door_and_its_names_of_data_loads_no_torch() -> None:
    code = "import sys, himari_rl as h; h.load_bars, h.Policy, h.gate; print('torch' in sys.modules)"
    result = run_python(code)
    assert (result.returncode, result.stdout.strip()) == (0, "False"), result.stderr


@pytest.mark.parametrize("order", ["import gymnasium, himari_rl", "import himari_rl, gymnasium; himari_rl.Bars"])
def test_gymnasium_makes_our_environments_by_name(order: str) -> None:
    code = (
        f"{order}\nimport warnings\nwarnings.filterwarnings('ignore', '.*symmetric and normalized space.*')\n"
        "from himari_rl.data.synthetic import synthetic_bars\n"
        "from gymnasium.utils.env_checker import check_env\n"
        "env = gymnasium.make('himari/Trading-v0', bars=synthetic_bars(1000, 0))\n"
        "check_env(env.unwrapped, skip_render_check=True)\nprint(env.observation_space.shape)"
    )
    result = run_python(code)
    assert (result.returncode, result.stdout.strip()) == (0, "(16,)"), result.stderr


def test_library_and_command_line_have_the_same_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `train` and `walk_forward` would run with nothing given is what `himari config show` says."""
    from himari_rl.cli.settings import resolved

    seen: dict[str, Any] = {}

    class Stopped(Exception):
        pass

    def stop(what: str) -> Any:
        def take(bars: Any, *rest: Any, **options: Any) -> Any:
            seen[what] = rest[0]
            raise Stopped

        return take

    def taken(job: Any, *rest: Any, **options: Any) -> Any:
        seen["train"] = job
        raise Stopped

    monkeypatch.setattr("himari_rl.experiments.train.recorded_job", taken)
    monkeypatch.setattr("himari_rl.experiments.run._run", stop("walk-forward"))
    bars = synthetic_bars(1000, 0)
    for call in (train, walk_forward):
        with pytest.raises(Stopped):
            call(bars)
    asked = resolved("train")
    assert {name: getattr(seen["train"], name) for name in vars(TrainConfig())} == vars(asked["train"])
    assert (seen["train"].agent, seen["train"].environment) == (asked["agent"], asked["environment"])
    asked = resolved("walk-forward")
    assert isinstance(seen["walk-forward"], Settings)
    assert {name: getattr(seen["walk-forward"], name) for name in vars(WalkForwardConfig())} == vars(
        asked["walk_forward"]
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("front")
    train(synthetic_bars(2000, 0), out=folder, agent=SMALL, num_episodes=2, seeds=2)
    return folder


def test_a_trained_policy_is_the_bundle_that_was_written(trained: Path) -> None:
    policy = load_policy(trained / "bundle")
    assert policy.manifest.seeds == (0, 1)
    assert policy.folder == trained / "bundle"
    assert "BTC-SYNTHETIC" in str(policy)
    assert "object at 0x" not in repr(policy)


def test_an_evaluation_is_a_page_and_the_document_beside_the_bundle(trained: Path) -> None:
    found = evaluate(load_policy(trained / "bundle"), synthetic_bars(2000, 0))
    page = str(found)
    assert found.verdict.sentence.split(".")[0] in " ".join(page.split())
    assert "commission 10.0 bp + slippage 5.0 bp" in " ".join(page.split())
    assert max(map(len, page.splitlines())) <= 80
    assert json.loads((trained / "bundle" / "evaluation.json").read_text()) == json.loads(json.dumps(found.document))


def test_a_policy_of_no_folder_is_judged_and_nothing_is_written(trained: Path) -> None:
    from himari_rl.policy.runtime import Policy

    loose = Policy(*read_bundle(trained / "bundle"))
    before = sorted(path.name for path in trained.rglob("*"))
    found = evaluate(loose, synthetic_bars(2000, 0))
    assert found.verdict.decisions > 0
    assert sorted(path.name for path in trained.rglob("*")) == before


@pytest.mark.parametrize(
    ("call", "error", "found", "cure"),
    [
        (lambda policy, bars, frame: evaluate(bars, policy), ConfigError, "where the policy belongs", "swap"),
        (lambda policy, bars, frame: evaluate(policy, frame), DataError, "DataFrame where bars belong", "from_frame"),
        (lambda policy, bars, frame: train(frame), DataError, "DataFrame where bars belong", "from_frame"),
        (lambda policy, bars, frame: walk_forward(frame), DataError, "DataFrame where bars belong", "from_frame"),
        (lambda policy, bars, frame: train(bars, epochs=3), ConfigError, "no field epochs", "num_episodes"),
        (lambda policy, bars, frame: train(bars, "dqn"), ConfigError, "dqn", "base"),
        (lambda policy, bars, frame: policy.decide([0.0] * 15), HimariError, "15", "16"),
        (lambda policy, bars, frame: gate("nowhere/bundle"), HimariError, "nowhere", ""),
    ],
)
def test_a_mistake_is_one_line_with_a_cure(trained: Path, call: Any, error: Any, found: str, cure: str) -> None:
    import pandas as pd

    bars = synthetic_bars(2000, 0)
    with pytest.raises(error) as caught:
        call(load_policy(trained / "bundle"), bars, pd.DataFrame({"close": bars.close}))
    line = str(caught.value)
    assert found in line
    assert cure in line
    assert "\n" not in line


def test_the_pipeline_is_short_and_walks_the_whole_road(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(PIPELINE.read_text().splitlines()) < 120
    out = tmp_path / "run"
    words = ["--out", str(out), "--num-episodes", "2", "--seeds", "1", "--folds", "1"]
    code = load_script("examples/pipeline.py").main(words)
    page = capsys.readouterr().out
    assert code == 1  # synthetic bars are never promoted
    for step in ("1. Bars", "2. State", "3. Ledger", "4. Policy", "5. Verdict", "6. Walk-forward", "7. Gate", "8. Dec"):
        assert step in page
    assert "recorded data" in page
    assert (out / "bundle" / "weights.safetensors").exists()
    assert (out / "walk-forward" / "bundle" / "manifest.json").exists()
    ledger = os.environ["HIMARI_TRIALS"]  # the one path that is said as its user gave it
    assert not any(os.path.isabs(line) for line in page.replace(ledger, "LEDGER").splitlines())


def test_the_pipeline_says_bad_input_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = load_script("examples/pipeline.py").main(["--data", str(tmp_path / "none.csv"), "--out", str(tmp_path)])
    assert code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_same_seed_through_the_door_gives_the_same_weights(tmp_path: Path) -> None:
    weights = []
    for name in ("a", "b"):
        train(synthetic_bars(1000, 1), out=tmp_path / name, agent=SMALL, num_episodes=2, seeds=1)
        weights.append(read_bundle(tmp_path / name / "bundle")[1])
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
