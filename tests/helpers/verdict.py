"""Small walk-forwards that take a second, and documents of walk-forwards that never ran."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from safetensors.numpy import save

from helpers.bundle import make_bundle, make_manifest, valid_states
from himari_rl.agents.config import PPOConfig
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.evaluation.control import control
from himari_rl.evaluation.record import CURVES, DOCUMENT, seal
from himari_rl.evaluation.statements import found_in, statements
from himari_rl.experiments.walk_forward import Settings
from himari_rl.policy.bundle import amend, read_manifest
from himari_rl.policy.runtime import load_policy
from himari_rl.release.shipped import asked_again
from himari_rl.schema import Bars
from himari_rl.trials.ledger import Trials

AGENT = {"num_envs": 10, "num_steps": 10, "hidden_dim": 4, "minibatch": 100}


def small_settings(**changes: Any) -> Settings:
    chosen: dict[str, Any] = {"train": "20d", "test": "10d", "step": "10d", "purge_bars": 24, "seeds": (0, 1)}
    small = {"agent": PPOConfig(**AGENT), "environment": TradingEnvConfig(episode_bars=20), "num_episodes": 20}
    return Settings(**(small | chosen | changes))


def small_bars(days: int = 42, seed: int = 0) -> Bars:
    return synthetic_bars(24 * days, seed)


def run_small(out: Path, **changes: Any) -> dict[str, Any]:
    """A whole small walk-forward in this process; other processes call it by name."""
    from himari_rl.experiments.run import run_walk_forward

    return run_walk_forward(small_bars(), small_settings(**changes), out, None)


def die_once(flag: str) -> str:
    """A task whose first worker is killed."""
    if not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return flag


def ignores_interrupts(_: int) -> bool:
    """A task that says whether its process hears Ctrl-C."""
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


STEP_MS = 6 * 3_600_000
YEAR, DECISIONS = 1460.0, 4 * 1460  # of the judged accounts: four years of six-hour bars
CONTROLS: dict[str, dict[str, float]] = {  # numbers with which each control is as it must be
    "driftless": {"utility": -0.05, "utility_lower": -0.2, "sharpe": 0.2, "deflated_sharpe": 0.6, "look_ahead": 0.0},
    "planted": {"utility": 2.0, "utility_lower": 1.5, "sharpe": 9.0, "deflated_sharpe": 1.0, "look_ahead": 0.0}
    | {"edge": 0.15, "power": 0.99},
    "shuffled": {"left": 0.0, "inputs": 0.2, "inputs_lower": 0.1, "inputs_upper": 0.3},
    "lag": {"z": 1.0},
    "costs": {},
}


def good_document() -> dict[str, Any]:
    """What a walk-forward says of everything but its accounts; `run_of` adds those and every rule passes."""
    return {
        "kind": "base",
        "symbols": ["BTC-USDT"],
        "data": {"synthetic": False, "source": "a test", "sha256": "0" * 64, "signals": "data"},
        "leaks": [],
        "bundle": {},
        "judgement": {"seeds": {}, "detectable": 0.05},
    }


ONE_LINERS = {  # by the number of assets, the one that is chosen where nothing is known first
    1: ("banded 15 % volatility", "15 % volatility"),
    3: ("banded 15 % portfolio", "15 % portfolio", "banded 15 % volatility", "15 % volatility"),
}


def accounts(
    sharpe: float = 2.0, volatility: float = 0.15, one_sharpe: float = 0.5, noise: float = 0.0, line_sharpe: float = 1.0
) -> dict[str, np.ndarray]:
    """Curves of a policy, of multiplier 1.0 and of the one-liners with exactly these Sharpe ratios a year.

    Policy and 1.0 correlate by a half, and less where the policy has a `noise` of its own; so do policy and one-liners.
    The first one-liner is the best on the training rows, by a constant. No costs: what is earned is kept.
    """
    rng = np.random.default_rng(5)
    both, mine, other, own, line = (rng.standard_normal(DECISIONS) for _ in range(5))

    def account(path: np.ndarray, ratio: float) -> np.ndarray:
        path = (path - path.mean()) / path.std(ddof=1)
        return volatility * (path / np.sqrt(YEAR) + ratio / YEAR)

    growth = {"policy": account(both + mine + noise * own, sharpe), "multiplier 1.0": account(both + other, one_sharpe)}
    curves = {"fill_time": STEP_MS * np.arange(DECISIONS), "cost": np.zeros(DECISIONS)}
    for name, path in growth.items():
        curves |= {f"growth/{name}": path, f"return/{name}": np.expm1(path), f"equity/{name}": path.cumsum()}
    for k, name in enumerate(ONE_LINERS[3]):
        path = account(both + line, line_sharpe) - 1e-6 * k
        curves |= {f"growth/{name}": path, f"return/{name}": np.expm1(path)}
        curves |= {f"one-liner/{name}": np.full(1000, -1e-5 * k, np.float32)}
    curves |= {"one-liner/rows": np.array([[0, 1000, 0]])}
    curves |= {"return/policy lag": np.expm1(account(both + mine + other / 8, 0.9 * sharpe))}
    curves |= {f"growth/policy x{k}": account(both + mine + noise * own, sharpe - 0.1 * k) for k in (2, 3)}
    sized = np.tile([[0.5], [1.0], [1.5], [2.0]], (DECISIONS // 4, 1))
    return curves | {"multiplier": sized, "active": np.ones_like(sized, bool), "exposure": 0.25 * sized}


def figures_of(curves: dict[str, np.ndarray]) -> dict[str, Any]:
    """The judgement's figures from their definitions, with intervals of independent returns (1.96 standard errors)."""
    year = YEAR
    growth, earned, equity = (
        [curves[f"{kind}/{name}"] for name in ("policy", "multiplier 1.0")] for kind in ("growth", "return", "equity")
    )
    useful = [g - 0.5 * 6.7 * r**2 for g, r in zip(growth, earned, strict=True)]

    def ratio(path: np.ndarray) -> float:
        return float(path.mean() / path.std(ddof=1) * np.sqrt(year))

    def mean(path: np.ndarray) -> dict[str, float]:
        return interval(float(path.mean() * year), float(path.std(ddof=1) / np.sqrt(len(path)) * year))

    def chance(path: np.ndarray) -> float:
        z = (path - path.mean()) / path.std()
        each = float(path.mean() / path.std(ddof=1))
        variance = 1.0 - (z**3).mean() * each + ((z**4).mean() - 1.0) / 4.0 * each**2
        lags = int(4.0 * (len(z) / 100.0) ** (2.0 / 9.0))  # Newey & West (1994)
        memory = [(1.0 - k / (lags + 1)) * (z[k:] * z[:-k]).sum() / len(z) for k in range(1, lags + 1)]
        variance *= max(1.0, 1.0 + 2.0 * sum(memory))
        return NormalDist().cdf(each * np.sqrt((len(path) - 1) / variance))

    def depth(path: np.ndarray) -> float:
        return float(1.0 - np.exp(path - np.maximum.accumulate(np.maximum(path, 0.0))).min())

    spans = 1.0 / np.sqrt(len(growth[0]) / year)
    line = ONE_LINERS[curves["exposure"].shape[1]][0]
    theirs = curves[f"growth/{line}"]
    over = useful[0] - (theirs - 0.5 * 6.7 * curves[f"return/{line}"] ** 2)
    best = {"utility": mean(over), "sharpe": interval(ratio(growth[0]) - ratio(theirs), spans)}
    best |= {"growth": mean(growth[0] - theirs), "drawdown": interval(depth(equity[0]) - depth(theirs.cumsum()), 0.02)}
    own = {"growth": mean(growth[0]), "utility": mean(useful[0])}
    own |= {"sharpe": interval(ratio(growth[0]), spans), "drawdown": interval(depth(equity[0]), 0.02)}
    verdict: dict[str, Any] = {
        "answer": "better",
        "sentence": "Better than multiplier 1.0.",
        "start": "2020",
        "end": "2024",
        "trials": 1,
        "decisions": len(growth[0]),
        "bars_per_year": year,
        "risk_aversion": 6.7,
        "own": own,
        "less": {"best one-liner": best, "cash": own},
        "one": {"growth": mean(growth[1]), "utility": mean(useful[1])},
        "one_liner": line,
        "doubt": "",
        "growth": mean(growth[0] - growth[1]),
        "utility": mean(useful[0] - useful[1]),
        "sharpe": interval(ratio(growth[0]) - ratio(growth[1]), spans),
        "drawdown": interval(depth(equity[0]) - depth(equity[1]), 0.02),
        "probabilistic_sharpe": chance(growth[0]),
        "deflated_sharpe": chance(useful[0] - useful[1]),
        "spread": float(curves["multiplier"].std()),
        "saturation": float(np.mean((curves["multiplier"] <= 0.01) | (curves["multiplier"] >= 1.99))),
    }
    verdict["statements"] = list(map(str, statements(found_in(verdict, "best one-liner", "cash"))))
    seen = {
        "shuffled": {"gain": verdict["utility"]["estimate"]},
        "lag": {"sharpe": ratio(growth[0]), "lagged_sharpe": ratio(np.log1p(curves["return/policy lag"]))},
        "costs": {"x1": ratio(growth[0])} | {f"x{k}": ratio(curves[f"growth/policy x{k}"]) for k in (2, 3)},
    }
    loss = np.log1p(earned[0]) - np.log1p(curves["return/policy lag"])
    seen["lag"]["z"] = float(loss.mean() / loss.std(ddof=1) * np.sqrt(len(loss)))
    controls = [control(name, numbers | seen.get(name, {})).to_dict() for name, numbers in CONTROLS.items()]
    chances = {"own_deflated_sharpe": verdict["probabilistic_sharpe"], "training_gain": verdict["utility"]["estimate"]}
    return chances | {"verdict": verdict, "controls": controls}


def interval(estimate: float, error: float) -> dict[str, float]:
    reach = 1.96 * error
    bounds = {"lower": estimate - reach, "upper": estimate + reach, "standard_error": error}
    chance = NormalDist().cdf(estimate / error) if error else 0.5
    return {"estimate": estimate, "confidence": 0.95, "positive": chance} | bounds


def run_of(
    folder: Path,
    document: dict[str, Any] | None = None,
    *,
    weights: int = 0,
    kind: str = "base",
    head: str | None = None,
    scale: float = 1.0,
    promised: float = 1.0,
    curves: dict[str, np.ndarray] | None = None,
    **account: float,
) -> Path:
    """A folder as a walk-forward leaves it, with a bundle of random weights; returns the bundle.

    Args:
        promised: advantage on training rows, as a multiple of the one out of sample.
        curves: instead of `accounts(**account)`.
    """
    with Trials():  # what a walk-forward wrote its look into
        pass
    document = good_document() if document is None else document
    data = make_manifest(kind).training_data.model_dump() | {"synthetic": False}
    head = head or ("band" if kind == "base" else "squash")
    bundle = make_bundle(folder, kind, head, hidden=(4,), weights_seed=weights, scale=scale, training_data=data)
    policy = load_policy(bundle)
    curves = accounts(**account) if curves is None else curves
    figures = figures_of(curves)
    states = valid_states(200, len(policy.manifest.symbols), seed=7)
    answers = asked_again(policy, states)
    curves |= {"shipped/state": states, "shipped/multiplier": answers, "shipped/active": np.ones(answers.shape, bool)}
    document["judgement"] = document["judgement"] | figures
    document["judgement"]["training_gain"] *= promised
    totals = {name: float(curves[f"growth/{name}"].sum()) for name in ("policy", "multiplier 1.0")}
    fold = {"test": ["2020-01-01", "2024-01-01"], "growth": totals}
    document["folds"] = [fold | {"training_gain": document["judgement"]["training_gain"]}]
    document["symbols"] = list(policy.manifest.symbols)
    document["kind"] = kind
    document["bundle"] = {
        "weights_sha256": policy.manifest.weights_sha256,
        "model_version": policy.manifest.version,
    } | (document["bundle"])
    first, last = (int(curves["fill_time"][i]) for i in (0, -1))
    document["span"] = {"market": "BTC-USDT", "first_ms": first, "last_ms": last}
    (folder / DOCUMENT).write_text(json.dumps(document))
    (folder / CURVES).write_bytes(save({name: np.ascontiguousarray(each) for name, each in curves.items()}))
    amend(bundle, evaluation=seal(folder))
    return bundle


def edited(bundle: Path, *path: Any, to: Any) -> Path:
    """The bundle after somebody changed its document by hand, and its digests and those of the manifest with it."""
    place = bundle.parent / DOCUMENT
    document = part = json.loads(place.read_text())
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = to
    place.write_text(json.dumps(document))
    amend(bundle, evaluation=(read_manifest(bundle).evaluation or {}) | seal(bundle.parent))
    return bundle
