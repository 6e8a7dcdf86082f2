"""What returns alone say: figures from their definitions, the trials counted, and what cannot be said, said."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from himari_rl.cli import main
from himari_rl.errors import ConfigError, DataError
from himari_rl.experiments.returns import judge_returns

DAY_MS = 86_400_000


def series(sharpe: float, days: int = 1500, seed: int = 0) -> np.ndarray:
    """Simple daily returns whose log-growth has exactly this Sharpe ratio a year at 15 % volatility."""
    drawn = np.random.default_rng(seed).standard_normal(days)
    drawn = (drawn - drawn.mean()) / drawn.std(ddof=1)
    return np.expm1(0.15 * (drawn / math.sqrt(365.0) + sharpe / 365.0))


def write(path: Path, returns: np.ndarray, step_ms: int = DAY_MS) -> str:
    rows = [f"{1_700_000_000_000 + k * step_ms},{value!r}" for k, value in enumerate(returns.tolist())]
    path.write_text("time,return\n" + "\n".join(rows) + "\n")
    return str(path)


def test_the_figures_are_those_of_their_definitions(tmp_path: Path) -> None:
    returns = series(1.0)
    found = judge_returns(write(tmp_path / "r.csv", returns))
    assert found.per_year == pytest.approx(365.0)
    assert found.sharpe.estimate == pytest.approx(1.0, abs=1e-9)
    assert found.volatility == pytest.approx(0.15, abs=1e-9)
    assert found.growth == pytest.approx(0.15, abs=1e-9)
    equity = np.concatenate([[1.0], np.cumprod(1.0 + returns)])
    assert found.drawdown.estimate == pytest.approx(float((1.0 - equity / np.maximum.accumulate(equity)).max()))
    assert found.sharpe.lower < 1.0 < found.sharpe.upper
    # of independent normal returns the interval is 1 +- 1.96 / sqrt(years); the bootstrap's is within a fifth of it
    half = (found.sharpe.upper - found.sharpe.lower) / 2.0
    assert half == pytest.approx(1.96 / math.sqrt(1500 / 365.0), rel=0.2)


def test_trials_deflate_and_the_best_of_noise_is_refused() -> None:
    # a usual draw of forty: the best stands 2.1 standard errors high, the expected largest of forty normals is 2.2
    noises = [np.random.default_rng(seed).normal(0.0, 0.01, 1500) for seed in range(300, 340)]
    best = max(noises, key=lambda noise: noise.mean() / noise.std())
    alone, tried = judge_returns(best, 1, per_year=365.0), judge_returns(best, 40, per_year=365.0)
    assert alone.answer == "shown"  # negative control: without the trials the best of forty noises looks like an edge
    assert tried.answer == "not_shown"
    assert tried.deflated_sharpe < alone.deflated_sharpe == alone.probabilistic_sharpe
    first, second = (NormalDist().inv_cdf(1.0 - 1.0 / n) for n in (40, 40 * math.e))
    expected = (1.0 - 0.5772156649015329) * first + 0.5772156649015329 * second
    assert tried.noise == pytest.approx(expected * math.sqrt(365.0 / 1499.0), rel=0.3)


def test_power_is_what_so_many_years_can_show() -> None:
    found = judge_returns(series(0.5), per_year=365.0)
    both = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.95)
    assert found.detectable == pytest.approx(both / math.sqrt(1500 / 365.0), rel=0.1)
    assert found.years_needed == pytest.approx((1.645 / 0.5) ** 2, rel=0.1)
    assert judge_returns(series(-0.5), per_year=365.0).to_dict()["years_needed"] is None


def test_what_cannot_be_said_is_said(tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path / "r.csv", series(3.0))
    assert main(["judge", path, "--trials", "40"]) == 0
    page = capsys.readouterr().out
    for word in ("look-ahead", "fees", "multiplier 1.0", "controls", "trials"):
        assert word in page.split("cannot say:")[1]
    assert main(["judge", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "shown"
    assert main(["judge", write(tmp_path / "n.csv", series(0.1)), "--trials", "40"]) == 1
    assert "do not show an edge" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,pnl\n1,2\n", "a column `return`"),
        ("time,return\n1700000000000,x\n", "line 2"),
        ("time,return\n1700000000000,0.1\n1700000000000,0.1\n", "line 3: a time that is not after"),
        ("return\n" + "0.01\n-1.0\n" * 20, "return -1 in row 1"),
        ("return\n" + "0.01\n" * 10, "10 returns"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        judge_returns(tmp_path / "r.csv", per_year=365.0)


def test_without_time_somebody_has_to_say_how_many_a_year(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("return\n" + "0.01\n-0.01\n" * 20)
    with pytest.raises(ConfigError, match="--per-year"):
        judge_returns(tmp_path / "r.csv")
    with pytest.raises(ConfigError, match="0 trials"):
        judge_returns(tmp_path / "r.csv", 0, per_year=365.0)
