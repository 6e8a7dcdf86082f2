"""A request's id, in and out, and a line for every request where somebody asked for one.

A client's `x-request-id` comes back with the answer and stands in the log. Where it sends none and requests are logged,
the server makes one. Without either nothing is done.
"""

from __future__ import annotations

import re
import secrets
from itertools import count
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from himari_rl.serving.http.middleware import client_of
from himari_rl.serving.journal import Journal

REQUEST_ID = b"x-request-id"
REQUEST = "himari.request"
"""Where the scope has that id, as text."""
CALLER = "himari.caller"
"""Where the scope has a list for the name of the client, which only the guard knows."""
_GOOD = re.compile(rb"[\x21-\x7e]{1,128}").fullmatch  # what may be written into a header and a log again
_LONGEST_PATH = 200


class RequestIds:
    """The outermost middleware, for requests that have an id or are logged.

    Args:
        journal: where a line of each request goes; None writes none.
    """

    def __init__(self, app: ASGIApp, journal: Journal | None) -> None:
        self.app, self._journal = app, journal
        self._start, self._number = secrets.token_hex(6), count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = None
        for name, value in scope["headers"]:
            if name == REQUEST_ID:
                given = value
        known = given if given is not None and _GOOD(given) else b"%b-%d" % (self._start.encode(), next(self._number))
        begun, status = perf_counter(), 0
        caller = [client_of(scope)]

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (REQUEST_ID, known)]}
            await send(message)

        try:
            await self.app({**scope, CALLER: caller, REQUEST: known.decode()}, receive, named)
        finally:
            if self._journal is not None:
                self._journal.event(
                    "access",
                    "INFO" if status < 500 else "ERROR",
                    method=scope["method"],
                    path=scope["path"][:_LONGEST_PATH],  # not the query: it may hold a secret
                    status=status or None,
                    ms=round((perf_counter() - begun) * 1e3, 3),
                    client=caller[0],
                    request_id=known.decode(),
                )
