"""A reward of somebody's own: paid by the environment, learned by PPO alone, known by the hash of its source."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.envs import play
from helpers.evaluation import bars_from, walk
from helpers.verdict import small_bars, small_settings
from himari_rl.config import from_dict
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.trading_env import TradingEnv
from himari_rl.errors import BundleError, ConfigError
from himari_rl.experiments.folds import train_fold
from himari_rl.experiments.recipe import Recipe
from himari_rl.experiments.walk_forward import REAL, plan
from himari_rl.policy.risk import RiskLimits

SOURCE = '''import torch


def hits(growth, portfolio_return, cost, turnover):
    """+1 for a bar that gained, -1 for one that lost, less ten times the turnover: no slope anywhere."""
    return torch.sign(growth - 1.0).detach() - 10.0 * turnover.detach()


def short(growth, portfolio_return, cost, turnover):
    return growth[:0]
'''


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "a_reward_of_mine.py"
    path.write_text(SOURCE)
    yield path
    sys.modules.pop(path.stem, None)
    sys.path[:] = [each for each in sys.path if each != str(tmp_path)]


def test_the_environment_pays_it(module: Path) -> None:
    config = TradingEnvConfig(reward=f"{module}:hits", limits=RiskLimits.off(), episode_bars=50)
    assert config.reward.startswith("a_reward_of_mine:hits@")
    multipliers = np.random.default_rng(0).uniform(0.0, 2.0, 50)
    story = play(TradingEnv(bars_from(walk(80, 1)), config), multipliers.tolist(), 0, 50)
    held = 0.0
    for t in range(50):
        traded = abs(story["exposure"][t] - held)
        assert story["reward"][t] == pytest.approx(np.sign(story["log_growth"][t]) - 10.0 * traded, abs=1e-9)
        opens = walk(80, 1)
        moved = opens[t + 2] / opens[t + 1] - 1.0
        held = story["exposure"][t] * (1.0 + moved) / np.exp(story["log_growth"][t])


def test_ppo_alone_learns_from_it_and_says_so(module: Path) -> None:
    environment = TradingEnvConfig(reward=f"{module}:hits", episode_bars=20)
    settings = small_settings(environment=environment)
    assert (settings.agent.recipe, settings.agent.beliefs) == ("ppo", False)
    assert "learned by PPO alone" in settings.budget
    assert "PPO alone" not in Recipe().budget  # negative control: no other reward changes the recipe
    assert len(train_fold(plan(small_bars(), settings, controls=False).task((REAL, 0, 0)))) > 1000


def test_an_edited_function_is_not_taken_for_the_one_that_was_named(module: Path) -> None:
    config = TradingEnvConfig(reward=f"{module}:hits")
    again = from_dict(TradingEnvConfig, {"reward": config.reward})
    assert again.reward == config.reward
    module.write_text(SOURCE.replace("10.0", "20.0"))
    with pytest.raises(BundleError, match="as it was named"):
        TradingEnv(bars_from(walk(700, 1)), again)


def test_what_is_no_reward_is_refused(module: Path) -> None:
    with pytest.raises(ConfigError, match="or MODULE:FUNCTION"):
        TradingEnvConfig(reward="profit")
    with pytest.raises(ConfigError, match="has no function nothing"):
        TradingEnvConfig(reward=f"{module}:nothing")
    env = TradingEnv(bars_from(walk(80, 1)), TradingEnvConfig(reward=f"{module}:short", episode_bars=50))
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"returned \(0,\)"):
        env.step(np.array([1.0]))
