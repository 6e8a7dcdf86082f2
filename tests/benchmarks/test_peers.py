"""The learners that ours is timed against: their ledger is the product's, they learn, and they are timed fairly."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import time
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helpers import ROOT
from himari_rl.certification.attempts import GRADING_SEED
from himari_rl.certification.grading import grade, policy_chooser
from himari_rl.certification.law import Paths
from himari_rl.certification.markets import market_named
from himari_rl.certification.thresholds import Budget
from himari_rl.policy.ledger import drift, fill, grow

SMALL = {"num_envs": 64, "num_steps": 25, "minibatch": 400, "hidden": 16, "bars": 40_000}
SCRIPTS = ("peer_market", "sb3_peer", "jax_peer", "time_to_optimum")


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """benchmarks/ is no package."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield
    for name in SCRIPTS:
        sys.modules.pop(name, None)


@pytest.fixture
def market(path: None) -> Any:
    return importlib.import_module("peer_market").peer_market(market_named("M2"), Budget(distinct=100_000), 3)


@pytest.fixture(params=["sb3", "jax"])
def peer(request: pytest.FixtureRequest, path: None) -> ModuleType:
    pytest.importorskip({"sb3": "stable_baselines3", "jax": "jax"}[request.param], reason=f"no {request.param} here")
    return importlib.import_module(f"{request.param}_peer")


def settings_of(peer: ModuleType, **changes: Any) -> Any:
    return dataclasses.replace(peer.SETTINGS, **(SMALL | changes))


@pytest.mark.parametrize("name", ["numpy", "jax.numpy"])
def test_a_peers_bar_is_the_products_ledger(path: None, name: str) -> None:
    xp = pytest.importorskip(name, reason="no jax here")
    rng = np.random.default_rng(0)
    action, held, returns = rng.uniform(-2, 2, 500), rng.uniform(0, 1, 500), rng.normal(0, 0.05, 500)
    reward, after = importlib.import_module("peer_market").bar(xp, action, held, returns, 0.0015, 0.017)
    wanted = 0.5 * np.clip(1.0 + action, 0.0, 2.0)
    exposure, cost = fill(held[:, None], wanted[:, None], np.ones((500, 1), bool), 0.0015)
    growth = grow(exposure, cost, returns[:, None])
    near = {"rtol": 2e-5, "atol": 2e-5} if name != "numpy" else {"rtol": 1e-9, "atol": 1e-12}
    np.testing.assert_allclose(reward, (np.log(growth) - np.log1p(0.5 * returns)) / 0.017, **near)
    np.testing.assert_allclose(after, drift(exposure, returns[:, None], growth)[:, 0], **near)


def test_a_peer_is_graded_on_what_it_learned_from(market: Any) -> None:
    """Its inputs, remade from the grader's sixteen numbers, are the standardised signal and its own position."""
    peer_market = importlib.import_module("peer_market")
    known, asked = market_named("M2"), []
    paths = known.simulate(50, 1, np.random.default_rng(1))
    answers = peer_market.Answers(market, lambda x: asked.append(x) or np.zeros(len(x)))
    held = np.linspace(0.0, 1.0, 50)[:, None]
    policy_chooser(known, paths, answers)(0, held)
    own = peer_market.peer_market(same_paths(known, paths), Budget(), 0)  # the same bars, as a peer would draw them
    expected = own.signal[:, 0] * own.deviation + own.mean
    np.testing.assert_allclose(asked[0][:, 0] * market.deviation + market.mean, expected, atol=1e-5)
    np.testing.assert_allclose(asked[0][:, 1], peer_market.position_input(held[:, 0]), atol=1e-5)


def same_paths(known: Any, paths: Paths) -> Any:
    """A market whose every drawing is these paths."""
    same = SimpleNamespace(**{f.name: getattr(known, f.name) for f in dataclasses.fields(known)})
    same.assets_count, same.shows, same.simulate = 1, known.shows, lambda *a, **k: paths
    return same


def test_a_peer_is_refused_a_market_that_its_few_lines_do_not_cover(path: None) -> None:
    refuse = importlib.import_module("peer_market").peer_market
    for name in ("M5", "M4r", "M3z"):
        with pytest.raises(Exception, match=f"{name} for a peer"):
            refuse(market_named(name), Budget(distinct=100_000), 0)


def test_a_peer_learns_what_there_is_to_learn(peer: ModuleType, market: Any) -> None:
    """A price that only rises: everything, whatever is held and seen."""
    rising = dataclasses.replace(market, returns=np.full_like(market.returns, 0.01), scale=0.005)
    told: list[float] = []
    states = np.zeros((20, 16))
    states[:, 8] = np.linspace(0.0, 1.0, 20)

    def look(policy: Any, bars: int) -> bool:
        told.append(float(policy.decide_batch(states)[0].mean()))
        return bars >= 40_000

    peer.train(rising, 0, settings_of(peer, learning_rate=0.01, minibatch=200), look, together=5)
    assert told[0] < 1.5
    assert told[-1] > 1.8


def test_a_few_updates_of_a_peer_on_m2_are_graded_like_ours(peer: ModuleType, market: Any) -> None:
    seen: list[tuple[int, float]] = []
    phases: list[str] = []

    def look(policy: Any, bars: int) -> bool:
        graded = grade(market_named("M2"), policy, GRADING_SEED, chains=50, rows=30, burn_in=10)
        seen.append((bars, graded.share))
        return len(seen) == 3

    peer.train(market, 0, settings_of(peer), look, phases.append, together=2)
    assert [bars for bars, _ in seen] == [3_200, 6_400, 9_600]
    assert len({share for _, share in seen}) == 3  # it moved
    assert phases[0] == "prepare"


def test_the_clock_leaves_grading_out_and_notes_when_a_target_was_first_reached(path: None) -> None:
    script = importlib.import_module("time_to_optimum")
    clock = script.Clock("M1", limit=5.0)

    def kelly(states: Any, memory: Any = None) -> Any:
        return np.full((len(states), 1), 0.6), memory

    def idle(states: Any, memory: Any = None) -> Any:
        burnt = time.process_time() + 0.01  # two hundred bars of it: two CPU seconds of grading
        while time.process_time() < burnt:
            pass
        return np.zeros((len(states), 1)), memory

    clock.start()
    clock.done("prepare")
    assert not clock.look(SimpleNamespace(decide_batch=idle), 100)
    assert clock.reached == {}
    assert clock.look(SimpleNamespace(decide_batch=kelly), 200)
    assert clock.best == pytest.approx(1.0, abs=1e-9)
    assert {target: reached[2] for target, reached in clock.reached.items()} == {0.9: 200, 0.95: 200}
    assert clock.reached[0.9][0] < 1.0  # without the grading, which took two


def test_the_clock_stops_a_learner_at_its_limit(path: None) -> None:
    clock = importlib.import_module("time_to_optimum").Clock("M1", limit=0.0)
    clock.start()
    assert clock.look(SimpleNamespace(decide_batch=lambda s, m=None: (np.zeros((len(s), 1)), m)), 1)
    assert clock.reached == {}


def made_up(cpu: dict[float, float]) -> dict[str, Any]:
    reached = {str(target): [seconds, seconds, 1000] for target, seconds in cpu.items()}
    return {"best": 0.97, "phases": {"prepare": [0.5, 0.5]}, "reached": reached}


def test_a_ratio_is_of_medians_its_worst_pair_is_stated_and_a_peer_that_was_stopped_gives_a_bound(
    path: None, capsys: pytest.CaptureFixture[str]
) -> None:
    script = importlib.import_module("time_to_optimum")
    mine = [made_up({0.9: s, 0.95: s}) for s in (0.1, 0.2, 0.5)]
    theirs = [made_up({0.9: s}) for s in (2.0, 3.0, 10.0)]
    script.compare({"himari_rl": script.show("himari_rl", mine), "sb3": script.show("sb3", theirs)}, limit=40.0)
    near, far = [line for line in capsys.readouterr().out.splitlines() if "our CPU s" in line]
    assert near == "to 0.90: sb3 15.0x our CPU s, worst pair 4.0x; prepare counted 5.0x"
    assert far == "to 0.95: sb3 at least 200.0x our CPU s, worst pair 80.0x; prepare counted 57.9x"


def test_a_peer_that_is_not_installed_is_skipped_by_name(
    path: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = importlib.import_module("time_to_optimum")
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: None)
    assert script.main(["--only", "jax"]) == 0
    assert "jax skipped: jax is not installed (pip install jax)" in capsys.readouterr().out
