"""What several tests share: the repository's own paths, real bars where they lie, a fresh Python process."""

from __future__ import annotations

import gc
import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType, ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PATIENCE_S = float(os.environ.get("HIMARI_PATIENCE_S", "300"))
"""How long a test waits for something that must come: it catches what hangs, never what is slow."""


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


def shared_case(*parts: str) -> Path:
    """A file of the list of cases, which stands beside the real market data; a visible skip where it is absent."""
    return shared_data("..", "cases", *parts)


def run_python(code: str, *, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh interpreter with warnings as errors, so that nothing this process imported helps it."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=PATIENCE_S,
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
        timeout=2 * PATIENCE_S,
        check=False,
        env={**os.environ, "COLUMNS": "120", **environment},
    )


def himari_here(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """What `run_himari` says, from this process: for a command that some other test starts as a shell would."""
    from himari_rl.cli import main

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in {"COLUMNS": "120", **environment}.items():
            patch.setenv(name, value)
        if cwd is not None:
            patch.chdir(cwd)
        code = main(list(arguments))
    said = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(arguments, code, *said)


def calls_of(work: Callable[[], object]) -> int:
    """Functions called by `work` the second time, Python's and C's: what it costs, on a machine of any speed."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    work()  # imports, caches
    before = sys.getprofile()
    gc.disable()  # hypothesis has callbacks in every collection
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
        gc.enable()
    return calls


@contextmanager
def hearing_ctrl_c() -> Iterator[None]:
    """Ctrl-C is heard here and in processes begun here.

    `nohup`, most CI runners and a shell's background start a program with SIGINT ignored; its children inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def load_script(path: str) -> ModuleType:
    """A file outside the package, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
