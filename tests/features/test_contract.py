"""Which number stands where: the account's columns by name, for any number of assets."""

from __future__ import annotations

import numpy as np
import pytest

from himari_rl.agents.config import MultiPPOConfig
from himari_rl.agents.multi_ppo_agent import MultiPPOAgent
from himari_rl.features.contract import account_mask, state_dim, state_features

ACCOUNT = ("position_size", "position_side", "unrealised_pnl", "win_rate")


@pytest.mark.parametrize("assets", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("own", [(), ("x", "y")])
def test_the_account_is_where_the_names_say_and_never_among_the_correlations(assets: int, own: tuple[str, ...]) -> None:
    names = [feature.name for feature in state_features([f"A{k}" for k in range(assets)], own)]
    mask = account_mask(len(names), assets)
    assert [name.endswith(ACCOUNT) for name in names] == list(mask)
    assert sum(mask) == 4 * assets
    if assets == 5:  # the control: blocks of 16 continued over what stands behind meet three columns of it
        assert sum(k % 16 in (8, 9, 10, 14) for k in range(state_dim(assets))) == 4 * assets + 3


def test_an_agent_of_five_assets_reads_every_correlation() -> None:
    agent = MultiPPOAgent(MultiPPOConfig(state_dim=state_dim(5), action_dim=5, hidden_dim=8))
    rows = np.random.default_rng(0).normal(size=(50, state_dim(5)))
    agent.normaliser.fit(rows, np.ones(state_dim(5), bool), account_inputs=False)
    assert agent.normaliser.keep.numpy()[80:90].tolist() == [1.0] * 10
