"""What an agent trains on: rows, the physics of them, and what is believed of them.

    rows, physics, beliefs = prepared([bars], agent, environment)
    config = fitted(agent, encoder, beliefs)          the agent's config for these rows

With beliefs the environment pays the `believed` reward while it trains, whatever it is judged by; without them it pays
its own. Beliefs are fitted on the histories themselves, never on their copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from himari_rl.agents.config import PPOConfig
from himari_rl.data.panel import Panel
from himari_rl.data.splits import until
from himari_rl.envs.config import BELIEVED, TradingEnvConfig
from himari_rl.envs.physics import Market, Physics
from himari_rl.errors import ConfigError
from himari_rl.features.encoder import StateEncoder
from himari_rl.features.own import with_features
from himari_rl.policy.beliefs import Beliefs
from himari_rl.policy.clock import decisions_of
from himari_rl.schema import DAY_MS, Bars, FloatArray
from himari_rl.training.beliefs import ObservedPath, Prior, believed_path, fit_beliefs
from himari_rl.training.drift_net import with_drift_net


def prepared(
    histories: Sequence[Bars | Panel],
    agent: PPOConfig,
    environment: TradingEnvConfig,
    *,
    copies: Sequence[Bars | Panel] = (),
    others: Sequence[Bars] = (),
    device: str = "cpu",
) -> tuple[FloatArray, Physics, Beliefs | None]:
    """Rows (D, F) of the histories, the physics of them and their copies, and the beliefs where the agent has any.

    Args:
        histories: of the same symbols, one or several stretches in order of time.
        copies: trained on beside them (bootstrapped, driftless); the beliefs do not look at them.
        others: other symbols, whose rows up to the end of the histories are evidence too.

    Raises:
        ConfigError: a reward without a prior drift.
    """
    told = [told_of(history, environment) for history in histories]
    paths = told + [told_of(copy, environment) for copy in copies]
    encoder = StateEncoder.of(histories[0])
    others = [with_features(other, encoder.own) for other in others]  # evidence has the same columns everywhere
    if not agent.beliefs:
        market = Market.build([each.rows for each in paths], [each.path for each in paths], device)
        return np.concatenate([each.rows for each in told]), Physics(market, environment, encoder), None
    prior = prior_of(agent, environment, histories[0].bars_per_year)
    pooled = [told_of(until(other, histories[-1]), environment) for other in others]
    beliefs = fit_beliefs(told, environment, prior, pooled)
    if agent.drift_net:
        beliefs = with_drift_net(beliefs, told, environment, prior, pooled)
    found = [believed_path(each.rows, each.path, beliefs, environment, prior) for each in paths]
    market = Market.build(
        [each.rows for each in found],
        [each.path for each in paths],
        device,
        [(each.drift, each.risk) for each in found],
    )
    rows = np.concatenate([each.rows for each in found[: len(told)]])
    return rows, Physics(market, replace(environment, reward=BELIEVED), encoder), beliefs


def told_of(history: Bars | Panel, environment: TradingEnvConfig) -> ObservedPath:
    """What is seen and met at each decision of a history, with the UTC day of its fill."""
    rows, path = decisions_of(history, StateEncoder.of(history), environment)
    return ObservedPath(rows, path, np.asarray(history.timestamp[1:-1] // DAY_MS))


def prior_of(agent: PPOConfig, environment: TradingEnvConfig, bars_per_year: float) -> Prior:
    """The prior under which the anchor is optimal for this objective.

    Raises:
        ConfigError: a reward that is no expected utility, or a head that has no band.
    """
    if agent.head != "band":
        raise ConfigError(f"the head {agent.head} with beliefs", "the head band", "--no-beliefs trains any head")
    if environment.reward == "differential_sharpe":
        raise ConfigError(
            "the reward differential_sharpe with beliefs",
            "mean_variance or log_growth, for which a drift that makes the anchor right is known",
            "--no-beliefs trains on raw returns with any reward",
        )
    aversion = 1.0 if environment.reward == "log_growth" else 1.0 + environment.risk_aversion
    return Prior(trust=agent.trust, aversion=aversion, bars_per_year=bars_per_year)


def fitted(agent: PPOConfig, encoder: StateEncoder, beliefs: Beliefs | None) -> PPOConfig:
    """The agent's config for the rows of these symbols, with or without beliefs."""
    return replace(
        agent,
        state_dim=encoder.state_dim,
        action_dim=len(encoder.symbols),
        beliefs=beliefs is not None,
        anchored=beliefs is not None,
    )
