"""The front of the server: plain ASGI before FastAPI. Limits for every request, and the short way for POST /predict.

The short way is bytes in, bytes out in one function: pydantic-core checks the body's shape, the service checks the
state and decides, orjson writes the answer. Whatever is not in order is replayed, byte for byte, into the FastAPI
route, whose errors are the only ones. The body decides what a request is, on both ways: an earlier client that forgets
its content-type is still understood.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sized
from typing import Any

import orjson
from pydantic_core import SchemaValidator, ValidationError, core_schema
from starlette.types import Message, Receive, Scope, Send

from himari_rl.errors import HimariError
from himari_rl.serving.guard import OPEN_PATHS, Guard
from himari_rl.serving.refusals import RETRY_AFTER, status_of
from himari_rl.serving.service import Service

_STATE = core_schema.list_schema(core_schema.float_schema(strict=True, allow_inf_nan=False))
_TEXT = core_schema.nullable_schema(core_schema.str_schema(strict=True))
_NAME = core_schema.nullable_schema(core_schema.str_schema(strict=True, min_length=1, max_length=100))
_TIME = core_schema.nullable_schema(core_schema.int_schema(strict=True, ge=0, lt=2**53))
_FIELDS = {"state": _STATE, "memory": _TEXT, "session_id": _NAME, "timestamp": _TIME}
_FIELDS["sequence"] = core_schema.list_schema(_STATE, min_length=1, max_length=64)
_BODY = SchemaValidator(
    core_schema.typed_dict_schema(
        {name: core_schema.typed_dict_field(schema, required=False) for name, schema in _FIELDS.items()},
        extra_behavior="forbid",
    )
)
_JSON = (b"content-type", b"application/json")
CLIENT = "himari.client"
"""Where the scope says who asks."""


class FastPath:
    """Answers POST /predict itself and hands everything else on, with the limits kept for all of it."""

    pending: Sized = ()
    """The requests that the server has begun: run.py puts uvicorn's set of tasks here."""

    def __init__(self, service: Service, otherwise: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        settings = service.settings
        self._service = service
        self._predict = service.predict
        self._journal = service.journal
        self._errors = service.metrics.errors
        self._otherwise = otherwise
        self._guard = Guard(settings) if settings.guarded else None
        self._limit = settings.max_body_bytes
        self._most = settings.max_concurrency
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
        if len(self.pending) > self._most and path not in OPEN_PATHS:
            await self._refuse(send, 503, f"{self._most} requests are being answered; try again", RETRY_AFTER)
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
                status, headers = status_of(error)
                await self._refuse(send, status, str(error), headers)
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
            await self._refuse(send, 408, text, {"connection": "close"})
            return
        finally:
            del self._waiting[task]
        if body is None:
            return  # the client left
        if len(body) > self._limit:
            text = f"the body has more than {self._limit} bytes; send fewer states in one request"
            await self._refuse(send, 413, text, {"connection": "close"})
            return
        if path == "/predict":
            try:
                answer = self._predict(_BODY.validate_json(body), client)
            except (ValidationError, HimariError):
                if path in self._other_names and b'"instances"' in body:
                    scope = {**scope, "path": "/v1/batch", "raw_path": b"/v1/batch"}
            else:
                if self._journal.every:
                    self._journal.answered(path, answer)
                await _respond(send, 200, orjson.dumps(answer))
                return
        kept = [header for header in scope["headers"] if header[0] != _JSON[0]]
        await self._otherwise({**scope, "headers": [*kept, _JSON], CLIENT: client}, _replay(body, receive), send)

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
            if not message.get("more_body") or len(body) > self._limit:
                return bytes(body)
            message = await receive()
        return None

    async def _refuse(self, send: Send, status: int, detail: str, headers: dict[str, str]) -> None:
        self._errors[status] += 1
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await _respond(send, status, orjson.dumps({"detail": detail}), *pairs)


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
