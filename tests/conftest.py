"""What tests must not share: the trial ledger, since one's look is no trial of another, and solved optima."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from himari_rl.certification.solvers.optimum import solution


@pytest.fixture(autouse=True)
def _own_trial_ledger(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder: Path = tmp_path_factory.mktemp("trials")
    monkeypatch.setenv("HIMARI_TRIALS", str(folder / "trials.sqlite"))


@pytest.fixture(autouse=True, scope="session")
def _a_ledger_for_what_many_tests_share(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fixtures of a whole module train before a test has a ledger of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIMARI_TRIALS", str(tmp_path_factory.mktemp("trials") / "trials.sqlite"))
        yield


@pytest.fixture(scope="module")
def cold_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty cache of solved optima: what is tested is solved here, not on an earlier day."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIMARI_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        solution.cache_clear()
        yield
