"""The server's settings, one place, frozen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """How a server behaves; nothing here can change an answer."""

    max_body_bytes: int = 65_536
    """Largest request body; more is answered with 413 and not read."""
    reload_s: float = 2.0
    """While no valid policy is loaded: seconds between two attempts."""
    memory_key: bytes = b""
    """Signs the memory of recurrent policies; the same on every instance. Empty: a random key for this process."""
