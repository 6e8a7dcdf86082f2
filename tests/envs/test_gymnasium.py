"""Gymnasium's and Stable-Baselines3's own checkers, with warnings as errors, and SB3's PPO, unchanged."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from helpers.envs import FREE, bars_of, random_bars, sb3_vec_env
from helpers.multi import random_panel
from himari_rl.envs.config import MultiAssetEnvConfig, TradingEnvConfig
from himari_rl.envs.registration import IDS, register_environments
from himari_rl.envs.trading_env import TradingEnv

BARS = random_bars(300, 4)
CONFIG = TradingEnvConfig(episode_bars=50)
PANEL = random_panel(3, 300, 4)


def made(name: str, **more: Any) -> gymnasium.Env:
    """By its public name: only an environment that gymnasium made itself is checked in everything."""
    if name == "himari/Trading-v0":
        return gymnasium.make(name, bars=BARS, config=CONFIG, **more)
    return gymnasium.make(name, panel=PANEL, config=MultiAssetEnvConfig(symbols=PANEL.symbols, episode_bars=50), **more)


EACH_NAME = pytest.mark.parametrize("name", list(IDS))


@EACH_NAME
def test_gymnasiums_checker_passes_the_centred_space_without_a_warning(name: str) -> None:
    gymnasium_check(made(name, action_space="centred").unwrapped)


@EACH_NAME
def test_gymnasiums_passive_checker_watches_whole_episodes_without_a_warning(name: str) -> None:
    env = made(name, action_space="centred", disable_env_checker=False)
    assert "PassiveEnvChecker" in str(env)
    for seed in range(2):
        observation, _ = env.reset(seed=seed)
        over = False
        while not over:
            assert env.observation_space.contains(observation)
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            over = terminated or truncated


@EACH_NAME
@pytest.mark.parametrize(("limit", "steps"), [(None, 50), (7, 7), (500, 50)])
def test_an_episode_is_truncated_by_its_config_or_earlier_by_max_episode_steps(name, limit, steps) -> None:
    env = made(name, max_episode_steps=limit) if limit else made(name)
    for seed in range(2):  # and the next episode is whole again
        env.reset(seed=seed)
        ends = [env.step(0.1 * env.action_space.high)[2:4] for _ in range(steps)]
        assert ends == [(False, False)] * (steps - 1) + [(False, True)]


def test_registering_again_changes_nothing() -> None:
    before = dict(gymnasium.registry)
    register_environments()
    assert gymnasium.registry == before


ORDERS = {
    "import gymnasium, himari_rl": True,
    "from himari_rl import TradingEnv; import gymnasium": True,
    "import himari_rl, gymnasium; himari_rl.MultiAssetTradingEnv": True,
    "import gymnasium": False,  # the control
}
EACH_ORDER = """
import json, os, sys
import torch  # most of what an environment imports, and neither of the two whose order is asked for
assert not {"gymnasium", "himari_rl"} & set(sys.modules)
for order in json.loads(sys.argv[1]):
    sys.stdout.flush()
    if not os.fork():
        exec(order)
        print(json.dumps(sorted(n for n in gymnasium.registry if n.startswith("himari/"))), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, order
"""


@pytest.fixture(scope="module")
def registered() -> dict[str, list[str]]:
    """What is registered after each order, in a process of its own; torch is imported once for all of them."""
    told = run_python(EACH_ORDER, json.dumps(list(ORDERS))).splitlines()
    return dict(zip(ORDERS, map(json.loads, told), strict=True))


@pytest.mark.parametrize("order", ORDERS)
def test_the_names_are_there_where_both_are_imported(registered: dict[str, list[str]], order: str) -> None:
    assert registered[order] == (sorted(IDS) if ORDERS[order] else [])


def test_importing_the_package_does_not_import_gymnasium() -> None:
    assert run_python("import sys, himari_rl; print('gymnasium' in sys.modules)").strip() == "False"


def run_python(code: str, *words: str) -> str:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("check", [gymnasium_check, sb3_check], ids=["gymnasium", "sb3"])
def test_of_the_multipliers_own_space_the_checkers_say_only_that_it_is_not_symmetric(check) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check(made("himari/Trading-v0").unwrapped)
    assert len(said) == 1
    assert "symmetric and normalized" in str(said[0].message)


def test_gymnasiums_checker_fails_an_observation_outside_its_bounds() -> None:
    env = made("himari/Trading-v0").unwrapped
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
