"""Bytes behind their own digest: whoever reads them back knows that they are whole."""

from __future__ import annotations

import hashlib

from himari_rl.errors import StorageError


def digest_of(body: bytes) -> str:
    """SHA-256, hexadecimal: what vouches for a file, in front of it or in a manifest beside it."""
    return hashlib.sha256(body).hexdigest()


def sealed(body: bytes) -> bytes:
    """A digest, then the bytes it vouches for."""
    return digest_of(body).encode() + body


def unsealed(data: bytes, where: str) -> bytes:
    """What `sealed` was given.

    Raises:
        StorageError: the file is damaged.
    """
    digest, body = data[:64], data[64:]
    if digest_of(body).encode() != digest:
        raise StorageError(f"{where} is damaged", "the digest it was written with", "delete that file and run again")
    return body
