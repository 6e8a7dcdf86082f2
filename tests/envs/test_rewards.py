"""Every reward against its formula in scalar Python, through the environment that pays it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from helpers.envs import play, random_bars, scalar_ledger
from himari_rl.envs import rewards
from himari_rl.envs.config import MultiAssetEnvConfig, TradingEnvConfig
from himari_rl.envs.trading_env import TradingEnv
from himari_rl.errors import ConfigError

ROWS = 80
STEPS = ROWS - 3
BARS = random_bars(ROWS, 21, sigma=0.01)
MULTIPLIERS = np.random.default_rng(4).uniform(0, 2, STEPS).tolist()


def paid(**config: object) -> tuple[np.ndarray, list, TradingEnvConfig]:
    chosen = TradingEnvConfig(episode_bars=STEPS, allow_short=True, ruin=1e-6, **config)
    return (
        play(TradingEnv(BARS, chosen), MULTIPLIERS, 0, STEPS)["reward"],
        scalar_ledger(BARS, chosen, 0, MULTIPLIERS),
        chosen,
    )


def asset_return(t: int) -> float:
    return BARS.open[t + 2] / BARS.open[t + 1] - 1.0


def test_log_growth_is_the_log_of_the_equity_factor() -> None:
    reward, story, _ = paid(reward="log_growth")
    assert reward == pytest.approx([bar.log_growth for bar in story], rel=1e-12, abs=1e-14)


def test_mean_variance_charges_half_the_aversion_times_the_squared_return() -> None:
    reward, story, _ = paid(reward="mean_variance", risk_aversion=6.7)
    expected = [bar.log_growth - 6.7 / 2 * (bar.exposure * asset_return(t)) ** 2 for t, bar in enumerate(story)]
    assert reward == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_the_differential_sharpe_ratio_is_moody_and_saffells() -> None:
    reward, story, config = paid(reward="differential_sharpe", sharpe_rate=0.05)
    a = b = 0.0
    expected = []
    for bar in story:
        r = bar.log_growth
        da, db, variance = r - a, r * r - b, b - a * a
        expected.append((b * da - 0.5 * a * db) / variance**1.5 if variance > 1e-12 else 0.0)
        a, b = a + config.sharpe_rate * da, b + config.sharpe_rate * db
    assert reward == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert np.abs(reward).max() > 0.1


def test_the_differential_sharpe_ratio_is_the_slope_of_the_sharpe_ratio_in_the_rate() -> None:
    a, b, r = 0.001, 0.0004, 0.015

    def sharpe(rate: float) -> float:
        first, second = a + rate * (r - a), b + rate * (r * r - b)
        return first / math.sqrt(second - first**2)

    growth = torch.tensor([r], dtype=torch.float64).exp()
    first, second = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    reward, *_ = rewards.differential_sharpe(growth, first, second, 0.01)
    assert float(reward) == pytest.approx((sharpe(1e-6) - sharpe(-1e-6)) / 2e-6, rel=1e-8)


def test_the_differential_sharpe_ratio_says_nothing_before_there_is_a_variance() -> None:
    none = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    reward, *_ = rewards.differential_sharpe((none + 1.01), none, none, 0.01)
    (slope,) = torch.autograd.grad(reward.sum(), none)
    assert float(reward.detach()) == 0.0
    assert float(slope) == 0.0  # and no NaN


def test_penalties_are_off_by_default_and_charge_turnover_and_drawdown() -> None:
    plain, story, _ = paid(reward="log_growth")
    penalised, _, config = paid(reward="log_growth", turnover_penalty=0.01, drawdown_penalty=0.003)
    cost_rate = config.cost_rate
    peak = mark = 0.0
    expected = []
    for t, bar in enumerate(story):
        before = story[t - 1].log_equity if t else 0.0
        to_close = BARS.close[t + 1] / BARS.open[t + 1] - 1.0
        mark = before + math.log(1.0 + bar.exposure * to_close - bar.cost)
        peak = max(peak, mark)
        expected.append(plain[t] - 0.01 * bar.cost / cost_rate - 0.003 * (peak - mark))
    assert penalised == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert (penalised < plain).sum() > STEPS / 2


def test_an_unknown_reward_is_refused() -> None:
    with pytest.raises(ConfigError, match="reward 'sortino'; expected one of believed, log_growth, mean_variance"):
        TradingEnvConfig(reward="sortino")


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_position_pct": math.nan}, {"max_position_pct": -0.5}, {"max_position_pct": 0.0},
        {"commission_rate": -0.01},
        {"commission_rate": math.nan}, {"slippage_bps": -1.0}, {"initial_capital": -5.0}, {"initial_capital": math.nan},
        {"ruin": 2.0}, {"risk_aversion": math.inf}, {"sharpe_rate": 0.0},
    ],
)  # fmt: skip
def test_a_market_rule_that_makes_no_sense_is_refused_by_name(wrong: dict[str, float]) -> None:
    """NaN costs gave NaN observations for as long as anybody stepped; a negative position was a short that is off."""
    for kind in (TradingEnvConfig, MultiAssetEnvConfig):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            kind(**wrong)
