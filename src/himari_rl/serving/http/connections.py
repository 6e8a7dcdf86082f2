"""Limits of a connection beside its requests: how large a request's head is, and how long its client may do nothing.

    MOST_HEAD        bytes of a request line and its headers; more is a 431
    Connections      ends those on which no head comes: a browser's spare one, and whoever sends a byte a second; and
                     those whose client does not read what it asked for

uvicorn bounds neither: it keeps whatever headers come, and its keep-alive timer begins only after a first answer.
Nothing here is asked on the way of a request but one sum a chunk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import monotonic
from typing import Protocol

MOST_HEAD = 65_536
SWEEPS = 4
"""In the time that a head has."""


class TooLargeHeadError(Exception):
    """Raised through the parser, which stops there: nothing behind it is read."""


class Waiting(Protocol):
    """A connection, as far as this file asks."""

    heads: int
    """Requests whose head has come whole."""
    client: tuple[str, int] | None
    """The address it comes from."""

    @property
    def unread(self) -> int:
        """Bytes of answers that the client has not taken."""

    def waits(self) -> bool:
        """Whether it is for the next head that it waits: nothing is being answered."""

    def give_up(self) -> None:
        """Ends it."""


class Connections:
    """Every open connection of the server, and since when its client has neither brought a head nor read."""

    open: Iterable[Waiting] = ()
    """run.py puts uvicorn's own set here."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._since: dict[Waiting, tuple[tuple[int, int], float]] = {}

    async def sweep(self) -> None:
        """Ends what waits too long; for ever."""
        while True:
            await asyncio.sleep(self._timeout_s / SWEEPS)
            self.look(monotonic())

    def look(self, now: float) -> None:
        """One sweep."""
        since: dict[Waiting, tuple[tuple[int, int], float]] = {}
        for connection in list(self.open):
            done = (connection.heads, connection.unread)
            if not connection.waits() and not connection.unread:
                continue
            before, begun = self._since.get(connection, (done, now))
            if before != done:
                begun = now
            if now - begun > self._timeout_s:
                connection.give_up()
            else:
                since[connection] = (done, begun)
        self._since = since
