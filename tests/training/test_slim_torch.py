"""torch's compilers stay out of a process of ours until somebody uses them; the weights are the same bits."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from himari_rl.training.slim_torch import TRIED, _Finder, import_later

TESTS = Path(__file__).parents[1]
SLIM = "from himari_rl.training.slim_torch import DELAYED, import_later, _Delayed; import_later()\n"


def python(code: str) -> str:
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TESTS)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_weights_are_the_same_bits_and_no_compiler_ran() -> None:
    train = (
        "import sys, torch; from helpers.training import agent_of, physics_of, trainer_of\n"
        "from helpers.envs import random_bars\n"
        "agent = agent_of(analytic_gradient_fraction=0.5)\n"
        "trainer_of(agent, physics_of(random_bars(200, 1)), 4).run()\n"
        "print([p.double().sum().item().hex() for p in agent.parameters()])\n"
    )
    asleep = "print(sorted(n for n in DELAYED if isinstance(sys.modules.get(n), _Delayed)) == sorted(DELAYED))"
    awake = "import himari_rl.cli, himari_rl.training.job; print(type(sys.modules['torch.export']) is type(sys))"
    slim, whole = python(SLIM + train + asleep).splitlines(), python(train + awake).splitlines()
    assert slim[0] == whole[0] != "[]"
    assert slim[1] == "True"
    assert whole[1] == "True", "nobody asked"


def test_what_was_left_out_is_there_when_it_is_used() -> None:
    python(
        SLIM + "import sys, torch\n"
        "assert isinstance(sys.modules['torch.export'], _Delayed)\n"
        "class Twice(torch.nn.Module):\n"
        "    def forward(self, x): return 2 * x\n"
        "made = torch.export.export(Twice(), (torch.ones(3),)).module()\n"
        "assert made(torch.ones(3)).tolist() == [2.0, 2.0, 2.0]\n"
        "assert not any(isinstance(sys.modules.get(name), _Delayed) for name in DELAYED)\n"  # they all ran
        "torch.testing.assert_close(torch.ones(2), torch.ones(2))\n"
    )


def test_the_installed_torch_is_one_that_this_was_tried_with() -> None:
    """Another one is imported whole: run the tests above with its version in TRIED, then keep it there."""
    assert version("torch").startswith(TRIED)
    python(
        "import himari_rl.training.slim_torch as slim, sys\n"
        "slim.TRIED = ('0.0',)\n"
        "slim.import_later()\n"
        "import torch\n"
        "assert not isinstance(sys.modules['torch.export'], slim._Delayed)"
    )


def test_where_torch_is_already_there_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    others = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    monkeypatch.setattr(sys, "meta_path", list(others))
    import_later()
    assert sys.meta_path == others
    assert type(sys.modules["torch.export"]) is type(torch)
    monkeypatch.delitem(sys.modules, "torch")  # the control
    import_later()
    assert len(sys.meta_path) == len(others) + 1
