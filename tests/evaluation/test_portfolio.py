"""The verdict on a portfolio: measures in closed form, baselines by definition, one ledger with the environment."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.evaluation import ledger
from helpers.multi import random_panel, scalar_portfolio
from himari_rl.cli import main
from himari_rl.data.synthetic_panel import synthetic_panel
from himari_rl.data.table import write_bars
from himari_rl.envs.config import MultiAssetEnvConfig
from himari_rl.evaluation import portfolio, portfolio_baselines
from himari_rl.evaluation.backtest import BASE, LAGGED, POLICY, backtest, stage
from himari_rl.evaluation.portfolio_baselines import carried, olmar, on_simplex, rolling
from himari_rl.policy.risk import RiskLimits

RNG = np.random.default_rng(0)


class Listed:
    """A policy that answers from a list, one row a decision, the same for all its accounts."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def decide_batch(self, states: np.ndarray, memory: int | None = None) -> tuple[np.ndarray, int]:
        step = memory or 0
        return np.tile(self.rows[step], (len(states), 1)), step + 1


def test_shares_and_concentration_of_known_exposures() -> None:
    exposure = np.array([[0.4, -0.4, 0.0], [0.2, 0.2, 0.4], [0.0, 0.0, 0.0]])
    assert portfolio.shares(exposure) == pytest.approx([0.6 / 1.6, 0.6 / 1.6, 0.4 / 1.6])
    growth = np.random.default_rng(4).normal(0.0, 0.01, 120)
    account = portfolio.PortfolioCurve(growth, np.tile(exposure, (40, 1)))
    _, index, *each = portfolio.gates(account, account, ("A", "B", "C"), 1.0, RNG, replications=10)
    assert index.value.estimate == pytest.approx((0.5 + (0.0625 + 0.0625 + 0.25)) / 2)  # flat bars aside
    assert [gate.value.estimate for gate in each] == pytest.approx([0.6 / 1.6, 0.6 / 1.6, 0.4 / 1.6])


def test_the_diversification_ratio_of_equal_independent_assets_is_the_root_of_their_number() -> None:
    weights = np.full(4, 0.25)
    assert portfolio.diversification_ratio(weights, np.eye(4) * 0.04) == pytest.approx(2.0)
    assert portfolio.diversification_ratio(weights, np.full((4, 4), 0.04)) == pytest.approx(1.0)
    assert portfolio.diversification_ratio(np.zeros(4), np.eye(4)) == 1.0


def test_risk_parts_sum_to_one_and_follow_the_variance() -> None:
    a, b = np.random.default_rng(1).normal(size=(2, 100_000))
    parts = portfolio.risk_parts(np.column_stack([2.0 * a, b, np.zeros_like(a)]))
    assert parts.sum() == pytest.approx(1.0)
    assert parts == pytest.approx([0.8, 0.2, 0.0], abs=0.01)


def test_the_simplex_projection_is_the_nearest_point() -> None:
    assert on_simplex(np.array([0.5, 0.5])) == pytest.approx([0.5, 0.5])
    assert on_simplex(np.array([2.0, 0.0, 0.0])) == pytest.approx([1.0, 0.0, 0.0])
    assert on_simplex(np.array([0.6, 0.6, -1.0])) == pytest.approx([0.5, 0.5, 0.0])


def test_olmar_is_the_papers_update() -> None:
    closes = np.array([[1.0, 1.0], [1.0, 0.8]])
    x = np.array([1.0, 0.9 / 0.8])  # moving average of what is known, over the last close
    away = x - x.mean()
    step = (10.0 - 0.5 * x.sum()) / (away @ away)
    expected = on_simplex(np.array([0.5, 0.5]) + step * away)
    assert olmar(closes, np.array([0, 1])) == pytest.approx(np.array([[0.5, 0.5], expected]))
    assert expected.tolist() == [0.0, 1.0]  # reversion: into the one that fell


def test_a_due_trade_waits_for_the_first_tradable_bar_and_happens_once() -> None:
    due = np.array([[True], [False], [False], [True], [False]])
    assert carried(due, np.array([[False], [False], [True], [True], [True]])).ravel().tolist() == [
        False, False, True, True, False,
    ]  # fmt: skip


def test_rolling_weights_know_only_the_past() -> None:
    closes = np.exp(np.random.default_rng(2).normal(0, 0.01, (300, 2)).cumsum(axis=0))

    def fit(returns: np.ndarray) -> np.ndarray:
        return np.array([returns[-1, 0], len(returns)])

    weights = rolling(closes, np.array([10, 200]), 100, fit)
    assert weights[0].tolist() == [0.5, 0.5]  # fewer than 48 returns
    assert weights[1] == pytest.approx([closes[200, 0] / closes[199, 0] - 1.0, 100])


def test_the_backtest_of_a_panel_is_the_scalar_ledger() -> None:
    panel = random_panel(3, 180, 11)
    limits = RiskLimits()
    on = stage(panel, ledger(limits))
    wished = np.random.default_rng(3).uniform(0.0, 2.0, (len(panel) - 2, 3))
    result = backtest({POLICY: Listed(wished)}, on, ledger(limits), variants=(BASE,), rng=RNG)
    config = MultiAssetEnvConfig(symbols=panel.symbols, limits=limits)
    expected = scalar_portfolio(panel, config, 0, wished.tolist())
    run = result.run(POLICY)
    assert run.exposure == pytest.approx(np.array([line.exposure for line in expected]), rel=1e-12, abs=1e-12)
    assert run.log_growth == pytest.approx([line.log_growth for line in expected], rel=1e-12, abs=1e-12)


@pytest.fixture(scope="module")
def judged():
    panel = synthetic_panel(
        ("A-USD", "B-USD", "C-USD"), 3_000, seed=5, annual_volatility=(0.3, 0.6, 0.9), correlation=0.3
    )
    spec = ledger(RiskLimits.off())
    on = stage(panel, spec, 1_500)
    others = portfolio_baselines.allocations_of(panel, on, 1_500)
    half = np.full((len(on.base), 3), 1.0)
    result = backtest({POLICY: Listed(half)}, on, spec, variants=(BASE, LAGGED), rng=RNG, allocations=others)
    return on, spec, result


def test_baselines_hold_all_equity_in_the_weights_of_their_names(judged) -> None:
    _, _, result = judged
    for name in (portfolio_baselines.EQUAL, portfolio_baselines.MINIMUM, portfolio_baselines.SINGLE):
        gross = np.abs(result.run(name).exposure).sum(axis=1)
        assert gross[24:] == pytest.approx(np.ones(len(gross) - 24), abs=0.01), name
    mean = {name: result.run(name).exposure.mean(axis=0) for name in result.strategies}
    assert mean[portfolio_baselines.EQUAL] == pytest.approx(np.full(3, 1 / 3), abs=0.01)
    inverse = np.array([1 / 0.3, 1 / 0.6, 1 / 0.9])
    assert mean[portfolio_baselines.INVERSE] == pytest.approx(inverse / inverse.sum(), abs=0.04)
    assert mean[portfolio_baselines.MINIMUM][0] > mean[portfolio_baselines.INVERSE][0]  # the calm asset, and more of it
    volatility = {name: result.run(name).portfolio_return.std() for name in mean}
    fixed = (portfolio_baselines.EQUAL, portfolio_baselines.INVERSE, portfolio_baselines.DIVERSIFIED)
    assert all(volatility[portfolio_baselines.MINIMUM] < volatility[name] for name in fixed)
    assert (mean[portfolio_baselines.SINGLE] > 0.0).sum() == 1


def test_equal_weight_against_itself_differs_by_nothing_and_passes_two_gates(judged) -> None:
    on, spec, result = judged
    found = portfolio.measure(result, on, spec, RNG, policy=portfolio_baselines.EQUAL, replications=200)
    for gate in found.gates:
        assert gate.difference.estimate == gate.difference.lower == gate.difference.upper == 0.0
        assert gate.value.lower <= gate.value.estimate <= gate.value.upper
    _, herfindahl, *each = found.gates
    assert herfindahl.value.estimate == pytest.approx(1 / 3, abs=0.01)
    assert herfindahl.sure
    assert all(gate.sure for gate in each)
    assert sum(part.risk for part in found.parts) == pytest.approx(1.0)


def test_one_asset_alone_fails_the_gates_of_the_portfolio(judged) -> None:
    on, spec, result = judged
    found = portfolio.measure(result, on, spec, RNG, policy=portfolio_baselines.SINGLE, replications=200)
    _, herfindahl, *each = found.gates
    assert herfindahl.value.estimate == pytest.approx(1.0)
    assert not herfindahl.passed
    assert [gate.passed for gate in each].count(True) == 1


def test_cash_passes_no_gate(judged) -> None:
    on, spec, result = judged
    found = portfolio.measure(result, on, spec, RNG, policy="cash", replications=50)
    assert not any(gate.passed for gate in found.gates)


def test_the_assets_parts_add_up_to_the_portfolio(judged) -> None:
    on, spec, result = judged
    found = portfolio.measure(result, on, spec, RNG, policy="multiplier 1.0", replications=50)
    run = result.run("multiplier 1.0")
    earned = np.expm1(run.log_growth).mean() * result.bars_per_year
    assert sum(part.growth for part in found.parts) == pytest.approx(earned, abs=1e-9)


def test_train_multi_and_its_verdict_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    panel = synthetic_panel(("A-USD", "B-USD", "C-USD"), 3_000, seed=6)
    for bars in panel.bars:
        write_bars(bars, tmp_path / "data" / f"{bars.symbol}_1h.parquet")
    data = ["--data", str(tmp_path / "data")]
    run = str(tmp_path / "run")
    asked = ["--symbols", "C-USD", "A-USD", "B-USD", "--num-episodes", "40", "--seeds", "1", "--out", run, "--json"]
    assert main(["train", "multi", *data, *asked]) == 0
    capsys.readouterr()
    manifest = json.loads((tmp_path / "run" / "bundle" / "manifest.json").read_text())
    assert (manifest["kind"], manifest["symbols"]) == ("multi", ["C-USD", "A-USD", "B-USD"])
    assert (manifest["state_dim"], manifest["action_dim"]) == (52, 3)
    assert main(["evaluate", f"{run}/bundle", *data, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["data"]["symbol"] == "C-USD, A-USD, B-USD"
    assert [(gate["comparison"], gate["threshold"]) for gate in document["portfolio"]["gates"]] == [
        (">", 1.5),
        ("<", 0.6),
        *[(">", 0.2)] * 3,
    ]
    strategies = {row["strategy"] for row in document["verdict"]["summaries"]}
    assert {"policy", "multiplier 1.0", "buy and hold", "equal weight", "minimum variance", "OLMAR"} <= strategies
    assert main(["evaluate", f"{run}/bundle", *data]) == 0
    out = capsys.readouterr().out
    assert "gates of the portfolio" in out
    assert "share of C-USD" in out
