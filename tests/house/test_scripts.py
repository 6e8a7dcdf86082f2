"""Scripts that no test runs, benchmarks above all, still take their names from where these are."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from helpers import ROOT

FOLDERS = ("benchmarks", "vertex_training", "cloud_run", "examples", "docs")
SCRIPTS = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.py"))


def missing(text: str) -> list[str]:
    """Names that a script imports from the package and that are not there, wherever in it the import stands."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("himari_rl"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if not hasattr(module, alias.name):
                    try:
                        importlib.import_module(f"{node.module}.{alias.name}")
                    except ModuleNotFoundError:
                        found.append(f"{node.module}.{alias.name}")
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_name_that_a_script_imports_is_there(script: Path) -> None:
    assert missing(script.read_text()) == []


def test_a_name_that_moved_is_noticed() -> None:
    text = "def main():\n    from himari_rl.schema import Bars, Barz\n    from himari_rl.policy import ledger\n"
    assert missing(text) == ["himari_rl.schema.Barz"]
