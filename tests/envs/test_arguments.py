"""Bars first, then the config, in every environment; what is neither is refused with the right order or the cure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers.envs import random_bars
from helpers.multi import random_panel
from himari_rl.envs.config import MultiAssetEnvConfig, TradingEnvConfig
from himari_rl.envs.multi_asset_env import MultiAssetTradingEnv, MultiAssetVectorEnv
from himari_rl.envs.trading_env import TradingEnv
from himari_rl.envs.vector_env import VectorTradingEnv
from himari_rl.errors import ConfigError, DataError, HimariError

BARS, PANEL = random_bars(100, 1), random_panel(2, 100, 2)
ONE = TradingEnvConfig(episode_bars=20)
TWO = MultiAssetEnvConfig(symbols=PANEL.symbols, episode_bars=20)


def vector(*arguments: Any) -> VectorTradingEnv:
    return VectorTradingEnv(2, *arguments)


def multi_vector(*arguments: Any) -> MultiAssetVectorEnv:
    return MultiAssetVectorEnv(2, *arguments)


@pytest.mark.parametrize("make", [TradingEnv, vector])
@pytest.mark.parametrize("arguments", [(ONE, BARS), (ONE,)], ids=["swapped", "without bars"])
def test_a_config_where_the_bars_belong_names_the_right_order(make: Callable[..., object], arguments: tuple) -> None:
    with pytest.raises(ConfigError, match="TradingEnvConfig where the bars belong") as refused:
        make(*arguments)
    assert "TradingEnv(bars, config)" in refused.value.cure


@pytest.mark.parametrize("make", [TradingEnv, vector, MultiAssetTradingEnv, multi_vector])
@pytest.mark.parametrize("thing", [pd.DataFrame({"close": [1.0]}), np.ones((5, 5)), "bars.parquet", [BARS]])
def test_what_is_not_bars_is_refused_with_what_makes_bars_of_it(make: Callable[..., object], thing: object) -> None:
    with pytest.raises(DataError, match=f"a {type(thing).__name__} where bars belong") as refused:
        make(thing)
    assert "Bars.from_frame(df)" in refused.value.cure


@pytest.mark.parametrize(
    ("make", "arguments", "found"),
    [
        (TradingEnv, (BARS, {"episode_bars": 20}), "a dict where the config belongs; expected a TradingEnvConfig"),
        (MultiAssetTradingEnv, (PANEL, ONE), "a TradingEnvConfig where the config belongs"),
        (MultiAssetTradingEnv, (TWO, TWO), "two configs"),
        (MultiAssetTradingEnv, (ONE,), "a TradingEnvConfig where the bars belong"),
        (MultiAssetTradingEnv, (BARS, TWO), "the bars of one symbol"),
        (MultiAssetTradingEnv, (random_panel(3, 100, 2), TWO), "in this order"),
    ],
)
def test_a_config_or_panel_of_the_wrong_kind_is_refused(make: Callable[..., object], arguments, found: str) -> None:
    with pytest.raises(HimariError, match=found) as refused:
        make(*arguments)
    assert refused.value.expected
    assert refused.value.cure


@pytest.mark.parametrize("arguments", [(PANEL, TWO), (TWO, PANEL), (PANEL,)], ids=["bars first", "as before", "alone"])
@pytest.mark.parametrize("make", [MultiAssetTradingEnv, multi_vector])
def test_a_multi_asset_config_may_stand_first_and_without_one_the_symbols_are_the_panels(make, arguments) -> None:
    if len(arguments) == 1:
        arguments = (random_panel(2, 600, 2),)  # the default episode is 500 bars
    env = make(*arguments)
    reference = make(*arguments) if len(arguments) == 1 else make(PANEL, TWO)
    assert env.physics.config.symbols == PANEL.symbols
    assert env.physics.config == reference.physics.config
    assert np.array_equal(env.reset(seed=0)[0], reference.reset(seed=0)[0])


def test_the_configs_own_call_makes_synthetic_bars_of_its_symbols() -> None:
    config = MultiAssetEnvConfig(symbols=["A-USD", "B-USD"], episode_bars=20)
    alone, named = MultiAssetTradingEnv(config), MultiAssetTradingEnv(config=config)
    assert np.array_equal(alone.reset(seed=0)[0], named.reset(seed=0)[0])
    assert alone.physics.config.symbols == ("A-USD", "B-USD")
