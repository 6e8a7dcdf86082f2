"""`himari train`: what it writes beside the bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from himari_rl.cli import main
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.data.table import write_bars


@pytest.mark.parametrize("asked", [False, True])
def test_tensorboard_events_are_written_where_they_are_asked_for(asked: bool, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_bars(synthetic_bars(1000, 0), "BTC-SYNTHETIC_1h.parquet")
    words = ["train", "base", "--data", "BTC-SYNTHETIC_1h.parquet", "--out", "run"]
    small = ["--num-episodes", "2", "--seeds", "1", "--set", "agent.num_envs=20", "--set", "agent.minibatch=500"]
    assert main([*words, *small, *(["--tensorboard"] if asked else [])]) == 0
    written = [path.parent.name for path in Path("run/tensorboard").rglob("events.*")]
    assert written == (["seed-0"] if asked else [])
