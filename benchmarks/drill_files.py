"""Lines of the fault drill on files: damaged bundles and checkpoints, and bundles that somebody hostile made."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from himari_rl.errors import BundleError, StorageError
from himari_rl.policy.alias import point
from himari_rl.policy.bundle import MANIFEST, WEIGHTS, _render, _self_hash
from himari_rl.policy.runtime import load_policy
from himari_rl.serving.settings import ServeSettings
from himari_rl.serving.slot import Follower

FULL_BUNDLES, FULL_CHECKPOINTS = 10_000, 1_000
Found = tuple[str, str, str]  # tried, lost, note


def _bundle(place: Path, name: str, seed: int = 0) -> Path:
    from helpers.bundle import make_bundle

    return make_bundle(place, hidden=(4,), name=name, weights_seed=seed)


def _damage(rng: random.Random, folder: Path, other: Path) -> str:
    """Does one bad thing to a bundle; which."""
    kind = rng.choice(["bit", "bits", "truncated", "missing", "extra bytes", "swapped", "zeros", "empty"])
    path = folder / rng.choice([MANIFEST, WEIGHTS])
    data = bytearray(path.read_bytes())
    if kind in ("bit", "bits"):
        for _ in range(1 if kind == "bit" else rng.randrange(2, 50)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "truncated":
        del data[rng.randrange(len(data)) :]
    elif kind == "extra bytes":
        data += rng.randbytes(rng.randrange(1, 100))
    elif kind == "swapped":
        data = bytearray((other / path.name).read_bytes())
    elif kind == "zeros":
        start = rng.randrange(len(data))
        data[start : start + 64] = bytes(len(data[start : start + 64]))
    elif kind == "empty":
        data.clear()
    if kind == "missing":
        path.unlink()
    elif bytes(data) == path.read_bytes():
        return ""  # by chance no damage: zeros where zeros were, a bit turned twice
    else:
        path.write_bytes(data)
    return kind


def damaged(size: float) -> Found:
    """All refused by name, the last good one goes on. Of checkpoints too."""
    count = max(20, round(FULL_BUNDLES * size))
    rng, kinds = random.Random(1), Counter[str]()
    accepted, unnamed, lost_the_good = 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        good, other = _bundle(place, "good"), _bundle(place, "other", 1)
        alias = str(place / "champion.json")
        point(alias, str(good))
        follower = Follower(alias, ServeSettings())
        assert follower.changed() is not None
        pinned = json.loads(Path(alias).read_text())
        for number in range(count):
            bad = place / "bad"
            shutil.copytree(good, bad)
            kind = _damage(rng, bad, other)
            if kind:
                kinds[kind] += 1
                try:
                    load_policy(bad)
                except (BundleError, StorageError) as error:
                    unnamed += not str(error).strip()
                else:
                    accepted += 1
                fresh = pinned | {"bundle": str(bad), "step": pinned["step"] + number + 1}
                Path(alias).write_text(json.dumps(fresh))
                follower.hurry()
                try:
                    follower.changed()
                except (BundleError, StorageError):
                    pass
                else:
                    lost_the_good += 1
            shutil.rmtree(bad)
    checkpoints, taken = _damaged_checkpoints(max(5, round(FULL_CHECKPOINTS * size)))
    lost = [
        f"{number} {what}"
        for number, what in (
            (accepted, "accepted"),
            (unnamed, "without a reason"),
            (lost_the_good, "followed"),
            (taken, "checkpoints taken"),
        )
        if number
    ]
    tried = f"{sum(kinds.values())} bundles, {checkpoints} checkpoints"
    return tried, "; ".join(lost) or "nothing", ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items()))


def _damaged_checkpoints(count: int) -> tuple[int, int]:
    """How many were tried, and how many of them were opened as if whole."""
    import torch
    from safetensors.torch import save

    from himari_rl.training.checkpoint import _opened, digest

    rng, taken = random.Random(2), 0
    tensors = {f"agent.{i}": torch.arange(50, dtype=torch.float32) + i for i in range(4)}
    note = json.dumps({"identity": {}, "counters": {}})
    whole = save(tensors, metadata={"checkpoint": note, "sha256": digest(tensors, note)})
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "checkpoint.safetensors"
        path.write_bytes(whole)
        _opened(path)  # the control
        for _ in range(count):
            data = bytearray(whole)
            if rng.random() < 0.5:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            elif rng.random() < 0.5:
                del data[rng.randrange(len(data)) :]
            else:
                data += rng.randbytes(8)
            path.write_bytes(data)
            try:
                _opened(path)
            except StorageError:
                continue
            taken += 1
    return count, taken


def damaged_without_digests() -> str:
    """The control: were no digest compared, flipped bits of weights would load."""
    import hashlib

    real = hashlib.sha256

    class Blind:
        """A digest that is whatever the manifest of the good bundle says."""

        def __init__(self, data: bytes) -> None:
            self._data = data

        def hexdigest(self) -> str:
            return said["weights_sha256"]

    with tempfile.TemporaryDirectory() as name:
        good = _bundle(Path(name), "good")
        said = json.loads((good / MANIFEST).read_bytes())
        accepted = 0
        for seed in range(40):
            data = bytearray((good / WEIGHTS).read_bytes())
            data[-1 - seed] ^= 1
            (good / WEIGHTS).write_bytes(data)
            fake = mock.Mock(sha256=lambda data=b"": Blind(data) if data[:1] != b"{" else real(data))
            with mock.patch("himari_rl.policy.bundle.hashlib", fake):
                try:
                    load_policy(good)
                except BundleError:
                    continue
                accepted += 1
    return f"{accepted} flipped bundles accepted" if accepted else ""


class Planted:
    """What a pickle of somebody hostile would do: make a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.marker),)


def _hostile(good: Path, marker: Path) -> dict[str, Callable[[Path], None]]:
    """Each writes a bundle that must be refused and do nothing."""

    def weights(data: bytes) -> Callable[[Path], None]:
        return lambda folder: (folder / WEIGHTS).write_bytes(data) and None

    def manifest(**fields: object) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            document = json.loads((folder / MANIFEST).read_bytes()) | fields
            document["manifest_sha256"] = _self_hash(document)
            (folder / MANIFEST).write_bytes(_render(document))

        return write

    def text(data: bytes) -> Callable[[Path], None]:
        return lambda folder: (folder / MANIFEST).write_bytes(data) and None

    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Planted(marker)))
        archive.writestr("archive/zeros", bytes(50_000_000))
    traversal = io.BytesIO()
    with zipfile.ZipFile(traversal, "w") as archive:
        archive.writestr("../../../evil", "x")
    whole = (good / MANIFEST).read_bytes()
    huge = (2**62).to_bytes(8, "little") + b"{}"
    found: dict[str, Callable[[Path], None]] = {
        f"pickle, protocol {protocol}": weights(pickle.dumps(Planted(marker), protocol)) for protocol in range(6)
    }
    found |= {
        "zip bomb with a pickle": weights(bomb.getvalue()),
        "zip with traversal": weights(traversal.getvalue()),
        "safetensors header of 2**62 bytes": weights(huge),
        "safetensors header that is a pickle": weights((40).to_bytes(8, "little") + pickle.dumps(Planted(marker))),
        "no weights at all": weights(b""),
        "manifest that is a pickle": text(pickle.dumps(Planted(marker))),
        "manifest nested 100,000 deep": text(b"[" * 100_000),
        "manifest with NaN": text(whole.replace(b"5.0", b"NaN")),
        "manifest with another digest": manifest(weights_sha256="0" * 64),
        "manifest of a later version": manifest(bundle_version=2),
        "manifest with an unknown field": manifest(exec="import os"),
        "manifest of a wrong kind": manifest(kind="external"),
        "symbols twice": manifest(symbols=["A", "A"]),
        "no seeds": manifest(seeds=[]),
        "a million seeds": manifest(seeds=list(range(1_000_000))),
        "a layer of 10^12": manifest(
            network={"trunk": "mlp", "hidden": [10**12], "activation": "tanh", "head": "band"}
        ),
        "half a signature": manifest(signature="AAAA"),
    }
    found |= {
        f"yaml tag {index}": text(tag)
        for index, tag in enumerate(
            (b"!!python/object/apply:os.mkdir [evil]", b"%YAML 1.1\n---\n!!python/name:os.system")
        )
    }
    found |= {
        f"{field} is {value!r}"[:60]: manifest(**{field: value})
        for field in ("encoder_hash", "state_dim", "action_dim", "feature_names", "normaliser", "ledger", "confidence")
        for value in (None, "../../etc/passwd", [], {"__class__": "x"})
    }
    return found


def untrusted(size: float) -> Found:
    """Nothing executed, each refused; an unsigned one and a replayed one by a server that asks for signatures."""
    taken, executed = [], False
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        marker = place / "marker"
        good = _bundle(place, "good")
        kinds = _hostile(good, marker)
        for kind, write in kinds.items():
            bad = place / "bad"
            shutil.copytree(good, bad)
            write(bad)
            try:
                if kind != "half a signature":
                    load_policy(bad)
                    taken.append(kind)
            except (BundleError, StorageError):
                pass
            shutil.rmtree(bad)
        replayed = _replayed(place)
        executed = marker.exists() or (place.parent / "evil").exists()
    lost = [*taken, *replayed, *(["something was executed"] if executed else [])]
    return f"{len(kinds) + 3} hostile bundles", "; ".join(lost) or "nothing", ""


def _replayed(place: Path) -> list[str]:
    """Unsigned, signed by another, and an alias's old copy: what of it a server with a signer takes."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from himari_rl.policy.signature import sign

    keys = {}
    for who in ("owner", "other"):
        key = keys[who] = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (place / f"{who}.pem").write_bytes(private)
        (place / f"{who}.pub").write_bytes(public)
    alias = str(place / "signed.json")
    one, two = _bundle(place, "one", 5), _bundle(place, "two", 6)
    for folder in (one, two):
        sign(folder, place / "owner.pem")
    follower = Follower(alias, ServeSettings(signer=str(place / "owner.pub")))
    taken = []

    def offered(what: str) -> None:
        follower.hurry()
        try:
            if follower.changed() is not None:
                taken.append(what)
        except (BundleError, StorageError):
            pass

    point(alias, str(one))
    old = Path(alias).read_bytes()
    assert follower.changed() is not None
    point(alias, str(two))
    assert follower.changed() is not None
    Path(alias).write_bytes(old)
    offered("an old copy of the alias")
    Path(alias).unlink()
    for what, folder in (
        ("an unsigned bundle", _bundle(place, "three", 7)),
        ("another's signature", _bundle(place, "four", 8)),
    ):
        if what != "an unsigned bundle":
            sign(folder, place / "other.pem")
        for _ in range(4):  # beyond the step that was served
            point(alias, str(folder))
        offered(what)
    return taken


def untrusted_with_pickle() -> str:
    """The control: a loader that reads pickles executes the planted one."""
    with tempfile.TemporaryDirectory() as name:
        marker = Path(name) / "marker"
        pickle.loads(pickle.dumps(Planted(marker)))
        return "the planted pickle was executed" if marker.exists() else ""
