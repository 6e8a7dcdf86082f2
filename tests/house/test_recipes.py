"""The thin entry points: earlier flags kept, nothing computed here that the library computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import load_script
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.data.table import write_bars


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("market") / "BTC-SYNTHETIC_1h.parquet"
    write_bars(synthetic_bars(4000, 3), path)
    return path


def test_trainer_and_pipeline_write_the_same_policy(market: Path, tmp_path: Path) -> None:
    trained = load_script("vertex_training/trainer.py").main(
        ["--data", str(market), "--model-dir", str(tmp_path / "a"), "--num-episodes", "20"]
    )
    judged = load_script("run_layer3_gcp.py").main(
        ["--data", str(market), "--model-dir", str(tmp_path / "b"), "--num-episodes", "20"]
    )
    assert trained == 0
    assert judged in (0, 1)  # better than 1.0 or not: an honest answer either way
    one, other = (tmp_path / run / "bundle" / "weights.safetensors" for run in ("a", "b"))
    assert one.read_bytes() == other.read_bytes()


def test_the_pipeline_tells_bad_input_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = load_script("run_layer3_gcp.py").main(
        ["--data", str(tmp_path / "none.csv"), "--model-dir", str(tmp_path / "run")]
    )
    assert code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
