"""Gymnasium's and Stable-Baselines3's own checkers, with warnings as errors, and SB3's PPO, unchanged."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from helpers.envs import FREE, bars_of, random_bars, sb3_vec_env
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.trading_env import TradingEnv

BARS = random_bars(300, 4)
CONFIG = TradingEnvConfig(episode_bars=50)


@pytest.fixture
def registered():
    """gymnasium.make needs a name, and only with one does the checker test everything."""
    name = "himari-test/Trading-v0"
    gymnasium.register(name, entry_point=TradingEnv, kwargs={"bars": BARS, "config": CONFIG})
    yield name
    gymnasium.registry.pop(name)


def test_gymnasiums_checker_passes_the_centred_space_without_a_warning(registered: str) -> None:
    gymnasium_check(gymnasium.make(registered, action_space="centred").unwrapped)


@pytest.mark.parametrize("check", [gymnasium_check, sb3_check], ids=["gymnasium", "sb3"])
def test_of_the_multipliers_own_space_the_checkers_say_only_that_it_is_not_symmetric(registered: str, check) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check(gymnasium.make(registered).unwrapped)
    assert len(said) == 1
    assert "symmetric and normalized" in str(said[0].message)


def test_gymnasiums_checker_fails_an_observation_outside_its_bounds(registered: str) -> None:
    env = gymnasium.make(registered).unwrapped
    env.observation_space = gymnasium.spaces.Box(0.0, 0.1, (16,), np.float32)
    with pytest.raises((AssertionError, UserWarning)):
        gymnasium_check(env)


def test_sb3s_checker_passes_the_centred_space_without_a_warning() -> None:
    sb3_check(TradingEnv(BARS, CONFIG, action_space="centred"))


def test_every_observation_lies_in_the_space_and_reaches_its_ends() -> None:
    env = TradingEnv(random_bars(400, 5, sigma=0.2), TradingEnvConfig(episode_bars=300, allow_short=True, ruin=1e-9))
    seen = [env.reset(seed=0)[0]]
    rng = np.random.default_rng(0)
    for _ in range(300):
        observation, _, terminated, truncated, _ = env.step([2.0 * rng.integers(0, 2)])
        seen.append(observation)
        if terminated or truncated:
            break
    assert all(env.observation_space.contains(x) for x in seen)
    low, high = np.min(seen, 0), np.max(seen, 0)
    assert low[9] == -1.0
    assert high[9] == 1.0
    assert low[11] == -1.0  # a move of more than 10 % is clipped
    assert high[11] == 1.0


def test_sb3s_ppo_trains_on_the_single_environment_unchanged() -> None:
    torch.manual_seed(0)
    model = PPO("MlpPolicy", TradingEnv(BARS, CONFIG, action_space="centred"), n_steps=128, batch_size=64, n_epochs=2)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(256)
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))
    action, _ = model.predict(TradingEnv(BARS, CONFIG).reset(seed=0)[0])
    assert -1.0 <= action[0] <= 1.0


def test_sb3s_ppo_learns_what_there_is_to_learn_on_the_batched_face() -> None:
    opens = 100.0 * np.exp(0.004 * np.arange(200) + 0.001 * np.random.default_rng(0).normal(size=200))  # only up
    config = TradingEnvConfig(**FREE, episode_bars=25)
    envs: VecEnv = sb3_vec_env()(32, bars_of(opens), config, seed=0)
    model = PPO("MlpPolicy", envs, n_steps=25, batch_size=400, n_epochs=5, learning_rate=0.02, gamma=0.5, seed=0)
    model.learn(32 * 25 * 12)
    action, _ = model.predict(envs.reset(), deterministic=True)
    assert action.mean() > 0.5  # fully invested is 1.0; it began at 0.0
