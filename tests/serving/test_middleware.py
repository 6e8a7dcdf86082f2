"""Each middleware alone, around an app that only remembers: what it lets through, what it refuses, what it changes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from helpers.bundle import make_bundle
from helpers.wire import BAD, GOOD
from himari_rl.errors import HimariError
from himari_rl.serving.http.app import create_app
from himari_rl.serving.http.fast_path import FastPath
from himari_rl.serving.http.guard import Guard
from himari_rl.serving.http.middleware import (
    BODY,
    CLIENT,
    Authentication,
    BodyLimit,
    ConcurrencyLimit,
    HeadAsGet,
    JsonContentType,
    RenamedPaths,
    SharedPath,
)
from himari_rl.serving.settings import ServeSettings


class Inner:
    """The app inside: remembers each scope, reads the body when it is told to, answers 204."""

    def __init__(self, reads: int = 0) -> None:
        self.scopes: list[Scope] = []
        self.messages: list[Message] = []
        self._reads = reads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        for _ in range(self._reads):
            self.messages.append(await receive())
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Exchange:
    """One request to a middleware: the parts of its body in, status, headers and document out."""

    def __init__(self, *parts: bytes, path: str = "/predict", method: str = "POST", **more: Any) -> None:
        self.scope = {"type": "http", "path": path, "raw_path": path.encode(), "method": method, "headers": []} | more
        count = len(parts)
        self.arriving: list[Message] = [
            {"type": "http.request", "body": part, "more_body": i + 1 < count} for i, part in enumerate(parts)
        ]
        self.received = 0
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        self.received += 1
        return self.arriving.pop(0) if self.arriving else {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def through(self, app: ASGIApp) -> Exchange:
        asyncio.run(self.to(app))
        return self

    async def to(self, app: ASGIApp) -> None:
        await app(self.scope, self.receive, self.send)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def detail(self) -> Any:
        assert self.headers[b"content-length"] == str(len(self.sent[1]["body"])).encode()
        return json.loads(self.sent[1]["body"])["detail"]


def test_one_request_too_many_is_refused_unread_and_probes_are_not() -> None:
    errors: Counter[tuple[int, str]] = Counter()
    inner = Inner()
    limit = ConcurrencyLimit(inner, 2, errors)
    limit.begun = 1
    assert Exchange(GOOD).through(limit).status == 204
    limit.begun = 2
    refused = Exchange(GOOD).through(limit)
    assert (refused.status, refused.received, refused.headers[b"retry-after"]) == (503, 0, b"1")
    assert refused.detail == "2 requests are being answered; try again"
    for path in ("/health", "/ready"):
        assert Exchange(path=path, method="GET").through(limit).status == 204
    assert len(inner.scopes) == 3
    assert errors == {(503, "busy"): 1}


@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("GET", "/v1/health", "/ready"),
        ("POST", "/v1/score", "/v1/batch"),
        ("POST", "/predict", "/predict"),  # SharedPath looks into its body
        ("GET", "/predict", "/v1/batch"),
        ("GET", "/health", "/health"),
    ],
)
def test_a_path_is_renamed_with_its_raw_form_and_the_request_itself_stays_as_it_was(
    method: str, path: str, found: str
) -> None:
    inner = Inner()
    names = {"/v1/health": "/ready", "/v1/score": "/v1/batch", "/predict": "/v1/batch"}
    exchange = Exchange(path=path, method=method).through(RenamedPaths(inner, names))
    assert (inner.scopes[0]["path"], inner.scopes[0]["raw_path"]) == (found, found.encode())
    assert exchange.scope["path"] == path


def test_a_key_is_asked_for_except_by_probes_and_names_the_client() -> None:
    errors: Counter[tuple[int, str]] = Counter()
    inner = Inner()
    front = Authentication(inner, Guard(ServeSettings(api_keys=("one", "two"))), errors)
    refused = Exchange(GOOD, headers=[(b"x-api-key", b"three")]).through(front)
    assert (refused.status, refused.headers[b"www-authenticate"], inner.scopes) == (401, b"Bearer", [])
    assert refused.detail.startswith("the key is not one of this server's")
    for key in (b"one", b"two", b"one"):
        assert Exchange(GOOD, headers=[(b"x-api-key", key)]).through(front).status == 204
    one, two, again = (scope[CLIENT] for scope in inner.scopes)
    assert one == again != two
    assert Exchange(path="/ready", method="GET").through(front).status == 204
    assert errors == {(401, "unauthorised"): 1}


@pytest.mark.parametrize(
    ("more", "client"), [({"client": ("10.0.0.7", 5)}, "10.0.0.7"), ({"client": None}, ""), ({}, "")]
)
def test_without_a_guard_a_client_is_its_address(more: dict[str, Any], client: str) -> None:
    inner = Inner()
    Exchange(GOOD, **more).through(Authentication(inner, None, Counter()))
    assert inner.scopes[0][CLIENT] == client


def body_limit(inner: ASGIApp, limit: int = 10, timeout_s: float = 60.0) -> tuple[BodyLimit, Counter[tuple[int, str]]]:
    errors: Counter[tuple[int, str]] = Counter()
    return BodyLimit(inner, limit, timeout_s, errors), errors


@pytest.mark.parametrize("parts", [(b"0123456789",), (b"01234", b"", b"56789"), (b"",)])
def test_a_body_is_read_whole_and_given_once_more_before_what_really_comes(parts: tuple[bytes, ...]) -> None:
    inner = Inner(reads=2)
    limit, errors = body_limit(inner)
    Exchange(*parts).through(limit)
    whole = b"".join(parts)
    assert inner.scopes[0][BODY] == whole
    first, second = inner.messages
    assert first == {"type": "http.request", "body": whole, "more_body": False}
    assert second == {"type": "http.disconnect"}
    assert not errors


def test_a_body_beyond_the_limit_is_refused_and_its_rest_left_unread() -> None:
    inner = Inner()
    limit, errors = body_limit(inner)
    for parts, received in (((b"x" * 11,), 1), ((b"x" * 6, b"x" * 5, b"x" * 50, b"x"), 2)):
        refused = Exchange(*parts).through(limit)
        assert (refused.status, refused.headers[b"connection"], refused.received) == (413, b"close", received)
        assert refused.detail == "the body has more than 10 bytes; send fewer states in one request"
    assert inner.scopes == []
    assert errors == {(413, "large"): 2}


def test_other_methods_are_not_read() -> None:
    inner = Inner()
    exchange = Exchange(b"x" * 11, method="GET").through(body_limit(inner)[0])
    assert (exchange.received, BODY in inner.scopes[0]) == (0, False)


def test_a_client_that_left_is_not_answered() -> None:
    inner = Inner()
    exchange = Exchange(b"01", b"23")
    exchange.arriving.pop()
    limit, errors = body_limit(inner)
    exchange.through(limit)
    assert (exchange.sent, inner.scopes, len(errors)) == ([], [], 0)


def test_a_body_that_does_not_come_is_refused_and_leaves_its_neighbour() -> None:
    async def run() -> None:
        inner = Inner()
        limit, errors = body_limit(inner, timeout_s=0.02)
        sweeping = asyncio.create_task(limit.sweep())
        slow = Exchange()

        async def never() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        slow.receive = never  # type: ignore[method-assign]
        waiting = asyncio.create_task(slow.to(limit))
        await Exchange(b"1").to(limit)
        await waiting
        assert (slow.status, slow.headers[b"connection"]) == (408, b"close")
        assert slow.detail == "the body did not arrive within 0.02 s; send it with the headers"
        assert waiting.cancelling() == 0
        assert (len(inner.scopes), errors) == (1, {(408, "slow"): 1})
        sweeping.cancel()

    asyncio.run(run())


def test_a_request_that_somebody_else_cancels_is_cancelled() -> None:
    """The control of the test above: only `sweep`'s cancellation is an answer."""

    async def run() -> None:
        limit, errors = body_limit(Inner())
        slow = Exchange()

        async def never() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        slow.receive = never  # type: ignore[method-assign]
        waiting = asyncio.create_task(slow.to(limit))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (slow.sent, len(errors)) == ([], 0)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "body", "found"),
    [
        ("/predict", b'{"instances": []}', "/v1/batch"),
        ("/predict", b'{"state": []}', "/predict"),
        ("/other", b'{"instances": []}', "/other"),
    ],
)
def test_a_batch_on_the_path_that_vertex_shares_is_a_batch(path: str, body: bytes, found: str) -> None:
    inner = Inner()
    Exchange(path=path, **{BODY: body}).through(SharedPath(inner))
    assert inner.scopes[0]["path"] == found


def test_every_body_is_called_json_and_every_other_header_stays() -> None:
    inner = Inner()
    kept = (b"x-other", b"1")
    for given in ([], [(b"content-type", b"text/plain")]):
        Exchange(headers=[kept, *given]).through(JsonContentType(inner, Counter()))
        assert inner.scopes[-1]["headers"] == [kept, (b"content-type", b"application/json")]
    Exchange(method="GET", headers=[kept]).through(JsonContentType(inner, Counter()))
    assert inner.scopes[-1]["headers"] == [kept]


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        (b"gzip", b"\x1f\x8b\x08", 415),
        (b"", b"\x1f\x8b\x08", 415),
        (b"br", b"{}", 415),
        (b"GZIP", b"{}", 415),
        (b"identity", b"{}", 204),
        (b"", b"{}", 204),
    ],
)
def test_a_compressed_body_is_named(coding: bytes, body: bytes, status: int) -> None:
    headers = [(b"content-encoding", coding)] if coding else []
    errors: Counter[tuple[int, str]] = Counter()
    found = Exchange(headers=headers, **{BODY: body}).through(JsonContentType(Inner(), errors))
    assert found.status == status
    assert errors == ({(415, "coded"): 1} if status == 415 else {})
    if status == 415:
        assert "content-encoding is" in found.detail
        assert found.headers[b"accept-encoding"] == b"identity"


def test_head_is_get_without_its_body() -> None:
    inner = Inner()
    for method in ("HEAD", "GET", "POST"):
        found = Exchange(method=method).through(HeadAsGet(inner))
        assert inner.scopes[-1]["method"] == ("GET" if method == "HEAD" else method)
        assert found.status == 204


def test_the_short_path_answers_what_is_in_order_and_hands_on_the_rest(tmp_path: Path) -> None:
    service = create_app(make_bundle(tmp_path, hidden=(4,))).state.service
    service.load()
    inner = Inner()
    path = FastPath(inner, service)
    answered = Exchange(**{BODY: GOOD}).through(path)
    expected = service.predict(json.loads(GOOD))
    assert (answered.status, answered.headers[b"content-type"]) == (200, b"application/json")
    assert json.loads(answered.sent[1]["body"]) | {"latency_ms": 0} == expected | {"latency_ms": 0}
    assert inner.scopes == []
    for exchange in (Exchange(**{BODY: BAD}), Exchange(path="/v1/batch", **{BODY: GOOD}), Exchange(method="GET")):
        assert exchange.through(path).status == 204
    assert len(inner.scopes) == 3
    assert service.metrics.requests == 2
    assert not service.metrics.errors  # the route counts what it refuses


def fronts(folder: Path, settings: ServeSettings) -> list[str]:
    """The middlewares of a server, as a request meets them."""
    names, front = [], create_app(folder, settings).front
    while hasattr(front, "app"):
        names.append(type(front).__name__)
        front = front.app
    return names


@pytest.mark.parametrize(
    ("settings", "extra"),
    [
        ({}, []),
        ({"api_keys": ("k",)}, ["Authentication"]),
        ({"vertex_health_route": "/h"}, ["RenamedPaths"]),
        ({"vertex_predict_route": "/predict"}, ["RenamedPaths", "SharedPath"]),
        ({"cors_origins": ("https://a.example",)}, ["CORSMiddleware"]),
    ],
)
def test_a_server_has_the_middlewares_that_its_settings_need_in_the_order_of_the_table(
    tmp_path: Path, settings: dict[str, Any], extra: list[str]
) -> None:
    order = [
        "CORSMiddleware",
        "ConcurrencyLimit",
        "RenamedPaths",
        "Authentication",
        "BodyLimit",
        "FastPath",
        "SharedPath",
    ]
    order += ["JsonContentType", "HeadAsGet"]
    found = fronts(make_bundle(tmp_path, hidden=(4,)), ServeSettings(**settings))
    always = {"ConcurrencyLimit", "BodyLimit", "FastPath", "JsonContentType", "HeadAsGet"}
    assert found == [name for name in order if name in always or name in extra]


def test_the_split_asks_who_asks(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, hidden=(4,))
    assert "Authentication" in fronts(folder, ServeSettings(challenger=str(folder), challenger_share=0.5))
    assert "Authentication" not in fronts(folder, ServeSettings(challenger=str(folder)))


def test_a_refusal_that_the_guard_does_not_name_is_not_swallowed() -> None:
    async def broken(_: object) -> str:
        raise KeyError("a bug")

    guard: Callable[[object], object] = broken
    with pytest.raises(KeyError):
        Exchange(GOOD).through(Authentication(Inner(), guard, Counter()))  # type: ignore[arg-type]

    async def refused(_: object) -> str:
        raise HimariError("a bug of ours")

    assert Exchange(GOOD).through(Authentication(Inner(), refused, Counter())).status == 500  # type: ignore[arg-type]
