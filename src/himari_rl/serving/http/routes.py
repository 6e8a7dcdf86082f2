"""The routes, for FastAPI: five lines each, and what the OpenAPI document says of them."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI, Request, Response

from himari_rl import __version__
from himari_rl.errors import StateError
from himari_rl.monitoring.page import HEADERS, render_page
from himari_rl.serving.errors import NotJournalledError, within
from himari_rl.serving.http.middleware import client_of
from himari_rl.serving.http.refusals import ForbiddenError
from himari_rl.serving.live import server_page
from himari_rl.serving.messages import (
    BatchAnswer,
    BatchRequest,
    DecideAnswer,
    DecideRequest,
    ErrorAnswer,
    Health,
    Journalling,
    Offer,
    PredictAnswer,
    PredictRequest,
    Ready,
    Reloaded,
    Root,
)
from himari_rl.serving.service import Service
from himari_rl.serving.slot import Follower, Slot

if TYPE_CHECKING:
    from himari_rl.serving.answer_journal import AnswerJournal

ENDPOINTS = {
    "GET /": "this page",
    "GET /health": "the process lives",
    "GET /ready": "which policy answers",
    "GET /metrics": "Prometheus",
    "GET /ui": "the same for people",
    "GET /docs": "interactive documentation",
    "POST /predict": "one decision on a state",
    "POST /v1/batch": "up to 256 decisions, in Vertex AI's form",
    "POST /v1/decide": "one decision on a raw signal, account and bar",
    "POST /admin/reload": "look at the alias now",
}
_MEANING = {
    401: "No key that this server accepts",
    403: "A valid key of somebody who may not do this",
    408: "The body did not arrive in time",
    409: "What the source offers is refused; the policy before goes on",
    413: "The body is too large",
    415: "The body is compressed",
    422: "The request is wrong: field and cure",
    429: "Too many sessions",
    503: "No valid policy is loaded, the journal cannot be written, or too many requests at once",
}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer, "description": _MEANING[status]} for status in (401, 403, *statuses, 503)}


_POST = _refusals(408, 413, 415, 422, 429)


def add_routes(app: FastAPI, service: Service, journal: AnswerJournal | None = None) -> None:
    """Everything in ENDPOINTS."""

    @app.get("/", responses=_refusals())
    async def root() -> Root:
        """What this server is and where to go."""
        status = "ready" if service.slot else "not ready"
        return Root(name="HIMARI Layer 3", version=__version__, status=status, endpoints=ENDPOINTS)

    @app.get("/health")
    async def health() -> Health:
        """The process lives. Whether it can decide is /ready's answer."""
        return Health()

    @app.get("/ready", responses={503: {"model": ErrorAnswer, "description": _MEANING[503]}})
    async def ready() -> Ready:
        """Which policy answers, and why not what its source offers now; 503 with the reason while there is none."""
        return _ready(service, journal)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **_refusals()})
    async def metrics() -> Response:
        """Counters and histograms for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/ui", response_class=Response, responses={200: {"content": {"text/html": {}}}, **_refusals()})
    async def ui() -> Response:
        """The live page: policy, verdict, requests, latency, drift; from the journal, decisions and equity."""
        if journal is None:
            return Response(render_page(server_page(service)), headers=HEADERS)
        page = server_page(service, await journal.view.shown(service.slot), journal.trouble)
        return Response(render_page(page), headers=HEADERS)

    @app.post("/predict", response_model=PredictAnswer, responses=_POST)
    async def predict(body: PredictRequest, request: Request) -> Response:
        """One decision for one state."""
        fields = _fields(body)
        return _answer(service, "/predict", service.predict(fields, client_of(request.scope)))

    @app.post("/v1/batch", response_model=BatchAnswer, responses=_POST)
    async def batch(body: BatchRequest, request: Request) -> Response:
        """Up to 256 decisions, in order; Vertex AI's prediction route."""
        instances: list[Any] = []
        for index, part in enumerate(body.instances):
            try:
                instances.append(
                    _fields(PredictRequest.model_validate({"state": part}) if isinstance(part, list) else part)
                )
            except StateError as error:
                raise within(f"instances[{index}]", error) from error
        return _answer(service, "/v1/batch", service.batch(instances, client_of(request.scope)))

    @app.post("/v1/decide", response_model=DecideAnswer, responses=_POST)
    async def decide(body: DecideRequest, request: Request) -> Response:
        """One decision on raw numbers: the server keeps the bars of a session and makes the state."""
        return _answer(service, "/v1/decide", service.decide(body, client_of(request.scope)))

    @app.post("/admin/reload", responses=_refusals(408, 409, 413, 415))
    async def reload() -> Reloaded:
        """Looks at the alias or folder now, and swaps where it offers another valid policy."""
        if not service.settings.admin:
            raise ForbiddenError("reloading is off: anybody could call it here", "a server with keys", "set API keys")
        swapped = await service.reload_or_say()
        return Reloaded(swapped=swapped, model_version=service.ready().version)


def _fields(body: PredictRequest) -> dict[str, Any]:
    fields = body.model_dump(exclude_none=True)
    for state in (fields.get("state", ()), *fields.get("sequence", ())):
        for index, value in enumerate(state):
            if isinstance(value, bool):
                raise StateError(f"state[{index}] is {str(value).lower()}", "a number", "send 1 or 0")
    return fields


def _answer(service: Service, path: str, answer: dict[str, Any]) -> Response:
    if service.journal.every:
        service.journal.answered(path, answer)
    return Response(orjson.dumps(answer), media_type="application/json")


def _ready(service: Service, journal: AnswerJournal | None) -> Ready:
    slot = service.ready()
    if journal is not None and journal.trouble:
        raise NotJournalledError(f"no decision is answered without the journal: {journal.trouble}")
    manifest, challenger = slot.policy.manifest, service.challenger
    data = manifest.training_data
    return Ready(
        model_version=slot.version,
        kind=manifest.kind,
        symbols=list(manifest.symbols),
        interval_ms=slot.interval_ms,
        first_bar=data.start,
        ledger=manifest.ledger.model_dump(mode="json"),
        state_dim=manifest.state_dim,
        features=list(manifest.own_features),
        encoder_hash=manifest.encoder_hash,
        members=len(manifest.seeds),
        trained_on=f"{data.source}, {data.rows} bars, {data.start} to {data.end}",
        synthetic=data.synthetic,
        gap_rule=slot.gap_rule,
        champion=_offer(service.follower, slot, service.refused),
        looked_s_ago=None if service.looked_at is None else round(monotonic() - service.looked_at, 3),
        failing=service.jobs.failing,
        journal=None if journal is None else Journalling(place=journal.place, written=journal.written),
        challenger=None
        if challenger is None
        else _offer(
            challenger.follower,
            challenger.slot,
            challenger.reason,
            f"split {challenger.share:g}" if challenger.share else "shadow",
        ),
    )


def _offer(follower: Follower, slot: Slot | None, refused: str, mode: str | None = None) -> Offer:
    alias = slot.alias if slot else None
    return Offer(
        source=follower.place,
        model_version=slot.version if slot else None,
        step=alias.step if alias else None,
        transaction=alias.transaction if alias else None,
        refused=refused or None,
        mode=mode,
    )
