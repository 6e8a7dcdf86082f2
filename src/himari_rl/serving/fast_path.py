"""The front of the server: plain ASGI before FastAPI. Limits for every request, and the short way for POST /predict.

The short way is bytes in, bytes out in one function, `answer`: pydantic-core parses and checks the body, the service
decides, orjson writes the answer. Whatever is not in order is replayed, byte for byte, into the FastAPI route, whose
errors are the only ones. The body decides what a request is, on both ways: an earlier client that forgets its
content-type is still understood. Under run.py most requests are answered before they come here: see protocol.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sized
from typing import Any

import orjson
from pydantic_core import ValidationError
from starlette.types import Message, Receive, Scope, Send

from himari_rl.errors import HimariError
from himari_rl.serving.guard import OPEN_PATHS, Guard
from himari_rl.serving.refusals import BUSY, LARGE, SLOW, Refusal, refusal_of
from himari_rl.serving.service import Service

_JSON = (b"content-type", b"application/json")
CLIENT = "himari.client"
"""Where the scope says who asks."""
TOGETHER = 8
"""From so many requests on a recurrent policy is quicker with all of them at once; measured, see the log."""


class FastPath:
    """Answers POST /predict itself and hands everything else on, with the limits kept for all of it."""

    pending: Sized = ()
    """The requests that the server has begun: run.py puts uvicorn's set of tasks here."""

    def __init__(self, service: Service, otherwise: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        settings = service.settings
        self.service = service
        self._journal = service.journal
        self._errors = service.metrics.errors
        self._otherwise = otherwise
        self._guard = Guard(settings) if settings.guarded else None
        self.direct = not settings.guarded and not settings.cors_origins and not settings.challenger_share
        """Whether nothing of a request but its body decides on its answer."""
        self.limit = settings.max_body_bytes
        self.most = settings.max_concurrency
        self.turn: dict[Any, bytes] = {}
        """Connections and the bodies that wait for the end of this turn of the event loop; see protocol.py."""
        self._patience = settings.body_timeout_s
        self._waiting: dict[asyncio.Task[Any] | None, float] = {}  # for their body, since when
        self._late: set[asyncio.Task[Any] | None] = set()
        self._now = 0.0  # coarse: `sweep` moves it, so that no request asks the clock
        self._other_names = {
            path: own
            for path, own in ((settings.vertex_health_route, "/ready"), (settings.vertex_predict_route, "/v1/batch"))
            if path
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if len(self.pending) > self.most and path not in OPEN_PATHS:
            await self._refuse(send, BUSY, f"{self.most} requests are being answered; try again")
            return
        if self._other_names and path in self._other_names and (path, scope["method"]) != ("/predict", "POST"):
            path = self._other_names[path]
            scope = {**scope, "path": path, "raw_path": path.encode()}
        peer = scope.get("client")
        client = peer[0] if peer else ""
        if self._guard is not None and path not in OPEN_PATHS:
            try:
                client = await self._guard(scope["headers"])
            except HimariError as error:
                await self._refuse(send, refusal_of(error), str(error))
                return
        if scope["method"] != "POST":
            await self._otherwise(scope, receive, send)
            return
        task = asyncio.current_task()
        self._waiting[task] = self._now
        try:
            message = await receive()
            body: bytes | None = message.get("body")
            if body is None or message.get("more_body"):
                body = await self._rest(message, receive)
        except asyncio.CancelledError:
            if task not in self._late or task is None:
                raise
            self._late.discard(task)
            task.uncancel()
            text = f"the body did not arrive within {self._patience:g} s; send it with the headers"
            await self._refuse(send, SLOW, text)
            return
        finally:
            del self._waiting[task]
        if body is None:
            return  # the client left
        if len(body) > self.limit:
            text = f"the body has more than {self.limit} bytes; send fewer states in one request"
            await self._refuse(send, LARGE, text)
            return
        if path == "/predict":
            answer = self.answer(body, client)
            if answer is not None:
                await _respond(send, 200, answer)
                return
            if path in self._other_names and b'"instances"' in body:
                scope = {**scope, "path": "/v1/batch", "raw_path": b"/v1/batch"}
        kept = [header for header in scope["headers"] if header[0] != _JSON[0]]
        await self._otherwise({**scope, "headers": [*kept, _JSON], CLIENT: client}, _replay(body, receive), send)

    def answer(self, body: bytes, client: str = "") -> bytes | None:
        """The document that answers POST /predict; None for what the FastAPI route must answer."""
        try:
            answer = self.service.predict_bytes(body, client)
        except (ValidationError, HimariError):
            return None
        if self._journal.every:
            self._journal.answered("/predict", answer)
        return orjson.dumps(answer)

    def answers(self, bodies: Collection[bytes]) -> list[bytes | None]:
        """As `answer`, for requests that came together."""
        if len(bodies) < TOGETHER:
            return [self.answer(body) for body in bodies]
        found = self.service.predict_many(bodies)
        if self._journal.every:
            for answer in found:
                if answer is not None:
                    self._journal.answered("/predict", answer)
        return [None if answer is None else orjson.dumps(answer) for answer in found]

    async def sweep(self) -> None:
        """Ends the wait for bodies that do not come; for ever, a few times in the time they have."""
        while True:
            await asyncio.sleep(self._patience / 4)
            self._now += self._patience / 4
            for task, since in list(self._waiting.items()):
                if task is not None and self._now - since > self._patience:
                    self._late.add(task)
                    task.cancel()

    async def _rest(self, message: Message, receive: Receive) -> bytes | None:
        """The whole body, or just more than the limit of it; None when the client left."""
        body = bytearray()
        while message["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body") or len(body) > self.limit:
                return bytes(body)
            message = await receive()
        return None

    async def _refuse(self, send: Send, how: Refusal, detail: str) -> None:
        self._errors[how.status, how.cause] += 1
        pairs = [(name.encode(), value.encode()) for name, value in how.headers.items()]
        await _respond(send, how.status, orjson.dumps({"detail": detail}), *pairs)


async def _respond(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [_JSON, length, *headers]})
    await send({"type": "http.response.body", "body": body})


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body again, and then what really comes."""
    pending = [body]

    async def again() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return again
