"""What a client is asked for: its deadline, when it stops asking, what it shows the server."""

from __future__ import annotations

from dataclasses import dataclass, field

from himari_rl.config import SECRET, require_ranges


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """How a policy server is asked.

    Raises:
        ConfigError: a number that no client can use.
    """

    timeout_ms: float = 150.0
    """From question to answer, connect, read and retries together; after that it is a fallback."""
    retries: int = 1
    """Connections that broke off are tried again so often, within the same deadline."""
    breaker_failures: int = 5
    """Failures in a row after which the server is not asked for a while."""
    breaker_open_s: float = 5.0
    """Seconds until one call is let through to see whether the server is back."""
    versions: tuple[str, ...] = ()
    """Model versions that may answer. Empty: those that /ready names for these symbols and this interval."""
    connect_s: float = 30.0
    """Longest wait for /ready at the start: a server that was scaled to zero has to start first."""
    keep_warm_s: float = 0.0
    """Seconds between two questions that only keep the server and the connection warm; 0: none."""
    api_key: str = field(default="", metadata=SECRET)
    """Shown to the server as x-api-key."""
    audience: str = ""
    """Google-signed ID tokens for this audience are fetched from the metadata server and shown as bearer token."""

    def __post_init__(self) -> None:
        require_ranges(
            self,
            {
                "timeout_ms": (1.0, 60_000.0),
                "retries": (0, 10),
                "breaker_failures": (1, 1_000_000),
                "breaker_open_s": (0.0, 86_400.0),
                "connect_s": (0.0, 600.0),
                "keep_warm_s": (0.0, 86_400.0),
            },
        )
