"""The memory of a recurrent policy as an opaque, signed text that a client carries from answer to request.

    base64url( version, 1 byte | policy, 8 bytes | memory, float32 | HMAC-SHA256 of all before, 16 bytes )

Stateless: any instance with the same key can go on where another stopped. A text of another policy, another
key or with one flipped bit is refused, never answered from zeros.
"""

from __future__ import annotations

import base64
import binascii
import hmac

import numpy as np

from himari_rl.policy.network import F32
from himari_rl.serving.refusals import FieldError


class SignedMemoryError(FieldError):
    """A memory that this server did not sign for this policy (HTTP 422)."""

    def __init__(self, found: str, expected: str = "", cure: str = "") -> None:
        super().__init__("memory", found, expected, cure)

    def __reduce__(self) -> tuple[type[SignedMemoryError], tuple[str, str, str]]:  # type: ignore[override]
        return type(self), (self.found, self.expected, self.cure)


_VERSION = b"\x01"
_POLICY, _SIGNATURE = 8, 16
_CURE = "pass back the memory of the previous answer of the same model_version, or none to start"


def pack(memory: F32, policy: str, key: bytes) -> str:
    """Signs a memory (S,).

    Args:
        policy: hex digest of the manifest: the memory is of use to this policy only.
        key: the server's secret.
    """
    body = _VERSION + bytes.fromhex(policy)[:_POLICY] + memory.tobytes()
    return base64.urlsafe_b64encode(body + _sign(body, key)).decode()


def unpack(text: str, policy: str, key: bytes, size: int) -> F32:
    """The memory (size,) that `pack` signed.

    Raises:
        SignedMemoryError: it was altered, signed with another key, or belongs to another policy.
    """
    try:
        raw = base64.b64decode(text, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignedMemoryError("memory is not base64url text", "the text of the previous answer", _CURE) from error
    body, signature = raw[:-_SIGNATURE], raw[-_SIGNATURE:]
    # the canonical text only: base64 ignores the spare bits of its last character
    if not hmac.compare_digest(signature, _sign(body, key)) or base64.urlsafe_b64encode(raw).decode() != text:
        raise SignedMemoryError(
            "memory was altered or signed with another key", "the text of the previous answer", _CURE
        )
    head = len(_VERSION) + _POLICY
    if body[:head] != _VERSION + bytes.fromhex(policy)[:_POLICY] or len(body) != head + 4 * size:
        raise SignedMemoryError("memory belongs to another policy", f"a memory of policy {policy[:12]}", _CURE)
    return np.frombuffer(body, np.float32, offset=head)


def _sign(body: bytes, key: bytes) -> bytes:
    return hmac.digest(key, body, "sha256")[:_SIGNATURE]
