"""The portfolio's money against the design's ledger in floats, with 3 and with 20 assets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.multi import played, random_panel, scalar_portfolio, symbols
from himari_rl.data.panel import Panel, panel_of
from himari_rl.envs.config import MultiAssetEnvConfig, TradingEnvConfig
from himari_rl.envs.multi_asset_env import MultiAssetTradingEnv, MultiAssetVectorEnv
from himari_rl.envs.trading_env import TradingEnv
from himari_rl.errors import ConfigError
from himari_rl.policy import account
from himari_rl.policy.risk import RiskLimits, limited_exposure

ROWS, STEPS = 90, 50


def config_of(assets: int, **changes: object) -> MultiAssetEnvConfig:
    fields = {"symbols": symbols(assets), "episode_bars": STEPS, "ruin": 0.001, "allow_short": True}
    return MultiAssetEnvConfig(**(fields | changes))


@pytest.mark.parametrize("assets", [2, 3, 20])
@pytest.mark.parametrize("limits", [RiskLimits(), RiskLimits.off(), RiskLimits(daily_loss_stop=0.005)])
@pytest.mark.parametrize("seed", [1, 2])
def test_every_bar_agrees_with_the_scalar_ledger(assets: int, limits: RiskLimits, seed: int) -> None:
    panel, config = random_panel(assets, ROWS, seed), config_of(assets, limits=limits)
    multipliers = np.random.default_rng(seed).uniform(-0.5, 2.5, (STEPS, assets))
    expected = scalar_portfolio(panel, config, 25, multipliers.tolist())
    for told, line in zip(played(panel, config, 25, multipliers), expected, strict=True):
        assert told["exposure"] == pytest.approx(line.exposure, rel=1e-12, abs=1e-12)
        numbers = [told[name] for name in ("price_pnl", "cost", "funding", "log_growth")]
        assert numbers == pytest.approx([line.price, line.cost, line.funding, line.log_growth], rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        lambda bars: replace(bars, volume=np.ones(len(bars))),  # fills where nothing trades
        lambda bars: replace(bars, funding_rate=np.append(bars.funding_rate[1:], 0.0)),  # settles one bar early
        lambda bars: replace(bars, open=np.append(bars.open[1:], bars.open[-1])),  # earns one bar early
    ],
    ids=["placeholders trade", "funding clock", "shifted opens"],
)
def test_a_wrong_market_would_be_noticed(change) -> None:
    panel, config = random_panel(3, ROWS, 1), config_of(3)
    multipliers = np.random.default_rng(1).uniform(0.0, 2.0, (STEPS, 3))
    wrong = panel_of([change(panel.bars[0]), *panel.bars[1:]])
    ours = [told["log_growth"] for told in played(panel, config, 25, multipliers)]
    theirs = [line.log_growth for line in scalar_portfolio(wrong, config, 25, multipliers.tolist())]
    assert np.abs(np.array(ours) - theirs).max() > 1e-6


@pytest.mark.parametrize("assets", [3, 20])
def test_price_costs_and_funding_add_up_to_the_change_of_equity(assets: int) -> None:
    panel, config = random_panel(assets, ROWS, 3), config_of(assets)
    multipliers = np.random.default_rng(3).uniform(0.0, 2.0, (STEPS, assets))
    before = config.initial_capital
    for told in played(panel, config, 25, multipliers):
        change = before * (told["price_pnl"] - told["cost"] - told["funding"])
        assert told["equity"] - before == pytest.approx(change, abs=1e-9 * before)
        before = told["equity"]
    assert before != config.initial_capital


@pytest.mark.parametrize("cap", [0.4, 1.0, 2.0])
def test_the_gross_cap_holds_at_every_fill(cap: float) -> None:
    config = config_of(20, limits=RiskLimits.off(max_leverage=cap))
    panel = panel_of([replace(b, volume=np.ones(len(b))) for b in random_panel(20, ROWS, 4, gaps=0.0).bars])
    infos = played(panel, config, 25, np.full((STEPS, 20), 2.0))
    gross = [np.abs(told["exposure"]).sum() for told in infos]
    assert max(gross) <= cap + 1e-12
    assert max(gross) == pytest.approx(cap)  # it was asked for far more


def over_the_cap(infos: list[dict], panel: Panel, row: int, cap: float) -> float:
    """The largest gross exposure after a fill above the cap, or above what could not be traded where that is more."""
    prices, most, before = panel.prices(), 0.0, np.zeros(len(panel.symbols))
    for t, told in enumerate(infos, row):
        exposure, growth = told["exposure"], np.exp(told["log_growth"])
        carried = np.abs(before[~prices.tradable[t + 1]]).sum()
        most = max(most, np.abs(exposure).sum() - max(cap, carried))
        before = exposure * prices.open[t + 2] / prices.open[t + 1] / growth
    return float(most)


@pytest.mark.parametrize("assets", [3, 20])
@pytest.mark.parametrize("waits", [True, False])
def test_what_cannot_be_sold_is_not_bought_over_on_credit(assets: int, waits: bool, monkeypatch) -> None:
    """With outages in every asset, and the control: the same account when purchases do not wait for the sales."""
    panel, config = random_panel(assets, ROWS, 4), config_of(assets, limits=RiskLimits.off())
    multipliers = np.random.default_rng(4).uniform(0.0, 2.0, (STEPS, assets))
    if not waits:
        monkeypatch.setattr(account, "beside_carried", lambda exposure, *others: exposure)
    over = over_the_cap(played(panel, config, 25, multipliers), panel, 25, 1.0)
    assert (over <= 1e-12) if waits else (over > 0.1)


def test_the_cap_shrinks_all_weights_in_proportion() -> None:
    wanted = np.array([[2.0, 1.0, 0.5]])
    got = limited_exposure(wanted, np.full((1, 3), 2.0), np.full((1, 3), 0.5), np.zeros(1, bool), 1.0)
    assert got[0] == pytest.approx(np.array([2.0, 1.0, 0.5]) / 3.5)


def test_a_permutation_of_the_symbols_permutes_the_ledger_and_nothing_else() -> None:
    panel, order = random_panel(5, ROWS, 5), [3, 0, 4, 1, 2]
    other = panel_of([panel.bars[a] for a in order])
    multipliers = np.random.default_rng(5).uniform(0.0, 2.0, (STEPS, 5))
    one = played(panel, config_of(5), 25, multipliers)
    two = played(other, config_of(5, symbols=other.symbols), 25, multipliers[:, order])
    for told, permuted in zip(one, two, strict=True):
        assert permuted["exposure"] == pytest.approx(told["exposure"][order], rel=1e-12, abs=1e-15)
        for name in ("equity", "cost", "funding", "price_pnl", "log_growth"):
            assert permuted[name] == pytest.approx(told[name], rel=1e-12, abs=1e-15)
    assert not np.allclose(one[-1]["exposure"], two[-1]["exposure"])
    mixed = played(other, config_of(5, symbols=other.symbols), 25, multipliers)  # the control: wishes unpermuted
    assert abs(mixed[-1]["equity"] - one[-1]["equity"]) > 1e-6 * one[-1]["equity"]


def test_a_portfolio_that_trades_one_asset_is_the_single_asset_environment() -> None:
    panel = random_panel(2, ROWS, 6, gaps=0.0)
    multipliers = np.random.default_rng(6).uniform(0.0, 2.0, STEPS)
    infos = played(panel, config_of(2), 25, np.column_stack([multipliers, np.zeros(STEPS)]))
    env = TradingEnv(panel.bars[0], TradingEnvConfig(episode_bars=STEPS, ruin=0.001, allow_short=True))
    env.reset(seed=0, options={"row": 25})
    for told, m in zip(infos, multipliers, strict=True):
        info = env.step([m])[4]
        assert told["exposure"][0] == pytest.approx(info["exposure"], rel=1e-12, abs=1e-15)
        assert told["log_growth"] == pytest.approx(info["log_growth"], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("assets", [2, 3, 7, 20])
def test_dimensions_follow_from_the_symbols(assets: int) -> None:
    env = MultiAssetTradingEnv(random_panel(assets, ROWS, 7), config_of(assets))
    observation, _ = env.reset(seed=0)
    size = 16 * assets + assets * (assets - 1) // 2 + 1
    assert (observation.shape, env.action_space.shape) == ((size,), (assets,))
    assert env.observation_space.contains(observation)


def test_the_vector_environment_takes_the_same_steps() -> None:
    panel, config = random_panel(3, ROWS, 8), config_of(3)
    multipliers = np.random.default_rng(8).uniform(0.0, 2.0, (STEPS, 3))
    envs = MultiAssetVectorEnv(2, panel, config)
    envs.reset(seed=0, options={"row": 25})
    for told, m in zip(played(panel, config, 25, multipliers), multipliers, strict=True):
        info = envs.step(np.stack([m, m]))[4]
        assert info["exposure"][1] == pytest.approx(told["exposure"], rel=1e-12, abs=1e-15)


def test_the_promised_line_makes_an_environment_that_says_it_is_synthetic() -> None:
    env = MultiAssetTradingEnv(
        MultiAssetEnvConfig(symbols=["BTC-USD", "ETH-USD", "SOL-USD"], initial_capital=100000.0, max_position_pct=0.5)
    )
    observation, info = env.reset(seed=0)
    assert (observation.shape, info["equity"]) == ((52,), 100000.0)


def test_a_panel_in_another_order_than_the_config_is_refused() -> None:
    panel = random_panel(2, ROWS, 9)
    with pytest.raises(ConfigError, match="in this order"):
        MultiAssetTradingEnv(panel, config_of(2, symbols=panel.symbols[::-1]))


def test_only_wishes_beyond_the_gross_cap_are_pulled() -> None:
    physics = MultiAssetTradingEnv(random_panel(3, ROWS, 10), config_of(3, limits=RiskLimits.off())).physics
    window = physics.window(torch.tensor([30]))._replace(base=torch.full((1, 3), 0.5, dtype=torch.float64))
    wish = torch.tensor([[1.0, 0.5, 0.4]], dtype=torch.float64)
    assert physics.gross_excess(wish, window).item() == 0.0
    assert physics.gross_excess(wish * 2.0, window).item() == pytest.approx(0.9)
