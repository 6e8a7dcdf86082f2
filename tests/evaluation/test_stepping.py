"""A policy that is stepped by its bands does what it does when it is asked bar by bar; several plays do not touch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.bundle import make_manifest, random_tensors
from helpers.evaluation import Rule, bars_from, ledger, walk
from himari_rl.data.panel import Panel, panel_of
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.errors import DataError
from himari_rl.evaluation.backtest import BASE, LAGGED, VARIANTS, Play, backtest, backtests, stage
from himari_rl.experiments.fold_policies import FoldPolicies
from himari_rl.features.contract import ACCOUNT_COLUMNS, WIDTH
from himari_rl.policy.runtime import Policy
from himari_rl.schema import Bars

BARS = synthetic_bars(900, 3)
PANEL = panel_of([synthetic_bars(700, s, symbol=n) for s, n in enumerate(("BTC-USDT", "ETH-USDT", "SOL-USDT"))])


class Asked:
    """The same policy without its bands."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def decide_batch(self, states: np.ndarray, memory: Any = None) -> tuple[np.ndarray, Any]:
        return self.policy.decide_batch(states, memory)


def policy_of(kind: str, head: str = "band", seeds: int = 1, weights: int = 0, blind: bool = True) -> Policy:
    """Random weights; the band's centre and width both move with the state."""
    plain = make_manifest(kind, network={"head": head, "hidden": (16,)}, seeds=tuple(range(seeds)))
    keep = [
        0 if blind and (i % WIDTH in ACCOUNT_COLUMNS or i >= WIDTH * plain.action_dim) else 1
        for i in range(plain.state_dim)
    ]
    manifest = plain.model_copy(update={"normaliser": plain.normaliser.model_copy(update={"keep": tuple(keep)})})
    return Policy(manifest, random_tensors(manifest, weights, 2.0))


def both_ways(policy: Any, bars: Bars | Panel, allow_short: bool = False) -> None:
    spec = ledger(allow_short=allow_short)
    on = stage(bars, spec, 50)
    result = backtest({"bands": policy, "asked": Asked(policy)}, on, spec, rng=np.random.default_rng(0))
    for variant in VARIANTS:
        fast, slow = result.run("bands", variant.name), result.run("asked", variant.name)
        np.testing.assert_allclose(fast.multiplier, slow.multiplier, atol=2e-6)
        np.testing.assert_allclose(fast.marked_log_equity, slow.marked_log_equity, atol=1e-5)
    held = result.run("bands").multiplier
    assert held.std() > 0.01  # it decides something
    assert np.abs(held - result.run("bands", "lag").multiplier).max() > 0.01  # each account from its own position


@pytest.mark.parametrize("head", ["band", "centre", "squash"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_an_ensemble_of_any_head_answers_alike_by_bands_and_bar_by_bar(head: str, seeds: int) -> None:
    policy = policy_of("base", head, seeds)
    assert policy.bands(stage(BARS, ledger()).rows) is not None
    both_ways(policy, BARS, allow_short=seeds == 3)


def test_a_recurrent_policy_carries_its_memory_through_its_bands() -> None:
    both_ways(policy_of("lstm", seeds=2), BARS)


def test_a_portfolio_answers_alike_by_bands_and_bar_by_bar() -> None:
    both_ways(policy_of("multi", seeds=2), PANEL)


def test_a_relay_on_inputs_of_another_time_answers_alike_and_starts_each_memory_afresh() -> None:
    rows = stage(BARS, ledger(), 50).rows
    members = [policy_of("lstm", weights=w) for w in (1, 2)]
    both_ways(FoldPolicies(members, [0, 300], rows=np.roll(rows, 111, axis=0)), BARS)


def test_a_policy_that_reads_its_account_has_no_bands() -> None:
    rows = stage(BARS, ledger()).rows
    seeing = policy_of("base", blind=False)
    assert seeing.bands(rows) is None
    assert FoldPolicies([policy_of("base"), seeing], [0, 100]).bands(rows) is None


def test_plays_side_by_side_do_what_they_do_alone() -> None:
    spec = ledger()
    first, second = (stage(bars_from(walk(400, seed)), spec) for seed in (1, 2))
    rules = {"policy": policy_of("base"), "rule": Rule(lambda states, step: 1.0 + states[:, 10])}
    plays = [Play(policies=rules, on=first), Play(policies=rules, on=second, variants=(BASE, LAGGED))]
    together = backtests(plays, spec, np.random.default_rng(0))
    for play, result in zip(plays, together, strict=True):
        alone = backtest(play.policies, play.on, spec, variants=play.variants, rng=np.random.default_rng(0))
        assert [key for key in result.runs if key[0] != "random"] == [key for key in alone.runs if key[0] != "random"]
        for (strategy, variant), run in alone.runs.items():
            if strategy != "random":  # drawn anew for each play
                np.testing.assert_array_equal(run.log_growth, result.run(strategy, variant).log_growth)
                np.testing.assert_array_equal(run.multiplier, result.run(strategy, variant).multiplier)
    with pytest.raises(DataError, match="one length"):
        backtests(
            [plays[0], Play(policies=rules, on=stage(bars_from(walk(401, 1)), spec))], spec, np.random.default_rng(0)
        )
