"""A bundle is read back exactly, or refused in one line."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.bundle import make_bundle, make_manifest, random_tensors
from himari_rl.errors import BundleError, StorageError
from himari_rl.policy.bundle import MANIFEST, WEIGHTS, checked_manifest, new_manifest, read_bundle, write_bundle
from himari_rl.policy.risk import RiskLimits
from himari_rl.policy.runtime import load_policy


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return make_bundle(tmp_path, hidden=(2,))


def refused(folder: Path) -> str:
    """The one line with which reading the bundle is refused."""
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    manifest = make_manifest("lstm", seeds=(3, 4))
    tensors = random_tensors(manifest)
    written = write_bundle(tmp_path / "b", manifest, tensors)
    read, arrays = read_bundle(tmp_path / "b")
    assert read == written
    assert read.model_copy(update={"weights_sha256": "", "manifest_sha256": ""}) == manifest
    assert arrays.keys() == tensors.keys()
    assert all(np.array_equal(arrays[name], tensors[name]) for name in tensors)


def test_the_same_policy_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = make_bundle(tmp_path, name="1"), make_bundle(tmp_path, name="2")
    other = make_bundle(tmp_path, name="3", weights_seed=1)
    assert (first / WEIGHTS).read_bytes() == (second / WEIGHTS).read_bytes() != (other / WEIGHTS).read_bytes()
    assert (first / MANIFEST).read_bytes() == (second / MANIFEST).read_bytes() != (other / MANIFEST).read_bytes()


def test_the_version_is_that_of_the_policy_and_not_of_the_hour_it_was_exported(tmp_path: Path) -> None:
    def written(name: str, **changes: Any) -> Any:
        weights = changes.pop("weights_seed", 0)
        return read_bundle(make_bundle(tmp_path, name=name, hidden=(2,), weights_seed=weights, **changes))[0]

    first, again = written("1"), written("2", created_at="2031-01-01T00:00:00Z", code_version="9.9", seeds=(7,))
    assert again.version == first.version
    assert again.manifest_sha256 != first.manifest_sha256
    ledger = first.ledger.model_dump() | {"max_position_pct": 0.25}
    confidence = {"probabilities": [0.0, 1.0], "distance_quantiles": [0.0, 1.0], "spread_half": 0.2}
    others = [
        written("3", weights_seed=1),
        written("4", ledger=ledger),
        written("5", confidence=confidence),
        written("6", config={"gap_rule": "advance"}),
    ]
    assert len({first.version, *(other.version for other in others)}) == 5


def test_every_single_bit_flip_of_the_manifest_is_refused(small: Path) -> None:
    """One bit of every byte, and all eight of every sixteenth: all eight of all bytes take a minute."""
    good = (small / MANIFEST).read_bytes()
    for position in range(len(good)):
        for bit in range(8) if position % 16 == 0 else [position % 8]:
            flipped = bytearray(good)
            flipped[position] ^= 1 << bit
            with pytest.raises(BundleError):
                checked_manifest(bytes(flipped), "it")
    checked_manifest(good, "it")  # the control: it was the flips


def test_every_single_bit_flip_of_the_weights_is_refused(small: Path) -> None:
    path = small / WEIGHTS
    good = path.read_bytes()
    for position in range(len(good)):
        flipped = bytearray(good)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        with pytest.raises(BundleError):
            read_bundle(small)
    path.write_bytes(good)
    read_bundle(small)


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_a_truncated_file_is_refused_at_every_length(small: Path, name: str) -> None:
    good = (small / name).read_bytes()
    for length in range(0, len(good), 1 + len(good) // 200):
        (small / name).write_bytes(good[:length])
        refused(small)
    (small / name).write_bytes(good + b"\n")
    refused(small)


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_a_missing_file_names_itself_and_the_command_that_makes_it(small: Path, name: str) -> None:
    (small / name).unlink()
    assert refused(small).startswith(f"{small} has no {name}; expected a folder with")
    shutil.rmtree(small)
    assert refused(small).startswith(f"there is no policy bundle at {small}")


def test_weights_of_another_bundle_are_refused(tmp_path: Path) -> None:
    one, two = make_bundle(tmp_path, name="1"), make_bundle(tmp_path, name="2", weights_seed=9)
    shutil.copy(two / WEIGHTS, one / WEIGHTS)
    assert "is damaged: sha256" in refused(one)


def test_a_bundle_of_another_version_says_so(small: Path) -> None:
    document = json.loads((small / MANIFEST).read_text())
    (small / MANIFEST).write_text(json.dumps(document | {"bundle_version": 2}))
    assert "bundle_version 2; expected 1; export it with this release" in refused(small)


def test_a_policy_trained_on_another_encoder_does_not_load(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, encoder_hash="0123456789ab")
    read_bundle(folder)  # whole, and readable by a person who asks what it is
    with pytest.raises(BundleError, match="trained on encoder 0123456789ab with 16 features; expected"):
        load_policy(folder)
    load_policy(make_bundle(tmp_path, name="control"))


def spoil(**changes: Any) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    return lambda tensors: {k: v for k, v in (tensors | changes).items() if v is not None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil(**{"0.out.bias": np.array([0.0, np.nan], np.float32)}), "0.out.bias holds NaN or infinity"),
        (spoil(**{"0.out.bias": np.array([0.0, 1e300])}), "0.out.bias holds NaN or infinity"),
        (spoil(**{"0.out.bias": np.zeros(3)}), r"0.out.bias is float32 \(3,\); expected float32 \(2,\)"),
        (spoil(**{"0.out.bias": None}), "no tensor 0.out.bias"),
        (spoil(**{"1.out.bias": np.zeros(2)}), "an unknown tensor 1.out.bias"),
    ],
)
def test_weights_that_cannot_be_the_policy_are_not_written(tmp_path: Path, change: Any, message: str) -> None:
    manifest = make_manifest()
    with pytest.raises(BundleError, match=message):
        write_bundle(tmp_path / "b", manifest, change(random_tensors(manifest)))
    assert list(tmp_path.iterdir()) == []
    write_bundle(tmp_path / "b", manifest, random_tensors(manifest))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "best"}, "kind: Input should be 'base', 'lstm', 'multi' or 'external'"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"state_dim": 16.5}, "state_dim: Input should be a valid integer"),
        ({"state_dim": "16"}, "state_dim: Input should be a valid integer"),
        ({"symbols": ["A", "B"]}, "2 different symbols, action_dim is 1"),
        ({"feature_names": ["x"]}, "feature_names has 1 entries, expected 16"),
        ({"seeds": []}, "seeds: Tuple should have at least 1 item"),
        ({"network": {"trunk": "lstm"}}, "lstm_hidden and lstm_layers are positive exactly where trunk is lstm"),
        ({"network": {"trunk": "lstm", "lstm_hidden": 4, "lstm_layers": 1}}, "kind base has a lstm trunk"),
        ({"created_at": None}, "created_at: Input should be a valid string"),
        ({"weights_sha256": "xyz"}, "weights_sha256: String should match pattern"),
        ({"config": {"a": math.nan}}, "not JSON compliant"),
        ({"config": {"a": object()}}, "not JSON serializable"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        make_manifest(**changes)


@pytest.mark.parametrize("std", [0.0, -1.0, math.inf, math.nan])
def test_a_normaliser_that_would_divide_by_nothing_is_refused(std: float) -> None:
    good = json.loads(make_manifest().model_dump_json())
    good["normaliser"]["std"][3] = std
    with pytest.raises(BundleError, match=r"normaliser\.std\.3|not JSON compliant"):
        new_manifest(**good)


def test_risk_limits_that_are_off_survive_as_infinity(tmp_path: Path) -> None:
    ledger = json.loads(make_manifest().ledger.model_dump_json())
    ledger["limits"] = dataclasses.asdict(RiskLimits.off(max_leverage=2.0))
    read, _ = read_bundle(make_bundle(tmp_path, ledger=ledger))
    assert read.ledger.config.limits == RiskLimits.off(max_leverage=2.0)
    assert "Infinity" not in (tmp_path / "bundle" / MANIFEST).read_text()


def test_a_limit_nobody_knows_is_refused() -> None:
    ledger = json.loads(make_manifest().ledger.model_dump_json())
    ledger["limits"]["max_levarage"] = 1.0
    with pytest.raises(BundleError, match="RiskLimits has no field max_levarage"):
        make_manifest(ledger=ledger)


def test_a_bundle_below_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="choose a path whose parents are folders"):
        make_bundle(tmp_path / "file")
