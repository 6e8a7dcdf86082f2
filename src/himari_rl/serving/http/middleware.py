"""The limits around every request, as plain ASGI middlewares: each does one thing and hands the rest to `app`.

    ConcurrencyLimit   so many requests at once                        503
    RenamedPaths       the names that Vertex AI gives our routes
    Authentication     who asks, and whether they may                  401, 403     (guard.py checks the key)
    BodyLimit          the whole body of a POST: its size, its time    413, 408, 429
    FastPath           POST /predict, from bytes to bytes              (fast_path.py)
    SharedPath         Vertex AI's batches where it sends them to /predict
    JsonContentType    the body decides what a request is, not its content-type; a compressed one: 415
    HeadAsGet          HEAD is GET without its body

app.py puts them around FastAPI, in this order; a middleware that the settings do not need is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from himari_rl.errors import HimariError
from himari_rl.serving.http.connections import Waiting
from himari_rl.serving.http.guard import Guard
from himari_rl.serving.http.refusals import (
    BUSY,
    CODED,
    JSON,
    LARGE,
    SLOW,
    UNFINISHED,
    Errors,
    Refusal,
    refusal_of,
    refuse,
)

OPEN_PATHS = frozenset({"/health", "/ready"})
"""What probes may ask without a key, however busy the server is."""
CLIENT = "himari.client"
"""Where the scope says who asks."""
BODY = "himari.body"
"""Where the scope has the whole body of a POST."""
Task = asyncio.Task[Any] | None
HARD, SHARE = 4, 8
"""Of the places: how many times as many there are for those who have at most an eighth of them."""
_GZIP = b"\x1f\x8b"  # how every gzip file begins, and no JSON


def client_of(scope: Scope) -> str:
    """Who asks: what the guard found, or the address where nobody asks for a key."""
    if CLIENT in scope:
        return str(scope[CLIENT])
    peer = scope.get("client")
    return str(peer[0]) if peer else ""


class ConcurrencyLimit:
    """Refuses a request, unread, while `most` are being answered.

    An address that has few of them is let in beyond that, up to HARD times `most`: a flood of one address takes the
    places of its own next requests, not those of everybody. What is only about to be refused has no place, however
    much of it comes at once. Those that wait for the issuer's certificates are not counted: who shows a key must not
    wait for them. The guard has its own bound of them.
    """

    begun = 0
    """Requests that were let in and are not answered yet; probes have no place."""
    connections: Iterable[Waiting] = ()
    """As Connections.open."""

    def __init__(self, app: ASGIApp, most: int, errors: Errors, guard: Guard | None = None) -> None:
        self.app, self.most, self.errors, self._guard = app, most, errors, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        if self.begun >= self.most and self.refuses(scope.get("client")):
            await refuse(send, self.errors, BUSY, self.busy)
            return
        self.begun += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.begun -= 1

    @property
    def busy(self) -> str:
        """What a refused client is told."""
        return f"{self.most} requests are being answered; try again"

    def refuses(self, peer: Sequence[Any] | None) -> bool:
        """Whether a request from this address finds no place."""
        waiting = 0 if self._guard is None else self._guard.waiting
        return self.begun - waiting >= self.most and not self._few(peer)

    def _few(self, peer: Sequence[Any] | None) -> bool:
        """Whether the client's address has less than its share; asked only while there are too many."""
        if self.begun >= HARD * self.most or peer is None:
            return False
        own = sum(1 for one in self.connections if one.client and one.client[0] == peer[0] and not one.waits())
        return own * SHARE <= self.most


class RenamedPaths:
    """Answers a path as if another one had been asked for."""

    def __init__(self, app: ASGIApp, names: Mapping[str, str]) -> None:
        self.app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path in self._names and (path, scope["method"]) != ("/predict", "POST"):  # that one is SharedPath's
            scope = _at(scope, self._names[path])
        await self.app(scope, receive, send)


class Authentication:
    """Says in the scope who asks: what the guard found, or the address where there is no guard."""

    def __init__(self, app: ASGIApp, guard: Guard | None, errors: Errors) -> None:
        self.app, self._guard, self._errors = app, guard, errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = client_of(scope)
        if self._guard is not None and scope["path"] not in OPEN_PATHS:
            try:
                client = await self._guard(scope["headers"])
            except HimariError as error:
                await refuse(send, self._errors, refusal_of(error), str(error))
                return
            if (caller := scope.get("himari.caller")) is not None:  # access.py writes it down
                caller[0] = client
        await self.app({**scope, CLIENT: client}, receive, send)


class BodyLimit:
    """Reads the body of a POST to its end, within a size and a time, and puts it into the scope.

    `receive` gives it once more. `sweep` must run as a background task: it ends the waits that are too long. Where one
    address has `most_each` requests whose bodies are awaited, the one that waits longest makes room for the next: a
    client that sends its body is served beside one that never does.
    """

    def __init__(self, app: ASGIApp, limit: int, timeout_s: float, errors: Errors, most_each: int = 128) -> None:
        self.app, self.limit, self._timeout_s, self._errors, self._most_each = app, limit, timeout_s, errors, most_each
        self._waiting: dict[Task, float] = {}  # for their body, since when
        self._of: dict[str, dict[Task, None]] = {}  # the same by client address, the longest wait first
        self._ended: dict[Task, Refusal] = {}  # whose wait was ended, and how
        self._now = 0.0  # coarse: `sweep` moves it, so that no request asks the clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        peer = scope.get("client")
        address = peer[0] if peer else ""
        task = asyncio.current_task()
        if (own := self._of.get(address)) is None:
            own = self._of[address] = {}
        elif len(own) >= self._most_each:
            self._end(next(iter(own)), UNFINISHED)
        self._waiting[task], own[task] = self._now, None
        try:
            message = await receive()
            body: bytes | None = message.get("body")
            if body is None or message.get("more_body"):
                body = await self._rest(message, receive)
        except asyncio.CancelledError:
            how = self._ended.pop(task, None)
            if how is None or task is None:
                raise
            task.uncancel()
            await refuse(send, self._errors, how, self._said(how))
            return
        finally:
            self._waiting.pop(task, None)
            own.pop(task, None)
            if not own and self._of.get(address) is own:
                del self._of[address]
        if body is None:
            return  # the client left
        if len(body) > self.limit:
            text = f"the body has more than {self.limit} bytes; send fewer states in one request"
            await refuse(send, self._errors, LARGE, text)
            return
        pending = [body]

        async def again() -> Message:
            """The body, and then what really comes."""
            if pending:
                return {"type": "http.request", "body": pending.pop(), "more_body": False}
            return await receive()

        await self.app({**scope, BODY: body}, again, send)

    async def sweep(self) -> None:
        """Ends the wait for bodies that do not come; for ever, a few times in the time they have."""
        while True:
            await asyncio.sleep(self._timeout_s / 4)
            self._now += self._timeout_s / 4
            for task, since in list(self._waiting.items()):
                if self._now - since > self._timeout_s:
                    self._end(task, SLOW)

    def _end(self, task: Task, how: Refusal) -> None:
        """Ends a wait, which answers with `how`."""
        for waiting in (self._waiting, *self._of.values()):
            waiting.pop(task, None)  # type: ignore[attr-defined]  # both are dicts by task
        if task is not None:
            self._ended[task] = how
            task.cancel()

    def _said(self, how: Refusal) -> str:
        if how is SLOW:
            return f"the body did not arrive within {self._timeout_s:g} s; send it with the headers"
        return f"{self._most_each} requests of this address have not sent their body; send it with the headers"

    async def _rest(self, message: Message, receive: Receive) -> bytes | None:
        """The whole body, or just more than the limit of it; None when the client left."""
        body = bytearray()
        while message["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body") or len(body) > self.limit:
                return bytes(body)
            message = await receive()
        return None


class SharedPath:
    """Vertex AI's prediction route is /predict: a POST there with `instances` is a batch."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/predict" and b'"instances"' in scope.get(BODY, b""):
            scope = _at(scope, "/v1/batch")
        await self.app(scope, receive, send)


class JsonContentType:
    """Calls every POST's body JSON: an earlier client that forgets its content-type is still understood.

    A compressed body is named: to the parser behind this it would be JSON with a fault.
    """

    def __init__(self, app: ASGIApp, errors: Errors) -> None:
        self.app, self._errors = app, errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            coding = next((value for name, value in scope["headers"] if name == b"content-encoding"), b"").lower()
            if scope.get(BODY, b"")[:2] == _GZIP:
                coding = coding or b"gzip (not said)"
            if coding not in (b"", b"identity"):
                text = f"content-encoding is {coding[:40].decode('latin-1')}; expected none; send the body uncompressed"
                await refuse(send, self._errors, CODED, text)
                return
            kept = [header for header in scope["headers"] if header[0] != JSON[0]]
            scope = {**scope, "headers": [*kept, JSON]}
        await self.app(scope, receive, send)


class HeadAsGet:
    """Answers HEAD as GET without its body (RFC 9110, 9.3.2): load balancers and uptime checks ask so."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def bare(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self.app({**scope, "method": "GET"}, receive, bare)


def _at(scope: Scope, path: str) -> Scope:
    return {**scope, "path": path, "raw_path": path.encode()}
