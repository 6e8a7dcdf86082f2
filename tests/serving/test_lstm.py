"""The whole road with memory: `himari train lstm`, its bundle judged and served; a memory of another is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from helpers.bundle import DRIFT, make_bundle, valid_states
from helpers.drift_nets import bundle_of
from helpers.latent import latent_bars
from helpers.serving import running
from himari_rl.cli import main
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.data.table import write_bars
from himari_rl.features.contract import schema_hash
from himari_rl.policy.runtime import load_policy
from himari_rl.serving.http.app import create_app
from himari_rl.serving.memory import SignedMemoryError, pack, unpack
from himari_rl.serving.settings import ServeSettings

KEY = b"k" * 32


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("market") / "BTC-SYNTHETIC_1h.parquet"
    write_bars(synthetic_bars(4000, 3), path)
    return path


@pytest.fixture(scope="module")
def run(market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command on raw returns, small: two LSTM layers of 8."""
    out = tmp_path_factory.mktemp("run")
    sizes = [
        "--no-beliefs",
        "--hidden-dim",
        "8",
        "--lstm-hidden-dim",
        "8",
        "--lstm-num-layers",
        "2",
        "--num-episodes",
        "40",
        "--seeds",
        "1",
    ]
    assert main(["train", "lstm", "--data", str(market), "--out", str(out), *sizes, "--json"]) == 0
    return out


def test_the_command_writes_a_recurrent_bundle_with_the_sizes_asked_for(run: Path) -> None:
    policy = load_policy(run / "bundle")
    assert policy.manifest.kind == "lstm"
    assert policy.manifest.network.lstm_hidden == policy.manifest.network.hidden[0] == 8
    assert policy.memory_size == 2 * 2 * 8


def test_the_bundle_is_judged_like_any_other(run: Path, market: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run / "bundle"), "--data", str(market), "--json"]) in (0, 1)  # judged; 1 says no
    assert json.loads(capsys.readouterr().out)


@pytest.fixture(params=["recurrent", DRIFT])
def bundle(request: pytest.FixtureRequest, run: Path, tmp_path: Path) -> Path:
    return run / "bundle" if request.param == "recurrent" else bundle_of(tmp_path, DRIFT, hidden=(8,))


def test_a_served_sequence_is_the_runtimes_own(bundle: Path) -> None:
    policy = load_policy(bundle)
    states = valid_states(30, seed=7)
    memory, text = None, None
    with running(create_app(bundle, ServeSettings(memory_key=KEY))) as client:
        for state in states:
            decision = policy.decide(state, memory)
            answer = client.post("/predict", json={"state": state.tolist()} | ({"memory": text} if text else {}))
            assert answer.status_code == 200, answer.text
            said = answer.json()
            assert said["position_multiplier"] <= decision.multipliers[0] + 1e-9  # limits only ever take away
            memory, text = decision.memory, said["memory"]
            signed = unpack(text, policy.manifest.shaping_sha256, KEY, policy.memory_size)
            assert np.array_equal(signed, memory)


def test_the_command_with_beliefs_writes_a_drift_net_where_the_order_of_the_bars_says_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A drift that the signal shows through noise only: a mean over bars knows it better than one bar."""
    path = tmp_path / "BTC-SYNTHETIC_1h.parquet"
    write_bars(latent_bars(6000, 0, edge=0.6), path)
    words = ["--hidden-dim", "8", "--num-episodes", "2", "--seeds", "1", "--accept", "constant-columns", "--json"]
    data = ["--data", str(path)]
    assert main(["train", "lstm", *data, "--out", str(tmp_path / "run"), *words]) == 0
    manifest = load_policy(tmp_path / "run" / "bundle").manifest
    assert manifest.network.trunk == "mlp"
    assert manifest.beliefs is not None
    assert manifest.beliefs.drift_net is not None
    capsys.readouterr()
    accepted = ["--accept", "constant-columns", "--json"]
    assert main(["evaluate", str(tmp_path / "run" / "bundle"), *data, *accepted]) in (0, 1)
    assert json.loads(capsys.readouterr().out)


def test_every_single_flipped_bit_of_a_memory_is_refused() -> None:
    policy = "ab" * 32
    text = pack(np.random.default_rng(0).normal(size=32).astype(np.float32), policy, KEY)
    assert np.isfinite(unpack(text, policy, KEY, 32)).all()
    raw = base64.b64decode(text)
    for bit in range(8 * len(raw)):
        broken = bytearray(raw)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SignedMemoryError, match="memory was altered"):
            unpack(base64.b64encode(bytes(broken)).decode(), policy, KEY, 32)


def test_a_memory_of_the_same_weights_under_another_symbol_is_refused(tmp_path: Path) -> None:
    bitcoin = load_policy(make_bundle(tmp_path, "lstm", hidden=(8,)))
    other = {"symbols": ("ETH-USDT",), "encoder_hash": schema_hash(("ETH-USDT",))}
    ether = load_policy(make_bundle(tmp_path, "lstm", hidden=(8,), name="ether", **other))
    assert bitcoin.manifest.weights_sha256 == ether.manifest.weights_sha256
    text = pack(bitcoin.initial_memory(), bitcoin.manifest.shaping_sha256, KEY)
    assert unpack(text, bitcoin.manifest.shaping_sha256, KEY, bitcoin.memory_size).shape == (256,)
    with pytest.raises(SignedMemoryError, match="memory belongs to another policy"):
        unpack(text, ether.manifest.shaping_sha256, KEY, ether.memory_size)
