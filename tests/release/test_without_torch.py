"""gate, promote, rollback and report run where nothing trains: no torch, no data frames, no bootstrap library.

Each command is a process of its own in which those modules cannot be imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.verdict import run_of
from himari_rl.evaluation.record import COST
from himari_rl.trials.ledger import Trials

ABSENT = (
    "torch", "gymnasium", "pandas", "pyarrow", "scipy", "arch", "skfolio", "sklearn", "sqlalchemy", "optuna", "ccxt",
    "tenacity", "tensorboard", "fastapi", "uvicorn", "stable_baselines3",
)  # fmt: skip
RUNNER = """
import sys
for name in {absent!r}:
    sys.modules[name] = None
from himari_rl.cli import main
sys.exit(main(sys.argv[1:]))
"""


def himari(folder: Path, *words: str, absent: tuple[str, ...] = ABSENT) -> subprocess.CompletedProcess[str]:
    """One command in `folder`, where the modules of `absent` are not installed."""
    return subprocess.run(
        [sys.executable, "-c", RUNNER.format(absent=absent), *words],
        capture_output=True, text=True, timeout=300, check=False, cwd=folder,
        env=os.environ | {"HIMARI_TRIALS": str(folder / "trials.sqlite")},
    )  # fmt: skip


def finished_run(folder: Path, weights: int = 0) -> Path:
    """A walk-forward's folder with everything that its run card shows."""
    bundle = run_of(folder, weights=weights)
    cost = {"seconds": 1.0, "training_seconds": 1.0, "usd": 0.0, "usd_per_hour": 0.1, "bars_trained": 1, "trials": []}
    (folder / COST).write_text(json.dumps(cost))
    return bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    finished_run(folder)
    with Trials(folder / "trials.sqlite"):  # in which the walk-forward counted itself
        pass
    return folder


def test_the_gate_answers_and_names_its_ledger(folder: Path) -> None:
    done = himari(folder, "gate", "bundle")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "ledger: commission 10.0 bp + slippage 5.0 bp, no shorts, base position 50 %, gross <= 1.0" in said
    assert "daily stop 2 %, caps 2.0 / 1.5 / 1.0 / 0.0" in said


def test_the_run_card_is_written_with_its_ledger(folder: Path) -> None:
    done = himari(folder, "report", ".")
    assert done.returncode == 0, done.stderr
    page = (folder / "report.html").read_text()
    section = page.split('<section id="ledger">')[1].split("</section>")[0]
    for words in (
        "Fees and limits", "commission 10.0 bp + slippage 5.0 bp", "no shorts", "base position 50 %",
        "gross &lt;= 1.0", "daily stop 2 %", "caps 2.0 / 1.5 / 1.0 / 0.0", "CRISIS from cascade risk 0.6",
    ):  # fmt: skip
        assert words in section, words


def test_an_alias_moves_and_moves_back(folder: Path) -> None:
    (folder / "other").mkdir()
    finished_run(folder / "other", weights=1)
    for bundle in ("bundle", "other/bundle"):
        done = himari(folder, "promote", "champion", bundle, "--json")
        assert done.returncode == 0, done.stderr
    done = himari(folder, "rollback", "champion", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bundle"] == str(folder / "bundle")


def test_a_champion_is_compared_by_resampling_without_a_bootstrap_library(folder: Path, tmp_path: Path) -> None:
    done = himari(folder, "gate", "bundle", "--champion", str(finished_run(tmp_path, weights=1)), "--json")
    assert done.returncode in (0, 1), done.stderr
    lines = {line["rule"]: line for line in json.loads(done.stdout)["lines"]}
    assert (
        lines["over the champion"]["lower"] == lines["over the champion"]["upper"] == 0.0
    )  # both have the same curves


def test_a_run_card_without_jinja2_says_what_to_install(folder: Path) -> None:
    """Also the control of the others: what is blocked is missed by the one command that needs it."""
    done = himari(folder, "report", ".", "--out", "none.html", absent=(*ABSENT, "jinja2"))
    assert done.returncode == 2
    assert "needs jinja2, which is not installed; pip install 'himari-rl[judge]'" in done.stderr
    assert not (folder / "none.html").exists()
