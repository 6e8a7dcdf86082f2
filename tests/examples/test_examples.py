"""Every example of judging is run, on a small artificial market."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import ROOT, load_script
from helpers.verdict import small_bars
from himari_rl.cli.settings import resolved
from himari_rl.data.table import write_bars

SMALL: dict[str, Any] = {"train": "20d", "test": "10d", "step": "10d", "purge_bars": 24, "seeds": 1}


@pytest.fixture
def bars(tmp_path: Path) -> str:
    path = tmp_path / "BTC-USDT_1h.csv"
    write_bars(small_bars(), path)
    return str(path)


def test_a_rule_is_judged(bars: str, tmp_path: Path, capsys: Any) -> None:
    assert load_script("examples/judge_rule.py").main(bars, out=str(tmp_path / "run"), **SMALL) is False
    page = capsys.readouterr().out
    assert "driftless" in page
    assert "refused by" in page


@pytest.mark.parametrize("name", ["judge_rule", "judge_sb3", "own_costs"])
def test_without_a_file_it_takes_a_synthetic_market(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script(f"examples/{name}.py")
    made = script.synthetic_bars

    def seen(*arguments: Any, **options: Any) -> None:
        raise LookupError(f"{len(made(*arguments, **options))} rows")

    monkeypatch.setattr(script, "synthetic_bars", seen)
    with pytest.raises(LookupError, match="8760 rows"):
        script.main()


@pytest.mark.filterwarnings("ignore")
def test_an_sb3_agent_is_judged(bars: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("stable_baselines3")
    monkeypatch.setattr("himari_rl.experiments.sb3.ROLLOUT", 256)  # bars between two updates
    script = load_script("examples/judge_sb3.py")
    assert script.main(bars, out=str(tmp_path / "run"), total_timesteps=64, **SMALL | {"folds": 1}) is False
    assert "planted" in capsys.readouterr().out


def test_more_capital_earns_less(bars: str) -> None:
    earned = load_script("examples/own_costs.py").main(bars)
    assert earned == sorted(earned, reverse=True)
    assert len(set(earned)) == 5


def test_signals_from_an_event_file_are_judged(bars: str, tmp_path: Path, capsys: Any) -> None:
    market, rng = small_bars(), np.random.default_rng(0)
    events = ["timestamp,signal_action,signal_confidence"]
    for time in range(int(market.timestamp[0]), int(market.timestamp[-1]), 3_600_000):
        said = rng.choice(["BUY", "SELL", "HOLD"])
        events.append(f"{time + int(rng.integers(60_000, 3_000_000))},{said},{rng.uniform(0.1, 0.9):.3f}")
    (tmp_path / "signals.csv").write_text("\n".join(events) + "\n")
    script = load_script("examples/own_signals.py")
    assert script.main(bars, str(tmp_path / "signals.csv"), out=str(tmp_path / "run"), **SMALL)
    assert "signals are used" in capsys.readouterr().out


def test_a_feature_of_ones_own_is_seen(tmp_path: Path, capsys: Any) -> None:
    market = small_bars()
    own = replace(market, extra={"basis": np.random.default_rng(0).normal(0.0, 1.0, len(market))})
    write_bars(own, tmp_path / "BTC-USDT_1h.csv")
    script = load_script("examples/own_features.py")
    assert script.main(str(tmp_path / "BTC-USDT_1h.csv"), "basis", out=str(tmp_path / "run"), **SMALL) is False
    assert "refused by" in capsys.readouterr().out


def test_every_setting_that_the_guide_gives_on_the_command_line_is_one() -> None:
    guide = (ROOT / "docs" / "judge.md").read_text()
    said = re.findall(r"--set (environment\.charges\.\S+=\S+)", guide.replace("`", " "))
    assert {each.partition("=")[0].rpartition(".")[2] for each in said} >= {"impact", "maker_share", "commission_rates"}
    charges = resolved("walk-forward", "multi", None, said)["environment"].charges
    assert (charges.maker_share, charges.commission_rates) == (0.3, (0.001, 0.002))
