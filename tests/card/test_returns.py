"""Figures of daily returns: from their definitions, from ten-line twins, and as quantstats computes them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from himari_rl.card import returns
from himari_rl.schema import DAY_MS, HOUR_MS

START = 1_704_067_200_000  # 2024-01-01T00:00Z


def series(count: int = 900, seed: int = 0) -> np.ndarray:
    """Fat-tailed returns with days on which nothing happens."""
    rng = np.random.default_rng(seed)
    value = 0.0006 + 0.011 * rng.standard_t(4, count)
    value[rng.random(count) < 0.2] = 0.0
    return value


@pytest.fixture(scope="module")
def peer() -> Any:
    """quantstats, which is nobody's dependency here."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("quantstats.stats", reason="quantstats is not installed: pip install quantstats")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("per_year", [252, 365])
def test_the_figures_are_those_of_quantstats(peer: Any, seed: int, per_year: int) -> None:
    import warnings

    import pandas as pd

    value = series(seed=seed)
    table = pd.Series(value, index=pd.date_range("2021-03-01", periods=len(value)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = {
            "sharpe": peer.sharpe(table, periods=per_year),
            "sortino": peer.sortino(table, periods=per_year),
            "compound_growth": peer.cagr(table, periods=per_year),
            "calmar": peer.calmar(table, periods=per_year),
            "deepest": peer.max_drawdown(table),
            "value_at_risk": peer.value_at_risk(table),
            "expected_shortfall": peer.expected_shortfall(table),
            "hit_rate": peer.win_rate(table),
            "payoff": peer.payoff_ratio(table),
            "volatility": peer.volatility(table, periods=per_year),
        }
        worst = peer.expected_shortfall(table, method="historical")
        in_market = peer.exposure(table)
    a_year = ("sharpe", "sortino", "compound_growth", "calmar")
    ours = {name: getattr(returns, name)(value, per_year) for name in a_year}
    ours |= {name: getattr(returns, name)(value) for name in theirs if name not in (*a_year, "volatility")}
    ours["volatility"] = returns.rolling(value, len(value), per_year)[1][-1]
    assert ours == pytest.approx(theirs, rel=0.0, abs=1e-9)
    assert returns.worst_mean(value) == pytest.approx(worst, abs=1e-9)
    assert math.ceil(100 * returns.time_in_market(value)) / 100 == pytest.approx(in_market, abs=1e-9)


def test_four_days_by_hand() -> None:
    value = np.array([0.02, -0.01, 0.0, 0.03])
    mean, downside = 0.01, math.sqrt(0.01**2 / 4)
    assert returns.sortino(value, 4) == pytest.approx(mean / downside * 2)
    assert returns.compound_growth(value, 2) == pytest.approx((1.02 * 0.99 * 1.03) ** 0.5 - 1)
    assert returns.deepest(value) == pytest.approx(-0.01)
    assert returns.calmar(value, 2) == pytest.approx(((1.02 * 0.99 * 1.03) ** 0.5 - 1) / 0.01)
    assert returns.hit_rate(value) == pytest.approx(2 / 3)
    assert returns.payoff(value) == pytest.approx(0.025 / 0.01)
    assert returns.time_in_market(value) == 0.75


def test_value_at_risk_and_expected_shortfall_are_those_of_a_large_normal_sample() -> None:
    rng = np.random.default_rng(0)
    value = 0.001 + 0.02 * rng.standard_normal(400_000)
    assert returns.value_at_risk(value) == pytest.approx(np.quantile(value, 0.05), abs=2e-4)
    assert returns.expected_shortfall(value) == pytest.approx(returns.worst_mean(value), abs=2e-4)


def test_an_account_at_rest_has_figures_and_none_of_them_is_nan() -> None:
    idle = np.zeros(50)
    every = [returns.sharpe(idle, 365), returns.sortino(idle, 365), returns.calmar(idle, 365), returns.payoff(idle)]
    every += [returns.value_at_risk(idle), returns.expected_shortfall(idle), returns.hit_rate(idle)]
    every += [returns.time_in_market(idle), returns.deepest(idle), returns.compound_growth(idle, 365)]
    assert every == [0.0] * len(every)
    ratio, deviation = returns.rolling(idle, 10, 365)
    assert np.array_equal(ratio[9:], np.zeros(41))
    assert np.array_equal(deviation[9:], np.zeros(41))


def test_hours_become_utc_days_that_compound_and_a_year_is_elapsed_time() -> None:
    hours = 3 * 24
    time = START + HOUR_MS * np.arange(5, 5 + hours)  # begins at 05:00: four days, two of them in part
    growth = np.random.default_rng(1).normal(0, 0.01, hours)
    found = returns.daily(time, int(time[-1]) + HOUR_MS, growth)
    factor: dict[int, float] = {}
    for at, g in zip(time.tolist(), growth.tolist(), strict=True):
        factor[at // DAY_MS] = factor.get(at // DAY_MS, 1.0) * math.exp(g)
    assert found.day.tolist() == [day * DAY_MS for day in factor]
    assert found.value.tolist() == pytest.approx([f - 1.0 for f in factor.values()])
    assert found.per_year == pytest.approx(4 / (3 / 365))


def test_rolling_figures_are_those_of_each_window_alone() -> None:
    value = series(120, seed=3)
    ratio, deviation = returns.rolling(value, 30, 365)
    assert np.isnan(ratio[:29]).all()
    for k in (29, 60, 119):
        part = value[k - 29 : k + 1]
        assert ratio[k] == pytest.approx(returns.sharpe(part, 365))
        assert deviation[k] == pytest.approx(part.std(ddof=1) * math.sqrt(365))


def test_months_compound_to_the_year_and_a_month_without_bars_is_none() -> None:
    month = {"2023-12": 0.01, "2024-01": 0.02, "2024-03": -0.005}
    time, growth = [], []
    for name, g in month.items():
        for day in (1, 15):
            time.append(int(np.datetime64(f"{name}-{day:02}T00:00", "ms").astype(int)))
            growth.append(g / 2)
    found = returns.months(np.array(time), np.array(growth))
    assert [year for year, _, _ in found] == [2023, 2024]
    assert found[0][1][11] == pytest.approx(math.expm1(0.01))
    assert found[1][1][:4] == [pytest.approx(math.expm1(0.02)), None, pytest.approx(math.expm1(-0.005)), None]
    assert found[1][2] == pytest.approx(math.expm1(0.015))


def falls_by_hand(log_equity: list[float]) -> list[tuple[int, int, int | None, float]]:
    """(peak, trough, recovered, depth) of every drawdown, walking the bars."""
    found, peak, top, trough = [], -1, 0.0, None
    for k, level in enumerate(log_equity):
        if level >= top:
            if trough is not None:
                found.append((peak, trough, k, math.exp(log_equity[trough] - top) - 1.0))
            peak, top, trough = k, level, None
        elif trough is None or level < log_equity[trough]:
            trough = k
    if trough is not None:
        found.append((peak, trough, None, math.exp(log_equity[trough] - top) - 1.0))
    return sorted(found, key=lambda fall: fall[3])


@pytest.mark.parametrize("seed", range(5))
def test_the_deepest_drawdowns_are_those_that_a_walk_finds(seed: int) -> None:
    equity = np.cumsum(np.random.default_rng(seed).normal(0.0, 0.01, 400))
    found = [(f.peak, f.trough, f.recovered) for f in returns.falls(equity)]
    by_hand = falls_by_hand(equity.tolist())[:5]
    assert found == [fall[:3] for fall in by_hand]
    assert [f.depth for f in returns.falls(equity)] == pytest.approx([fall[3] for fall in by_hand])


def test_equity_that_only_rises_has_no_drawdown() -> None:
    assert returns.falls(np.linspace(0.01, 1.0, 50)) == []
