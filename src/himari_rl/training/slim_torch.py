"""torch without its compilers: what only torch.compile, torch.export and quantisation need is imported when it is used.

    import_later()      before the first `import torch` of a process that is ours: the command line and its workers

Of the 1.4 CPU seconds of `import torch` (2.13) a third goes to graphs, quantised layers and the compiler's rules of
shapes, none of which training touches. Each module of `DELAYED` runs at its first use, so that nothing is missing, and
whoever imports a compiler gets all of them first: it relies on what they register. A version of torch that nobody has
tried this with (`TRIED`) is imported whole.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

TRIED = ("2.13",)
DELAYED = (
    "torch._meta_registrations",
    "torch._native",
    "torch.ao",
    "torch.distributed._meta_registrations",
    "torch.distributions",
    "torch.export",
    "torch.masked",
    "torch.nn.intrinsic",
    "torch.nn.qat",
    "torch.nn.quantizable",
    "torch.nn.quantized",
    "torch.optim",
    "torch.quantization",
    "torch.testing",
)
COMPILERS = ("torch._dynamo", "torch._export", "torch._inductor", "torch.onnx")


class _Delayed(ModuleType):
    """A module whose code runs at its first use."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system's own questions are no use
            raise AttributeError(name)
        run(self)
        return getattr(self, name)


class _DelayedLoader(Loader):
    """Makes an empty module and keeps the loader that fills it."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Delayed(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Not yet, but for one thing that torch does behind these modules: no generator can be made before it."""
        core: Any = sys.modules["torch._C"]
        core._set_generator_metaclass(import_module("torch._opaque_base").OpaqueBaseMeta)


class _Finder:
    """Finds the modules of `DELAYED` before anybody else does, where the torch that is imported is one of `TRIED`."""

    tried = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "torch":
            self.tried = _version().startswith(TRIED)
        elif name in COMPILERS:
            for each in DELAYED:
                run(sys.modules.get(each))
        if name not in DELAYED or not self.tried:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _DelayedLoader(spec.loader)
        return spec


_FINDER = _Finder()


def import_later() -> None:
    """From here on, `import torch` leaves the modules of `DELAYED` for later; nothing where torch is there already."""
    if "torch" not in sys.modules and _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def _version() -> str:
    """Of the torch that is installed; empty where none is."""
    from importlib.metadata import PackageNotFoundError, version  # 10 ms that a command without torch does not pay

    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


def run(module: ModuleType | None) -> None:
    """Runs a delayed module's code; any other module is left as it is."""
    if not isinstance(module, _Delayed):
        return
    module.__class__ = ModuleType  # type: ignore[assignment]  # from here on it is a module like any other
    spec = module.__spec__
    if spec is not None and isinstance(spec.loader, _DelayedLoader):
        module.__loader__ = spec.loader = spec.loader.loader
        spec.loader.exec_module(module)
