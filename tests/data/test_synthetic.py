"""The synthetic market is what its docstring says, and always says that it is synthetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers import calls_of
from helpers.data import START
from himari_rl.data import synthetic
from himari_rl.data.audit import audit
from himari_rl.data.synthetic import quoted, synthetic_bars
from himari_rl.data.synthetic_panel import synthetic_panel
from himari_rl.errors import ConfigError
from himari_rl.schema import HOUR_MS, Bars

YEARS_4 = 35_000


def autocorrelation(values: np.ndarray, lag: int) -> float:
    return float(np.corrcoef(values[lag:], values[:-lag])[0, 1])


def test_a_seed_reproduces_a_market_and_another_seed_differs() -> None:
    assert synthetic_bars(500, 7).fingerprint == synthetic_bars(500, 7).fingerprint
    assert synthetic_bars(500, 7).fingerprint != synthetic_bars(500, 8).fingerprint


def test_it_is_labelled_and_sound_and_has_no_gaps_by_default() -> None:
    bars = synthetic_bars(YEARS_4, 0)
    report = audit(bars)
    assert (bars.synthetic, bars.source) == (True, "synthetic (seed 0)")
    assert (report.usable, report.problems, report.gaps, report.rows) == (True, (), 0, YEARS_4)
    assert report.suspected_leaks == ()


def test_four_years_are_made_by_columns_and_cost_at_most_two_calls_a_row() -> None:
    """In calls, not in seconds; only the volatility's recursion and the regimes go one by one."""
    assert calls_of(lambda: synthetic_bars(YEARS_4, 1)) < 2 * YEARS_4


class LastBits:
    """A generator whose normals are each the next float64 up or down, as another CPU's logarithm might make them."""

    def __init__(self, seed: int) -> None:
        self._rng, self._coin = np.random.Generator(np.random.PCG64(seed)), np.random.Generator(np.random.PCG64(99))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rng, name)

    def standard_normal(self, size: Any = None) -> Any:
        drawn = self._rng.standard_normal(size)
        return np.nextafter(drawn, np.where(self._coin.random(size) < 0.5, -np.inf, np.inf))


def test_a_last_bit_of_every_normal_changes_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> list[str]:
        panel = synthetic_panel(("A", "B", "C"), 5_000, 6)
        return [synthetic_bars(YEARS_4, 5).fingerprint, *(bars.fingerprint for bars in panel.bars)]

    plain = make()
    monkeypatch.setattr(np.random, "default_rng", LastBits)
    assert make() == plain


def test_unrounded_the_same_last_bits_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "quoted", lambda values: values)
    plain = synthetic_bars(500, 5).fingerprint
    monkeypatch.setattr(np.random, "default_rng", LastBits)
    assert synthetic_bars(500, 5).fingerprint != plain


def test_a_quote_has_seven_digits_and_keeps_their_order() -> None:
    rng = np.random.default_rng(0)
    values = np.sort(np.concatenate([np.exp(rng.uniform(-30.0, 30.0, 20_000)), [0.0, 9999999.4, 9999999.6, 1.0]]))
    found = quoted(values)
    assert found.tolist() == pytest.approx([float(f"{value:.7g}") for value in values.tolist()], rel=1e-15)
    assert (np.diff(found) >= 0.0).all()
    assert quoted(np.array([10_000.004, 0.123456789, 12_345_678.0])).tolist() == [10_000.0, 0.1234568, 12_345_680.0]


def test_bars_open_at_the_last_close_and_placeholders_repeat_it() -> None:
    bars = synthetic_bars(5_000, 2, zero_volume=0.05)
    assert (bars.open[1:] == bars.close[:-1]).all()
    empty = ~bars.tradable
    assert 150 < empty.sum() < 350  # 250 expected, standard deviation 15
    for column in (bars.open, bars.high, bars.low):
        assert (column[empty] == bars.close[empty]).all()


def test_outages_are_cut_out_and_the_rows_stay_as_many() -> None:
    bars = synthetic_bars(1_000, 3, outages=6)
    steps = np.diff(bars.timestamp) // HOUR_MS
    assert len(bars) == 1_000
    assert 1 <= (steps > 1).sum() <= 6
    assert 6 <= (steps - 1).sum() <= 72
    assert (np.diff(synthetic_bars(1_000, 3).timestamp) == HOUR_MS).all()


def test_it_has_the_volatility_asked_for_clustering_heavy_tails_and_no_cheap_autocorrelation() -> None:
    for seed in range(3):
        bars = synthetic_bars(8 * 8760, seed, annual_volatility=0.6, zero_volume=0.0)
        returns = np.diff(np.log(bars.close))
        assert 0.45 < returns.std() * np.sqrt(8760) < 0.75
        assert autocorrelation(np.abs(returns), 1) > 0.15
        assert autocorrelation(np.abs(returns), 24) > 0.08
        assert abs(autocorrelation(returns, 1)) < 0.03
        kurtosis = float(np.mean((returns - returns.mean()) ** 4) / returns.var() ** 2)
        assert kurtosis > 5.0
        reach = np.log(bars.high / bars.low).mean() / returns.std()
        assert 1.2 < reach < 1.7  # a Brownian bridge with its end: E[range] = 1.6 sigma, less by clustering


def test_edge_zero_leaves_no_drift_but_the_jumps() -> None:
    returns = [np.diff(bars.close) / bars.close[:-1] for bars in (_quiet_market(seed) for seed in range(3))]
    every = np.concatenate(returns)
    sigma = every.std()
    # a jump J of mean -.5 sigma and spread 4 sigma comes 0.002 times an hour: E[exp(J) - 1] = -.5 sigma + 8.1 sigma^2
    jumps = 0.002 * (-0.5 * sigma + 8.1 * sigma**2)
    error = sigma / np.sqrt(every.size)
    assert abs(every.mean() - jumps) < 4.0 * error
    assert sigma**2 / 2.0 > 6.0 * error  # the negative control: without the volatility's drag this much would show


def _quiet_market(seed: int) -> Bars:
    return synthetic_bars(400_000, seed, edge=0.0, annual_volatility=1.2, zero_volume=0.0)


def test_another_interval_keeps_the_annual_volatility() -> None:
    daily = synthetic_bars(4_000, 4, interval_ms=24 * HOUR_MS, start_ms=START)
    assert daily.timestamp[:2].tolist() == [START, START + 24 * HOUR_MS]
    assert 0.35 < np.diff(np.log(daily.close)).std() * np.sqrt(365) < 0.8


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"annual_volatility": 0.0}, {"zero_volume": 1.0}, {"outages": -1}])
def test_a_size_that_makes_no_market_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        synthetic_bars(**({"rows": 10, "seed": 0} | wrong))  # type: ignore[arg-type]


def test_one_bar_is_a_market_too() -> None:
    assert len(synthetic_bars(1, 0, outages=2)) == 1
