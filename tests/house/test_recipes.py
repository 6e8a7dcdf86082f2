"""The thin entry points: earlier flags kept, nothing computed here that the library computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import load_script
from helpers.bundle import make_bundle
from helpers.stream import lines
from helpers.stream import market as signalled
from himari_rl.cli import main as himari
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.data.table import write_bars


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("market") / "BTC-SYNTHETIC_1h.parquet"
    write_bars(synthetic_bars(4000, 3), path)
    return path


def test_the_trainer_and_the_command_write_the_same_policy(market: Path, tmp_path: Path) -> None:
    budget = ["--num-episodes", "20"]
    trained = load_script("vertex_training/trainer.py").main(
        ["--data", str(market), "--model-dir", str(tmp_path / "a"), *budget]
    )
    assert trained == 0
    assert himari(["train", "base", "--data", str(market), "--out", str(tmp_path / "b"), *budget]) == 0
    one, other = (tmp_path / run / "bundle" / "weights.safetensors" for run in ("a", "b"))
    assert one.read_bytes() == other.read_bytes()


def test_the_runner_is_himari_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bars, folder = signalled("BTC-USDT", 1, 40), make_bundle(tmp_path, hidden=(8,))
    (tmp_path / "signals.jsonl").write_text("\n".join(lines([bars], range(40))))
    words = ["--bundle", str(folder), "--signals", str(tmp_path / "signals.jsonl"), "--clock", "bar"]
    assert load_script("run_layer3_gcp.py").main([*words, "--journal", str(tmp_path / "j.sqlite")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 40


def test_the_runner_tells_bad_input_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--bundle", str(tmp_path / "none"), "--journal", str(tmp_path / "j.sqlite")]
    assert load_script("run_layer3_gcp.py").main(words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
