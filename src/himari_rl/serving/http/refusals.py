"""Every refusal of a request and its HTTP status, in one table; and how plain ASGI sends one."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NamedTuple

import orjson
from starlette.types import Send

from himari_rl.errors import BundleError, HimariError, StateError
from himari_rl.policy.arrival import ArrivalError
from himari_rl.serving.errors import FieldError, NotJournalledError, NotReadyError, OfferRefusedError, TooManyError

RETRY_AFTER, CLOSE = {"retry-after": "1"}, {"connection": "close"}
JSON = (b"content-type", b"application/json")

Errors = Counter[tuple[int, str]]
"""Refusals so far, by status and cause: the metrics' own counter."""


class UnauthorisedError(HimariError):
    """No credentials, or some that this server does not accept (HTTP 401)."""


class ForbiddenError(HimariError):
    """Valid credentials of somebody who may not do this (HTTP 403)."""


class Refusal(NamedTuple):
    """What an error is to a client, and to whoever counts."""

    status: int
    cause: str
    headers: dict[str, str] = {}  # noqa: RUF012  # never changed


REFUSALS: tuple[tuple[type[HimariError], Refusal], ...] = (
    (FieldError, Refusal(422, "field")),
    (ArrivalError, Refusal(422, "arrival")),
    (StateError, Refusal(422, "state")),
    (NotReadyError, Refusal(503, "no_policy", RETRY_AFTER)),
    (NotJournalledError, Refusal(503, "journal", RETRY_AFTER)),
    (BundleError, Refusal(503, "no_answer")),
    (TooManyError, Refusal(429, "sessions", RETRY_AFTER)),
    (UnauthorisedError, Refusal(401, "unauthorised", {"www-authenticate": "Bearer"})),
    (ForbiddenError, Refusal(403, "forbidden")),
    (OfferRefusedError, Refusal(409, "kept")),
)
BUSY, SLOW, LARGE = Refusal(503, "busy", RETRY_AFTER), Refusal(408, "slow", CLOSE), Refusal(413, "large", CLOSE)
HEAD_LARGE, HEAD_SLOW = Refusal(431, "head"), Refusal(408, "head")
UNFINISHED = Refusal(429, "unfinished", RETRY_AFTER | CLOSE)
CODED = Refusal(415, "coded", {"accept-encoding": "identity"})
SCHEMA, NO_JSON = Refusal(422, "schema"), Refusal(422, "json")


def refusal_of(error: HimariError) -> Refusal:
    """Status, cause and headers of an error; 500 for one that no request should cause."""
    return next((refusal for kind, refusal in REFUSALS if isinstance(error, kind)), Refusal(500, "bug"))


def detailed(detail: Any) -> bytes:
    """The document of a refusal. What a client sent stands in it, and JSON can name half a surrogate pair, which is no
    UTF-8: then in JSON's own escapes."""
    try:
        return orjson.dumps({"detail": detail})
    except TypeError:
        return json.dumps({"detail": detail}).encode()


async def refuse(send: Send, errors: Errors, how: Refusal, detail: str) -> None:
    """Answers a request with a refusal, and counts it."""
    errors[how.status, how.cause] += 1
    body = detailed(detail)
    more = [(name.encode(), value.encode()) for name, value in how.headers.items()]
    headers = [JSON, (b"content-length", b"%d" % len(body)), *more]
    await send({"type": "http.response.start", "status": how.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
