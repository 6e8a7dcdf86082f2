"""Code by reference: its author's own modules are hashed with it, however they are imported; packages are named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from himari_rl.errors import BundleError
from himari_rl.policy import code as code_room
from himari_rl.policy.code import CodeReference, described, named, of_hash, packages_of, resolved, with_hash
from himari_rl.policy.own_modules import imported, versions

RULE = "def rule(states):\n    return states[:, 0]\n"


@pytest.fixture
def place(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, whose modules nobody remembers afterwards; those of other tests are put aside."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path_factory.getbasetemp())):
            monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(code_room, "_KNOWN", {})
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(place: Path, **files: str) -> None:
    for name, text in files.items():
        path = place / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def package(place: Path) -> None:
    """pkg.sub.rules, and beside it every way to import: of the ten modules one is nobody's."""
    for init in ("pkg", "pkg/sub", "pkg/far"):
        (place / init).mkdir(parents=True, exist_ok=True)
        (place / init / "__init__.py").write_text("")
    (place / "pkg" / "far" / "__init__.py").write_text("from .. import behind\n")
    write(
        place,
        pkg__sub__rules="import math, numpy as np\nfrom . import one\nfrom .two import size\nimport pkg.far.four\n"
        + "import alone\nimport not_here_at_all\nfrom himari_rl.schema import Bars\n"
        + "def rule(states):\n    from importlib import import_module\n    import_module('.six', 'pkg.sub')\n"
        + "    __import__('seven')\n    return states[:, 0]\n",
        pkg__sub__one="from .three import *\n",
        pkg__sub__two="size = 1\n",
        pkg__sub__three="",
        pkg__sub__six="",
        pkg__sub__nobody="",
        pkg__far__four="",
        pkg__behind="",
        alone="import pandas.core\n",
        seven="import alone\n",
    )


def test_every_way_to_import_is_followed_and_nothing_is_run(place: Path) -> None:
    package(place)
    for file in place.rglob("*.py"):
        file.write_text(file.read_text() + f"\nraise RuntimeError({file.name!r})\n")
    found = imported(place / "pkg" / "sub" / "rules.py", "pkg.sub.rules")
    near = {"pkg", "pkg.sub", "pkg.sub.one", "pkg.sub.two", "pkg.sub.three", "pkg.sub.six"}
    assert set(found.modules) == near | {"pkg.far", "pkg.far.four", "pkg.behind", "alone", "seven"}
    assert found.packages == {"numpy", "pandas"}
    assert versions(found.packages)["numpy"] == np.__version__


def change(text: str) -> Callable[[Path], None]:
    return lambda file: file.write_text(file.read_text() + text)


@pytest.mark.parametrize(
    ("which", "how", "said"),
    [
        ("helper", change("\nLEVEL = 3.0\n"), "its module helper is sha256"),
        ("deeper", change("# a word\n"), "its module deeper is sha256"),
        ("deeper", Path.unlink, "its module deeper is gone"),
    ],
)
def test_a_changed_helper_is_refused_by_name_before_a_line_of_it_runs(
    place: Path, which: str, how: Callable[[Path], None], said: str
) -> None:
    write(place, mine="from helper import size\ndef rule(states):\n    return size(states)\n")
    write(place, helper="import deeper\ndef size(states):\n    return states[:, 0]\n", deeper="")
    reference, _ = named("rule:mine:rule")
    assert set(reference.modules) == {"helper", "deeper"}
    how(place / f"{which}.py")
    for name in ("mine", "helper", "deeper"):
        del sys.modules[name]
    code_room._KNOWN.clear()
    with pytest.raises(BundleError, match=said) as refused:
        resolved(reference, told=True)
    assert "rule:mine:rule is not the code that was judged" in str(refused.value)
    assert "mine" not in sys.modules


def test_a_module_that_was_not_there_then_is_refused_too(place: Path) -> None:
    write(place, optional="try:\n    import extra\nexcept ImportError:\n    extra = None\n" + RULE)
    reference, _ = named("rule:optional:rule")
    assert reference.modules == {}
    write(place, extra="")
    del sys.modules["optional"]
    code_room._KNOWN.clear()
    with pytest.raises(BundleError, match=r"its module extra is sha256 .*expected no such module, as then"):
        resolved(reference, told=True)


def test_unchanged_it_is_found_again_and_code_without_helpers_keeps_its_key(place: Path) -> None:
    write(place, plain=RULE, other="import plain\nrule = plain.rule\n")
    reference, _ = named("plain:rule")
    assert reference.key == ("plain:rule", reference.sha256, "")
    second, _ = named("rule:other:rule")
    assert second.modules == {}  # the function stands in `plain`, and that is what is named
    assert second.name == "rule:plain:rule"
    code_room._KNOWN.clear()
    sys.modules.pop("plain")
    assert resolved(reference, told=True).__name__ == "rule"


def test_a_script_names_the_modules_beside_it(place: Path) -> None:
    lines = ["from helper import rule", "from himari_rl.policy.code import described", "def mine(states):"]
    lines += ["    return rule(states)", "print(described(mine).name, *described(mine).modules)", ""]
    write(place, helper=RULE, script="\n".join(lines))
    ran = subprocess.run([sys.executable, str(place / "script.py")], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["script:mine", "helper"]


def test_a_reward_of_ones_own_is_another_where_its_helper_is(place: Path) -> None:
    write(place, worth="import scale\ndef reward(growth, back, cost, turnover):\n    return growth\n", scale="K = 1\n")
    name = with_hash("worth:reward")
    assert of_hash(name).__name__ == "reward"
    (place / "scale.py").write_text("K = 2\n")
    with pytest.raises(BundleError, match="as it was named"):
        of_hash(name)


def test_packages_are_told_and_not_asked_for(place: Path) -> None:
    write(place, mine="import numpy, pydantic\n" + RULE)
    reference, _ = named("rule:mine:rule")
    assert set(packages_of(reference)) == {"numpy", "pydantic"}
    assert packages_of(CodeReference(name="table:past.csv", sha256="")) == {}
    assert set(packages_of(CodeReference(name="sb3:PPO", sha256=""))) <= {"sb3_contrib", "stable_baselines3", "torch"}
    assert described(reference.__class__).modules == {}  # this project's own code goes by its version
