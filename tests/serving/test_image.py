"""What the container image installs: a lock with hashes, made from pyproject.toml, of what the tests ran with."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers import ROOT

LOCK = (ROOT / "requirements-serve.txt").read_text()
EXTRAS = ("serve", "gcs")


def pins(lock: str) -> dict[str, str]:
    """Version by name.

    Raises:
        AssertionError: a line pins nothing, or its pin has no sha256.
    """
    found = {}
    for block in re.split(r"\n(?=\S)", lock.strip()):
        if block.startswith("#"):
            continue
        first, *rest = [line.strip().rstrip("\\").strip() for line in block.splitlines()]
        pin = re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;]+)(\s*;.*)?", first)
        assert pin, f"{first!r} pins nothing"
        hashes = [line for line in rest if re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line)]
        assert hashes, f"{first} has no hash"
        found[canonicalize_name(pin[1])] = pin[2]
    return found


def unmet(requirements: Iterable[str], pinned: dict[str, str]) -> list[str]:
    """The requirements that the pins do not satisfy."""
    wanted = [Requirement(line) for line in requirements]
    return [
        str(each)
        for each in wanted
        if not each.specifier.contains(pinned.get(canonicalize_name(each.name), "0"))
        or canonicalize_name(each.name) not in pinned
    ]


def asked() -> list[str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    extras = [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    return [line for line in (*project["dependencies"], *extras) if not line.startswith("himari-rl")]


def test_every_line_of_the_images_lock_has_a_hash_and_its_pins_are_what_pyproject_asks_for() -> None:
    pinned = pins(LOCK)
    assert len(asked()) > 10
    assert unmet(asked(), pinned) == []
    assert not {"torch", "gymnasium", "pandas"} & set(pinned)


def test_the_image_has_the_versions_that_the_tests_ran_with() -> None:
    tested = dict(
        re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    )
    tested = {canonicalize_name(name): version for name, version in tested.items()}
    pinned = pins(LOCK)
    assert {name: tested[name] for name in pinned if name in tested} == pinned


def test_a_pin_without_a_hash_and_a_pin_too_old_are_noticed() -> None:
    """The negative controls."""
    with pytest.raises(AssertionError, match="b==2 has no hash"):
        pins("a==1 \\\n    --hash=sha256:" + "0" * 64 + "\nb==2\n    # via a")
    with pytest.raises(AssertionError, match="'b>=2' pins nothing"):
        pins("b>=2 \\\n    --hash=sha256:" + "0" * 64)
    assert unmet(["a>=2", "b>=1,<2", "c"], {"a": "1.9", "b": "1.5"}) == ["a>=2", "c"]


def test_the_image_installs_the_lock_and_nothing_beside_it() -> None:
    steps = (ROOT / "cloud_run" / "Dockerfile").read_text().replace("\\\n", "").splitlines()
    installs = [step.split(" && ")[0].rstrip() for step in steps if "pip install" in step]
    assert installs == ["RUN pip install --require-hashes -r requirements-serve.txt", "RUN pip install --no-deps ."]
