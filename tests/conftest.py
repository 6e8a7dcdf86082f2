"""What no test may depend on: another test's trials, optima or allowed code, a shell deaf to Ctrl-C, a fast machine."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from helpers import hearing_ctrl_c
from helpers.warm import Warm, warm_processes
from himari_rl.certification.solvers.optimum import solution
from himari_rl.policy import code

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_collection_finish() -> None:
    """Modules and tests live as long as the session: no collection of garbage, which tests ask for, looks at them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_heard() -> Iterator[None]:
    """Also under `nohup make test`, and in every process that a test begins."""
    with hearing_ctrl_c():
        yield


@pytest.fixture(scope="session")
def _ledgers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of its own for each test, under one: pytest's would look through all its thousands for the next name."""
    place = tmp_path_factory.mktemp("ledgers")
    return (place / str(number) for number in count())


@pytest.fixture(autouse=True)
def _own_trial_ledger(_ledgers: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = next(_ledgers)
    folder.mkdir()
    monkeypatch.setenv("HIMARI_TRIALS", str(folder / "trials.sqlite"))


@pytest.fixture(autouse=True)
def _nobody_allowed_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a person says to a process, a test says to itself: also one that serves or judges within this process."""
    monkeypatch.setattr(code, "_TOLD", False)


@pytest.fixture(autouse=True, scope="session")
def _a_ledger_for_what_many_tests_share(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fixtures of a whole module train before a test has a ledger of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIMARI_TRIALS", str(tmp_path_factory.mktemp("trials") / "trials.sqlite"))
        yield


@pytest.fixture(scope="session")
def cold_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of solved optima that begins empty: what is tested is solved in this session, not on an earlier day."""
    place = tmp_path_factory.getbasetemp()  # of a worker; what lies above it is all workers' and of this session too
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "HIMARI_CACHE_DIR", str((place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "optima")
        )
        solution.cache_clear()
        yield


@pytest.fixture(scope="session")
def warm(_ctrl_c_is_heard: None) -> Iterator[Warm]:
    """Processes that begin in milliseconds, with torch imported."""
    with warm_processes() as server:
        yield server
