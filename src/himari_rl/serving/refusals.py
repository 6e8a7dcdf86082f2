"""Every refusal of a request and its HTTP status. A message says what was found, what was expected and the cure."""

from __future__ import annotations

from typing import NamedTuple

from himari_rl.errors import BundleError, HimariError, StateError

RETRY_AFTER, CLOSE = {"retry-after": "1"}, {"connection": "close"}


class FieldError(StateError):
    """A field of the request other than the state cannot be used (HTTP 422)."""

    def __init__(self, field: str, found: str, expected: str = "", cure: str = "") -> None:
        super().__init__(found, expected, cure)
        self.field = field

    def __reduce__(self) -> tuple[type[FieldError], tuple[str, str, str, str]]:  # type: ignore[override]
        return type(self), (self.field, self.found, self.expected, self.cure)


class NotReadyError(HimariError):
    """No valid policy is loaded (HTTP 503)."""


class TooManyError(HimariError):
    """A bound on what one server holds is reached (HTTP 429)."""


class UnauthorisedError(HimariError):
    """No credentials, or some that this server does not accept (HTTP 401)."""


class ForbiddenError(HimariError):
    """Valid credentials of somebody who may not do this (HTTP 403)."""


class KeptError(HimariError):
    """A policy was offered and refused; the one before goes on (HTTP 409)."""


class Refusal(NamedTuple):
    """What an error is to a client, and to whoever counts."""

    status: int
    cause: str
    headers: dict[str, str] = {}  # noqa: RUF012  # never changed


REFUSALS: tuple[tuple[type[HimariError], Refusal], ...] = (
    (FieldError, Refusal(422, "field")),
    (StateError, Refusal(422, "state")),
    (NotReadyError, Refusal(503, "no_policy", RETRY_AFTER)),
    (BundleError, Refusal(503, "no_answer")),
    (TooManyError, Refusal(429, "sessions", RETRY_AFTER)),
    (UnauthorisedError, Refusal(401, "unauthorised", {"www-authenticate": "Bearer"})),
    (ForbiddenError, Refusal(403, "forbidden")),
    (KeptError, Refusal(409, "kept")),
)
BUSY, SLOW, LARGE = Refusal(503, "busy", RETRY_AFTER), Refusal(408, "slow", CLOSE), Refusal(413, "large", CLOSE)
SCHEMA, NO_JSON = Refusal(422, "schema"), Refusal(422, "json")


def refusal_of(error: HimariError) -> Refusal:
    """Status, cause and headers of an error; 500 for one that no request should cause."""
    return next((refusal for kind, refusal in REFUSALS if isinstance(error, kind)), Refusal(500, "bug"))


def within(field: str, error: StateError) -> FieldError:
    """The same refusal, of a value at `field`."""
    inner = getattr(error, "field", "state")
    place = field if inner == "state" else f"{field}.{inner}"
    return FieldError(place, f"{place}: {error.found}", error.expected, error.cure)
