"""A leaking column is caught, an honest one is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.data import bars_at, shared
from himari_rl.data.leaks import examine, normal_scores, suspected_leaks
from himari_rl.data.sources import load_bars
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.schema import HOUR_MS, Bars, FloatArray, Layer2

ROWS = 20_000


def market(returns: FloatArray) -> Bars:
    """Bars whose open-to-open returns from bar i to i + 1 are `returns[i]`."""
    price = 100.0 * np.exp(np.r_[0.0, np.cumsum(np.log1p(returns))])
    opened, close = price[:-1], price[1:]
    return Bars(
        symbol="M",
        timestamp=HOUR_MS * np.arange(len(returns), dtype=np.int64),
        open=opened,
        high=np.maximum(opened, close),
        low=np.minimum(opened, close),
        close=close,
        volume=np.ones(len(returns)),
        interval_ms=HOUR_MS,
        source="by definition",
        synthetic=True,
    )


def noise(seed: int, rows: int = ROWS) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(rows)


def leaking(shocks: FloatArray, rho: float, seed: int) -> FloatArray:
    """rho e[t+1] + sqrt(1 - rho^2) noise: at t it knows the shock of the bar that the decision earns."""
    return rho * np.r_[shocks[1:], 0.0] + np.sqrt(1.0 - rho**2) * noise(seed, len(shocks))


def autoregressive(phi: float, seed: int, rows: int = ROWS) -> FloatArray:
    z, value = [], float(noise(seed + 1, 1)[0])
    for shock in noise(seed, rows).tolist():
        value = phi * value + np.sqrt(1.0 - phi**2) * shock
        z.append(value)
    return np.array(z)


@pytest.mark.parametrize("rho", [0.05, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_leak_of_any_strength_is_suspected_with_t_141_rho(rho: float, seed: int) -> None:
    shocks = noise(seed)
    bars = replace(market(0.02 * shocks), extra={"leak": leaking(shocks, rho, seed + 100)})
    (report,) = suspected_leaks(bars)
    assert report.column == "leak"
    assert report.horizon_bars == 1
    assert report.t == pytest.approx(np.sqrt(ROWS) * rho, abs=3.5)  # its standard error is 1
    assert abs(report.t_lagged) < 3.0
    assert report.correlation == pytest.approx(rho, abs=0.025)


@pytest.mark.parametrize("seed", range(4))
def test_clustered_volatility_neither_hides_a_leak_nor_makes_one_of_noise(seed: int) -> None:
    bars = synthetic_bars(ROWS, seed)
    earned = bars.open[1:] / bars.open[:-1] - 1.0
    shocks = np.r_[(earned - earned.mean()) / earned.std(), 0.0]
    columns = {f"noise {k}": noise(seed * 100 + k) for k in range(10)}
    columns |= {"volume": bars.volume, "range": bars.high - bars.low, "leak": leaking(shocks, 0.06, seed + 50)}
    assert [report.column for report in suspected_leaks(replace(bars, extra=columns))] == ["leak"]


@pytest.mark.parametrize(("phi", "beta", "rows"), [(0.97, 0.0015, 60_000), (0.97, 0.01, ROWS), (0.9, 0.0025, 40_000)])
@pytest.mark.parametrize("seed", [5, 6, 7])
def test_an_honest_persistent_predictor_is_not_suspected(phi: float, beta: float, rows: int, seed: int) -> None:
    z = autoregressive(phi, seed, rows)
    drift = 0.00125 + beta * np.r_[0.0, z[:-1]]  # z[t] is known before the bar t + 1 whose drift it describes
    bars = replace(market(np.expm1(drift + 0.05 * noise(seed + 9, rows))), extra={"z": z})
    (report,) = examine(bars)
    assert report.t > 5.0  # it does predict: the alarm is silent because of the shape, not for lack of power
    assert not report.suspected


def test_an_honest_predictor_that_fades_in_a_few_bars_is_not_suspected() -> None:
    """Its t of about 6 may well be below 3 one bar later: that is how fast the column itself forgets."""
    found, gone = 0, 0
    for seed in range(30):
        z = autoregressive(0.5, 10 * seed)
        bars = replace(market(np.expm1(0.002 * np.r_[0.0, z[:-1]] + 0.05 * noise(10 * seed + 5))), extra={"z": z})
        (report,) = examine(bars)
        found += report.suspected
        gone += report.t > 5.0 and report.t_lagged < 3.0
    assert gone >= 5  # the negative control: the two t values alone would have cried
    assert found == 0


def test_a_leak_of_the_plain_return_is_seen_where_volatility_has_two_levels() -> None:
    """Scaled by volatility such a leak of .05 has t = 7.1 x .72 = 5.1; weighted by it 7.1, so both are looked at."""
    caught = 0
    for seed in range(10):
        returns = np.where(np.arange(ROWS) % 4000 < 2000, 0.001, 0.05) * noise(seed + 300)
        leak = leaking(returns / returns.std(), 0.05, seed + 400)
        caught += len(suspected_leaks(replace(market(returns), extra={"leak": leak})))
    assert caught >= 9


def test_a_persistent_column_that_leaks_is_suspected_all_the_same() -> None:
    shocks = noise(3)
    smooth = [0.0]
    for shock in shocks[1:].tolist():
        smooth.append(0.95 * smooth[-1] + shock)
    bars = replace(market(0.02 * shocks), extra={"smooth leak": np.r_[smooth[1:], 0.0]})
    (report,) = suspected_leaks(bars)
    assert report.autocorrelation > 0.9


def test_a_centred_window_is_suspected_with_the_bars_it_looks_ahead() -> None:
    shocks = noise(4)
    centred = np.convolve(shocks, np.ones(7) / 7, mode="same")  # bars t-3 .. t+3
    (report,) = suspected_leaks(replace(market(0.02 * shocks), extra={"centred": centred}))
    assert report.horizon_bars == 3


def test_a_column_computed_from_past_bars_is_not_suspected_even_where_prices_reverse() -> None:
    shocks = noise(8)
    bars = market(0.01 * (shocks - 0.2 * np.r_[0.0, shocks[:-1]]))  # strong reversal: t = -28 for the last return
    last = np.r_[0.0, bars.open[1:] / bars.open[:-1] - 1.0]
    own = bars.close / bars.open - 1.0
    assert suspected_leaks(replace(bars, extra={"last return": last, "own return": own})) == []
    trivially = np.corrcoef(own[:-1], own[1:])[0, 1] * np.sqrt(ROWS)
    assert trivially < -20.0  # the negative control: a plain correlation would have cried


def test_layer_2_columns_are_examined_and_an_order_of_values_is_all_that_counts() -> None:
    shocks = noise(11)
    leak = leaking(shocks, 0.1, 12)
    confidence = 1.0 / (1.0 + np.exp(-3.0 * leak))  # any rising function
    signals = Layer2(
        action=np.sign(noise(13)).astype(np.int64),
        confidence=confidence,
        tier=np.random.default_rng(14).integers(1, 5, ROWS),
        cascade_risk=np.zeros(ROWS),
        supplied=True,
    )
    bars = replace(market(0.02 * shocks), signals=signals, extra={"leak": leak})
    found = {report.column: report.t for report in suspected_leaks(bars)}
    assert set(found) == {"signal_confidence", "leak"}
    assert found["signal_confidence"] == pytest.approx(found["leak"])
    assert "cascade_risk" not in {report.column for report in examine(bars)}  # constant: nothing to say
    ours = replace(bars, signals=replace(signals, supplied=False), extra={})
    assert examine(ours) == []  # the reference signal is proved by its code, not by statistics


def test_a_leaking_action_is_suspected() -> None:
    shocks = noise(21)
    signals = Layer2(
        action=np.sign(leaking(shocks, 0.3, 22)).astype(np.int64),
        confidence=np.full(ROWS, 0.5),
        tier=np.ones(ROWS, np.int64),
        cascade_risk=np.zeros(ROWS),
        supplied=True,
    )
    found = [report.column for report in suspected_leaks(replace(market(0.02 * shocks), signals=signals))]
    assert set(found) == {"signal_action", "signal_action x signal_confidence"}


def test_cells_without_a_number_are_left_out_and_do_not_hide_the_leak() -> None:
    shocks = noise(31)
    leak = leaking(shocks, 0.2, 32)
    leak[::5] = np.nan
    (report,) = suspected_leaks(replace(market(0.02 * shocks), extra={"leak": leak}))
    assert report.bars == pytest.approx(0.8 * ROWS, abs=2)
    assert report.correlation == pytest.approx(0.2, abs=0.03)


def test_too_few_bars_say_nothing() -> None:
    assert examine(bars_at(list(range(99)), extra={"mood": noise(1, 99)})) == []


def test_normal_scores_are_the_quantiles_of_the_ranks() -> None:
    # ranks 1/6, 3/6, 5/6 of three values: quantiles -.9674, 0, .9674, scaled to variance 1
    assert normal_scores(np.array([5.0, -1.0, 70.0])) == pytest.approx([0.0, -np.sqrt(1.5), np.sqrt(1.5)])
    assert normal_scores(np.array([1.0, 1.0])).tolist() == [0.0, 0.0]
    tied = normal_scores(np.array([1.0, 1.0, 2.0, 2.0]))
    assert tied == pytest.approx([-1.0, -1.0, 1.0, 1.0])


@pytest.mark.parametrize("name", ["binance-spot/BTC-USDT_1h.parquet", "binance-spot/ETH-USDT_1h.parquet"])
def test_columns_made_of_real_past_bars_are_not_suspected(name: str) -> None:
    bars = load_bars(shared(name))
    span = np.maximum(bars.high - bars.low, 1e-12)
    columns = {"place of the close": (bars.close - bars.low) / span, "own return": bars.close / bars.open - 1.0}
    columns |= {"volume": bars.volume, "range": span / bars.open, "price": bars.close}
    columns |= {"signed volume": bars.volume * np.sign(bars.close - bars.open)}
    columns |= {"upper wick": (bars.high - np.maximum(bars.open, bars.close)) / bars.open}
    assert suspected_leaks(replace(bars, extra=columns)) == []
    ahead = np.r_[columns["own return"][1:], 0.0]
    assert len(suspected_leaks(replace(bars, extra={"one row early": ahead}))) == 1  # the negative control
