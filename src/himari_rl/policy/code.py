"""A policy's code by reference: which function makes it, where that stands, and what its source was.

    code, factory = named("rules.py:volatility")      by name, as a person types it
    code = described(factory)                         a function or an adapter that is here already
    factory = resolved(code)                          again, in another process; refused where the source is another one

A bundle that names code runs nothing by itself: a process has the code already, or was told to run it (`allow_code`).
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from himari_rl.errors import BundleError, ConfigError
from himari_rl.policy.own_modules import Imported, digest, imported, place_of, versions

Factory = Callable[..., Any]  # (train bars, seed) -> a policy (policy/protocol.py)

ADAPTERS = {  # what may stand before the first colon, and the class that it means
    "rule": "himari_rl.experiments.adapters:RuleFactory",
    "table": "himari_rl.experiments.adapters:TableFactory",
    "onnx": "himari_rl.experiments.adapters:OnnxFactory",
    "sb3": "himari_rl.experiments.sb3:Sb3Factory",
}
PACKAGES = {"onnx": {"onnxruntime"}, "sb3": {"sb3_contrib", "stable_baselines3", "torch"}}  # what an adapter runs on
EXPECTED = "MODULE:NAME or FILE.py:NAME"
VARIABLE = "HIMARI_EXTERNAL_CODE"
SHOWN = 12  # digits of a hash that a name carries
_KNOWN: dict[tuple[str, ...], Factory] = {}
_TOLD = False


@dataclass(frozen=True, kw_only=True)
class CodeReference:
    """Code by name and hash. Two that are equal mean the same policy of the same training rows and seed."""

    name: str
    """MODULE:NAME, or an adapter and what it adapts: rule:MODULE:FUNCTION, table:FILE, onnx:FILE, sb3:ALGORITHM,
    sb3:FILE.zip."""
    sha256: str
    """Of the source of its module, or of the file it reads; of both files in a row where it reads two."""
    settings: str = ""
    """What it was made with."""
    modules: Mapping[str, str] = field(default_factory=dict)
    """Modules of its author's own that it imports, each with the hash of its source (policy/own_modules.py)."""

    @property
    def key(self) -> tuple[str, ...]:
        return self.name, self.sha256, self.settings, *(f"{name}={self.modules[name]}" for name in sorted(self.modules))

    def __str__(self) -> str:
        return self.name


def allow_code(told: bool = True) -> None:
    """This process may import the code that bundles name: said by a person, never by a bundle, and not taken back."""
    global _TOLD
    _TOLD = _TOLD or told


def named(name: str) -> tuple[CodeReference, Factory]:
    """The factory that a name stands for, which a person gave; its code runs.

    Raises:
        ConfigError: there is no such module, file, function or adapter.
    """
    adapter, _, rest = name.partition(":")
    if adapter in ADAPTERS:
        factory = adapter_class(adapter).of(rest)
        return described(factory), factory
    factory = loaded(name)
    where, _, called = name.rpartition(":")
    module = Path(where).stem if where.endswith(".py") else where
    own = _own(factory)  # an adapter that stands in a module: what it reads belongs to it too
    code = CodeReference(
        name=f"{module}:{called}",
        sha256=source_sha256(module),
        settings=_made_with(factory) if own is None else f"{own.settings}{own.sha256}",
        modules=own_modules(module).modules,
    )
    _KNOWN[code.key] = factory
    return code, factory


def with_hash(name: str) -> str:
    """MODULE:FUNCTION@HASH of code that a person named, MODULE:FUNCTION; what has its hash already stays as it is.

    Raises:
        ConfigError: there is no such function.
    """
    if "@" in name:
        return name
    code, _ = named(name)
    return f"{code.name}@{digest(code.sha256, dict(code.modules))[:SHOWN]}"


def of_hash(name: str) -> Factory:
    """The function that MODULE:FUNCTION@HASH means.

    Raises:
        BundleError: it is not here, or its source is another one.
    """
    called, _, expected = name.partition("@")
    try:
        module = called.rpartition(":")[0]
        found = digest(source_sha256(module), own_modules(module).modules)[:SHOWN]  # before a line of it runs
        if found == expected:
            return loaded(called)
    except (ConfigError, ImportError) as error:
        raise BundleError(f"the code {called} is not here: {error}", f"its source, {expected}") from error
    raise BundleError(f"{called} is {found} now", f"{expected}, as it was named", "name it again, and train anew")


def described(factory: Factory) -> CodeReference:
    """What names a factory that is here: an adapter says so itself, a function has a module and a name.

    Raises:
        ConfigError: something that cannot be called.
    """
    if not callable(factory):
        raise ConfigError(
            f"a {type(factory).__name__} where a factory belongs",
            "a function of (train_bars, seed) that returns a policy, or its name MODULE:NAME",
            "see docs/judge.md",
        )
    code = _own(factory)
    if code is None:
        at = factory.func if isinstance(factory, functools.partial) else factory
        at = at if hasattr(at, "__qualname__") else type(at)
        name = f"{module_name(at.__module__)}:{at.__qualname__}"
        code = CodeReference(
            name=name, sha256=_source_of(at), settings=_made_with(factory), modules=_imported_by(at).modules
        )
    _KNOWN[code.key] = factory
    return code


def resolved(code: CodeReference, folder: str = "", *, told: bool = False, restoring: bool = False) -> Factory:
    """The factory that a reference means.

    Args:
        folder: where its module lies, if it is not on the path.
        told: a person named this code in the call that led here.
        restoring: it is to bring kept arrays back, and not to fit: what an adapter read is among the arrays.

    Raises:
        BundleError: nobody told this process to run it, it is not here, or it is not what it was.
    """
    if code.key in _KNOWN:
        return _KNOWN[code.key]
    if not (told or _TOLD or os.environ.get(VARIABLE, "").lower() in ("1", "true", "yes")):
        raise BundleError(
            f"this policy is code, {code.name}, and this process was not told to run it",
            "a process that has the code and was told so",
            f"read it, then give --external-code ({VARIABLE}=1)",
        )
    adapter, _, rest = code.name.partition(":")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    try:
        if adapter in ADAPTERS and adapter != "rule":
            factory: Factory = adapter_class(adapter).of(rest, code.settings)
            own = None if restoring else _own(factory)
            _require_same(code, code.sha256 if own is None else own.sha256)
        else:
            where, _, _ = (rest if adapter == "rule" else code.name).rpartition(":")
            _require_same(code, source_sha256(where), own_modules(where).modules)  # before a line of it runs
            _, factory = named(code.name)
    except (ConfigError, ImportError) as error:
        raise BundleError(
            f"the code {code.name} is not here: {error}",
            "the module that was judged",
            "name the folder it lies in: PYTHONPATH=FOLDER himari ...",
        ) from error
    _KNOWN[code.key] = factory
    return factory


def _require_same(code: CodeReference, sha256: str, modules: Mapping[str, str] | None = None) -> None:
    cure = "judge it as it is now, or bring the file of then back"
    if sha256 != code.sha256:
        found = f"{code.name} is not the code that was judged: sha256 {sha256[:SHOWN]}"
        raise BundleError(found, f"sha256 {code.sha256[:SHOWN]}", cure)
    if modules is None:
        return
    for name in sorted({*modules, *code.modules}):
        now, then = (each.get(name, "") for each in (modules, code.modules))
        if now != then:
            said = f"its module {name} is {f'sha256 {now[:SHOWN]}' if now else 'gone'}"
            expected = f"sha256 {then[:SHOWN]}" if then else "no such module, as then"
            raise BundleError(f"{code.name} is not the code that was judged: {said}", expected, cure)


def packages_of(code: CodeReference) -> dict[str, str]:
    """Distributions and versions that the code runs on here, as far as its own modules import them."""
    return dict(_packages(code.key))


@functools.cache
def _packages(key: tuple[str, ...]) -> dict[str, str]:
    adapter, _, rest = key[0].partition(":")
    if adapter in ADAPTERS and adapter != "rule":
        return versions(PACKAGES.get(adapter, set()))
    try:
        return versions(own_modules((rest if adapter == "rule" else key[0]).rpartition(":")[0]).packages)
    except ImportError:  # of a notebook, or run under a name of its own
        return {}


def adapter_class(name: str) -> Any:
    """The class of an adapter; imported where it is asked for, as some need what is optional."""
    module, _, called = ADAPTERS[name].partition(":")
    return getattr(import_module(module), called)


def loaded(name: str) -> Factory:
    """The function that MODULE:NAME or FILE.py:NAME stands for.

    Raises:
        ConfigError: there is no such module, file or function.
    """
    where, _, called = name.rpartition(":")
    if not where or not called:
        raise ConfigError(f"function {name!r}", EXPECTED, "name both, with a colon between")
    try:
        if where.endswith(".py"):
            module = _of_file(Path(where))
        else:
            if "" not in sys.path:
                sys.path.insert(0, "")  # as `python -m` does: a module beside you
            module = import_module(where)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(f"{where} cannot be imported: {error}", EXPECTED, "run it where the module is") from error
    found: Any = module
    for part in called.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ConfigError(f"{where} has no function {called}", EXPECTED, "check its name")
    return found  # type: ignore[no-any-return]


def folder_of(factory: Factory) -> str:
    """The folder from which a factory's module is imported; for a worker on the same disk."""
    at = getattr(factory, "function", factory)
    module = sys.modules.get(getattr(at, "__module__", ""))
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        return ""
    depth = 0 if module.__name__ in ("__main__", "__mp_main__") else module.__name__.count(".")
    return str(Path(file).resolve().parents[depth])


def module_name(name: str) -> str:
    """A module's name for others: a script's is that of its file."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return Path(file).stem if name in ("__main__", "__mp_main__") and file else name


def source_sha256(name: str) -> str:
    """The hash of a module's file as it is now, without importing it; of one without a file, of its name.

    Raises:
        ImportError: there is no such module.
    """
    file = _file_of(name)
    return hashlib.sha256(file.read_bytes() if file else name.encode()).hexdigest()


def own_modules(name: str) -> Imported:
    """What a module imports, as its source is now, without importing it.

    Raises:
        ImportError: there is no such module.
    """
    file = _file_of(name)
    return imported(file, module_name(name)) if file else Imported()


def _file_of(name: str) -> Path | None:
    module = sys.modules.get(name)
    if module is not None:
        file = getattr(module, "__file__", None)
        return Path(file) if file and Path(file).is_file() else None
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: a module beside you
    found, _ = place_of(name, sys.path)
    if found is None:
        raise ImportError(f"No module named {name!r}")
    return found


def _imported_by(at: Any) -> Imported:
    """What the file of a function or class imports, whether or not its module can be imported by name."""
    if at.__module__ in sys.modules or not isinstance(at, FunctionType):
        return own_modules(at.__module__)
    file = Path(at.__code__.co_filename)
    return imported(file, file.stem) if file.is_file() else Imported()


def _source_of(at: Any) -> str:
    """The hash of the file in which a function or class stands, whether or not its module can be imported by name."""
    if getattr(sys.modules.get(at.__module__), "__file__", None) or not isinstance(at, FunctionType):
        return source_sha256(at.__module__)
    file, code = Path(at.__code__.co_filename), at.__code__  # of a notebook, or run under a name of its own
    told = code.co_code + _plain([each for each in code.co_consts if not hasattr(each, "co_code")]).encode()
    return hashlib.sha256(file.read_bytes() if file.is_file() else told).hexdigest()


def _own(factory: Factory) -> CodeReference | None:
    """What an adapter says of itself."""
    said = getattr(factory, "reference", None)
    return said() if callable(said) and not isinstance(factory, FunctionType | functools.partial | type) else None


def _of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"no file {path}", EXPECTED, "check the path")
    there = sys.modules.get(path.stem)
    if there is not None and Path(str(getattr(there, "__file__", ""))).resolve() == path.resolve():
        return there
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file", EXPECTED, "check the path")
    module = module_from_spec(spec)
    if str(path.resolve().parent) not in sys.path:
        sys.path.append(str(path.resolve().parent))  # where a worker process looks for it
    sys.modules[spec.name] = module  # dataclasses and pickle look their module up
    spec.loader.exec_module(module)
    return module


def _made_with(factory: Factory) -> str:
    """What shapes a factory besides its source: bound arguments, defaults, what it encloses, an object's fields."""
    if isinstance(factory, functools.partial):
        inner = _made_with(factory.func)
        return f"{inner}{_plain((factory.args, factory.keywords))}"
    if isinstance(factory, FunctionType):
        cells = [cell.cell_contents for cell in factory.__closure__ or ()]
        enclosed = dict(zip(factory.__code__.co_freevars, cells, strict=True))
        return _plain(enclosed) if enclosed else ""
    return "" if isinstance(factory, type) or not hasattr(factory, "__dict__") else _plain(vars(factory))


def _plain(value: Any) -> str:
    """A value as text that is the same in every process; of what has none, its type."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    if isinstance(value, np.ndarray):
        return f"array {value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}={_plain(each)}" for key, each in sorted(value.items(), key=str)) + "}"
    if isinstance(value, Sequence):
        return "(" + ", ".join(map(_plain, value)) + ")"
    if isinstance(value, FunctionType | type):
        return f"{module_name(value.__module__)}:{value.__qualname__}"
    return type(value).__name__
