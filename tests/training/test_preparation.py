"""What an agent trains on: beliefs fitted on the right rows, and none where none are asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.envs import random_bars
from himari_rl.agents.config import LSTMPPOConfig, PPOConfig
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.errors import ConfigError
from himari_rl.features.encoder import StateEncoder
from himari_rl.training.preparation import fitted, prepared, prior_of

WORLD = TradingEnvConfig(episode_bars=20)
BARS, OTHER = random_bars(300, 3), random_bars(400, 4)


def test_beliefs_are_the_default_and_raw_returns_an_option() -> None:
    rows, physics, beliefs = prepared([BARS], PPOConfig(), WORLD)
    assert beliefs is not None
    assert physics.config.reward == "believed"
    assert rows.shape[1] == 16 + 3
    config = fitted(PPOConfig(), StateEncoder(BARS.symbols), beliefs).sized()
    assert (config.anchored, config.num_envs, config.num_steps, config.minibatch) == (True, 16, 250, 4_000)
    rows, physics, beliefs = prepared([BARS], PPOConfig(beliefs=False), WORLD)
    assert beliefs is None
    assert physics.config == WORLD
    assert rows.shape[1] == 16
    config = fitted(PPOConfig(beliefs=False), StateEncoder(BARS.symbols), None).sized()
    assert (config.anchored, config.num_envs, config.num_steps, config.minibatch) == (False, 500, 50, 12_500)
    assert LSTMPPOConfig().sized().num_envs == 320
    assert PPOConfig(num_envs=7, anchored=True).sized().num_envs == 7  # what was asked for stays


def test_other_symbols_are_evidence_up_to_the_end_of_training_and_no_further() -> None:
    alone = prepared([BARS], PPOConfig(), WORLD)[2]
    pooled = prepared([BARS], PPOConfig(), WORLD, others=[OTHER])[2]
    assert alone != pooled
    later = np.where(OTHER.timestamp > BARS.timestamp[-1], 3.0, 1.0)
    assert (later > 1.0).any()
    prices = {name: getattr(OTHER, name) * later for name in ("open", "high", "low", "close")}
    assert prepared([BARS], PPOConfig(), WORLD, others=[replace(OTHER, **prices)])[2] == pooled


def test_copies_are_trained_on_and_not_believed() -> None:
    _, alone, beliefs = prepared([BARS], PPOConfig(), WORLD)
    _, beside, same = prepared([BARS], PPOConfig(), WORLD, copies=[OTHER])
    assert beliefs == same
    assert len(beside.market) == len(alone.market) + len(OTHER) - 2


def test_the_prior_belongs_to_the_objective() -> None:
    assert prior_of(PPOConfig(trust=1.25), WORLD, 8760.0).aversion == 1.0 + WORLD.risk_aversion
    assert prior_of(PPOConfig(trust=1.25), WORLD, 8760.0).trust == 1.25
    assert prior_of(PPOConfig(), replace(WORLD, reward="log_growth"), 8760.0).aversion == 1.0
    with pytest.raises(ConfigError, match="--no-beliefs"):
        prior_of(PPOConfig(), replace(WORLD, reward="differential_sharpe"), 8760.0)
    with pytest.raises(ConfigError, match="--no-beliefs"):
        prior_of(PPOConfig(head="centre"), WORLD, 8760.0)
