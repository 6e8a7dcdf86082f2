"""Policies come and go under load: no failed answer, no answer of two policies, and nothing broken is ever served."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from helpers.bundle import make_bundle, make_manifest, random_tensors
from helpers.serving import Connection, running, wait_for
from himari_rl.policy.alias import point, read_alias, rollback
from himari_rl.policy.bundle import MANIFEST, WEIGHTS, write_bundle
from himari_rl.policy.runtime import load_policy
from himari_rl.serving.http.app import create_app
from himari_rl.serving.messages import EXAMPLE_STATE
from himari_rl.serving.settings import ServeSettings

SWAPS, RATE = 50, 200


def constant_bundle(folder: Path, out: float) -> Path:
    """A policy that answers 1 + out to every state: zero weights, and `out` as the last bias."""
    manifest = make_manifest(network={"head": "centre", "hidden": (4,)})
    tensors = {name: np.zeros_like(array) for name, array in random_tensors(manifest).items()}
    tensors["0.out.bias"][:] = out
    write_bundle(folder, manifest, tensors)
    return folder


def test_fifty_swaps_at_two_hundred_requests_a_second_fail_and_mix_nothing(tmp_path: Path) -> None:
    """The answer of each policy is its own constant, so that one of two policies would show."""
    alias = str(tmp_path / "champion.json")
    constants = (-0.5, 0.25)
    folders = [constant_bundle(tmp_path / name, out) for name, out in zip("ab", constants, strict=True)]
    own = {load_policy(folder).manifest.version: 1 + out for folder, out in zip(folders, constants, strict=True)}
    point(alias, str(folders[0]))
    seen: Counter[str] = Counter()
    reloads: list[dict[str, Any]] = []

    async def ask(connection: Connection) -> None:
        status, answer = await connection.post("/predict", {"state": EXAMPLE_STATE})
        assert status == 200, answer
        assert answer["position_multiplier"] == own[answer["model_version"]]
        seen[answer["model_version"]] += 1

    async def swap(connection: Connection) -> None:
        for index in range(SWAPS):
            await asyncio.to_thread(point, alias, str(folders[(index + 1) % 2]))
            status, answer = await connection.post("/admin/reload", {})
            assert status == 200, answer
            reloads.append(answer)
            await ask(connection)  # each policy answers at least once, whatever the rhythm of the others
            await asyncio.sleep(0.01)

    async def load_for(port: int) -> int:
        *connections, last = [await Connection.to(port) for _ in range(9)]
        swapping = asyncio.create_task(swap(last))
        start, asked = time.perf_counter(), 0
        while not swapping.done():
            burst = [ask(connection) for connection in connections]  # 8 at once, 25 times a second
            asked += len(burst)
            await asyncio.gather(*burst)
            await asyncio.sleep(max(0.0, start + asked / RATE - time.perf_counter()))
        await swapping
        for connection in (*connections, last):
            connection.close()
        return asked

    with running(create_app(alias, ServeSettings(reload_s=60))) as client:
        asked = asyncio.run(load_for(client.base_url.port))
        assert client.get("/ready").json()["champion"]["step"] == SWAPS + 1
        metrics = client.get("/metrics").text
    assert all(answer["swapped"] for answer in reloads)
    assert f"himari_swaps_total {SWAPS:.1f}" in metrics
    assert sum(seen.values()) == asked + SWAPS >= 2 * SWAPS
    assert set(seen) == set(own)  # both really answered


def damage_weights(change: Callable[[bytearray], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        weights = bytearray((folder / WEIGHTS).read_bytes())
        change(weights)
        (folder / WEIGHTS).write_bytes(weights)

    return apply


def change_manifest(old: str, new: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        text = (folder / MANIFEST).read_text()
        assert old in text
        (folder / MANIFEST).write_text(text.replace(old, new, 1))

    return apply


def nan_weights(folder: Path) -> None:
    """NaN with digests that fit: only a look at the numbers finds it."""
    from hashlib import sha256

    from himari_rl.policy.bundle import _render, _self_hash

    tensors = {name: array.copy() for name, array in load((folder / WEIGHTS).read_bytes()).items()}
    tensors["0.out.bias"][0] = np.nan
    (folder / WEIGHTS).write_bytes(weights := save(tensors))
    document = json.loads((folder / MANIFEST).read_text()) | {"weights_sha256": sha256(weights).hexdigest()}
    document["manifest_sha256"] = _self_hash(document)
    (folder / MANIFEST).write_bytes(_render(document))


def replace_by(kind: str, **changes: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        shutil.rmtree(folder)
        make_bundle(folder.parent, kind, name=folder.name, hidden=(4,), **changes)  # type: ignore[arg-type]

    return apply


BROKEN: dict[str, Callable[[Path], object]] = {
    "no folder": shutil.rmtree,
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "empty weights": lambda folder: (folder / WEIGHTS).write_bytes(b""),
    "empty manifest": lambda folder: (folder / MANIFEST).write_bytes(b""),
    "manifest cut": lambda folder: (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes()[:-9]),
    "manifest a list": lambda folder: (folder / MANIFEST).write_text("[]"),
    "weights cut": damage_weights(lambda w: w.__delitem__(slice(-8, None))),
    "weights longer": damage_weights(lambda w: w.extend(b"\0" * 8)),
    "a bit of a weight": damage_weights(lambda w: w.__setitem__(-1, w[-1] ^ 1)),
    "a bit of the header": damage_weights(lambda w: w.__setitem__(20, w[20] ^ 1)),
    "weights of another": damage_weights(lambda w: w.__setitem__(slice(None), save({"x": np.zeros(3, np.float32)}))),
    "another version": change_manifest('"bundle_version": 1', '"bundle_version": 2'),
    "another clip": change_manifest('"clip": 5.0', '"clip": 6.0'),
    "unknown field": change_manifest('"kind": "base"', '"kind": "base", "extra": 1'),
    "another name": change_manifest("BTC-USDT", "BTC-USDC"),
    "NaN weights": nan_weights,
    "another encoder": replace_by("base", encoder_hash="0123456789ab"),
    "other symbols": replace_by("base", symbols=["ETH-USDT"]),
    "three symbols": replace_by("multi"),
}


def test_twenty_broken_bundles_are_offered_and_none_is_served(tmp_path: Path) -> None:
    assert len(BROKEN) == 20
    alias = tmp_path / "champion.json"
    good = load_policy(make_bundle(tmp_path, name="good", hidden=(4,))).manifest.version
    point(str(alias), "good")
    reasons = {}
    with running(create_app(str(alias), ServeSettings(reload_s=60, symbols=("BTC-USDT",)))) as client:
        for index, (name, break_it) in enumerate(BROKEN.items()):
            bundle = make_bundle(tmp_path, name=f"broken-{index}", hidden=(4,), weights_seed=index + 1)
            break_it(bundle)
            # past `point`, which checks: what a careless tool would write
            pointer = {"bundle": bundle.name, "transaction": f"{index:016x}", "step": index + 2}
            alias.write_text(json.dumps(pointer))
            response = client.post("/admin/reload")
            assert response.status_code == 409, (name, response.text)
            reasons[name] = response.json()["detail"]
            answer = client.post("/predict", json={"state": EXAMPLE_STATE}).json()
            assert answer["model_version"] == good, name
            ready = client.get("/ready").json()
            assert (ready["model_version"], ready["champion"]["step"]) == (good, 1)
            assert ready["champion"]["refused"] in reasons[name]
        # the control: a whole bundle by the same road is served
        make_bundle(tmp_path, name="whole", hidden=(4,), weights_seed=99)
        alias.write_text(json.dumps({"bundle": "whole", "transaction": "f" * 16, "step": 50}))
        assert client.post("/admin/reload").json()["swapped"] is True
        assert client.get("/ready").json()["champion"]["refused"] is None
    assert len(set(reasons.values())) == len(reasons)  # each says its own
    assert "expected a policy for BTC-USDT" in reasons["other symbols"]
    assert "holds NaN" in reasons["NaN weights"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("other symbols", "base-.* is for ETH-USDT; expected a policy for BTC-USDT"),
        ("another encoder", "was trained on encoder 0123456789ab"),
        ("NaN weights", "0.out.bias holds NaN or infinity"),
        ("no weights", f"has no {WEIGHTS}"),
    ],
)
def test_a_wrong_policy_at_the_start_is_503_with_one_reason_and_heals(tmp_path: Path, name: str, said: str) -> None:
    folder = make_bundle(tmp_path, hidden=(4,))
    BROKEN[name](folder)
    with running(create_app(folder, ServeSettings(reload_s=0.05, symbols=("BTC-USDT",)))) as client:
        for response in (client.get("/ready"), client.post("/predict", json={"state": EXAMPLE_STATE})):
            assert response.status_code == 503
            assert response.headers["retry-after"]
            assert re.search(said, response.json()["detail"])
            assert "\n" not in response.json()["detail"]
        assert client.get("/health").status_code == 200
        shutil.rmtree(folder)
        make_bundle(tmp_path, hidden=(4,))
        wait_for(lambda: client.get("/ready").status_code == 200)


def test_the_server_follows_the_alias_by_itself_and_rolls_back(tmp_path: Path) -> None:
    alias = str(tmp_path / "aliases" / "champion.json")
    versions = [
        load_policy(make_bundle(tmp_path, name=n, hidden=(4,), weights_seed=i)).manifest.version
        for i, n in enumerate("ab")
    ]
    point(alias, "../a")
    with running(create_app(alias, ServeSettings(reload_s=0.05))) as client:

        def serves(version: str) -> bool:
            return client.get("/ready").json()["model_version"] == version

        assert serves(versions[0])
        point(alias, "../b")
        wait_for(lambda: serves(versions[1]))
        rollback(alias)
        wait_for(lambda: serves(versions[0]))
        assert client.get("/ready").json()["champion"]["step"] == 3
        shutil.copytree(tmp_path / "b", tmp_path / "a", dirs_exist_ok=True)  # behind the alias's back
        point(alias, "../b")
        wait_for(lambda: serves(versions[1]))
    assert read_alias(alias).step == 4


def test_a_bundle_replaced_in_its_folder_is_swapped_in(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, hidden=(4,))
    before = load_policy(folder).manifest.version
    with running(create_app(folder, ServeSettings(reload_s=0.05))) as client:
        assert client.get("/ready").json()["model_version"] == before
        make_bundle(tmp_path, hidden=(4,), weights_seed=7)
        after = load_policy(folder).manifest.version
        assert after != before
        wait_for(lambda: client.get("/ready").json()["model_version"] == after)
