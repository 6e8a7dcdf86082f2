"""Ed25519 signatures of bundles: not only that a policy is whole, but who vouches for it.

    sign("runs/mine/bundle", "private.pem")      writes the signature into the manifest
    verify(manifest, public_key("public.pem"))   raises where it is missing or somebody else's
    signature_of(payload, key), is_of(signature, payload, key)    the same of any bytes

The signature is over every field of the manifest but itself and `manifest_sha256`; the manifest holds the digest of the
weights. Keys are PEM files, as `openssl genpkey -algorithm ed25519` makes them. Needs pip install 'himari-rl[sign]'.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path

from himari_rl.errors import BundleError, ConfigError
from himari_rl.policy.bundle import amend, read_bundle
from himari_rl.policy.manifest import Manifest
from himari_rl.storage import read_bytes

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
except ImportError as error:  # this module is imported where a signature is asked for, and nowhere else
    raise ConfigError("signatures need cryptography", "", "pip install 'himari-rl[sign]'") from error

_MAKE = "openssl genpkey -algorithm ed25519 -out private.pem; openssl pkey -in private.pem -pubout -out public.pem"


def sign(folder: str | Path, key: str | Path) -> Manifest:
    """Signs a bundle after checking all of it. An alias that pins the unsigned one has to be pointed at it again.

    Raises:
        BundleError: it is damaged. ConfigError: the key is no Ed25519 private key. StorageError: it cannot be written.
    """
    manifest, _ = read_bundle(folder)
    return amend(folder, signature=signature_of(_payload(manifest), private_key(key)))


def verify(manifest: Manifest, key: Ed25519PublicKey) -> None:
    """Returns where the manifest is signed with the private half of `key`.

    Raises:
        BundleError: it is not signed, or its signature is of another key or another manifest.
    """
    cure = "himari sign BUNDLE --key private.pem"
    if manifest.signature is None:
        raise BundleError(f"{manifest.version} is not signed", "a bundle signed with this server's key", cure)
    if not is_of(manifest.signature, _payload(manifest), key):
        found = f"the signature of {manifest.version} is not of this server's key"
        raise BundleError(found, "a bundle signed with it", cure)


def signature_of(payload: bytes, key: Ed25519PrivateKey) -> str:
    """The signature of some bytes, as base64."""
    return base64.b64encode(key.sign(payload)).decode()


def is_of(signature: str, payload: bytes, key: Ed25519PublicKey) -> bool:
    """Whether a signature is of these bytes and the private half of `key`."""
    try:
        key.verify(base64.b64decode(signature, validate=True), payload)
    except (InvalidSignature, binascii.Error):
        return False
    return True


def key_text(key: Ed25519PublicKey) -> str:
    """A public key as base64 of its 32 bytes."""
    return base64.b64encode(key.public_bytes_raw()).decode()


def key_of_text(text: str) -> Ed25519PublicKey | None:
    """The key that `key_text` wrote; None where the text is none."""
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error):
        return None


def public_key(path: str | Path) -> Ed25519PublicKey:
    """The key of a PEM file.

    Raises:
        ConfigError: it is no Ed25519 public key. StorageError: it cannot be read.
    """
    try:
        key = load_pem_public_key(read_bytes(path))
    except ValueError as error:
        raise ConfigError(f"{path} is no public key", "an Ed25519 public key as PEM", _MAKE) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path} is a {type(key).__name__}", "an Ed25519 public key", _MAKE)
    return key


def private_key(path: str | Path) -> Ed25519PrivateKey:
    """The key of a PEM file without a password.

    Raises:
        ConfigError: it is no Ed25519 private key. StorageError: it cannot be read.
    """
    try:
        key = load_pem_private_key(read_bytes(path), password=None)
    except (ValueError, TypeError) as error:  # TypeError: it has a password
        raise ConfigError(f"{path} is no private key", "an Ed25519 private key as PEM, no password", _MAKE) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is a {type(key).__name__}", "an Ed25519 private key", _MAKE)
    return key


def _payload(manifest: Manifest) -> bytes:
    signed = manifest.model_dump(mode="json", exclude={"signature", "manifest_sha256"})
    return json.dumps(signed, sort_keys=True, separators=(",", ":")).encode()
