"""A market of one asset as plain arrays, for learners that are not ours: what they see, what it pays, how they answer.

A peer gets what our recipe gives itself: the same drawn bars, inputs standardised as our normaliser does it, fresh
accounts at random positions before each rollout (half of them in cash), an action centred on multiplier 1.0, the
reward less what 1.0 earns on the same bar (exact, for the market does not react to us) over its standard deviation.
The ledger is the product's, in six operations a bar; tests/benchmarks holds it against policy/ledger.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from himari_rl.certification.attempts import draw_training
from himari_rl.certification.grading import MAX_POSITION_PCT
from himari_rl.certification.law import KnownMarket
from himari_rl.certification.observe import market_rows, visible
from himari_rl.certification.thresholds import Budget
from himari_rl.errors import ConfigError
from himari_rl.features.contract import ACCOUNT_COLUMNS, POSITION_SIZE

Layers = Sequence[tuple[np.ndarray, np.ndarray]]  # weights (in, out) and biases (out,) of each layer


@dataclass(frozen=True)
class PeerMarket:
    """Drawn paths as a peer reads them. `signal` is what it sees of a bar besides its own position, standardised."""

    signal: np.ndarray  # (P, T) float32
    returns: np.ndarray  # (P, T) float32 what the decision at a row earns
    cost: float
    scale: float  # standard deviation of a bar's growth at multiplier 1.0
    column: int  # of the sixteen features: the one that `signal` is
    mean: float
    deviation: float

    def inputs(self, states: np.ndarray) -> np.ndarray:
        """(N, 2) what a peer's net reads, from rows (N, 16) of the sixteen features."""
        signal = (states[:, self.column] - self.mean) / self.deviation
        return np.stack([signal, position_input(states[:, POSITION_SIZE])], -1).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class PeerSettings:
    """A peer's hyper-parameters; those without a default are its own (benchmarks/RESULTS.md says what was tried)."""

    num_envs: int
    num_steps: int
    minibatch: int
    hidden: int
    """Units of the two tanh layers of the actor, and of the critic's."""
    value_coefficient: float
    """Weight of the critic's mean squared error: the library's own, half of it for the one after PureJaxRL."""
    bars: int
    """Over which the learning rate falls linearly to its last fraction, where it stays."""
    epochs: int = 4
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.05
    gamma: float = 0.9
    gae_lambda: float = 0.8
    clip: float = 0.2
    max_grad_norm: float = 0.5
    log_std: float = -1.0
    random_position_fraction: float = 0.5
    """Accounts put at a random position before each rollout."""


def position_input(held: Any) -> Any:
    """A held position in [0, 1] around zero, in units of a uniform distribution's standard deviation."""
    return (held - 0.5) * 12.0**0.5


def peer_market(market: KnownMarket, budget: Budget, seed: int) -> PeerMarket:
    """The bars that our agent of this seed learns from.

    Raises:
        ConfigError: a market that the peers' few lines do not cover.
    """
    if market.assets_count > 1 or market.risk_aversion is not None or not market.account_visible:
        raise ConfigError(
            f"{market.name} for a peer", "one asset, log-growth, a position that is seen", "use --only himari_rl"
        )
    paths = draw_training(market, budget, False, seed)
    [column] = set(np.flatnonzero(visible(market))) - set(ACCOUNT_COLUMNS) or {0}  # M1 shows nothing: a constant
    seen = market_rows(market, paths.x)[..., column]
    mean, deviation = float(seen.mean()), max(float(seen.std()), 1e-6)
    return PeerMarket(
        signal=((seen - mean) / deviation).astype(np.float32),
        returns=paths.returns[..., 0].astype(np.float32),
        cost=market.cost,
        scale=float(np.log1p(MAX_POSITION_PCT * paths.returns).std()),
        column=int(column),
        mean=mean,
        deviation=deviation,
    )


def bar(xp: Any, action: Any, held: Any, returns: Any, cost: float, scale: float) -> tuple[Any, Any]:
    """One bar of the ledger in numpy or jax.numpy: reward (N,) and the position that it drifts to (N,).

    Args:
        action: around 0, which is multiplier 1.0; -1 and 1 are the bounds.
    """
    exposure = MAX_POSITION_PCT * xp.clip(1.0 + action, 0.0, 2.0)
    growth = 1.0 + exposure * returns - cost * xp.abs(exposure - held)
    reward = (xp.log(growth) - xp.log(1.0 + MAX_POSITION_PCT * returns)) / scale
    return reward, exposure * (1.0 + returns) / growth


def first_positions(uniform: Any, other: Any, xp: Any = np) -> Any:
    """Positions (N,) of fresh accounts from two uniform draws: half in cash, half anywhere."""
    return xp.where(uniform < 0.5, 0.0, other)


class Answers:
    """A peer's policy for the grader: its mean action, clipped as its environment does it."""

    def __init__(self, market: PeerMarket, mean_action: Callable[[np.ndarray], np.ndarray]) -> None:
        self.market, self.mean_action = market, mean_action

    def decide_batch(self, states: np.ndarray, memory: object = None) -> tuple[np.ndarray, object]:
        action = self.mean_action(self.market.inputs(np.asarray(states)))
        return np.clip(1.0 + action.reshape(-1, 1), 0.0, 2.0).astype(np.float64), memory


def tanh_net(layers: Layers, x: np.ndarray) -> np.ndarray:
    """A tanh net's output (N, out), in numpy."""
    for weight, bias in layers[:-1]:
        x = np.tanh(x @ weight + bias)
    weight, bias = layers[-1]
    return np.asarray(x @ weight + bias)
