"""A bundle whose ledger or normaliser nobody can have meant is refused, by the writer and by the reader."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from helpers.bundle import make_bundle
from himari_rl.errors import BundleError, ConfigError
from himari_rl.policy.bundle import MANIFEST, _render, _self_hash, read_manifest
from himari_rl.policy.risk import RiskLimits
from himari_rl.schema import DAY_MS

LIMITS = [
    *((f"{regime}_cap", value) for regime in ("normal", "high_vol", "crisis", "cascade") for value in (-1.0, 1e300)),
    *(("max_leverage", value) for value in (-1.0, 0.0, 1e300)),
    *((name, value) for name in ("daily_loss_stop", "high_vol_volatility", "crisis_risk") for value in (-0.1, 1e300)),
]
FIELDS: list[tuple[tuple[str | int, ...], Any]] = [
    *((("ledger", "limits", name), value) for name, value in LIMITS),
    (("ledger", "max_position_pct"), -0.5),
    (("ledger", "max_position_pct"), 1e300),
    (("ledger", "commission_rate"), -0.001),
    (("ledger", "commission_rate"), 1e300),
    (("ledger", "slippage_bps"), 1e300),
    (("ledger", "interval_ms"), DAY_MS),
    (("training_data", "interval_ms"), 60_000),
    (("normaliser", "mean", 3), 1e300),
    (("normaliser", "mean", 3), -1e300),
    (("normaliser", "std", 3), 1e300),
    (("normaliser", "std", 3), 1e-300),
    (("normaliser", "std", 3), -1.0),
    (("normaliser", "clip"), 1e300),
    (("normaliser", "clip"), -5.0),
    (("network", "hidden"), [10**12]),
    (("network", "hidden"), [4] * 100_000),
    (("network", "lstm_hidden"), 10**12),
    (("network", "lstm_layers"), 10**12),
    (("symbols",), [f"S{i}" for i in range(100_000)]),
    (("seeds",), list(range(100_000))),
]


def forged(folder: Path, path: tuple[str | int, ...], value: Any) -> None:
    """Writes a field anew as somebody would who knows how digests are made."""
    document = json.loads((folder / MANIFEST).read_bytes())
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    document["manifest_sha256"] = _self_hash(document)
    (folder / MANIFEST).write_bytes(_render(document))


@pytest.mark.parametrize(("path", "value"), FIELDS, ids=lambda part: str(part)[:40])
def test_an_absurd_number_is_refused_by_name(tmp_path: Path, path: tuple[str | int, ...], value: Any) -> None:
    folder = make_bundle(tmp_path, hidden=(4,))
    forged(folder, ("created_at",), "2026-02-02T00:00:00Z")
    assert hashlib.sha256(read_manifest(folder).created_at.encode()).hexdigest()  # the control: the forger's way works
    forged(folder, path, value)
    with pytest.raises(BundleError, match=str(next(step for step in reversed(path) if isinstance(step, str)))):
        read_manifest(folder)


@pytest.mark.parametrize(("name", "value"), [*LIMITS, ("normal_cap", math.nan), ("daily_loss_stop", math.nan)])
def test_the_config_refuses_them_too_and_infinity_is_off(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        RiskLimits(**{name: value})
    off = RiskLimits.off(max_leverage=math.inf)
    assert (off.crisis_risk, off.normal_cap, RiskLimits(cascade_cap=0.0).cascade_cap) == (math.inf, 2.0, 0.0)
