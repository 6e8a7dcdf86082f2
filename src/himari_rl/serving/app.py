"""The HTTP face: `create_app(bundle)` answers POST /predict and says what it is.

    GET  /          name, version, status, endpoints
    GET  /health    the process lives
    GET  /ready     which policy, after a real warm-up decision; 503 with the reason while there is none
    GET  /metrics   Prometheus
    POST /predict   {"state": [16 numbers]} -> position_multiplier, confidence, latency_ms, model_version

FastAPI owns schema, documentation and errors. A request that is in order takes the short way of fast_path.py
and gets the same bytes. Never a default: no policy is a 503, a bad state a 422.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from himari_rl import __version__
from himari_rl.errors import BundleError, HimariError, StateError
from himari_rl.policy.runtime import Policy
from himari_rl.serving.fast_path import FastPath
from himari_rl.serving.memory import SignedMemoryError
from himari_rl.serving.messages import Health, PredictAnswer, PredictRequest, Problem, Ready, Root
from himari_rl.serving.service import NotReadyError, Service
from himari_rl.serving.settings import ServeSettings

ENDPOINTS = {
    "GET /": "this page",
    "GET /health": "the process lives",
    "GET /ready": "which policy answers",
    "GET /metrics": "Prometheus",
    "GET /docs": "interactive documentation",
    "POST /predict": "one decision",
}
_STATUS: tuple[tuple[type[HimariError], int], ...] = ((StateError, 422), (NotReadyError, 503), (BundleError, 503))
_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": Problem, "description": "No valid policy is loaded"}}
_REFUSALS = _NOT_READY | {
    413: {"model": Problem, "description": "The body is too large"},
    422: {"model": Problem, "description": "The request is wrong: field and cure"},
}


class Api(FastAPI):
    """FastAPI with the short way for POST /predict in front of its routing."""

    fast_path: FastPath

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            await self.fast_path(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(source: Policy | str | Path, settings: ServeSettings | None = None) -> FastAPI:
    """The server for one policy.

    Args:
        source: a loaded policy, or the folder of a bundle: it is loaded at start-up, and while that fails the
            server lives, answers 503 with the reason, and tries again every `settings.reload_s` seconds.
        settings: limits and keys.
    """
    settings = settings or ServeSettings()
    service = Service(source, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.load()
        retry = asyncio.create_task(_until_loaded(service))
        yield
        retry.cancel()
        with suppress(asyncio.CancelledError):
            await retry

    app = Api(
        title="HIMARI Layer 3",
        version=__version__,
        summary="How much: a multiplier of the base position in [0, 2]",
        lifespan=lifespan,
    )
    app.state.service = service
    _add_errors(app, service)
    _add_routes(app, service)
    app.fast_path = FastPath(service, super(Api, app).__call__)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.get("/")
    async def root() -> Root:
        """What this server is and where to go."""
        status = "ready" if service.policy else "not ready"
        return Root(name="HIMARI Layer 3", version=__version__, status=status, endpoints=ENDPOINTS)

    @app.get("/health")
    async def health() -> Health:
        """The process lives. Whether it can decide is /ready's answer."""
        return Health()

    @app.get("/ready", responses=_NOT_READY)
    async def ready() -> Ready:
        """Which policy answers; 503 with the reason while there is none."""
        manifest = service.ready().manifest
        data = manifest.training_data
        return Ready(
            model_version=manifest.version,
            kind=manifest.kind,
            symbols=list(manifest.symbols),
            state_dim=manifest.state_dim,
            encoder_hash=manifest.encoder_hash,
            members=len(manifest.seeds),
            trained_on=f"{data.source}, {data.rows} bars, {data.start} to {data.end}",
            synthetic=data.synthetic,
        )

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Counters and histograms for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.post("/predict", response_model=PredictAnswer, responses=_REFUSALS)
    async def predict(request: PredictRequest) -> Response:
        """One decision for one state."""
        for index, value in enumerate(request.state):
            if isinstance(value, bool):
                raise StateError(f"state[{index}] is {str(value).lower()}", "a number", "send 1 or 0")
        answer = service.predict(request.state, request.memory)
        return Response(orjson.dumps(answer), media_type="application/json")


def _add_errors(app: FastAPI, service: Service) -> None:
    def refusal(status: int, detail: Any) -> Response:
        service.metrics.errors[status] += 1
        return Response(orjson.dumps({"detail": detail}), status, media_type="application/json")

    @app.exception_handler(HimariError)
    async def himari(_: Request, error: HimariError) -> Response:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        if status != 422:
            return refusal(status, str(error))
        field = "memory" if isinstance(error, SignedMemoryError) else "state"
        parts = {"found": error.found, "expected": error.expected, "cure": error.cure}
        return refusal(422, [{"type": "state_error", "loc": ["body", field], "msg": str(error), **parts}])

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        # `input` and `ctx` stay out: they may hold NaN, which is not JSON, or a megabyte of the request
        kept = [{name: part[name] for name in ("type", "loc", "msg")} for part in error.errors()]
        return refusal(422, [part | {"cure": _cure(service)} for part in kept])

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        if error.status_code != 400:
            answer = refusal(error.status_code, error.detail)
            answer.headers.update(error.headers or {})  # a 405 names the methods that are allowed
            return answer
        part = {"type": "json_invalid", "loc": ["body"], "msg": "the body is not JSON", "cure": _cure(service)}
        return refusal(422, [part])


def _cure(service: Service) -> str:
    dim = service.policy.manifest.state_dim if service.policy else 16
    return f'send {{"state": [...]}} with {dim} numbers'


async def _until_loaded(service: Service) -> None:
    while service.policy is None:
        await asyncio.sleep(service.settings.reload_s)
        service.load()
