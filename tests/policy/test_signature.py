"""Signatures: a bundle that somebody vouches for is told from one that is merely whole."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from helpers.bundle import make_bundle
from helpers.serving import running
from himari_rl.cli import main
from himari_rl.errors import BundleError, ConfigError
from himari_rl.policy.alias import point
from himari_rl.policy.bundle import MANIFEST, amend, read_bundle, read_manifest
from himari_rl.policy.signature import private_key, public_key, sign, verify
from himari_rl.serving.http.app import create_app
from himari_rl.serving.messages import EXAMPLE_STATE
from himari_rl.serving.settings import ServeSettings, from_environment


def key_pair(folder: Path, name: str, curve: bool = False) -> tuple[Path, Path]:
    key = generate_private_key(SECP256R1()) if curve else Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_signature_holds_for_this_manifest_and_this_key_only(tmp_path: Path) -> None:
    (private, public), (_, other) = key_pair(tmp_path, "ours"), key_pair(tmp_path, "theirs")
    bundle = make_bundle(tmp_path, hidden=(4,))
    before = read_manifest(bundle)
    with pytest.raises(BundleError, match="is not signed"):
        verify(before, public_key(public))
    signed = sign(bundle, private)
    assert read_bundle(bundle)[0] == signed
    assert (signed.version, signed.weights_sha256) == (before.version, before.weights_sha256)
    verify(signed, public_key(public))
    for manifest, key in (
        (signed, other),
        (signed.model_copy(update={"weights_sha256": "0" * 64}), public),
        (signed.model_copy(update={"gate": {"passed": True}}), public),
        (signed.model_copy(update={"signature": "bm90IG9uZQ=="}), public),
        (signed.model_copy(update={"signature": "?"}), public),
    ):
        with pytest.raises(BundleError, match="not of this server's key"):
            verify(manifest, public_key(key))


def test_what_is_amended_after_signing_is_no_longer_signed(tmp_path: Path) -> None:
    private, _ = key_pair(tmp_path, "ours")
    bundle = make_bundle(tmp_path, hidden=(4,))
    sign(bundle, private)
    assert amend(bundle, gate={"passed": True}).signature is None
    with pytest.raises(BundleError, match="gate"):
        amend(bundle, gate="yes")
    assert read_manifest(bundle).gate == {"passed": True}


def test_openssl_signs_the_same_bytes(tmp_path: Path) -> None:
    """The payload is told by definition, canonical JSON of the manifest without two fields, and signed by a peer."""
    private, _ = key_pair(tmp_path, "ours")
    bundle = make_bundle(tmp_path, hidden=(4,))
    signed = sign(bundle, private)
    document = json.loads((bundle / MANIFEST).read_text())
    fields = {name: value for name, value in document.items() if name not in ("signature", "manifest_sha256")}
    (tmp_path / "payload").write_text(json.dumps(fields, sort_keys=True, separators=(",", ":")))
    command = f"openssl pkeyutl -sign -rawin -in payload -inkey {private.name} | base64 -w0"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == signed.signature


def test_a_file_that_is_no_such_key_is_named(tmp_path: Path) -> None:
    (private, public), (curve, curve_public) = key_pair(tmp_path, "ours"), key_pair(tmp_path, "curve", curve=True)
    for load, path in ((public_key, private), (private_key, public), (private_key, curve), (public_key, curve_public)):
        with pytest.raises(ConfigError, match=path.name):
            load(path)


def test_a_server_with_a_signer_serves_signed_bundles_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (private, public), (stranger, _) = key_pair(tmp_path, "ours"), key_pair(tmp_path, "theirs")
    alias = str(tmp_path / "champion.json")
    good, plain, foreign = (
        make_bundle(tmp_path, hidden=(4,), name=name, weights_seed=i) for i, name in enumerate(("a", "b", "c"))
    )
    for bundle, key in ((good, private), (foreign, stranger)):
        assert main(["sign", str(bundle), "--key", str(key)]) == 0
    point(alias, str(plain))
    settings = ServeSettings(**from_environment({"HIMARI_SIGNER": str(public)}))
    with running(create_app(alias, settings)) as client:
        assert client.post("/predict", json={"state": EXAMPLE_STATE}).status_code == 503
        assert "is not signed" in client.get("/ready").json()["detail"]
        point(alias, str(good))
        assert client.post("/admin/reload").json()["swapped"] is True
        point(alias, str(foreign))
        assert "not of this server's key" in client.post("/admin/reload").json()["detail"]
        answer = client.post("/predict", json={"state": EXAMPLE_STATE}).json()
        assert answer["model_version"] == read_manifest(good).version
    assert main(["serve", str(plain), "--port", "0", "--signer", str(public)]) == 2
    assert "is not signed" in capsys.readouterr().err
