"""Every test keeps its own trial ledger: what one test looks at is no trial of another, nor of the developer's."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_trial_ledger(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder: Path = tmp_path_factory.mktemp("trials")
    monkeypatch.setenv("HIMARI_TRIALS", str(folder / "trials.sqlite"))
