"""Why a decision is refused: the errors of serving/, each with what was found, what was expected and the cure.

http/refusals.py gives each of them its status.
"""

from __future__ import annotations

from himari_rl.errors import HimariError, StateError


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


class NotJournalledError(HimariError):
    """A decision that is not in the journal, and so is no answer (HTTP 503)."""


class OfferRefusedError(HimariError):
    """A policy was offered and refused; the one before goes on (HTTP 409)."""


def within(field: str, error: StateError) -> FieldError:
    """The same refusal, of a value at `field`."""
    inner = getattr(error, "field", "state")
    place = field if inner == "state" else f"{field}.{inner}"
    return FieldError(place, f"{place}: {error.found}", error.expected, error.cure)
