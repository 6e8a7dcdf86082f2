"""The HTTP face: `create_app(source)` answers POST /predict and says what it is.

    GET  /              name, version, status, endpoints
    GET  /health        the process lives
    GET  /ready         which policy, after a real warm-up decision; 503 with the reason while there is none
    GET  /metrics       Prometheus
    POST /predict       {"state": [16 numbers]} -> position_multiplier, confidence, latency_ms, model_version
    POST /v1/batch      {"instances": [...]} -> {"predictions": [...]}, Vertex AI's form
    POST /v1/decide     raw signal, account and bar; the server encodes
    POST /admin/reload  look at the alias now

FastAPI owns schema, documentation and errors. The limits around it are small ASGI middlewares (middleware.py), and an
ordinary POST /predict takes the short path of fast_path.py, which gives the same bytes. Never a default: no policy is a
503, a bad state a 422.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from himari_rl import __version__
from himari_rl.errors import HimariError
from himari_rl.policy.arrival import ArrivalError
from himari_rl.policy.runtime import Policy
from himari_rl.serving.http.access import REQUEST_ID, RequestIds
from himari_rl.serving.http.connections import Connections
from himari_rl.serving.http.docs import add_docs
from himari_rl.serving.http.fast_path import FastPath
from himari_rl.serving.http.follow import FollowsInRequests
from himari_rl.serving.http.guard import Guard
from himari_rl.serving.http.middleware import (
    Authentication,
    BodyLimit,
    ConcurrencyLimit,
    HeadAsGet,
    JsonContentType,
    RenamedPaths,
    SharedPath,
)
from himari_rl.serving.http.refusals import NO_JSON, SCHEMA, Refusal, detailed, refusal_of
from himari_rl.serving.http.routes import ENDPOINTS, add_routes
from himari_rl.serving.http.scrape import scraped
from himari_rl.serving.messages import ARRIVAL
from himari_rl.serving.service import FOLLOW, Service
from himari_rl.serving.settings import ServeSettings

if TYPE_CHECKING:
    from himari_rl.serving.answer_journal import AnswerJournal

MOST_PROBLEMS = 10  # of one request that are named
THROTTLED_S = 3_600.0
LAST_LINES_S = 1.0  # for the log to be written before the end

__all__ = ["ENDPOINTS", "Api", "create_app"]


class Api(FastAPI):
    """FastAPI with the middlewares of `_add_front` before it."""

    front: ASGIApp
    concurrency: ConcurrencyLimit
    body_limit: BodyLimit
    fast_path: FastPath
    connections: Connections
    request_ids: RequestIds
    answer_journal: AnswerJournal | None
    logged: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            front = self.front
            for name, _ in scope["headers"]:
                if name == REQUEST_ID:
                    front = self.request_ids
            await (self.request_ids if self.logged else front)(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(source: Policy | str | Path, settings: ServeSettings | None = None) -> Api:
    """The server for one policy.

    Args:
        source: a loaded policy, the folder of a bundle, or an alias (a .json file), local or gs://. It is followed:
            while nothing valid is there the server lives and answers 503 with the reason, and a change is swapped in.
        settings: limits and keys.
    """
    settings = settings or ServeSettings()
    service = Service(source, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        every_s = THROTTLED_S if settings.throttled else settings.reload_s  # there requests look themselves
        looked = service.jobs.repeat(FOLLOW, service.reload, every_s)
        with suppress(TimeoutError):  # then /ready says that it is still loading
            await asyncio.wait_for(looked.wait(), settings.start_wait_s)
        if app.answer_journal is not None:
            await app.answer_journal.start(settings.start_wait_s)
        service.jobs.keep("sweep", app.body_limit.sweep)
        service.jobs.keep("connections", app.connections.sweep)
        if service.challenger is not None and not settings.challenger_share:
            service.jobs.keep("shadow", service.challenger.work)
        with scraped(service.metrics, settings.metrics_port):
            yield
        await service.jobs.stop()
        if app.answer_journal is not None:
            await app.answer_journal.stop(LAST_LINES_S)
        service.log_lines.drain(LAST_LINES_S)

    app = Api(
        title="HIMARI Layer 3",
        version=__version__,
        summary="How much: a multiplier of the base position in [0, 2]",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page asks another company's servers; docs.py makes one of the same document
        redoc_url=None,
    )
    app.state.service = service
    app.connections = Connections(settings.head_timeout_s)
    app.answer_journal = None
    if settings.journal:
        from himari_rl.serving.answer_journal import journal_of

        app.answer_journal = journal_of(settings, service.journal.event)
    _add_errors(app, service)
    add_routes(app, service, app.answer_journal)
    add_docs(app)
    _add_front(app, service)
    return app


def _add_front(app: Api, service: Service) -> None:
    """Puts the middlewares before FastAPI, the innermost first: a request meets them from the last to the first."""
    settings, errors = service.settings, service.metrics.errors
    vertex = {settings.vertex_health_route: "/ready", settings.vertex_predict_route: "/v1/batch"}
    names = {path: own for path, own in vertex.items() if path}
    front: ASGIApp = JsonContentType(HeadAsGet(super(Api, app).__call__), errors)
    if "/predict" in names:
        front = SharedPath(front)
    front = app.fast_path = FastPath(front, service)
    if app.answer_journal is not None:
        from himari_rl.serving.http.journalled import Journalled

        front = Journalled(front, service, app.answer_journal)
    front = app.body_limit = BodyLimit(
        front, settings.max_body_bytes, settings.body_timeout_s, errors, settings.max_bodies_each
    )
    guard = Guard(settings) if settings.guarded else None
    if guard is not None or settings.challenger_share:  # else nobody asks who asks
        front = Authentication(front, guard, errors)
    if names:
        front = RenamedPaths(front, names)
    front = app.concurrency = ConcurrencyLimit(front, settings.max_concurrency, errors, guard)
    if settings.cors_origins:
        from starlette.middleware.cors import CORSMiddleware

        headers = ["authorization", "content-type", "x-api-key"]
        front = CORSMiddleware(front, settings.cors_origins, ["GET", "POST"], headers)
    app.front = FollowsInRequests(front, service) if settings.throttled else front
    app.logged = settings.access_log
    app.request_ids = RequestIds(app.front, service.journal if settings.access_log else None)


def _add_errors(app: FastAPI, service: Service) -> None:
    def refused(how: Refusal, detail: Any) -> Response:
        service.metrics.errors[how.status, how.cause] += 1
        return Response(detailed(detail), how.status, how.headers, "application/json")

    @app.exception_handler(HimariError)
    async def himari(_: Request, error: HimariError) -> Response:
        how = refusal_of(error)
        if how.status != 422:
            return refused(how, str(error))
        parts = {"found": error.found, "expected": error.expected, "cure": error.cure}
        place = error.place if isinstance(error, ArrivalError) else (getattr(error, "field", "state"),)
        kind = ARRIVAL if isinstance(error, ArrivalError) else "state_error"
        loc = ["body", *map(_printable, place)]
        return refused(how, [{"type": kind, "loc": loc, "msg": str(error), **parts}])

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # `input` and `ctx` stay out: they may hold NaN, which is not JSON, or a megabyte of the request
        cure = _cure(service, request.url.path)
        kept = [
            {"type": part["type"], "loc": [_printable(step) for step in part["loc"]], "msg": part["msg"], "cure": cure}
            | (part["ctx"] if part["type"] == ARRIVAL else {})  # arrival's own words, with its own cure
            for part in error.errors()[:MOST_PROBLEMS]
        ]
        return refused(SCHEMA, kept)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code != 400:  # a 405 names the methods that are allowed
            cause = HTTPStatus(error.status_code).name.lower()
            return refused(Refusal(error.status_code, cause, dict(error.headers or {})), error.detail)
        cure = _cure(service, request.url.path)
        return refused(
            NO_JSON, [{"type": "json_invalid", "loc": ["body"], "msg": "the body is not JSON", "cure": cure}]
        )


def _printable(step: Any) -> str | int:
    """A step of a path into the request; JSON allows half a surrogate pair in a name, UTF-8 does not."""
    return step if isinstance(step, int) else str(step)[:100].encode("utf-8", "replace").decode()


def _cure(service: Service, path: str) -> str:
    dim = service.slot.dim if service.slot else 16
    if path == "/v1/batch":
        return f'send {{"instances": [[...], ...]}} with {dim} numbers each, at most 256 of them'
    if path == "/v1/decide":
        return 'send {"bar", "signal", "account"}, and "history" first; see the example in /docs'
    return f'send {{"state": [...]}} with {dim} numbers; several states, {{"instances": [...]}}, go to POST /v1/batch'
