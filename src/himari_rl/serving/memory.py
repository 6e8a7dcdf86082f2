"""The memory of a recurrent policy as an opaque, signed text that a client carries from answer to request.

    base64( version, 1 byte | policy, 8 bytes | memory, float32 | keyed BLAKE2b of all before, 16 to 18 bytes )

Stateless: any instance with the same key can go on where another stopped. A text of another policy, another
key or with one flipped bit is refused, never answered from zeros. The signature is as long as makes the whole a
multiple of three bytes: such a base64 text has no padding and no spare bits, so no two texts mean the same memory.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
from functools import lru_cache
from typing import Any

import numpy as np

from himari_rl.policy.network import F32
from himari_rl.serving.errors import FieldError


class SignedMemoryError(FieldError):
    """A memory that this server did not sign for this policy (HTTP 422)."""

    def __init__(self, found: str, expected: str = "", cure: str = "") -> None:
        super().__init__("memory", found, expected, cure)

    def __reduce__(self) -> tuple[type[SignedMemoryError], tuple[str, str, str]]:  # type: ignore[override]
        return type(self), (self.found, self.expected, self.cure)


_VERSION = b"\x01"
_POLICY, _SIGNATURE = 8, 16
_HEAD = len(_VERSION) + _POLICY
_CURE = "pass back the memory of the previous answer of the same model_version, or none to start"


def pack(memory: F32, policy: str, key: bytes) -> str:
    """Signs a memory (S,).

    Args:
        policy: hex digest of the manifest: the memory is of use to this policy only.
        key: the server's secret.
    """
    body = _head(policy) + memory.tobytes()
    length = _SIGNATURE + -(len(body) + _SIGNATURE) % 3
    return binascii.b2a_base64(body + _sign(body, key, length), newline=False).decode()


def unpack(text: str, policy: str, key: bytes, size: int) -> F32:
    """The memory (size,) that `pack` signed.

    Args:
        text: of `pack`.

    Raises:
        SignedMemoryError: it was altered, signed with another key, or belongs to another policy.
    """
    raw = _decode(text)
    length = _SIGNATURE + (len(raw) - _HEAD - _SIGNATURE) % 4  # floats are four bytes, so the rest is the signature's
    body, signature = raw[:-length], raw[-length:]
    if len(raw) % 3 or not hmac.compare_digest(signature, _sign(body, key, length)):
        raise _altered()
    if body[:_HEAD] != _head(policy) or len(body) != _HEAD + 4 * size:
        raise SignedMemoryError("memory belongs to another policy", f"a memory of policy {policy[:12]}", _CURE)
    return np.ndarray((size,), np.float32, body, _HEAD)


def _decode(text: str) -> bytes:
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)  # the url-safe alphabet is another text of the same bytes
    except ValueError as error:
        raise SignedMemoryError("memory is not base64 text", "the text of the previous answer", _CURE) from error
    if 3 * len(text) != 4 * len(raw):  # what is not of base64 was skipped, or the end is padded
        raise _altered()
    return raw


def _altered() -> SignedMemoryError:
    found = "memory was altered or signed with another key"
    return SignedMemoryError(found, "the text of the previous answer", _CURE)


@lru_cache(maxsize=16)
def _head(policy: str) -> bytes:
    return _VERSION + bytes.fromhex(policy)[:_POLICY]


@lru_cache(maxsize=16)
def _keyed(key: bytes) -> Any:
    """BLAKE2b (RFC 7693) that has read its key; a key of any length."""
    return hashlib.blake2b(key=hashlib.sha256(key).digest())


def _sign(body: bytes, key: bytes, length: int) -> bytes:
    state = _keyed(key).copy()
    state.update(body)
    signature: bytes = state.digest()[:length]
    return signature
