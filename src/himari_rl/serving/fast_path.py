"""The short way for POST /predict: bytes in, bytes out, in one function of plain ASGI.

pydantic-core checks the body's shape, the service checks the state and decides, orjson writes the answer.
Whatever is not in order is replayed, byte for byte, into the FastAPI route, whose errors are the only ones. The
body decides what a request is, on both ways: an earlier client that forgets its content-type is still understood.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson
from pydantic_core import SchemaValidator, ValidationError, core_schema
from starlette.types import Message, Receive, Scope, Send

from himari_rl.errors import HimariError
from himari_rl.serving.service import Service

_BODY = SchemaValidator(
    core_schema.typed_dict_schema(
        {
            "state": core_schema.typed_dict_field(
                core_schema.list_schema(core_schema.float_schema(strict=True, allow_inf_nan=False)), required=True
            ),
            "memory": core_schema.typed_dict_field(
                core_schema.nullable_schema(core_schema.str_schema(strict=True)), required=False
            ),
        },
        extra_behavior="forbid",
    )
)
_JSON = (b"content-type", b"application/json")


class FastPath:
    """Answers POST /predict itself and hands everything else on, with the body limit kept for all of it."""

    def __init__(self, service: Service, otherwise: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._predict = service.predict
        self._limit = service.settings.max_body_bytes
        self._errors = service.metrics.errors
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        body: bytes | None = message.get("body")
        if body is None or message.get("more_body"):
            body = await self._rest(message, receive)
            if body is None:
                return  # the client left
        if len(body) > self._limit:
            await self._too_large(send)
            return
        if scope["path"] == "/predict":
            try:
                request = _BODY.validate_json(body)
                answer = self._predict(request["state"], request.get("memory"))
            except (ValidationError, HimariError):
                pass  # the route below says what is wrong
            else:
                await _respond(send, 200, orjson.dumps(answer))
                return
            scope = {**scope, "headers": [*(h for h in scope["headers"] if h[0] != _JSON[0]), _JSON]}
        await self._otherwise(scope, _replay(body, receive), send)

    async def _rest(self, message: Message, receive: Receive) -> bytes | None:
        """The whole body, or just more than the limit of it; None when the client left."""
        body = bytearray()
        while message["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body") or len(body) > self._limit:
                return bytes(body)
            message = await receive()
        return None

    async def _too_large(self, send: Send) -> None:
        self._errors[413] += 1
        detail = f"the body has more than {self._limit} bytes; send fewer states in one request"
        await _respond(send, 413, orjson.dumps({"detail": detail}), (b"connection", b"close"))


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
