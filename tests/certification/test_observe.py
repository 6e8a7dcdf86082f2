"""Known-optimum markets through the encoder's contract, the clock of the bars, and the leak that must be caught."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr

from himari_rl.certification.generators import HiddenRegime, Trap
from himari_rl.certification.markets import market_named
from himari_rl.certification.observe import market_rows, state_rows, to_bars, visible
from himari_rl.data.leaks import suspected_leaks
from himari_rl.errors import DataError, LookAheadError
from himari_rl.features.causality import check_prefix_invariance
from himari_rl.features.encoder import FEATURES, StateEncoder
from himari_rl.policy.clock import market_moves
from himari_rl.schema import Bars, FloatArray


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", ["M1", "M2", "M3", "M4", "M7", "M5b"])
def test_the_product_encoder_sees_the_same_visible_columns(name: str) -> None:
    market = market_named(name)
    paths = market.simulate(2, 120, rng())
    rows = market_rows(market, paths.x)[1]
    seen = visible(market)
    for asset, bars in enumerate(to_bars(market, paths, path=1)):
        encoded = StateEncoder((bars.symbol,)).market_rows(bars)[:120]
        mine = rows[:, 16 * asset : 16 * (asset + 1)]
        columns = seen[16 * asset : 16 * (asset + 1)]
        np.testing.assert_allclose(mine[:, columns], encoded[:, columns], atol=1e-12)
    np.testing.assert_array_equal(state_rows(market, paths, 7)[1], rows[7])


@pytest.mark.parametrize("name", ["M1", "M2", "M4", "M5b"])
def test_every_number_of_layer_2_is_what_the_product_encoder_writes_for_the_same_signals(name: str) -> None:
    market = market_named(name)
    paths = market.simulate(1, 50, rng())
    rows = market_rows(market, paths.x)[0]
    columns = [i for i in range(16) if FEATURES[i].startswith(("signal", "action", "tier", "cascade"))]
    for asset, bars in enumerate(to_bars(market, paths)):
        encoded = StateEncoder((bars.symbol,)).market_rows(bars)[:50]
        mine = rows[:, 16 * asset : 16 * (asset + 1)]
        np.testing.assert_array_equal(mine[:, columns], encoded[:, columns])
        others = [i for i in range(16) if i not in columns]
        assert (mine[:, others] == 0.0).all()  # masked in training; to a learner they are not there
    assert (rows[:, 16 * market.assets_count :] == 0.0).all()
    assert rows[0, :16].nonzero()[0].tolist() in ([0, 3, 4], [0, 3, 4, 15])  # confidence, BUY, T1 (and a wild regime)


def test_one_variable_and_the_position_are_visible_and_nothing_else() -> None:
    assert visible(market_named("M2")).nonzero()[0].tolist() == [0, 8, 9]
    assert visible(market_named("M4")).nonzero()[0].tolist() == [8, 9, 15]
    assert visible(market_named("M3z")).nonzero()[0].tolist() == [0]
    assert visible(market_named("M5")).nonzero()[0].tolist() == [0, 8, 9, 16, 24, 25, 32, 40, 41]
    assert len(visible(market_named("M5"))) == StateEncoder(("a", "b", "c")).state_dim == 52


def test_x_is_shown_as_its_normal_probability_and_the_regime_as_it_is() -> None:
    assert market_rows(market_named("M2"), np.array([[-1.0], [0.0], [2.0]]))[:, 0] == pytest.approx(ndtr([-1, 0, 2]))
    assert market_rows(market_named("M4"), np.array([[0.0], [1.0]]))[:, 15].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("name", ["M1", "M2", "M3", "M4", "M5"])
def test_the_decision_at_row_t_earns_the_return_of_row_t_in_the_bars(name: str) -> None:
    market = market_named(name)
    paths = market.simulate(1, 300, rng(1))
    for asset, bars in enumerate(to_bars(market, paths)):
        earned = bars.open[2:] / bars.open[1:-1] - 1.0
        np.testing.assert_allclose(earned, paths.returns[0, :, asset], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(market_moves(bars).to_open, paths.returns[0, :, asset], rtol=1e-9, atol=1e-12)
        assert not np.allclose(bars.open[1:-1] / bars.open[:-2] - 1.0, earned)  # one bar earlier is another return


def test_a_path_too_long_for_a_double_is_refused() -> None:
    market = replace(market_named("M4"), mus=(0.5, 0.5))
    with pytest.raises(DataError, match="shorter paths"):
        to_bars(market, market.simulate(1, 3000, rng()))


def test_what_is_visible_in_m3_is_the_last_return_and_the_belief_is_bayes_on_the_past() -> None:
    market = market_named("M3")
    assert isinstance(market, HiddenRegime)
    paths = market.simulate(1, 60, rng(2))
    log_returns = np.log1p(paths.returns[0, :, 0])
    np.testing.assert_allclose(paths.x[0, 1:, 0], log_returns[:-1] / market.sigma, rtol=1e-9)
    up = 0.5
    for t in range(60):
        assert paths.state[0, t, 0] == pytest.approx(up, rel=1e-9)
        likely = [np.exp(-(((log_returns[t] - s * 0.01 + 0.00125) / 0.05) ** 2) / 2) for s in (1, -1)]
        after = up * likely[0] / (up * likely[0] + (1 - up) * likely[1])
        up = 0.99 * after + 0.01 * (1 - after)


@pytest.mark.parametrize(("name", "knows"), [("M2", False), ("M3", False), ("M4", False), ("M5b", False), ("M7", True)])
def test_no_visible_variable_knows_the_shock_of_its_bar_but_the_trap(name: str, knows: bool) -> None:
    market = market_named(name)
    paths = market.simulate(400, 100, rng(3))
    outcomes, chances = market.law(paths.state.reshape(-1, paths.state.shape[-1]))
    mean = (outcomes * chances[..., None]).sum(1)
    deviation = np.sqrt((outcomes**2 * chances[..., None]).sum(1) - mean**2)
    shock = (paths.returns.reshape(mean.shape) - mean) / deviation
    x = paths.x.reshape(shock.shape)
    t = np.sqrt(len(x)) * ((x - x.mean(0)) * shock).mean(0) / x.std(0)
    assert bool((np.abs(t) > 4.5).any()) is knows
    assert shock.std() == pytest.approx(1.0, abs=0.03)  # the law is the generator's


@pytest.mark.parametrize("name", ["M2", "M4"])
def test_a_shuffled_market_shows_an_independent_copy_and_keeps_the_returns(name: str) -> None:
    paths = market_named(f"{name}-shuffled").simulate(300, 200, rng(4))
    same = market_named(name).simulate(300, 200, rng(4))
    np.testing.assert_array_equal(paths.returns, same.returns)
    np.testing.assert_array_equal(paths.state, same.x)
    by_chain = paths.x.mean(1)[:, 0] - 0.5 * (name == "M4"), same.x.mean(1)[:, 0] - 0.5 * (name == "M4")
    assert abs(np.corrcoef(*by_chain)[0, 1]) < 4 / np.sqrt(300)
    assert paths.x.std() == pytest.approx(same.x.std(), rel=0.1)


@pytest.mark.parametrize("rho", [0.05, 0.1, 0.3, 1.0])
def test_a_supplied_column_that_leaks_is_reported_at_the_strength_of_its_correlation(rho: float) -> None:
    found = suspected_leaks(trap_bars(rho))
    assert "signal_confidence" in [report.column for report in found]
    strongest = max(abs(report.t) for report in found)
    assert strongest == pytest.approx(np.sqrt(20_000) * rho, abs=4.5)  # t = 141 rho
    assert all(report.horizon_bars == 1 for report in found)


def test_an_honest_predictor_and_a_column_of_noise_are_not_reported() -> None:
    honest = market_named("M2")
    assert suspected_leaks(to_bars(honest, honest.simulate(1, 20_000, rng(6)))[0]) == []
    assert suspected_leaks(trap_bars(0.0)) == []


def trap_bars(rho: float) -> Bars:
    trap = market_named("M7")
    assert isinstance(trap, Trap)
    leaky = replace(trap, rho=rho)
    return to_bars(leaky, leaky.simulate(1, 20_000, rng(7)))[0]


def test_a_feature_that_looks_ahead_fails_prefix_invariance_and_the_encoder_passes() -> None:
    market = market_named("M7")
    bars = to_bars(market, market.simulate(1, 200, rng(8)))[0]

    def leaking(bars: Bars) -> FloatArray:
        known = np.r_[bars.open[2:] / bars.open[1:-1] - 1.0, 0.0, 0.0]
        return 0.05 * known + np.sin(bars.open)

    with pytest.raises(LookAheadError, match="column 0 at row"):
        check_prefix_invariance(leaking, bars, rng(9))
    check_prefix_invariance(StateEncoder(("M7",)).market_rows, bars, rng(9))
