"""Small walk-forwards that take a second, and documents of walk-forwards that never ran."""

from __future__ import annotations

import json
import os
import signal
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from helpers.bundle import make_bundle
from himari_rl.agents.config import PPOConfig
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.evaluation.record import CURVES, DOCUMENT, seal
from himari_rl.experiments.walk_forward import Settings
from himari_rl.policy.bundle import amend, read_manifest
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


def _interval(estimate: float, half: float) -> dict[str, float]:
    return {"estimate": estimate, "lower": estimate - half, "upper": estimate + half, "standard_error": half / 2}


_GOOD: dict[str, Any] = {
    "kind": "base",
    "symbols": ["BTC-USDT"],
    "data": {"synthetic": False, "source": "a test", "sha256": "0" * 64, "signals": "data"},
    "leaks": [],
    "folds": [],
    "bundle": {"weights_sha256": ""},
    "judgement": {
        "own_deflated_sharpe": 0.97,
        "training_gain": 0.15,
        "detectable": 0.05,
        "seeds": {},
        "controls": [
            {"name": name, "passed": True, "sentence": f"{name} as it must be", "numbers": {}}
            for name in ("driftless", "planted", "shuffled", "lag", "costs")
        ],
        "verdict": {
            "trials": 1,
            "own": {"sharpe": _interval(1.6, 0.5), "drawdown": _interval(0.12, 0.04)},
            "less": {},
            "utility": _interval(0.12, 0.1),
            "spread": 0.3,
            "saturation": 0.2,
            "bars_per_year": 8760.0,
        },
    },
}


def good_document() -> dict[str, Any]:
    """A walk-forward on which every rule passes, for the tests to spoil one number of."""
    return deepcopy(_GOOD)


def run_of(
    folder: Path,
    document: dict[str, Any],
    *,
    weights: int = 0,
    shift: float = 0.0,
    noise: float = 0.0,
    kind: str = "base",
) -> Path:
    """A folder as a walk-forward leaves it, with a bundle of random weights; returns the bundle.

    The policy grows by what every run grows by, `shift` more a bar, and a noise of its own.
    """
    with Trials():  # what a walk-forward wrote its look into
        pass
    bundle = make_bundle(folder, kind, hidden=(4,), weights_seed=weights)
    document["bundle"]["weights_sha256"] = document["bundle"]["weights_sha256"] or read_manifest(bundle).weights_sha256
    document["kind"] = kind
    document["bundle"]["model_version"] = document["bundle"].get("model_version") or read_manifest(bundle).version
    document["span"] = {"market": "BTC-USDT", "first_ms": 0, "last_ms": 1}
    (folder / DOCUMENT).write_text(json.dumps(document))
    rng = np.random.default_rng(5)
    growth = rng.normal(0.0, 0.01, 3000)
    own_noise = rng.normal(0.0, noise, 3000)
    own = growth + shift + own_noise - own_noise.mean()
    curves = {"fill_time": np.arange(3000), "growth/policy": own, "growth/multiplier 1.0": growth}
    curves |= {"exposure": np.full((3000, 1), 0.5)}
    (folder / CURVES).write_bytes(save(curves))
    amend(bundle, evaluation=seal(folder))
    return bundle
