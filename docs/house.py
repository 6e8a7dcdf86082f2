"""Writes docs/house.md: every room and file with the first line of its own docstring. `python docs/house.py --check`
exits 1 where the page is not what the code says.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "house.md"
PACKAGE = "src/himari_rl"
FIRST = ("__init__", "schema", "errors", "config")  # read before the rooms
ROOMS = (  # read order is run order
    *("storage", "monitoring", "data", "features", "policy", "envs", "agents", "training", "evaluation", "card"),
    *("experiments", "certification", "release", "serving", "runner", "cloud", "cli"),
)
THIN = ("vertex_training", "cloud_run", "monitoring", "testing", "examples", "benchmarks")
HEAD = """# The house

Read order is run order: bars become features, features become observations, an agent acts in an environment, the
trainer improves it, export writes a bundle, evaluation judges it, the gate releases it, serving runs it. A module
imports only from the rooms below its own (`make lint` checks it), and what ships imports no torch.

This page is written by `python docs/house.py` from the first line of each file.
"""


def caption(path: Path) -> str:
    """The first line of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.partition("\n")[0].rstrip(".")


def rows(folder: Path, depth: int) -> list[str]:
    """A folder's files and subfolders, one line each."""
    found = []
    for path in sorted(folder.iterdir(), key=lambda p: (p.is_dir(), p.name)):
        if path.is_dir() and (path / "__init__.py").exists():
            found += [line(path.name + "/", caption(path / "__init__.py"), depth), *rows(path, depth + 1)]
        elif path.suffix == ".py" and path.name != "__init__.py":
            found.append(line(path.name, caption(path), depth))
    return found


def line(name: str, text: str, depth: int) -> str:
    """One line of the tree, at most 120 columns."""
    start = f"{'    ' * depth}{name}".ljust(32)
    room = 120 - len(start)
    return f"{start}{text if len(text) <= room else text[: room - 2].rsplit(' ', 1)[0] + ' …'}".rstrip()


def page() -> str:
    """The whole page."""
    package = ROOT / PACKAGE
    tree = [f"{PACKAGE}/"]
    tree += [line(f"{name}.py", caption(package / f"{name}.py"), 1) for name in FIRST]
    others = [room.name for room in package.iterdir() if (room / "__init__.py").exists() and room.name not in ROOMS]
    for room in (*ROOMS, *sorted(others)):
        if (package / room).is_dir():
            tree += ["", line(f"{room}/", caption(package / room / "__init__.py").upper(), 1), *rows(package / room, 2)]
    for name in THIN:
        if found := rows(ROOT / name, 1) if (ROOT / name).is_dir() else []:
            tree += ["", f"{name}/", *found]
    tree += ["", *(line(path.name, caption(path), 0) for path in sorted(ROOT.glob("*.py")))]
    return HEAD + "\n```text\n" + "\n".join(tree) + "\n```\n"


def main(argv: list[str]) -> int:
    """Writes the page, or with --check compares it."""
    if "--check" in argv:
        same = PAGE.exists() and PAGE.read_text() == page()
        if not same:
            sys.stderr.write("docs/house.md is not what the code says; run: python docs/house.py\n")
        return 0 if same else 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
