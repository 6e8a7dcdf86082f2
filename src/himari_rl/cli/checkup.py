"""What `himari doctor` looks at: this machine, this Python, what is installed, data and credentials. Nobody is asked.

Only what is here is read: versions of installed packages, the folder, environment variables and files that hold
credentials (whether they are there, never what is in them). No network, and no import of what is looked at.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess  # nosec B404 - nvidia-smi by its own name, no shell
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from himari_rl.cli.extras import EXTRAS, INCLUDES

OK, ABSENT, BAD = "ok", "absent", "missing"
"""As it should be; not here and not needed by what was asked for; not here and needed, or unfit."""
TESTED = ((3, 11), (3, 13))
DISK_GIB, MEMORY_GIB = 2.0, 2.0
"""A training set-up is 1.2 GB on disk; a walk-forward of hours on two processes takes 1 GB of memory."""
SUFFIXES = (".csv", ".csv.gz", ".parquet", ".feather", ".json", ".jsonl")
ADC = Path(".config") / "gcloud" / "application_default_credentials.json"
SMI_S = 10.0
PORT = 8080


class Finding(NamedTuple):
    """One thing that was looked at."""

    name: str
    state: str
    said: str
    cure: str = ""


def findings(needed: Sequence[str], data: str | None, environment: Mapping[str, str]) -> list[Finding]:
    """Everything, in the order of the page.

    Args:
        needed: extras that must be there.
        data: folder or file of bars that must be there; by default `data`, which may be absent.
    """
    looks = (versions(needed), machine(), extras(needed), files(data), cloud(environment))
    return [finding for look in looks for finding in look]


def versions(needed: Sequence[str]) -> Iterator[Finding]:
    """Of Python, of this package, and of whatever is installed outside the bounds that the extras have.

    A package that is unfit for an extra that nobody asked for is no fault: it may serve something else here.
    """
    from himari_rl import __file__ as here
    from himari_rl import __version__

    version = ".".join(map(str, sys.version_info[:3]))
    low, high = (".".join(map(str, bound)) for bound in TESTED)
    if sys.version_info[:2] < TESTED[0]:
        yield Finding("python", BAD, f"{version}, expected {low} or newer", f"make venv PYTHON=python{high}")
    else:
        untried = sys.version_info[:2] > TESTED[1]
        yield Finding("python", OK, f"{version} at {sys.executable}" + (f"; tried up to {high}" if untried else ""))
    yield Finding("himari_rl", OK, f"{__version__} at {Path(here).parent}")
    try:
        asked = metadata.requires("himari-rl") or []
    except metadata.PackageNotFoundError:
        yield Finding("package", ABSENT, "not installed, run from its folder", "pip install .")
        return
    wanted = with_included(needed)
    wrong = list(out_of_bounds(asked))
    for name, found, bounds, extra in wrong:
        state, whose = (BAD, "") if not extra or extra in wanted else (ABSENT, f" by the extra {extra}")
        cure = f"pip install '{name}{bounds}'"
        yield Finding(name, state, f"{found or 'not installed'}, expected {bounds}{whose}", cure)
    if not wrong:
        yield Finding("packages", OK, "every installed one is of a version that is asked for")


def with_included(needed: Sequence[str]) -> set[str]:
    """Extras, and those that they bring along."""
    return {part for extra in needed for part in (extra, *INCLUDES.get(extra, ()))}


def out_of_bounds(requirements: Sequence[str]) -> Iterator[tuple[str, str, str, str]]:
    """(name, version here, bounds, extra) of each package that is here in another version, or of the core and not here.

    Extras for work on this project itself (tests, docs, peers) are nobody's here.
    """
    for line in dict.fromkeys(requirements):
        requirement, _, marker = line.partition(";")
        parts = re.fullmatch(r"\s*([\w.-]+)\s*(?:\[[^]]*\])?\s*\(?([^)]*)\)?\s*", requirement)
        extra = "".join(re.findall(r"extra\s*==\s*[\"']([\w-]+)", marker))
        if parts is None or "himari" in parts[1] or (extra and extra not in EXTRAS):
            continue
        name, bounds = parts[1], ",".join(sorted(parts[2].replace(" ", "").split(","), reverse=True))
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            if not marker.strip():
                yield name, "", bounds, ""
            continue
        if not all(fits(found, bound) for bound in bounds.split(",") if bound):
            yield name, found, bounds, extra


def fits(version: str, bound: str) -> bool:
    """Whether a version is within one bound: >=, >, ==, !=, <=, <; any other is taken for fitting."""
    parts = re.match(r"(>=|<=|==|!=|>|<)([\w.]+)$", bound)
    if parts is None:
        return True
    here, there = _numbers(version), _numbers(parts[2])
    width = max(len(here), len(there))
    here, there = here + (0,) * (width - len(here)), there + (0,) * (width - len(there))
    return {
        ">=": here >= there, "<=": here <= there, "==": here == there,
        "!=": here != there, ">": here > there, "<": here < there,
    }[parts[1]]  # fmt: skip


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"[\d.]*", version.partition("+")[0])
    return tuple(int(part) for part in (release[0] if release else "").split(".") if part)


def machine() -> Iterator[Finding]:
    """Cores, memory, disk, GPU, the usual port."""
    yield Finding("cores", OK, f"{os.cpu_count()}")
    memory = _memory_gib()
    if memory is not None:
        enough = memory >= MEMORY_GIB
        cure = "" if enough else "train fewer seeds at once: --jobs 1"
        yield Finding("memory", OK if enough else BAD, f"{memory:.1f} GiB", cure)
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    enough = free >= DISK_GIB
    yield Finding(
        "disk",
        OK if enough else BAD,
        f"{free:.1f} GiB free here",
        "" if enough else "make room, or go where there is some",
    )
    if not os.access(Path.cwd(), os.W_OK):
        yield Finding("folder", BAD, f"{Path.cwd()} cannot be written", "cd to a folder of yours")
    yield _gpu()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError:
            yield Finding("port", ABSENT, f"{PORT} is taken", "himari serve BUNDLE --port 8081")
        else:
            yield Finding("port", OK, f"{PORT} is free")


def _memory_gib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):  # no such question here
        return None


def _gpu() -> Finding:
    """What nvidia-smi names, and whether torch's build could use it."""
    program = shutil.which("nvidia-smi")
    named = ""
    if program is not None:
        command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        try:
            named = subprocess.run(command, capture_output=True, text=True, timeout=SMI_S, check=True).stdout.strip()  # nosec B603
        except (OSError, subprocess.SubprocessError):
            return Finding("gpu", ABSENT, "nvidia-smi is here and does not answer", "the CPU is enough: --device cpu")
    if not named:
        return Finding("gpu", OK, "none; the nets are small and the CPU is enough")
    try:
        cpu_build = "+cpu" in metadata.version("torch")
    except metadata.PackageNotFoundError:
        cpu_build = False
    if cpu_build:
        return Finding(
            "gpu", ABSENT, f"{named}; torch here is the CPU's build", "the CPU is enough; or install torch for CUDA"
        )
    return Finding("gpu", OK, named.replace("\n", "; "))


def extras(needed: Sequence[str]) -> Iterator[Finding]:
    """Which extras are complete."""
    wanted = with_included(needed)
    for extra, packages in EXTRAS.items():
        absent = [package for package in packages if not _here(package)]
        state = OK if not absent else BAD if extra in wanted else ABSENT
        said = "installed" if not absent else f"without {', '.join(absent)}"
        yield Finding(f"extra {extra}", state, said, f"pip install 'himari-rl[{extra}]'" if absent else "")


def _here(package: str) -> bool:
    name = {"google": "google.cloud.storage"}.get(package, package)  # other packages bring the name `google` too
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def files(data: str | None) -> Iterator[Finding]:
    """Bars, and runs that are here."""
    place = Path(data or "data")
    cure = "himari init FOLDER makes sample bars; himari data fetch BTC-USD --since 2020-01-01 fetches real ones"
    found = [path for path in _below(place) if path.name.endswith(SUFFIXES)]
    if found:
        yield Finding("data", OK, f"{len(found)} files in {place}, the first {found[0]}", "")
    else:
        yield Finding("data", BAD if data else ABSENT, f"no bars in {place}", cure)
    runs = sorted(Path("runs").glob("*/bundle/manifest.json"))
    if runs:
        yield Finding("runs", OK, f"{len(runs)} bundles, the first {runs[0].parent}")


def _below(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return sorted(path for pattern in ("*", "*/*") for path in place.glob(pattern) if path.is_file())


def cloud(environment: Mapping[str, str]) -> Iterator[Finding]:
    """What the road to Google Cloud asks for; nothing of it is needed here."""
    project = environment.get("GOOGLE_CLOUD_PROJECT")
    yield Finding(
        "cloud project",
        OK if project else ABSENT,
        project or "none named",
        "" if project else "export GOOGLE_CLOUD_PROJECT=ID",
    )
    named = environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    file = Path(named) if named else Path(environment.get("HOME", "~")).expanduser() / ADC
    if file.is_file():
        yield Finding("cloud credentials", OK, f"at {file}")
    elif named:
        cure = "unset GOOGLE_APPLICATION_CREDENTIALS, or name a file that is there"
        yield Finding(
            "cloud credentials", BAD, f"GOOGLE_APPLICATION_CREDENTIALS names {named}, which is not there", cure
        )
    else:
        yield Finding("cloud credentials", ABSENT, "none on this machine", "gcloud auth application-default login")
    for program in ("gcloud", "terraform", "docker"):
        place = shutil.which(program)
        yield Finding(program, OK if place else ABSENT, place or "not here", "" if place else "for himari deploy alone")
