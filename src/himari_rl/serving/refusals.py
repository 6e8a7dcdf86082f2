"""Every refusal of a request and its HTTP status. A message says what was found, what was expected and the cure."""

from __future__ import annotations

from himari_rl.errors import BundleError, HimariError, StateError

RETRY_AFTER = {"retry-after": "1"}


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


STATUS: tuple[tuple[type[HimariError], int, dict[str, str]], ...] = (
    (StateError, 422, {}),
    (NotReadyError, 503, RETRY_AFTER),
    (BundleError, 503, {}),
    (TooManyError, 429, RETRY_AFTER),
    (UnauthorisedError, 401, {"www-authenticate": "Bearer"}),
    (ForbiddenError, 403, {}),
    (KeptError, 409, {}),
)


def status_of(error: HimariError) -> tuple[int, dict[str, str]]:
    """HTTP status and headers of an error; 500 for one that no request should cause."""
    return next(((status, headers) for kind, status, headers in STATUS if isinstance(error, kind)), (500, {}))


def within(field: str, error: StateError) -> FieldError:
    """The same refusal, of a value at `field`."""
    inner = getattr(error, "field", "state")
    place = field if inner == "state" else f"{field}.{inner}"
    return FieldError(place, f"{place}: {error.found}", error.expected, error.cure)
