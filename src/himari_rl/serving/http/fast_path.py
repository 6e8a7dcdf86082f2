"""The short path of POST /predict, /v1/batch and /v1/decide: pydantic-core parses and checks, the service decides,
orjson writes. No FastAPI.

Whatever is not in order goes on to the FastAPI route, whose errors are the only ones, and which gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import repeat
from typing import Any

import orjson
from pydantic_core import ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from himari_rl.errors import HimariError
from himari_rl.serving.http.middleware import BODY, CLIENT
from himari_rl.serving.http.refusals import JSON
from himari_rl.serving.http.turns import BATCH, LONG, Turns
from himari_rl.serving.service import Service

TOGETHER = 8
"""From so many requests on a recurrent policy is quicker with all of them at once; measured, see the log."""


class FastPath:
    """A middleware that answers an ordinary POST itself and hands everything else on."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        settings = service.settings
        self.app, self.service, self._journal = app, service, service.journal
        self.direct = not (
            settings.guarded
            or settings.cors_origins
            or settings.challenger_share
            or settings.access_log
            or settings.throttled
            or settings.journal
        )
        """Whether nothing of a request but its body decides on its answer: then protocol.py may ask here directly."""
        self._answers = {"/predict": self.answer, "/v1/batch": self._batch, "/v1/decide": self._decide}
        renamed = {settings.vertex_predict_route} - {"/predict"}  # what is no batch there is answered as ever
        self.by_url = {path.encode(): ask for path, ask in self._answers.items() if path not in renamed}
        """The same for protocol.py, which does not know the names that Vertex AI gives our routes."""
        self.turn: dict[Any, bytes] = {}
        """Connections and the bodies that wait for the end of this turn of the event loop; only protocol.py has any."""
        self.line = Turns()
        """Long requests, which take turns."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if BODY in scope and (answers := self._answers.get(scope["path"])) is not None:
            client = scope[CLIENT] if CLIENT in scope else peer[0] if (peer := scope.get("client")) else ""
            if len(scope[BODY]) > LONG or scope["path"] == BATCH:
                await self.line.turn()
            answer = answers(scope[BODY], client)
            if answer is not None:
                headers = [JSON, (b"content-length", b"%d" % len(answer))]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": answer})
                return
        await self.app(scope, receive, send)

    def answer(self, body: bytes, client: str = "") -> bytes | None:
        """The document that answers POST /predict; None for what the FastAPI route must answer."""
        try:
            answer = self.service.predict_bytes(body, client)
        except (ValidationError, HimariError):
            return None
        if self._journal.every:
            self._journal.answered("/predict", answer)
        return orjson.dumps(answer)

    def _batch(self, body: bytes, client: str) -> bytes | None:
        return self._written("/v1/batch", self.service.batch_bytes, body, client)

    def _decide(self, body: bytes, client: str) -> bytes | None:
        return self._written("/v1/decide", self.service.decide, body, client)

    def _written(
        self, path: str, ask: Callable[[bytes, str], dict[str, Any]], body: bytes, client: str
    ) -> bytes | None:
        try:
            answer = ask(body, client)
        except (ValidationError, HimariError):
            return None
        if self._journal.every:
            self._journal.answered(path, answer)
        return orjson.dumps(answer)

    def answers(self, bodies: Collection[bytes], clients: Sequence[str] = ()) -> list[bytes | None]:
        """As `answer`, for requests that came together, of `clients` in the same order."""
        if len(bodies) < TOGETHER:
            return [self.answer(body, client) for body, client in zip(bodies, clients or repeat(""), strict=False)]
        found = self.service.predict_many(bodies, clients)
        if self._journal.every:
            for answer in found:
                if answer is not None:
                    self._journal.answered("/predict", answer)
        return [None if answer is None else orjson.dumps(answer) for answer in found]
