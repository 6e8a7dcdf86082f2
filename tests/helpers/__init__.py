"""What several tests share: the repository's own paths, real bars where they lie, a fresh Python process."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def shared_data(*parts: str) -> Path:
    """A file of the real market data, or a visible skip where the folder is absent (it is not ours to ship)."""
    folder = Path(os.environ.get("HIMARI_SHARED_DATA", ROOT.parent / "shared" / "data"))
    path = folder.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no real market data at {path}; set HIMARI_SHARED_DATA")
    return path


def run_python(code: str, *, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh interpreter with warnings as errors, so that nothing this process imported helps it."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


def run_himari(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the installed `himari` command, as a shell would."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("himari")), *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        timeout=300,
        check=False,
        env={**os.environ, "COLUMNS": "120", **environment},
    )


def load_script(path: str) -> ModuleType:
    """A file outside the package, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
