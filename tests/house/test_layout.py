"""The house keeps its shape: short files, one owner a name, rooms that import downwards only, a cheap import."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from statistics import median

import pytest

import himari_rl
from helpers import PATIENCE_S, ROOT, run_python

CEILING = 400
SOURCES = ("src", "cloud_run", "vertex_training", "monitoring", "testing", "benchmarks")
PACKAGE = ROOT / "src" / "himari_rl"
TRAINS = {"cli", "cloud", "experiments", "certification", "training", "agents", "envs"}  # every other room ships
# google.cloud itself is there from the start where an old namespace .pth of a package is installed
GOOGLE = ("google.auth", "google.api_core", "google.cloud.storage")
HEAVY = ("torch", "gymnasium", "pandas", "scipy", "ccxt", "fastapi", "jinja2", "plotly", *GOOGLE)


def sources(root: Path) -> list[Path]:
    found = [path for folder in SOURCES for path in (root / folder).rglob("*.py")]
    return [*found, *root.glob("*.py")]


def too_long(paths: list[Path]) -> dict[str, int]:
    counts = {str(path): len(path.read_text().splitlines()) for path in paths}
    return {path: lines for path, lines in counts.items() if lines > CEILING}


def test_no_source_file_is_longer_than_400_lines() -> None:
    assert len(sources(ROOT)) > 30
    assert too_long(sources(ROOT)) == {}


def test_the_ceiling_notices_a_file_of_401_lines(tmp_path: Path) -> None:
    (tmp_path / "src" / "deep").mkdir(parents=True)
    (tmp_path / "src" / "deep" / "fits.py").write_text("x = 1\n" * 400)
    (tmp_path / "src" / "deep" / "long.py").write_text("x = 1\n" * 401)
    assert list(too_long(sources(tmp_path)).values()) == [401]


def test_the_median_file_is_neither_a_scrap_nor_a_scroll() -> None:
    """Of the package's files, without the lines that say what a room is."""
    counts = [len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert len(counts) > 100
    assert 100 <= median(counts) <= 250


def test_evaluation_stays_one_room_of_at_most_18_files() -> None:
    assert 5 < len(list((PACKAGE / "evaluation").rglob("*.py"))) <= 18


def twice(package: Path) -> dict[str, list[str]]:
    """Public classes of a package's modules that more than one file defines."""
    places = defaultdict(list)
    for path in sorted(package.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(package)))
    return {name: files for name, files in places.items() if len(files) > 1}


def test_no_public_class_name_occurs_twice() -> None:
    assert twice(PACKAGE) == {}


def test_a_class_name_that_occurs_twice_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.py").write_text("class Plan: ...\nclass _Own: ...\nclass Bars: ...\n")
    (tmp_path / "two.py").write_text("from a.one import Bars\nclass _Own: ...\nclass Plan(Bars): ...\n")
    assert twice(tmp_path) == {"Plan": ["a/one.py", "two.py"]}


def too_wide(page: str) -> list[str]:
    """Lines over 120 characters, but for table rows, which cannot be broken, and what a program printed."""
    found, block = [], ""
    for line in page.splitlines():
        if line.startswith("```"):
            block = "" if block else line
        if len(line) > 120 and block != "```console" and not line.lstrip().startswith("|"):
            found.append(line)
    return found


def test_no_line_of_the_docs_is_longer_than_120_characters() -> None:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    assert len(pages) > 8
    assert {str(page): lines for page in pages if (lines := too_wide(page.read_text()))} == {}


def test_a_line_of_121_characters_is_noticed_in_prose_and_in_code_but_not_in_a_table_or_in_output() -> None:
    long, fits = "x" * 121, "x" * 120
    page = f"{long}\n{fits}\n| {long} |\n```bash\n{long}\n```\n```console\n{long}\n```\n{long}\n"
    assert too_wide(page) == [long] * 3


@pytest.mark.parametrize("module", ["himari_rl", "himari_rl.cli"])
def test_importing_it_pulls_in_nothing_heavy(module: str) -> None:
    code = f"import {module}, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = run_python(code)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_every_public_name_can_be_imported() -> None:
    assert len(himari_rl.__all__) == len(set(himari_rl.__all__))
    for name in himari_rl.__all__:
        assert getattr(himari_rl, name) is not None


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'PPOAgnet'"):
        _ = himari_rl.PPOAgnet


def lint_imports(workplace: Path, package_home: Path) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "pyproject.toml", workplace)
    return subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"],
        capture_output=True,
        text=True,
        cwd=workplace,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, "PYTHONPATH": str(package_home)},
    )


def test_the_import_rules_hold(tmp_path: Path) -> None:
    result = lint_imports(tmp_path, ROOT / "src")
    assert result.returncode == 0, result.stdout


def test_every_room_that_ships_is_under_the_rule_of_no_torch() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [rule] = [contract for contract in contracts if "no torch" in contract["name"]]
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert {f"himari_rl.{name}" for name in (rooms | modules) - TRAINS} == set(rule["source_modules"])
    assert {"torch", "gymnasium"} <= set(rule["forbidden_modules"])


def plant(home: Path, module: str, line: str) -> None:
    """Adds one line to a module of a copied package; a module or a room that is not there is made."""
    path = home / "himari_rl" / module
    path.parent.mkdir(exist_ok=True)
    (path.parent / "__init__.py").touch()
    path.write_text(f"{path.read_text() if path.exists() else ''}\n{line}\n")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a copy of the package."""
    shutil.copytree(PACKAGE, tmp_path / "src" / "himari_rl", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "src"


@pytest.mark.parametrize(
    ("module", "line", "rule"),
    [
        ("features/signals.py", "import torch", "no torch"),
        ("evaluation/metrics.py", "import torch", "no torch"),
        ("serving/planted.py", "from himari_rl.training import trainer", "no torch"),
        ("release/gate.py", "from himari_rl.training import trainer", "no torch"),  # through what it imports
        ("data/splits.py", "from himari_rl.features import encoder", "layers below"),
        ("training/job.py", "from himari_rl.evaluation import backtest", "layers below"),
        ("agents/networks.py", "import himari_rl.envs.physics", "siblings"),
        ("release/gate.py", "from himari_rl.experiments import folds", "siblings"),
        ("certification/planted.py", "from himari_rl.experiments import folds", "siblings"),
        ("experiments/folds.py", "from himari_rl.release import gate", "siblings"),
        ("runner/step.py", "from himari_rl.experiments import folds", "siblings"),  # a room that may come
        ("cloud/launch.py", "from himari_rl.cli import progress", "layers below"),
        ("attic/box.py", "import os", "layers below"),  # a room without a place
        ("serving/slot.py", "import starlette", "knows no wire"),
        ("training/ppo.py", "import logging", "no environment and no logger"),
        ("envs/physics.py", "import cloud_run", "thin folders"),
    ],
)
def test_a_planted_import_breaks_the_rule(tmp_path: Path, home: Path, module: str, line: str, rule: str) -> None:
    plant(home, module, line)
    result = lint_imports(tmp_path, home)
    broken = [text for text in " ".join(result.stdout.split()).split("KEPT") if "BROKEN" in text]
    assert result.returncode == 1, result.stdout
    assert any(rule in text for text in broken), result.stdout


def test_rooms_that_may_come_have_their_place(tmp_path: Path, home: Path) -> None:
    plant(home, "runner/step.py", "from himari_rl.policy import runtime")
    plant(home, "cloud/launch.py", "from himari_rl.release import gate")
    result = lint_imports(tmp_path, home)
    assert result.returncode == 0, result.stdout
