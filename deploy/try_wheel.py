"""Builds the wheel and tries it alone: a clean environment with [serve], nothing of this repository beside it.

    python deploy/try_wheel.py                          this Python
    python deploy/try_wheel.py python3.11 python3.13    each of these

For each: the size of what was installed, `himari doctor serve`, a bundle served over HTTP, one decision, an orderly
end. Needs a package registry and nothing but Python's own library; exit code 1 where a promise is not kept.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_MB = 110.0
"""Of installed packages, numpy's 73 among them, with the bytecode that pip compiles."""
NOT_OURS = ("pip", "setuptools", "_distutils_hack", "wheel")
STATE = {"state": [0.5, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0.1, 0.5, 0]}
MAKE_BUNDLE = """
import pathlib, runpy, sys
print(runpy.run_path(sys.argv[1])["make_bundle"](pathlib.Path(sys.argv[2]), hidden=(8,)))
"""


def say(line: str) -> None:
    """A line that is seen at once, in a pipe too."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run(*words: str | Path, cwd: Path) -> str:
    """A program's output; it must end with 0."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout


def megabytes(folder: Path) -> dict[str, float]:
    """What each package takes, the largest first."""
    sizes: dict[str, float] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).parts[0].partition("-")[0].partition(".")[0]
        if path.is_file() and name not in NOT_OURS:
            sizes[name] = sizes.get(name, 0.0) + path.stat().st_size / 1e6
    return dict(sorted(sizes.items(), key=lambda each: -each[1]))


def answer(himari: Path, bundle: str, work: Path) -> dict[str, object]:
    """One decision of a server that begins and ends here."""
    command = [str(himari), "serve", bundle, "--port", "0", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=work)
    try:
        assert server.stdout is not None
        said = json.loads(server.stdout.readline())
        body, headers = json.dumps(STATE).encode(), {"content-type": "application/json"}
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(f"{said['url']}/predict", body, headers)
        for _ in range(100):
            try:
                with direct.open(request, timeout=30) as reply:
                    return dict(json.load(reply))
            except ConnectionRefusedError:
                continue
        raise SystemExit("the server does not answer")
    finally:
        server.send_signal(signal.SIGTERM)
        if (code := server.wait(30)) not in (0, -signal.SIGTERM):
            raise SystemExit(f"the server ended with {code}")


def tried(python: str, wheel: Path, work: Path) -> str:
    """One line of what an interpreter did with the wheel."""
    home = work / python.replace("/", "_")
    run(python, "-m", "venv", home, cwd=work)
    programs = home / "bin"
    run(programs / "python", "-m", "pip", "install", "--quiet", f"{wheel}[serve]", cwd=work)
    [packages] = home.glob("lib/python*/site-packages")
    sizes = megabytes(packages)
    total = sum(sizes.values())
    version = run(programs / "python", "-c", "import platform; print(platform.python_version())", cwd=work).strip()
    fit = json.loads(run(programs / "himari", "doctor", "serve", "--json", cwd=work))["fit"]
    for words in (("doctor", "serve"), ("config", "show", "serve"), ("--help",)):  # lines for people, without rich
        run(programs / "himari", *words, cwd=work)
    maker = work / "bundle.py"
    shutil.copy(ROOT / "tests" / "helpers" / "bundle.py", maker)
    folder = work / f"made-{version}"
    folder.mkdir()
    bundle = run(programs / "python", "-I", "-c", MAKE_BUNDLE, maker, folder, cwd=work).strip()
    multiplier = answer(programs / "himari", bundle, work)["position_multiplier"]
    assert isinstance(multiplier, float)
    assert 0.0 <= multiplier <= 2.0
    largest = ", ".join(f"{name} {size:.0f}" for name, size in list(sizes.items())[:3])
    if total > MOST_MB or not fit:
        raise SystemExit(f"Python {version}: {total:.1f} MB (most {MOST_MB:g}), fit {fit}: {largest}")
    return f"Python {version}: {total:.1f} MB installed ({largest}); served a bundle, x{multiplier:.3f}"


def main(argv: list[str]) -> int:
    """Tries each interpreter."""
    os.environ.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        source = work / "source"
        names = ("src", "pyproject.toml", "README.md")
        source.mkdir()
        for name in names:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, source / name)
        run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", work, source, cwd=work)
        [wheel] = work.glob("*.whl")
        say(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB")
        for python in argv or [sys.executable]:
            say(tried(python, wheel, work))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
