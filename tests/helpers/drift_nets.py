"""Beliefs with a drift net of random weights: memory that matters, and no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from helpers.bundle import DRIFT, make_bundle
from helpers.latent import environment, latent_bars
from himari_rl.policy.beliefs import Beliefs
from himari_rl.policy.drift_net import DriftNet
from himari_rl.training.beliefs import Prior, fit_beliefs
from himari_rl.training.preparation import told_of

CELLS = 4


def drift_net(inputs: int, cells: int = CELLS, seed: int = 0, scale: float = 1.0) -> DriftNet:
    """Random weights; the answer's deviation is about `scale` slow volatilities a bar."""
    rng = np.random.default_rng(seed)
    return DriftNet(
        weight_ih=tuple(map(tuple, (rng.standard_normal((4 * cells, inputs)) / np.sqrt(inputs)).tolist())),
        weight_hh=tuple(map(tuple, (rng.standard_normal((4 * cells, cells)) / np.sqrt(cells)).tolist())),
        bias=tuple(rng.standard_normal(4 * cells).tolist()),
        out=tuple((scale * rng.standard_normal(cells)).tolist()),
        constant=0.0,
    )


def beliefs_with_net(seed: int = 0) -> Beliefs:
    """Of one asset without shorts."""
    ledger = environment(False)
    found = fit_beliefs([told_of(latent_bars(1500, 0, edge=0.4), ledger)], ledger, Prior())
    return found.model_copy(update={"drift_net": drift_net(11, seed=seed, scale=0.1)})


def bundle_of(place: Path, kind: str, *, net_seed: int = 0, **changes: Any) -> Path:
    """`make_bundle` of a kind, or of the kind lstm with its memory in a drift net."""
    if kind != DRIFT:
        return make_bundle(place, kind, **changes)
    return make_bundle(place, "lstm", beliefs=beliefs_with_net(net_seed), **changes)
