"""One account behind gymnasium's face. The arithmetic is `Physics` with N = 1; here are only spaces, seeds and infos.

observe at the close of bar t  ->  step(m_t)  ->  fill at open[t+1]  ->  earn open[t+1] .. open[t+2]

reward       of that decision, unscaled (a learner scales it), so it includes open[t+2]
observation  at the close of bar t+1: it marks the position at close[t+1] and knows nothing of open[t+2]
truncated    the episode's bars are up; the market goes on and the value bootstraps
terminated   the account is ruined
"""

from __future__ import annotations

from typing import Any, TypeVar

import gymnasium
import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from himari_rl.data.panel import Panel
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.physics import EnvState, Market, Outcome, Physics, market_of
from himari_rl.envs.registration import register_environments
from himari_rl.errors import ConfigError, DataError, StateError
from himari_rl.features.contract import state_features
from himari_rl.features.encoder import StateEncoder
from himari_rl.schema import MAX_MULTIPLIER, Bars, IntArray

__all__ = ["TradingEnv", "TradingEnvConfig"]

Observation = NDArray[np.float32]
SPACES = {"multiplier": (0.0, MAX_MULTIPLIER), "centred": (-1.0, 1.0)}


register_environments()  # whoever imports an environment can make it by name


C = TypeVar("C", bound=TradingEnvConfig)


def require_history(bars: object) -> None:
    """Refuses what is not bars, at the door.

    Raises:
        ConfigError: a config; the arguments are in the wrong order.
        DataError: anything else that is not Bars, a Panel or a Market.
    """
    if isinstance(bars, TradingEnvConfig):
        raise ConfigError(
            f"a {type(bars).__name__} where the bars belong",
            "the bars first, then the config",
            "write TradingEnv(bars, config), VectorTradingEnv(num_envs, bars, config)",
        )
    if not isinstance(bars, Bars | Panel | Market):
        raise DataError(
            f"a {type(bars).__name__} where bars belong",
            "Bars, a Panel or a Market",
            "Bars.from_frame(df) makes bars of a DataFrame, load_bars(path) reads a file",
        )


def require_config(config: object, wanted: type[C]) -> C:
    """The config, or the default one.

    Raises:
        ConfigError: something else.
    """
    if config is None:
        return wanted()
    if not isinstance(config, wanted):
        cure = f"write {wanted.__name__}(...), keyword arguments only, after the bars"
        raise ConfigError(f"a {type(config).__name__} where the config belongs", f"a {wanted.__name__}", cure)
    return config


class Face:
    """What the single and the vector environment share: a market's physics, its spaces, and the clock for people.

    Args:
        bars: one history or panel, or a `Market` of several paths (a market with a solved optimum).
        action_space: "multiplier" is Box(0, 2); "centred" is Box(-1, 1) with multiplier 1 + a.
    """

    def __init__(
        self,
        bars: Bars | Panel | Market,
        config: TradingEnvConfig | None,
        encoder: StateEncoder | None,
        action_space: str,
    ) -> None:
        require_history(bars)
        config = require_config(config, TradingEnvConfig)
        if action_space not in SPACES:
            raise ConfigError(f"action_space {action_space!r}", f"one of {', '.join(SPACES)}")
        self.timestamp: IntArray | None = None
        if isinstance(bars, Bars | Panel):
            encoder = encoder or StateEncoder.of(bars)
            _, market = market_of(bars, encoder, config)
            self.timestamp = bars.timestamp
        else:
            market = bars
            encoder = encoder or StateEncoder(tuple(f"asset-{i}" for i in range(market.assets)))
        self.physics = Physics(market, config, encoder)
        low, high = SPACES[action_space]
        self.shift = 1.0 - (low + high) / 2.0
        self.action_space = Box(low, high, (market.assets,), np.float32)
        bounds = [(feature.lower, feature.upper) for feature in state_features(encoder.symbols, encoder.own)]
        lower, upper = np.array(bounds, np.float32).T
        self.observation_space = Box(lower, upper, dtype=np.float32)

    def start(self, count: int, generator: torch.Generator, options: dict[str, Any] | None) -> EnvState:
        """Accounts at random rows, or at options["row"]."""
        if options is None or "row" not in options:
            return self.physics.reset(count, generator)
        rows = torch.as_tensor(np.broadcast_to(np.asarray(options["row"], np.int64), (count,)).copy())
        market, length = self.physics.market, self.physics.config.episode_bars
        path = torch.searchsorted(market.path_start, rows, right=True) - 1
        room = (market.path_start + market.path_rows)[path.clamp_min(0)] - rows
        if bool(((path < 0) | (room <= length)).any()):
            raise ConfigError(
                f"no episode of {length} bars starts at row {options['row']}",
                f"0 to {int(market.path_rows[0]) - length - 1} on the first path of {int(market.path_rows[0])} rows",
            )
        return self.physics.reset(count, generator, at=rows)

    def multiplier(self, action: ArrayLike, count: int) -> Tensor:
        """(N, A) multipliers of actions (N, A); the ledger clips them to [0, 2].

        Raises:
            StateError: NaN or infinity, which a ledger must not meet.
        """
        numbers = np.asarray(action, np.float64).reshape(count, -1) + self.shift
        if numbers.shape[1] != self.physics.market.assets or not np.isfinite(numbers).all():
            raise StateError(f"action {np.asarray(action).tolist()}", f"{self.physics.market.assets} finite numbers")
        return torch.from_numpy(numbers)

    @torch.no_grad()
    def observe(self, state: EnvState) -> Observation:
        """(N, F) float32 at the close of each account's row."""
        return self.physics.observe(state, self.physics.market.rows[state.row]).numpy()

    @torch.no_grad()
    def step(self, state: EnvState, action: ArrayLike) -> tuple[EnvState, Outcome]:
        """One decision of every account."""
        return self.physics.step(state, self.multiplier(action, len(state.row)), self.physics.window(state.row))

    def info(self, state: EnvState, outcome: Outcome | None = None) -> dict[str, NDArray[Any]]:
        """(N,) or (N, A) each. Money is fill to fill, so `equity` is at the next open, where `log_growth` ends.

        equity USD, exposure (after the fill), price_pnl, cost and funding (fractions of the equity before the fill,
        which becomes 1 + price_pnl - cost - funding times itself), log_growth, row, and timestamp (ms UTC, OPEN of
        the last bar that was observed), the last only where the bars are known.
        """
        nothing = torch.zeros_like(state.account.log_equity)
        exposure = state.account.held if outcome is None else outcome.moved.exposure
        numbers = {
            "equity": self.physics.config.initial_capital * state.account.log_equity.exp(),
            "exposure": exposure[:, 0] if exposure.shape[1] == 1 else exposure,
            "price_pnl": nothing if outcome is None else outcome.price_pnl,
            "cost": nothing if outcome is None else outcome.moved.cost,
            "funding": nothing if outcome is None else outcome.funding,
            "log_growth": nothing if outcome is None else outcome.log_growth,
            "row": state.row,
        }
        info = {name: value.numpy() for name, value in numbers.items()}
        if self.timestamp is not None:
            info["timestamp"] = self.timestamp[info["row"]]
        return info


class TradingEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """Sixteen numbers in, one multiplier out, one bar a step.

    Args:
        bars: one history, or a `Market` of one or several paths.
        config: costs, limits, episode and reward; the defaults without it.
        encoder: of the observation; by default that of the bars' symbol.
        action_space: "multiplier" is Box(0, 2); "centred" is Box(-1, 1), for learners that want it symmetric.

    Raises:
        ConfigError: too few bars for one episode, an unknown action space, or a config where the bars belong.
        DataError: a DataFrame or an array where bars belong.

    >>> from himari_rl.data.synthetic import synthetic_bars
    >>> env = TradingEnv(synthetic_bars(1000, seed=0), TradingEnvConfig(episode_bars=100))
    >>> observation, info = env.reset(seed=0, options={"row": 400})
    >>> observation, reward, terminated, truncated, info = env.step([1.0])
    >>> observation.shape, terminated, truncated
    ((16,), False, False)
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - gymnasium's own name and type

    def __init__(
        self,
        bars: Bars | Panel | Market,
        config: TradingEnvConfig | None = None,
        *,
        encoder: StateEncoder | None = None,
        action_space: str = "multiplier",
    ) -> None:
        self._face = Face(bars, config, encoder, action_space)
        self.physics = self._face.physics
        self.action_space = self._face.action_space
        self.observation_space = self._face.observation_space
        self._generator: torch.Generator | None = None
        self._state: EnvState | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A fresh account in cash at a random bar, or at options["row"]."""
        super().reset(seed=seed)
        if seed is not None or self._generator is None:
            self._generator = generator_of(self.np_random)
        self._state = self._face.start(1, self._generator, options)
        return self._face.observe(self._state)[0], single(self._face.info(self._state))

    def step(self, action: ArrayLike) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Decides at the close of the observed bar. After the end of an episode, reset first."""
        if self._state is None:
            raise ResetNeeded("the episode is over or was never begun; call reset() before step()")
        state, outcome = self._face.step(self._state, action)
        terminated, truncated = bool(outcome.terminated), bool(outcome.truncated)
        self._state = None if terminated or truncated else state
        info = single(self._face.info(state, outcome))
        return self._face.observe(state)[0], float(outcome.reward), terminated, truncated, info


def generator_of(np_random: np.random.Generator) -> torch.Generator:
    """The one source of an environment's randomness, from gymnasium's."""
    return torch.Generator().manual_seed(int(np_random.integers(2**63)))


def single(info: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """The info of the only account, as plain numbers."""
    return {name: values[0].item() if values.ndim == 1 else values[0] for name, values in info.items()}
