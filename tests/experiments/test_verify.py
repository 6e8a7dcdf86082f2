"""A third party recomputes a verdict: equal on an untouched run, and what was changed is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from helpers.strangers import stranger
from helpers.verdict import run_small, small_bars, small_settings
from himari_rl.cli import main
from himari_rl.data.table import write_bars
from himari_rl.errors import BundleError, DataError
from himari_rl.evaluation.record import BUNDLE, CURVES, DOCUMENT, seal
from himari_rl.experiments.fold_files import TrainedFold, packed, unpacked
from himari_rl.experiments.run import walk_forward
from himari_rl.experiments.verify import verify
from himari_rl.experiments.walk_forward import REAL, plan
from himari_rl.policy.bundle import amend, read_bundle, write_bundle
from himari_rl.trials.ledger import Trials


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "run"
    run_small(folder)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def told(run: Path) -> list[str]:
    return [str(each) for each in verify(run, small_bars()).differences]


def test_an_untouched_run_is_equal_and_nothing_is_counted_or_written(finished: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    found = verify(finished, small_bars())
    assert found.equal, str(found)
    assert before == {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    with Trials() as trials:  # the ledger of this test, which no run has written to
        assert trials.history("", 0, 2**62) == []


def test_trained_again_it_is_equal_too(finished: Path) -> None:
    assert verify(finished, small_bars(), train=True).equal


def curve(run: Path) -> str:
    arrays = dict(load((run / CURVES).read_bytes()))
    arrays["growth/policy"] = arrays["growth/policy"].copy()
    arrays["growth/policy"][7] += 0.01
    (run / CURVES).write_bytes(save(arrays))
    return "curve growth/policy: 1 rows differ from row 7 on, of fold 0"


def figure(run: Path) -> str:
    document = json.loads((run / DOCUMENT).read_text())
    document["judgement"]["verdict"]["utility"]["estimate"] += 0.5
    (run / DOCUMENT).write_text(json.dumps(document))
    return "document judgement.verdict.utility.estimate"


def sentence(run: Path) -> str:
    document = json.loads((run / DOCUMENT).read_text())
    document["judgement"]["controls"][0]["passed"] ^= True
    (run / DOCUMENT).write_text(json.dumps(document))
    amend(run / BUNDLE, evaluation=seal(run))  # whoever changes the digests too is found out by the folds
    return "document judgement.controls.0.passed"


def weight(run: Path) -> str:
    manifest, tensors = read_bundle(run / BUNDLE)
    tensors["1.out.bias"] = tensors["1.out.bias"] + np.float32(0.1)
    write_bundle(run / BUNDLE, manifest, tensors)
    return "weight 1.out.bias"


def flipped(run: Path) -> str:
    path = run / BUNDLE / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    return "weight bundle"


def bit(run: Path) -> str:
    path = run / "folds" / "driftless" / "001-0.fold"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    return "fold driftless/001-0.fold: its file was changed"


def gone(run: Path) -> str:
    (run / "folds" / "real" / "000-1.fold").unlink()
    return "fold real/000-1.fold: its file is missing"


def resealed(run: Path) -> str:
    """Other weights under the fold's own key and a digest that is right."""
    task = plan(small_bars(), small_settings()).task((REAL, 1, 0))
    path = run / "folds" / task.name
    was = unpacked(path.read_bytes(), task.key, "fold")
    tensors = {name: values + np.float32(0.5) for name, values in was.tensors.items()}
    path.write_bytes(packed(task.key, TrainedFold(was.manifest, tensors, was.gain)))
    return "of fold 1"


@pytest.mark.parametrize("change", [curve, figure, sentence, weight, flipped, bit, gone, resealed])
def test_what_was_changed_is_named(copy: Path, change: Callable[[Path], str]) -> None:
    expected = change(copy)
    found = told(copy)
    assert any(expected in each for each in found), found


def test_a_changed_fold_changes_no_curve_of_another(copy: Path) -> None:
    resealed(copy)
    named = [each for each in told(copy) if each.startswith("curve multiplier")]
    assert len(named) == 1
    assert named[0].endswith("of fold 1")


def test_other_data_is_refused(finished: Path) -> None:
    with pytest.raises(DataError, match="give the files that it was judged on"):
        verify(finished, small_bars(seed=1))


def test_a_run_of_somebodys_code_is_verified_where_the_code_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from himari_rl.policy import code

    module = stranger(tmp_path / "code", "verified_rule")
    run = walk_forward(
        module.learns, small_bars(), out=tmp_path / "run", train="20d", test="10d", step="10d", purge_bars=24, seeds=1
    )
    monkeypatch.setattr(code, "_KNOWN", {})
    with pytest.raises(BundleError, match="--external-code"):
        verify(run.folder, small_bars())
    code.allow_code()
    assert verify(run.folder, small_bars(), train=True).equal


def test_from_the_command_line_and_runs_lists_what_there_is(copy: Path, tmp_path: Path, capsys: Any) -> None:
    bars = small_bars()
    write_bars(bars, tmp_path / "BTC-SYNTHETIC_1h.csv")
    from himari_rl.data.sources import load_bars

    run_small_of = walk_forward(
        load_bars(str(tmp_path / "BTC-SYNTHETIC_1h.csv")),
        out=tmp_path / "runs" / "one",
        agent=small_settings().agent,
        environment=small_settings().environment,
        train="20d",
        test="10d",
        step="10d",
        purge_bars=24,
        seeds=1,
        num_episodes=20,
    )
    words = ["verify", str(run_small_of.folder), "--data", str(tmp_path / "BTC-SYNTHETIC_1h.csv")]
    assert main(words) == 0
    assert "equal (" in capsys.readouterr().out
    shutil.copytree(copy, tmp_path / "runs" / "two")
    assert main(["runs", str(tmp_path / "runs"), "--json"]) == 0
    rows = {row["run"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["one"]["differs"] == {"seeds": [0]}
    assert rows["two"]["differs"] == {"seeds": [0, 1]}
    assert rows["two"]["usd"] is not None
    assert main(["runs", str(tmp_path / "runs")]) == 0
    assert "seeds=[0, 1]" in capsys.readouterr().out
    figure(Path(run_small_of.folder))
    assert main([*words, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["differences"][0]["what"] == "document"
    assert main(["runs", str(tmp_path / "nowhere")]) == 2
