"""One account, N accounts behind gymnasium's vector face, the batched core and SB3's face: the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from helpers.envs import FREE, bars_of, play, random_bars, reactive, sb3_vec_env
from helpers.evaluation import ledger
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.physics import Market, Physics, market_of
from himari_rl.envs.trading_env import TradingEnv
from himari_rl.envs.vector_env import VectorTradingEnv
from himari_rl.errors import ConfigError, StateError
from himari_rl.evaluation.backtest import backtest, stage
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.clock import market_path
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.policy.risk import RiskLimits

ROWS, STEPS = 300, 120
BARS = random_bars(ROWS, 11, sigma=0.02)
CONFIG = TradingEnvConfig(episode_bars=STEPS, allow_short=True, ruin=0.01)
ENCODER = StateEncoder((BARS.symbol,))
STARTS = np.array([0, 17, 60, 177])
ACTIONS = np.random.default_rng(1).uniform(0, 2, (STEPS, len(STARTS), 1))


@pytest.fixture(scope="module")
def batched() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations (T + 1, N, F), rewards and log-growth (T, N) of the core itself."""
    physics = Physics(market_of(BARS, ENCODER, CONFIG)[1], CONFIG, ENCODER)
    state = physics.reset(len(STARTS), torch.Generator(), at=torch.from_numpy(STARTS))
    seen, rewards, growth = [physics.observe(state, physics.market.rows[state.row])], [], []
    for actions in ACTIONS:
        state, outcome = physics.step(state, torch.from_numpy(actions), physics.window(state.row))
        seen.append(physics.observe(state, physics.market.rows[state.row]))
        rewards.append(outcome.reward)
        growth.append(outcome.log_growth)
    return tuple(torch.stack(x).numpy() for x in (seen, rewards, growth))


def test_single_and_batched_agree(batched) -> None:
    seen, rewards, growth = batched
    env = TradingEnv(BARS, CONFIG)
    for n, row in enumerate(STARTS):
        observation, _ = env.reset(options={"row": int(row)})
        assert (observation == seen[0, n]).all()
        for t in range(STEPS):
            observation, reward, _, _, info = env.step(ACTIONS[t, n])
            assert (observation == seen[t + 1, n]).all()
            assert reward == pytest.approx(rewards[t, n], rel=1e-12, abs=1e-12)
            assert info["log_growth"] == pytest.approx(growth[t, n], rel=1e-12, abs=1e-12)


def test_vector_and_batched_agree(batched) -> None:
    seen, rewards, growth = batched
    envs = VectorTradingEnv(len(STARTS), BARS, CONFIG)
    observation, _ = envs.reset(options={"row": STARTS})
    assert (observation == seen[0]).all()
    for t in range(STEPS):
        observation, reward, _, _, info = envs.step(ACTIONS[t])
        assert (observation == seen[t + 1]).all()
        assert reward == pytest.approx(rewards[t], rel=1e-12, abs=1e-12)
        assert info["log_growth"] == pytest.approx(growth[t], rel=1e-12, abs=1e-12)


def test_the_vector_face_resets_as_gymnasiums_own_next_step_vector_does() -> None:
    short = TradingEnvConfig(episode_bars=3, allow_short=True)
    ours = VectorTradingEnv(2, bars_of(np.linspace(90, 110, 8)), short)
    theirs = SyncVectorEnv([lambda: TradingEnv(bars_of(np.linspace(90, 110, 8)), short)] * 2)
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    ours.reset(seed=0, options={"row": 0})
    theirs.reset(seed=0, options={"row": 0})
    for step in range(9):
        mine, other = ours.step(np.full((2, 1), 2.0)), theirs.step(np.full((2, 1), 2.0))
        assert [x.tolist() for x in mine[2:4]] == [x.tolist() for x in other[2:4]], step
        assert mine[3].all() == (step % 4 == 2)  # three bars, then one step that only resets
        assert set(mine[4]) == set(other[4])
        if step % 4 == 3:
            assert not mine[1].any()
            assert not mine[0][:, 8:11].any()
            assert (mine[4]["equity"] == other[4]["equity"]).all()
            assert (mine[4]["equity"] == 1e5).all()
        elif step < 3:  # before the first random start
            assert (mine[0] == other[0]).all()
            assert mine[1] == pytest.approx(other[1], rel=1e-12)


def test_the_sb3_face_hands_over_the_final_observation_and_says_truncated() -> None:
    envs = sb3_vec_env()(2, BARS, TradingEnvConfig(episode_bars=4, allow_short=True, ruin=0.01), seed=3)
    envs.reset()
    rows = envs.state.row.clone()
    twin = VectorTradingEnv(2, BARS, TradingEnvConfig(episode_bars=4, allow_short=True, ruin=0.01))
    twin.reset(options={"row": rows.numpy()})
    for step in range(4):
        observation, _, over, infos = envs.step(np.full((2, 1), 0.5))
        final = twin.step(np.full((2, 1), 1.5))[0]
        assert over.all() == (step == 3)
    assert [info["TimeLimit.truncated"] for info in infos] == [True, True]
    assert (np.stack([info["terminal_observation"] for info in infos]) == final).all()
    assert not observation[:, 8:11].any()  # already a fresh account


class Plan:
    """A policy for the backtest that plays a list, or `reactive`, and counts its bars in its memory."""

    def __init__(self, plan: list[float] | None) -> None:
        self.plan = plan

    def decide_batch(self, states: np.ndarray, memory: int | None = None) -> tuple[np.ndarray, int]:
        step = memory or 0
        answers = (
            [reactive(np.float32(state)) for state in states] if self.plan is None else [self.plan[step]] * len(states)
        )
        return np.array(answers)[:, None], step + 1


@pytest.mark.parametrize("listed", [True, False])
def test_the_backtest_meets_the_same_market_with_the_same_money(listed: bool) -> None:
    plan = np.random.default_rng(5).uniform(0, 2, ROWS).tolist() if listed else None
    spec = ledger(RiskLimits(), allow_short=True)
    told = backtest({"policy": Plan(plan)}, stage(BARS, spec), spec, rng=np.random.default_rng(0)).run("policy")
    played = play(
        TradingEnv(BARS, TradingEnvConfig(episode_bars=ROWS - 3, allow_short=True, ruin=1e-6)),
        plan or reactive,
        0,
        ROWS - 3,
    )
    assert played["log_growth"] == pytest.approx(told.log_growth[:-1], rel=1e-12, abs=1e-12)
    assert played["exposure"] == pytest.approx(told.exposure[:-1, 0], rel=1e-12, abs=1e-12)
    assert played["cost"] == pytest.approx(told.cost[:-1], rel=1e-12, abs=1e-12)


def test_an_episode_ends_by_truncation_and_only_ruin_terminates() -> None:
    steady = TradingEnv(bars_of(np.full(20, 100.0)), TradingEnvConfig(episode_bars=5))
    falling = TradingEnv(bars_of(100.0 * 0.8 ** np.arange(20)), TradingEnvConfig(**FREE, episode_bars=15))
    ends = {}
    for name, env in (("steady", steady), ("falling", falling)):
        env.reset(seed=0, options={"row": 0})
        ends[name] = [env.step([2.0])[2:4]]
        while not any(ends[name][-1]):
            ends[name].append(env.step([2.0])[2:4])
    assert ends["steady"] == [(False, False)] * 4 + [(False, True)]
    # fully invested at open[1]; marked at close[1 + k] = open[2 + k]: .8, .64, .512, .41 of the start
    assert ends["falling"] == [(False, False)] * 3 + [(True, False)]


def test_ruin_is_judged_by_closes_which_are_what_is_observed() -> None:
    opens = np.array([100.0, 100, 100, 40, 40, 40, 40, 40])
    closes = np.array([100.0, 100, 90, 40, 40, 40, 40, 40])  # the fall comes between close[2] and open[3]
    env = TradingEnv(bars_of(opens, closes), TradingEnvConfig(**FREE, episode_bars=5))
    env.reset(options={"row": 0})
    steps = [env.step([2.0]) for _ in range(3)]
    assert [info["equity"] for *_, info in steps] == pytest.approx([1e5, 4e4, 4e4])
    assert [terminated for _, _, terminated, _, _ in steps] == [False, False, True]


def test_an_episode_needs_three_more_bars_than_it_has_decisions() -> None:
    config = TradingEnvConfig(episode_bars=20)
    with pytest.raises(ConfigError, match="22 bars; expected at least 23 for episodes of 20"):
        TradingEnv(BARS[:22], config)
    env = TradingEnv(BARS[:23], config)
    env.reset(seed=0)
    assert [env.step([1.0])[3] for _ in range(20)] == [False] * 19 + [True]


def test_starts_are_random_within_the_bars_and_follow_the_seed() -> None:
    env = TradingEnv(BARS, CONFIG)
    rows = [env.reset(seed=5)[1]["row"], *(env.reset()[1]["row"] for _ in range(200))]
    again = [env.reset(seed=5)[1]["row"], *(env.reset()[1]["row"] for _ in range(200))]
    assert rows == again
    assert rows[:3] != [env.reset(seed=6)[1]["row"], *(env.reset()[1]["row"] for _ in range(2))]
    assert min(rows) >= 0
    assert max(rows) <= ROWS - 3 - STEPS
    assert len(set(rows)) > 100


def test_a_market_of_several_paths_starts_on_each_and_crosses_none() -> None:
    paths = [random_bars(rows, seed, sigma=0.01) for seed, rows in ((1, 40), (2, 27), (3, 60))]
    rows = [ENCODER.market_rows(bars) for bars in paths]
    lines = [market_path(b, r, LedgerConfig(limits=CONFIG.limits)) for b, r in zip(paths, rows, strict=True)]
    market = Market.build([r[:-2] for r in rows], lines)
    env = TradingEnv(market, TradingEnvConfig(episode_bars=25))  # the second path is one bar too short
    starts = np.array([env.reset(seed=0)[1]["row"], *(env.reset()[1]["row"] for _ in range(300))])
    first, last = (starts < 38), (starts >= 38 + 25)
    assert (first | last).all()
    assert starts[first].max() <= 38 - 25 - 1
    assert starts[last].max() <= 38 + 25 + 58 - 25 - 1
    assert abs(first.mean() - 0.5) < 0.1
    assert "timestamp" not in env.reset()[1]
    for row in (13, 30, 38, 40, 63 + 33, -1, 1000):
        with pytest.raises(ConfigError, match=f"no episode of 25 bars starts at row {row}; expected 0 to 12"):
            env.reset(options={"row": row})
    assert env.reset(options={"row": 63 + 32})[1]["row"] == 95


def test_the_timestamp_is_that_of_the_last_bar_observed() -> None:
    env = TradingEnv(BARS, CONFIG)
    assert env.reset(options={"row": 7})[1]["timestamp"] == BARS.timestamp[7]
    assert env.step([1.0])[4]["timestamp"] == BARS.timestamp[8]


def test_the_centred_action_is_the_multiplier_less_one() -> None:
    told = []
    for space, actions in (("multiplier", [0.0, 0.7, 2.0]), ("centred", [-1.0, -0.3, 1.0])):
        env = TradingEnv(BARS, CONFIG, action_space=space)
        env.reset(options={"row": 3})
        told.append([env.step([a])[4]["exposure"] for a in actions])
    assert told[0] == pytest.approx(told[1], rel=1e-12)


@pytest.mark.parametrize("action", [[np.nan], [np.inf], [1.0, 1.0], []])
def test_an_action_that_is_no_finite_number_is_refused(action: list[float]) -> None:
    env = TradingEnv(BARS, CONFIG)
    env.reset(seed=0)
    with pytest.raises(StateError, match="expected 1 finite number"):
        env.step(action)


def test_a_step_without_a_running_episode_is_refused() -> None:
    env = TradingEnv(BARS, TradingEnvConfig(episode_bars=1))
    with pytest.raises(ResetNeeded):
        env.step([1.0])
    env.reset(seed=0)
    env.step([1.0])
    with pytest.raises(ResetNeeded):
        env.step([1.0])
    with pytest.raises(ResetNeeded):
        VectorTradingEnv(2, BARS, CONFIG).step([[1.0], [1.0]])


def test_settings_that_make_no_environment_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="300 bars; expected at least 503 for episodes of 500"):
        TradingEnv(BARS, TradingEnvConfig(episode_bars=500))
    with pytest.raises(ConfigError, match="action_space 'other'; expected one of multiplier, centred"):
        TradingEnv(BARS, CONFIG, action_space="other")
    with pytest.raises(ConfigError, match="num_envs 0"):
        VectorTradingEnv(0, BARS, CONFIG)
