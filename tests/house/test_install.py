"""A fresh machine: what is locked, what the Makefile promises, what an old Python is told."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from helpers import PATIENCE_S, README, ROOT

LOCKS = ("requirements.lock", "requirements-demo.lock", "requirements-gcp.txt")
JUDGE = {"skfolio", "optuna", "plotly", "sqlalchemy"}


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


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(LOCKS, 2)))
def test_two_locks_agree_on_what_they_share(one: str, other: str) -> None:
    first, second = pins(one), pins(other)
    shared = set(first) & set(second)
    assert len(shared) > 50
    assert {name: (first[name], second[name]) for name in shared if first[name] != second[name]} == {}


def test_what_the_demo_installs_is_a_part_of_what_the_tests_install() -> None:
    full, demo = pins("requirements.lock"), pins("requirements-demo.lock")
    assert set(demo) < set(full)
    assert {"torch", "fastapi", "setuptools"} | JUDGE <= set(demo)
    assert not {"pytest", "stable-baselines3", "onnxruntime", "dask"} & set(demo)


def test_a_training_job_installs_what_trains_and_judges_and_nothing_that_serves_or_tests() -> None:
    """A job in the cloud ends with evaluation and gate verdict beside its bundle."""
    cloud = pins("requirements-gcp.txt")
    assert {"torch", "gymnasium", "google-cloud-aiplatform", "google-cloud-storage"} | JUDGE <= set(cloud)
    assert not {"fastapi", "uvicorn", "pytest", "statsmodels", "stable-baselines3"} & set(cloud)


def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for line in requirements}


def test_every_lock_holds_what_its_extras_ask_for() -> None:
    """With the extras that an extra names."""
    extras = project()["optional-dependencies"]

    def asked(name: str) -> set[str]:
        inner = [part for line in extras[name] for part in re.findall(r"^himari-rl\[(.*)\]", line)]
        return names(extras[name]).union(*(asked(other) for part in inner for other in part.split(",")))

    core = names(project()["dependencies"])
    for lock, wanted in zip(LOCKS, (["dev"], ["train", "judge", "serve"], ["train", "judge", "gcp"]), strict=True):
        missing = core.union(*(asked(name) for name in wanted)) - {"himari-rl"} - set(pins(lock))
        assert missing == set(), lock


def test_the_types_are_part_of_the_package() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert data == {"himari_rl": ["py.typed", "*.pyi", "card/templates/*", "card/static/*"]}
    assert (ROOT / "src" / "himari_rl" / "py.typed").read_text() == ""
    assert (ROOT / "src" / "himari_rl" / "__init__.pyi").read_text()
    assert "Typing :: Typed" in project()["classifiers"]


def test_no_licence_is_claimed_and_the_readme_says_whose_choice_it_is() -> None:
    assert not [key for key in project() if key.startswith("licen")]
    assert not [line for line in project()["classifiers"] if "License" in line]
    assert "licence is the owner's to choose" in " ".join(README.split())


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, **environment},
    )


def a_copy(tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements.lock", "requirements-demo.lock", "pyproject.toml"):
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


@pytest.mark.parametrize(("target", "lock"), [("venv", "requirements.lock"), ("demo", "requirements-demo.lock")])
def test_a_finished_setup_is_not_repeated_until_a_dependency_changes(tmp_path: Path, target: str, lock: str) -> None:
    folder = a_copy(tmp_path)
    stamps = re.findall(r"touch (.*)", make(folder, "-n", target).stdout)
    assert len(stamps) == 1
    (folder / ".venv").mkdir()
    for stamp in stamps[0].split():
        (folder / stamp).touch()
    assert "pip install" not in make(folder, "-n", target).stdout
    os.utime(folder / lock)  # touched, not changed
    assert "pip install" not in make(folder, "-n", target).stdout
    with (folder / lock).open("a") as file:
        file.write("one-more==1.0\n")
    assert f"-r {lock}" in make(folder, "-n", target).stdout


def test_what_is_compiled_is_kept_also_where_a_container_says_that_nothing_is(tmp_path: Path) -> None:
    """`pip install --no-compile` leaves it to the first import: unkept, every process would compile all it imports."""
    folder = a_copy(tmp_path)
    with (folder / "Makefile").open("a") as file:
        file.write('\nprobe:\n\t@echo "$${PYTHONDONTWRITEBYTECODE-unset} $${ANOTHER-unset}"\n')
    assert make(folder, "probe", PYTHONDONTWRITEBYTECODE="1", ANOTHER="1").stdout == "unset 1\n"


def pip_that_tells(folder: Path) -> str:
    """A Python whose venv has a pip that installs nothing and tells of 45 packages."""
    script = folder / "python-of-the-test"
    script.write_text(
        """#!/bin/bash
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; printf '#!/bin/sh\n' > .venv/bin/himari ;;
  *"-r "*) echo "$*" >> asked
    for i in $(seq 45); do echo "Collecting p$i"; done; echo "Installing collected packages" ;;
esac
chmod -f +x .venv/bin/himari || true
"""
    )
    script.chmod(0o755)
    return f"PYTHON={script}"


def test_the_demo_installs_less_and_the_tests_add_the_rest_and_the_progress_is_appended(tmp_path: Path) -> None:
    folder = a_copy(tmp_path)
    python = pip_that_tells(folder)
    first = make(folder, "demo", python)
    assert first.returncode == 0, first.stderr
    assert "\r" not in first.stderr
    assert re.search(r"\[1/2\] installing \d+ locked packages .*: 20 40 unpacking done \(\d+ s\)\n", first.stderr)
    assert make(folder, "venv", python).returncode == 0
    assert make(folder, "demo", python).stderr == ""  # what the tests need holds what the demo needs
    asked = (folder / "asked").read_text()
    assert re.findall(r"-r (\S+)", asked) == ["requirements-demo.lock", "requirements.lock"]


@pytest.mark.parametrize("failing", ["", "venv", "drill-own", "lint", "test"])
def test_ci_runs_what_a_person_runs_and_fails_where_any_of_it_does(tmp_path: Path, failing: str) -> None:
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n[ "$*" != "{failing}" ]\n')
    make.chmod(0o755)
    done = subprocess.run([ROOT / ".ci" / "run"], env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    asked = (tmp_path / "asked").read_text().split()
    assert (done.returncode == 0) == (not failing)
    assert asked[0] == "venv"
    expected = {"venv": {"venv"}, "lint": {"venv", "drill-own", "lint"}}
    assert set(asked) == expected.get(failing, {"venv", "drill-own", "lint", "test"})
