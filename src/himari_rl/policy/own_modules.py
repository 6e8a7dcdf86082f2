"""What a module of somebody's own imports: files of their own, which are hashed with it, and packages, which are named.

    found = imported(Path("rules.py"), "rules")     found.modules {"bands": SHA-256, ...}, found.packages {"numpy"}

Imports are read from the source, and nothing is run: code is compared before a line of it runs. Followed are `import`
and `from` wherever they stand, and `import_module` and `__import__` of a name in quotes; the packages around a module
count, as their __init__.py runs first. Not seen: a name that is computed, a file that is read, and code that is run by
path. What lies in the standard library, among the installed packages or in this project is not somebody's own.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

INSTALLED = {"site-packages", "dist-packages"}
_CALLS = {"import_module", "__import__"}
_OURS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Imported:
    """What was found: own modules with the hash of their file, and the first names of installed packages."""

    modules: dict[str, str] = field(default_factory=dict)
    packages: set[str] = field(default_factory=set)


def imported(file: Path, name: str) -> Imported:
    """Everything that a module reaches, without the module itself.

    Args:
        file: the module's source. name: the name that it is imported under, for its relative imports.
    """
    is_package = file.name == "__init__.py"
    around = file.resolve().parents
    found, path = Imported(), [*sys.path, str(around[min(name.count(".") + is_package, len(around) - 1)])]
    waiting = [*_parents(name), *_asked(file, name, is_package)]
    seen = {name}
    while waiting:
        wanted = waiting.pop()
        if wanted in seen:
            continue
        seen.add(wanted)
        first = wanted.partition(".")[0]
        where, package = place_of(wanted, path)
        if where is None:  # no module, or a package without a file of its own
            continue
        if _is_own(where, installed=first == name.partition(".")[0]):
            found.modules[wanted] = hashlib.sha256(where.read_bytes()).hexdigest()
            waiting += [*_parents(wanted), *_asked(where, wanted, package)]
        elif INSTALLED & set(where.parts):
            found.packages.add(first)
    return found


def versions(packages: set[str]) -> dict[str, str]:
    """Distribution and version of what was found installed."""
    known = _distributions()
    names = {name for package in packages for name in known.get(package, ())}
    return {name: metadata.version(name) for name in sorted(names)}


def digest(own: str, modules: dict[str, str]) -> str:
    """One hash of a module and of all of its own modules; where it has none, its own."""
    if not modules:
        return own
    return hashlib.sha256("".join([own, *(f" {n} {modules[n]}" for n in sorted(modules))]).encode()).hexdigest()


@cache
def _distributions() -> dict[str, list[str]]:
    return {name: sorted(set(found)) for name, found in metadata.packages_distributions().items()}


def _parents(name: str) -> Iterator[str]:
    """The packages around a module."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _asked(file: Path, name: str, is_package: bool) -> Iterator[str]:
    """Names that a source file imports; of `from a import b` both a and a.b, as b may be a module."""
    if file.suffix != ".py":
        return
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # whoever imports it is told
        return
    around = name.split(".") if is_package else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = around[: len(around) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call) and _called(node.func) in _CALLS and node.args:
            said = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if isinstance(said, str) and said:
                dots = len(said) - len(said.lstrip("."))
                yield ".".join([*around[: len(around) - dots + 1], said[dots:]]) if dots else said


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def place_of(name: str, path: Sequence[str]) -> tuple[Path | None, bool]:
    """The file of a module, and whether it is a package; no file where there is no such module. Nothing is imported.

    What is imported already is asked where it came from; else every part of the name is looked for in the part before.
    """
    there = sys.modules.get(name)
    file = getattr(there, "__file__", None)
    if file and Path(file).is_file():
        return Path(file).resolve(), hasattr(there, "__path__")
    parts = name.split(".")
    if parts[0] in sys.stdlib_module_names:
        return None, False
    inside: Sequence[str] | None = path
    spec = None
    for i in range(len(parts)):
        so_far = ".".join(parts[: i + 1])
        known = sys.modules.get(so_far)
        if known is not None and hasattr(known, "__path__") and i + 1 < len(parts):
            inside = list(known.__path__)
            continue
        spec = None if inside is None else PathFinder.find_spec(so_far, inside) or (None if i else _by_hooks(so_far))
        if spec is None:
            return None, False
        inside = spec.submodule_search_locations
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None, False
    return Path(spec.origin).resolve(), spec.submodule_search_locations is not None


def _by_hooks(name: str) -> ModuleSpec | None:
    """A first name that an import hook knows, as of an editable installation."""
    try:
        return find_spec(name)
    except (ImportError, ValueError):  # ValueError: imported already, and without a spec
        return None


def _is_own(file: Path, installed: bool) -> bool:
    """Somebody's own file: not of Python, not of this project, and not installed, but for the package asked about."""
    if file.is_relative_to(_OURS):
        return False
    if INSTALLED & set(file.parts):
        return installed
    known = file.suffix == ".py" or file.name.endswith(tuple(EXTENSION_SUFFIXES))
    return known and not any(file.is_relative_to(place) for place in _standard())


@cache
def _standard() -> tuple[Path, ...]:
    places = sysconfig.get_paths()
    return tuple(Path(places[name]).resolve() for name in ("stdlib", "platstdlib"))
