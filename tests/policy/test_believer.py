"""A policy with beliefs: what it remembers, that one bar at a time is the whole history, and what it answers alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from himari_rl.agents.config import PPOConfig
from himari_rl.data.panel import panel_of
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.experiments.train import train
from himari_rl.features import contract
from himari_rl.features.contract import WIDTH, state_dim
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.beliefs import Beliefs, moments
from himari_rl.policy.believer import Believer
from himari_rl.policy.clock import decisions_of
from himari_rl.policy.evidence import PLACES, Evidence, seen
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.schema import FloatArray
from himari_rl.training.beliefs import fit_scores

SMALL = PPOConfig(num_envs=20, hidden_dim=8, minibatch=500)


@pytest.fixture(scope="module", params=[False, True], ids=["long", "shorts"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, FloatArray]:
    """A policy of a tiny run with the believed reward, and market rows after its training rows."""
    bars = synthetic_bars(3000, 0)
    environment = TradingEnvConfig(reward="believed", allow_short=request.param)
    out = tmp_path_factory.mktemp("believed")
    policy = train(bars, out=out, agent=SMALL, environment=environment, num_episodes=2, seeds=2)
    rows, _ = decisions_of(bars, StateEncoder(bars.symbols), environment)
    return policy, rows[2400:]


def test_the_manifest_has_the_beliefs_and_the_memory_is_small(trained: tuple[Policy, FloatArray]) -> None:
    policy, _ = trained
    assert isinstance(policy.manifest.beliefs, Beliefs)
    assert policy.memory_size == (2 if policy.manifest.ledger.allow_short else 1)
    assert policy.manifest.inputs == 19
    assert load_policy(policy.folder or "").manifest == policy.manifest


def test_bar_by_bar_is_the_whole_history_at_once(trained: tuple[Policy, FloatArray]) -> None:
    policy, rows = trained
    found = policy.bands(rows)
    assert found is not None
    memory, batch = None, policy.initial_memory(1)
    for t, row in enumerate(rows):
        step = policy.step(row.tolist(), memory)  # in cash: the answer is the mean of the lower edges
        answers, batch = policy.decide_batch(row[None], batch)
        assert step.multipliers == pytest.approx(found.low[t].mean(axis=0).tolist(), abs=2e-5)
        assert answers[0].tolist() == pytest.approx(step.multipliers, abs=2e-6)
        memory = step.memory


def test_without_memory_it_expects_its_usual_volatility(trained: tuple[Policy, FloatArray]) -> None:
    policy, rows = trained
    beliefs = policy.manifest.beliefs
    assert beliefs is not None
    fast = rows[0, 13] * 0.1
    memory = policy.step(rows[0].tolist()).memory
    assert np.sqrt(memory[0]) == pytest.approx(beliefs.usual[0] ** 0.7 * fast**0.3, rel=1e-5)
    after = policy.step(rows[1].tolist(), memory).memory
    keep = 0.5 ** (1.0 / 168)
    assert after[0] == pytest.approx(keep * memory[0] + (1.0 - keep) * (rows[1, 13] * 0.1) ** 2, rel=1e-5)


def test_a_calmer_market_is_held_larger(trained: tuple[Policy, FloatArray]) -> None:
    policy, rows = trained
    calm, wild = (policy.initial_memory() for _ in range(2))
    calm[0], wild[0] = 0.004**2, 0.04**2
    if policy.memory_size == 2:
        calm[1] = wild[1] = 1.0
    state = rows[0].copy()
    state[1:4] = (0.0, 0.0, 1.0)
    assert policy.step(state.tolist(), calm).multipliers[0] > 3.0 * policy.step(state.tolist(), wild).multipliers[0]


def test_a_history_at_once_is_one_bar_after_the_other(trained: tuple[Policy, FloatArray]) -> None:
    policy, rows = trained
    rows = np.array(rows[:400], np.float64)
    asked = rows[:, contract.ACTION_BUY] - rows[:, contract.ACTION_SELL]
    side, held, memory, told, sides = 0.0, 0.0, None, [], []
    for row, said in zip(rows, asked, strict=True):
        row[[contract.POSITION_SIZE, contract.POSITION_SIDE]] = abs(held) / 2.0, np.sign(held)
        step = policy.step(row.tolist(), memory)
        if said:
            side = float(said) if policy.manifest.ledger.allow_short else max(float(said), 0.0)
        held, memory = step.multipliers[0] * side, step.memory
        told.append((step.multipliers[0], step.confidence))
        sides.append(side)
    found = policy.along(rows, np.array(sides)[:, None], 1)
    assert found is not None
    np.testing.assert_allclose(np.column_stack(found), told, atol=2e-5)
    assert np.ptp(np.array(told)[:, 0]) > 0.05
    again = policy.along(rows, np.array(sides)[:, None], 4)  # from nothing at rows 0, 100, 200 and 300
    assert again is not None
    np.testing.assert_allclose(again[0][:100], found[0][:100])
    assert not np.allclose(again[0][100:], found[0][100:], atol=1e-3)


def test_a_portfolio_remembers_its_correlation_too(tmp_path: Path) -> None:
    panel = panel_of([replace(synthetic_bars(3000, seed), symbol=name) for seed, name in enumerate(("A", "B", "C"))])
    environment = TradingEnvConfig(reward="believed")
    policy = train(panel, "multi", out=tmp_path, environment=environment, num_episodes=2, seeds=1)
    assert policy.memory_size == 4
    rows, _ = decisions_of(panel, StateEncoder(panel.symbols), environment)
    found = policy.bands(rows[2400:])
    assert found is not None
    memory = None
    for t, row in enumerate(rows[2400:2600]):
        step = policy.step(row.tolist(), memory)
        assert step.multipliers == pytest.approx(found.low[t].mean(axis=0).tolist(), abs=5e-5)
        memory = step.memory


@pytest.mark.parametrize("assets", [1, 3])
@pytest.mark.parametrize("shorts", [False, True])
def test_one_state_in_plain_numbers_is_the_batch_form(assets: int, shorts: bool) -> None:
    rng = np.random.default_rng(assets + 2 * shorts)
    rows = states(rng, 800, assets)
    beliefs = planted(rng, assets, shorts=shorts)
    believer = Believer(beliefs, assets)
    memory = np.zeros((1, believer.memory_size))
    own = memory[0].tolist()
    for row in rows[:300]:
        columns, memory = believer.advance(row[None], memory)
        plain, own = believer.one(row.tolist(), own)
        np.testing.assert_allclose(plain, columns[0], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(own, memory[0], rtol=1e-9, atol=1e-15)
    assert np.ptp(believer.history(rows)[:, -1]) > 0.1  # the evidence of this test speaks


def test_evidence_of_an_older_bundle_has_no_shape_of_the_prior() -> None:
    rng = np.random.default_rng(5)
    rows, beliefs = states(rng, 50, 1), planted(rng, 1, shorts=False)
    written = beliefs.evidence.model_dump() | {"coefficients": beliefs.evidence.coefficients[1:]}
    del written["variance"]
    old = type(beliefs.evidence).model_validate(written)
    assert old.variance == ()
    believer = Believer(beliefs.model_copy(update={"evidence": old}), 1)
    columns, _ = believer.advance(rows[:1], np.zeros((1, 1)))
    plain, _ = believer.one(rows[0].tolist(), [0.0])
    np.testing.assert_allclose(plain, columns[0], rtol=1e-9, atol=1e-12)


def states(rng: np.random.Generator, count: int, assets: int) -> FloatArray:
    """Market rows of random markets, all Layer 2 actions and some silence among them."""
    rows = np.zeros((count, state_dim(assets)))
    for a in range(assets):
        block = rows[:, WIDTH * a : WIDTH * (a + 1)]
        block[:, [0, 15]] = rng.uniform(0.0, 1.0, (count, 2))
        block[np.arange(count), 1 + rng.integers(0, 3, count)] = 1.0
        block[np.arange(count), 4 + rng.integers(0, 4, count)] = 1.0
        block[:, [11, 12]] = 0.1 * rng.standard_normal((count, 2))
        block[:, 13] = 0.06 * np.exp(0.4 * rng.standard_normal(count)) * (rng.uniform(size=count) > 0.05)
    if assets > 1:
        rows[:, WIDTH * assets : -1] = rng.uniform(-0.2, 0.9, rows[:, WIDTH * assets : -1].shape)
    return rows


def planted(rng: np.random.Generator, assets: int, *, shorts: bool) -> Beliefs:
    """Beliefs with a coefficient on every column."""
    rows = states(rng, 2000, assets)
    moment = moments(rows, assets, shorts=shorts)
    side = None if moment.side is None else moment.side[:, 0]
    part = seen(rows[:, :WIDTH], np.maximum(moment.slow[:, 0], 1e-4), side)
    levels = np.linspace(0.0, 1.0, len(PLACES)) ** np.array([[0.3], [1.0], [3.0]])
    borders = ((), *(tuple(each) for each in levels.tolist()))  # the first step and all after these are sharp ones
    scores = fit_scores([part]).model_copy(update={"borders": borders})
    bent = scores.bent(scores.linear(part))
    evidence = Evidence(
        scores=scores,
        bent_centre=tuple(bent.mean(axis=0).tolist()),
        bent_scale=tuple(bent.std(axis=0).tolist()),
        coefficients=tuple((0.02 * rng.standard_normal((3 if shorts else 2) + 11 + 57)).tolist()),
        deviation=0.9,
        doubt=0.4,
        variance=tuple((0.2 * rng.standard_normal(12)).tolist()),
    )
    return Beliefs(
        evidence=evidence,
        prior_drift=0.0185,
        bars_per_year=8760.0,
        max_position_pct=0.5,
        usual=(0.006,) * assets,
        shorts=shorts,
    )
