"""A certificate: somebody recomputed a verdict, from which data and files, what came of it, and who says so.

    himari verify runs/btc --data BTC-USDT_1h.parquet --certificate btc.json --key private.pem   writes one, signed
    himari certificate btc.json --signer public.pem --run runs/btc                               reads one

The signature (Ed25519) is over every other field. A certificate that says "not equal" is signed like any other. What it
says of a run's files is held against their bytes; of the manifest all but gate and signature, which come later.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from himari_rl.errors import HimariError, StorageError
from himari_rl.evaluation.record import BUNDLE, CURVES, DOCUMENT, SETTINGS, read_document, read_run
from himari_rl.experiments.train_all import FOLDS_FOLDER
from himari_rl.experiments.verify import Verification
from himari_rl.policy.bundle import read_manifest
from himari_rl.storage import read_bytes, write_atomic
from himari_rl.storage.mirror import workplace
from himari_rl.training.record import code_version, now

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

VERSION = 1
MANIFEST, WEIGHTS = f"{BUNDLE}/manifest.json", f"{BUNDLE}/weights.safetensors"
SIGNATURE, KEY = "signature", "key"
_LATER = {"gate", "signature", "manifest_sha256"}  # of a manifest, and no part of what was judged
_FIELDS = frozenset(
    ("certificate", "run", "equal", "compared", "differences", "verdict", "data", "settings_hash", "trials",
     "files", "judged_with", "code", "verified_with", "created_at", KEY, SIGNATURE)
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a certificate says, and whether the run that was held against it is the one."""

    said: Mapping[str, Any]
    signer: bool
    """Whether somebody named the key; else it is the certificate's own, and anybody's."""
    differences: tuple[str, ...]
    """Files of the run that are not those of the certificate."""
    compared: int

    @property
    def holds(self) -> bool:
        """The verdict was recomputed as equal, by the key that was asked for, and the run is the same to the byte."""
        return bool(self.said["equal"]) and self.signer and not self.differences

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        own = {name: value for name, value in self.said.items() if name not in ("files", SIGNATURE)}
        found = {"holds": self.holds, "signer": self.signer, "files": self.compared}
        return found | {"changed": list(self.differences), "certificate": own}

    def __str__(self) -> str:
        said = self.said
        data, verdict = said["data"], said["verdict"]
        lines = [
            f"{said['run']}: {'equal' if said['equal'] else 'NOT equal'}, recomputed at {said['created_at']} with "
            f"himari_rl {said['verified_with']['himari_rl']}: {'; '.join(said['compared']) or 'nothing compared'}",
            *(f"  {each['what']} {each['which']}: {each['why']}" for each in said["differences"]),
            f"verdict: {verdict['sentence']}",
            f"data: {data['source']}, {data['rows']} rows, {data['start']} to {data['end']}, sha256 {data['sha256']}",
            f"signed with the key {said[KEY]}"
            + ("" if self.signer else ": in the certificate itself, so anybody's; --signer PEM says whose"),
        ]
        lines += [f"  {each}" for each in self.differences]
        if self.compared:
            lines.append(
                f"run: {'not that of the certificate' if self.differences else 'the same'}, {self.compared} files"
            )
        else:
            lines.append("run: none was held against it; --run RUN does")
        return "\n".join(lines)


def files_of(run: str | Path) -> dict[str, str]:
    """SHA-256 of all that a verdict comes from: document, curves, settings, bundle and every fold.

    Raises:
        StorageError: no finished walk-forward.
    """
    with workplace(run) as folder:
        read_run(folder)
        names = [DOCUMENT, CURVES, SETTINGS, WEIGHTS, MANIFEST]
        names += [path.relative_to(folder).as_posix() for path in (folder / FOLDS_FOLDER).rglob("*") if path.is_file()]
        return {name: _digest(folder / name) for name in sorted(names) if (folder / name).exists()}


def _digest(path: Path) -> str:
    data = read_bytes(path)
    if path.name == Path(MANIFEST).name:
        try:
            plain = {name: value for name, value in json.loads(data).items() if name not in _LATER}
        except (ValueError, AttributeError):  # damaged: its bytes are what there is
            return hashlib.sha256(data).hexdigest()
        data = json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(data).hexdigest()


def write_certificate(
    place: str | Path, found: Verification, run: str | Path, files: Mapping[str, str], key: str | Path
) -> dict[str, Any]:
    """Writes down what was found, signed.

    Args:
        files: `files_of` the run before it was verified. key: PEM file of an Ed25519 private key.

    Raises:
        ConfigError: the key is none, or cryptography is not installed. StorageError: it cannot be written.
    """
    from himari_rl.policy.signature import key_text, private_key, signature_of

    secret = private_key(key)
    said = _said(found, run, files) | {KEY: key_text(secret.public_key())}
    said[SIGNATURE] = signature_of(_payload(said), secret)
    write_atomic(place, (json.dumps(said, indent=2) + "\n").encode())
    return said


def _said(found: Verification, run: str | Path, files: Mapping[str, str]) -> dict[str, Any]:
    with workplace(run) as folder:
        document = read_run(folder)
        try:
            manifest = read_manifest(folder / BUNDLE)
        except HimariError:  # among the differences
            manifest = None
    data, verdict = document["data"], document["judgement"]["verdict"]  # as the run says it, changed or not
    return {
        "certificate": VERSION,
        **found.to_dict(),
        "verdict": {name: verdict.get(name) for name in ("answer", "sentence", "start", "end", "decisions")},
        "trials": verdict.get("trials"),
        "data": {name: data.get(name) for name in ("sha256", "source", "rows", "start", "end")},
        "settings_hash": document.get("settings_hash"),
        "files": dict(files),
        "judged_with": "" if manifest is None else manifest.code_version,
        "code": None if manifest is None or manifest.external is None else manifest.external.model_dump(mode="json"),
        "verified_with": {"himari_rl": code_version(), "python": platform.python_version(), "numpy": np.__version__},
        "created_at": now().isoformat(timespec="seconds"),
    }


def check_certificate(
    place: str | Path, signer: Ed25519PublicKey | None = None, run: str | Path | None = None
) -> Checked:
    """Reads a certificate, asks whose it is, and holds a run against it.

    Args:
        signer: the key that it must be of; without one the key in the certificate, which is anybody's.

    Raises:
        StorageError: it is damaged, unsigned, changed after it was signed, or of another key.
    """
    from himari_rl.policy.signature import is_of, key_of_text, key_text

    said = read_document(place)
    cure = "ask whoever verified the run for the file as it was written"
    if said.keys() != _FIELDS or said["certificate"] != VERSION:
        odd = ", ".join(sorted(said.keys() ^ _FIELDS)) or f"version {said.get('certificate')}"
        raise StorageError(f"{place} is no certificate: {odd}", "one that himari verify --certificate wrote", cure)
    if not said[SIGNATURE]:
        raise StorageError(f"{place} is not signed", "a certificate with a signature", cure)
    own = key_of_text(str(said[KEY]))
    if own is None or not is_of(str(said[SIGNATURE]), _payload(said), own):
        raise StorageError(f"{place} is not as it was signed", "the bytes that were signed", cure)
    if signer is not None and key_text(signer) != said[KEY]:
        raise StorageError(f"{place} is signed with the key {said[KEY]}", f"the key {key_text(signer)}", cure)
    files = {} if run is None else files_of(run)
    changed = () if run is None else tuple(_changed(said["files"], files))
    return Checked(said=said, signer=signer is not None, differences=changed, compared=len(files))


def _changed(then: Mapping[str, str], now_: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(then.keys() | now_.keys()):
        if name not in now_:
            yield f"{name}: is gone"
        elif name not in then:
            yield f"{name}: was not there"
        elif then[name] != now_[name]:
            yield f"{name}: was changed"


def _payload(said: Mapping[str, Any]) -> bytes:
    signed = {name: value for name, value in said.items() if name != SIGNATURE}
    return json.dumps(signed, sort_keys=True, separators=(",", ":")).encode()
