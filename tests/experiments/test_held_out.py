"""A bundle's verdict comes with its controls, trained anew from its own recipe, or there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import run_python
from helpers.bundle import make_bundle
from himari_rl.agents.config import PPOConfig
from himari_rl.cli import main
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.data.table import write_bars
from himari_rl.evaluation.control import NAMES
from himari_rl.evaluation.statements import BETTER, NO_EDGE
from himari_rl.experiments.controls import _without_praise
from himari_rl.experiments.evaluate import evaluate
from himari_rl.experiments.held_out import FOLDER, NO_VERDICT, _recipe
from himari_rl.experiments.train import train
from himari_rl.policy.bundle import read_manifest


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held")
    write_bars(synthetic_bars(4000, 4), folder / "bars.parquet")
    data = str(folder / "bars.parquet")
    assert (
        main(
            [
                "train",
                "base",
                "--data",
                data,
                "--num-episodes",
                "50",
                "--seeds",
                "1",
                "--out",
                str(folder / "run"),
                "--json",
            ]
        )
        == 0
    )
    return folder


def evaluated(folder: Path, bundle: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["evaluate", str(bundle), "--data", str(folder / "bars.parquet"), "--json", *more]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_the_verdict_has_its_five_controls_and_they_are_trained_once(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = evaluated(trained, trained / "run" / "bundle", capsys)
    assert tuple(control["name"] for control in first["controls"]) == NAMES
    assert first["verdict"]["answer"] != NO_VERDICT
    assert first["detectable"] > 0.0
    kept = {path: path.stat().st_mtime_ns for path in (trained / "run" / FOLDER).rglob("*.fold")}
    assert len(kept) == 2  # a driftless and a planted twin
    assert evaluated(trained, trained / "run" / "bundle", capsys)["controls"] == first["controls"]
    assert {path: path.stat().st_mtime_ns for path in (trained / "run" / FOLDER).rglob("*.fold")} == kept
    evaluated(trained, trained / "run" / "bundle", capsys, "--test-fraction", "0.15")
    assert len(list((trained / "run" / FOLDER).rglob("*.fold"))) == 4  # other bars, other twins


def test_a_verdict_whose_twins_are_trained_imports_nothing_that_trains_and_no_statistics_package(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(trained, trained / "run" / "bundle", capsys)
    said = [str(trained / "run" / "bundle"), "--data", str(trained / "bars.parquet"), "--json"]
    code = (
        "import sys\nfrom himari_rl.cli import main\n"
        f"assert main(['evaluate', *{said!r}]) == 0\n"
        "print([name for name in ('torch', 'arch', 'scipy', 'gymnasium') if name in sys.modules], file=sys.stderr)"
    )
    found = run_python(code)
    assert found.returncode == 0, found.stderr
    assert found.stderr.strip().splitlines()[-1] == "[]"


def test_a_bundle_that_does_not_say_how_it_was_trained_gets_measurements_and_no_verdict(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"sha256": "0" * 64, "source": "a test", "start": "2001-01-01T00:00:00Z", "end": "2001-02-01T00:00:00Z"}
    data |= {"rows": 100, "interval_ms": 3_600_000, "synthetic": True}
    bundle = make_bundle(tmp_path, hidden=(4,), training_data=data)
    document = evaluated(trained, bundle, capsys)
    assert document["verdict"]["answer"] == NO_VERDICT
    assert document["verdict"]["sentence"].startswith("No verdict: its controls cannot be run (the bundle does not say")
    assert document["controls"] == []
    assert document["verdict"]["summaries"]


def test_too_few_rows_before_the_held_out_ones_are_named(trained: Path) -> None:
    manifest = read_manifest(trained / "run" / "bundle")
    assert _recipe(manifest, 3200, ())[1] is not None
    why, recipe = _recipe(manifest, 600, ())
    assert recipe is None
    assert why == "432 rows before the held-out ones to train twins on, 503 are needed"


def test_twins_of_a_policy_that_believes_other_symbols_are_given_them_too(tmp_path: Path) -> None:
    """Twins that learned from less than the policy did would control something else."""
    other = synthetic_bars(1500, 8, symbol="ETH-SYNTHETIC")
    bars = synthetic_bars(1500, 7)
    small: dict[str, Any] = {"agent": PPOConfig(hidden_dim=4), "num_episodes": 2, "seeds": 1}
    policy = train(bars, out=tmp_path / "run", beliefs_from=[other], **small)
    assert policy.manifest.config["run"]["beliefs_from"] == ["ETH-SYNTHETIC"]  # type: ignore[index,call-overload]
    bare = evaluate(policy, bars)
    assert bare.verdict.answer == NO_VERDICT
    assert (
        "its beliefs were fitted on ETH-SYNTHETIC too, and --beliefs-from gives no other symbol"
        in bare.verdict.sentence
    )
    whole = evaluate(policy, bars, beliefs_from=[other])
    assert tuple(control.name for control in whole.controls) == NAMES
    kept = [unpacked_fold(path) for path in sorted((tmp_path / "run" / FOLDER).rglob("*.fold"))]
    plain = train(bars, out=tmp_path / "plain", **small)
    evaluate(plain, bars)
    alone = [unpacked_fold(path) for path in sorted((tmp_path / "plain" / FOLDER).rglob("*.fold"))]
    assert len(kept) == len(alone) == 2
    assert all(mine != theirs for mine, theirs in zip(kept, alone, strict=True))
    refused = evaluate(plain, bars, beliefs_from=[other])
    assert "fitted on no other symbol too, and --beliefs-from gives ETH-SYNTHETIC" in refused.verdict.sentence


def unpacked_fold(path: Path) -> Any:
    """What a twin's file says it believes."""
    body = path.read_bytes()[64:]
    size = int.from_bytes(body[:8], "little")
    notes = json.loads(json.loads(body[8 : 8 + size])["__metadata__"]["fold"])
    return json.loads(notes["manifest"])["beliefs"]["evidence"]["coefficients"]


def test_nothing_is_called_better_where_a_control_failed() -> None:
    from himari_rl.evaluation.verdict import Verdict

    fields = dict.fromkeys(Verdict.__dataclass_fields__)
    praised = Verdict(**(fields | {"answer": BETTER, "sentence": "Better."}))  # type: ignore[arg-type]
    controls: Any = [SimpleNamespace(name="driftless", passed=True), SimpleNamespace(name="planted", passed=True)]
    assert _without_praise(praised, controls) is praised
    controls[1].passed = False
    refused = _without_praise(praised, controls)
    assert refused.answer == NO_EDGE
    assert refused.sentence == (
        "No edge shown, keep 1.0: the policy looks better, but a control failed (planted). Better."
    )
    assert refused.doubt == "a control failed (planted)"
    worse = replace(praised, answer="worse")
    assert _without_praise(worse, controls) == replace(worse, doubt="a control failed (planted)")
