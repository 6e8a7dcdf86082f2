"""A fresh machine: what is locked, what the Makefile promises, what an old Python is told."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers import ROOT

LOCKS = ("requirements.lock", "requirements-gcp.txt")


def pins(name: str) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return dict(line.split("==", 1) for line in lines if line)


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_every_package_and_names_no_place(name: str) -> None:
    text = (ROOT / name).read_text()
    assert len(pins(name)) > 50
    assert pins(name)["torch"] == "2.13.0"  # no local tag: the CPU wheel and the one on PyPI both meet it
    assert not re.search(r"https?://|file:/|--(extra-)?index|--find-links|@ ", text)
    assert not [package for package in pins(name) if package.startswith(("nvidia-", "cuda-", "triton"))]


def test_both_locks_agree_on_what_they_share() -> None:
    full, cloud = pins(LOCKS[0]), pins(LOCKS[1])
    shared = set(full) & set(cloud)
    assert len(shared) > 50
    assert {name: (full[name], cloud[name]) for name in shared if full[name] != cloud[name]} == {}


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def a_copy(tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def a_python(folder: Path, version: str, answers: int) -> str:
    script = folder / "python-of-the-test"
    script.write_text(f'#!/bin/sh\n[ "$1" = -V ] && echo "Python {version}"\nexit {answers}\n')
    script.chmod(0o755)
    return str(script)


def test_an_older_python_gets_one_line_with_the_cure(tmp_path: Path) -> None:
    result = make(a_copy(tmp_path), "venv", f"PYTHON={a_python(tmp_path, '3.9.18', 1)}")
    told = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    assert result.returncode == 2
    assert len(told) == 1
    assert "is Python 3.9.18, expected Python 3.11 or newer; try: make venv PYTHON=" in told[0]
    assert not (tmp_path / ".venv").exists()


def test_a_python_without_venv_is_told_apart_from_an_old_one(tmp_path: Path) -> None:
    script = Path(a_python(tmp_path, "3.12.1", 0))
    script.write_text('#!/bin/sh\n[ "$1" != -m ]\n')
    result = make(a_copy(tmp_path), "venv", f"PYTHON={script}")
    assert result.returncode == 2
    assert "install its venv module" in result.stderr


def test_a_finished_setup_is_not_repeated_until_a_dependency_changes(tmp_path: Path) -> None:
    folder = a_copy(tmp_path)
    name = re.search(r"\.venv/\.installed-\d+", make(folder, "-n", "venv").stdout)
    assert name is not None
    (folder / ".venv").mkdir()
    (folder / name.group()).touch()
    assert "pip install" not in make(folder, "-n", "venv").stdout
    os.utime(folder / "requirements.lock")  # touched, not changed
    assert "pip install" not in make(folder, "-n", "venv").stdout
    with (folder / "requirements.lock").open("a") as lock:
        lock.write("one-more==1.0\n")
    assert "pip install" in make(folder, "-n", "venv").stdout


def test_ci_runs_what_a_person_runs() -> None:
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")]
    assert commands == ["make lint", "make test"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
