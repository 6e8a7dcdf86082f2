"""Bundles with random weights, for tests that need a policy and not a trained one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from himari_rl.features.contract import schema_hash, state_dim, state_features
from himari_rl.policy.beliefs import Beliefs
from himari_rl.policy.believer import Believer
from himari_rl.policy.bundle import Manifest, new_manifest, tensor_shapes, write_bundle
from himari_rl.policy.confidence import fit
from himari_rl.policy.network import InputNormaliser
from himari_rl.policy.risk import RiskLimits
from himari_rl.schema import HOUR_MS

DRIFT = "drift net"  # of the kind lstm, with its memory in the beliefs: helpers/drift_nets.py
SYMBOLS = {
    "base": ("BTC-USDT",),
    "lstm": ("BTC-USDT",),
    DRIFT: ("BTC-USDT",),
    "multi": ("BTC-USDT", "ETH-USDT", "SOL-USDT"),
}


def valid_state(symbols: int = 1, rng: np.random.Generator | None = None) -> list[float]:
    """A state that a Layer 2 client could send: one-hots whole, every number inside its range."""
    rng = rng or np.random.default_rng(0)
    state: list[float] = []
    for _ in range(symbols):
        action, tier = np.eye(3)[rng.integers(3)], np.eye(4)[rng.integers(4)]
        size = float(rng.uniform(0.0, 0.5))
        side = float(rng.choice([-1.0, 1.0]))
        momenta, rest = rng.uniform(-0.3, 0.3, 3), rng.uniform(0.0, 1.0, 3)
        state += [float(rng.uniform()), *action.tolist(), *tier.tolist(), size, side, *momenta.tolist(), *rest.tolist()]
    if symbols > 1:
        state += rng.uniform(-1.0, 1.0, symbols * (symbols - 1) // 2).tolist()
        state.append(float(rng.uniform(0.0, 1.0)))
    return state


def valid_states(count: int, symbols: int = 1, seed: int = 0) -> np.ndarray:
    """(count, F) of them."""
    return _valid_states(count, symbols, seed).copy()


@cache  # every manifest asks for the same five hundred, and there are a thousand manifests
def _valid_states(count: int, symbols: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([valid_state(symbols, rng) for _ in range(count)])


def make_manifest(kind: str = "base", **changes: Any) -> Manifest:
    """A manifest of the given kind; `changes` replaces whole fields."""
    symbols = SYMBOLS.get(kind, SYMBOLS["base"])
    network = {"trunk": "mlp", "hidden": [128, 128], "head": "band"}
    beliefs: Beliefs | None = changes.get("beliefs")
    if kind == "lstm" and beliefs is None:
        network |= {"trunk": "lstm", "hidden": [128], "lstm_hidden": 64, "lstm_layers": 2}
    states = valid_states(500, len(symbols), seed=1)
    if beliefs is not None:
        states = np.column_stack([states, Believer(beliefs, len(symbols)).history(states)])
    keep = np.ones(states.shape[1])
    keep[7] = 0.0
    fields: dict[str, Any] = {
        "kind": kind,
        "symbols": symbols,
        "state_dim": state_dim(len(symbols)),
        "action_dim": len(symbols),
        "feature_names": [feature.name for feature in state_features(symbols)],
        "encoder_hash": schema_hash(symbols),
        "normaliser": {"mean": states.mean(0), "std": states.std(0) + 1e-3, "keep": keep.astype(int), "clip": 5.0},
        "network": network | changes.pop("network", {}),
        "seeds": (0,),
        "training_data": {
            "sha256": "0" * 64,
            "source": "random weights, no training",
            "start": "2020-01-01T00:00:00Z",
            "end": "2020-12-31T23:00:00Z",
            "rows": 8784,
            "interval_ms": HOUR_MS,
            "synthetic": True,
        },
        "ledger": {
            "max_position_pct": 0.5,
            "commission_rate": 0.001,
            "slippage_bps": 5.0,
            "allow_short": False,
            "interval_ms": HOUR_MS,
            "limits": vars(RiskLimits()),
        },
        "config": {"hidden_dim": 128},
        "config_hash": "0" * 12,
        "code_version": "0.1.0",
        "created_at": "2026-01-01T00:00:00Z",
        "confidence": {"probabilities": [0.0, 0.999, 1.0], "distance_quantiles": [0.0, 1.0, 2.0], "spread_half": 0.1},
    }
    draft = new_manifest(**(fields | changes))
    if "confidence" in changes:
        return draft
    normaliser = InputNormaliser(draft.normaliser)
    calibration = fit(normaliser.many(states.astype(np.float32)), normaliser.keep)
    return new_manifest(**(fields | changes | {"confidence": calibration}))


def random_tensors(manifest: Manifest, seed: int = 0, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Weights of a size that keeps activations alive: standard deviation scale / sqrt(inputs)."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) * scale / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in tensor_shapes(manifest).items()
    }


def make_bundle(
    tmp_path: Path,
    kind: str = "base",
    head: str = "band",
    seeds: Sequence[int] = (0,),
    hidden: Sequence[int] = (128, 128),
    *,
    name: str = "bundle",
    weights_seed: int = 0,
    scale: float = 1.0,
    **changes: Any,
) -> Path:
    """Writes a bundle with random weights to `tmp_path / name` and returns that folder."""
    network = {"head": head, "hidden": tuple(hidden)}
    manifest = make_manifest(kind, network=network, seeds=tuple(seeds), **changes)
    write_bundle(tmp_path / name, manifest, random_tensors(manifest, weights_seed, scale))
    return tmp_path / name
