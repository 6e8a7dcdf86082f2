"""The house keeps its shape: short files, rooms that import downwards only, a package that is cheap to import."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import himari_rl
from helpers import ROOT, run_python

CEILING = 400
SOURCES = ("src", "cloud_run", "vertex_training", "monitoring", "testing", "benchmarks")
HEAVY = ("torch", "gymnasium", "pandas", "scipy", "ccxt", "fastapi", "plotly", "google.cloud")


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
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(package_home)},
    )


def test_the_import_rules_hold(tmp_path: Path) -> None:
    result = lint_imports(tmp_path, ROOT / "src")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "line", "rule"),
    [
        ("features/signals.py", "import torch", "no torch"),
        ("data/splits.py", "from himari_rl.features import encoder", "layers below"),
        ("agents/networks.py", "import himari_rl.envs.physics", "siblings"),
        ("serving/planted.py", "from himari_rl.training import trainer", "no torch"),
        ("serving/slot.py", "import starlette", "knows no wire"),
        ("training/ppo.py", "import logging", "no environment and no logger"),
        ("envs/physics.py", "import cloud_run", "thin folders"),
    ],
)
def test_a_planted_import_breaks_the_rule(tmp_path: Path, module: str, line: str, rule: str) -> None:
    shutil.copytree(
        ROOT / "src" / "himari_rl", tmp_path / "src" / "himari_rl", ignore=shutil.ignore_patterns("__pycache__")
    )
    planted = tmp_path / "src" / "himari_rl" / module
    before = planted.read_text() if planted.exists() else ""
    planted.write_text(f"{before}\n{line}\n")
    result = lint_imports(tmp_path, tmp_path / "src")
    broken = [text for text in " ".join(result.stdout.split()).split("KEPT") if "BROKEN" in text]
    assert result.returncode == 1, result.stdout
    assert any(rule in text for text in broken), result.stdout
