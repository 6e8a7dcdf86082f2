"""The wheel and the site are built, as for a release: what is in the one, and no warning in the other."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from helpers import PATIENCE_S, ROOT

PACKAGE = ROOT / "src" / "himari_rl"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the files of which it is made alone, so that no leftover of another build gets into it."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        place,
        source,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    [made] = place.glob("*.whl")
    return made


def files_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as packed:
        return {name for name in packed.namelist() if ".dist-info/" not in name}


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    """Modules, stubs, py.typed, the pages' templates; no test, no document, no second package."""
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert files_of(wheel) == {path.relative_to(PACKAGE.parent).as_posix() for path in files}
    assert {"himari_rl/py.typed", "himari_rl/cli/__init__.py"} < files_of(wheel)
    assert any(name.startswith("himari_rl/card/templates/") for name in files_of(wheel))


def test_the_wheel_says_what_it_needs_and_which_command_it_brings(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        [head] = [name for name in packed.namelist() if name.endswith(".dist-info/METADATA")]
        said = packed.read(head).decode()
        scripts = packed.read(head.replace("METADATA", "entry_points.txt")).decode()
    assert "himari = himari_rl.cli:main" in scripts
    core = {re.split(r"[<>=!~ ;\[]", line)[1] for line in re.findall(r"^Requires-Dist:( [^;\n]*)$", said, re.MULTILINE)}
    assert core == {"click", "numpy", "pydantic", "pyyaml", "safetensors"}
    heavy = {"torch", "gymnasium", "pandas", "scipy", "rich", "uvloop", "typer"}  # 110 MB: make wheel measures it
    served = re.findall(r"^Requires-Dist: ([\w.-]+).*extra == \"serve\"", said, re.MULTILINE)
    assert {"fastapi", "uvicorn"} < set(served)
    assert not heavy & {*core, *served}


def built(place: Path, configuration: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", configuration, "-d", place]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S, env=env)


needs_mkdocs = pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed: [docs]")


@needs_mkdocs
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    done = built(tmp_path / "site", ROOT / "mkdocs.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "index.html").is_file()
    assert (tmp_path / "site" / "reference" / "cli" / "index.html").is_file()


@needs_mkdocs
def test_a_link_that_leads_nowhere_stops_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[away](nowhere.md)\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: x\n")
    done = built(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert done.returncode != 0
    assert "nowhere.md" in done.stdout + done.stderr
