"""The circuit breaker: a server that keeps failing is left alone, and asked one question now and then.

    closed      every call goes through; so many failures in a row open it
    open        no call goes through for `open_s` seconds
    half open   then one does: its success closes the breaker, its failure opens it again

Nygard (2007), "Release It!", ch. 5.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic


class Breaker:
    """One server's. Safe for several threads."""

    def __init__(self, failures: int, open_s: float, clock: Callable[[], float] = monotonic) -> None:
        self._most, self._open_s, self._clock = failures, open_s, clock
        self._lock = threading.Lock()
        self._failures = 0
        self._until: float | None = None  # when it may be tried again; None: closed
        self._probing = False

    @property
    def state(self) -> str:
        """closed, open or half_open."""
        with self._lock:
            if self._until is None:
                return "closed"
            return "half_open" if self._probing or self._clock() >= self._until else "open"

    def allows(self) -> bool:
        """Whether a call may go through now; while half open, one at a time. Whoever asks says how it went."""
        with self._lock:
            if self._until is None:
                return True
            if self._probing or self._clock() < self._until:
                return False
            self._probing = True
            return True

    def succeeded(self) -> None:
        """The call went well."""
        with self._lock:
            self._failures, self._until, self._probing = 0, None, False

    def failed(self) -> None:
        """It did not."""
        with self._lock:
            self._failures += 1
            if self._probing or self._failures >= self._most:
                self._until, self._probing = self._clock() + self._open_s, False
