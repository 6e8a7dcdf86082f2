"""Is this an answer? What a policy server sent, held against all that an answer must be, before it sizes money."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from himari_rl.schema import MAX_MULTIPLIER

TIMEOUT, REFUSED, BROKEN, SERVER_ERROR, CLIENT_ERROR = "timeout", "refused", "connection", "5xx", "4xx"
INVALID, STALE, BREAKER_OPEN, HALTED = "invalid_answer", "stale", "breaker_open", "halted"
FEW_BARS, DISABLED, POLICY_ERROR = "few_bars", "disabled", "policy_error"
CAUSES = (
    *(TIMEOUT, REFUSED, BROKEN, SERVER_ERROR, CLIENT_ERROR, INVALID, STALE, BREAKER_OPEN, HALTED),
    *(FEW_BARS, DISABLED, POLICY_ERROR),
)
"""Why a multiplier is the fallback's, in one word: for a journal and a counter."""


class PolicyAnswer(NamedTuple):
    """What came of a question. Exactly one of `multipliers` and `cause` says something."""

    multipliers: tuple[float, ...] | None  # (A,) in [0, 2], in the order of the symbols, before any limit
    cause: str = ""  # one of CAUSES
    detail: str = ""  # the cause for people
    version: str = ""
    confidence: float | None = None
    memory: str | None = None  # of a recurrent policy, to be sent with the next question unchanged
    latency_ms: float = 0.0
    notes: tuple[str, ...] = ()  # what the server said besides: out_of_distribution, risk


class InvalidAnswerError(Exception):
    """It is none."""


class UnknownVersionError(InvalidAnswerError):
    """Another policy answers than those that are known; /ready has to say whose it is."""


def read_answer(body: bytes, symbols: Sequence[str], versions: Collection[str]) -> PolicyAnswer:
    """The answer of POST /predict.

    Args:
        symbols: the policy's own, in order.
        versions: those that may answer.

    Raises:
        InvalidAnswerError: what is wrong with it.
    """
    try:
        said = strict_json(body)
    except (ValueError, RecursionError) as error:
        raise InvalidAnswerError(f"the answer is no JSON: {error}") from error
    if not isinstance(said, dict):
        raise InvalidAnswerError(f"the answer is a {type(said).__name__}, not an object")
    version = said.get("model_version")
    if not isinstance(version, str) or not version:
        raise InvalidAnswerError("the answer names no model_version")
    for name in ("symbols", "symbol"):
        if name in said and (said[name] if name == "symbols" else [said[name]]) != list(symbols):
            raise InvalidAnswerError(f"the answer is about {said[name]!r}, not {', '.join(symbols)}")
    multipliers = tuple(_multiplier(name, value) for name, value in _given(said, symbols))
    # The server limits without knowing directions and the day; whoever asks knows them, and limits what was wanted.
    wanted = (said.get("risk") or {}).get("wanted") if isinstance(said.get("risk"), dict) else None
    if isinstance(wanted, dict) and set(wanted) == set(symbols):
        multipliers = tuple(_multiplier(symbol, wanted[symbol]) for symbol in symbols)
    if version not in versions:
        raise UnknownVersionError(f"{version} answered, which is none of {', '.join(sorted(versions)) or '(none)'}")
    confidence, memory = said.get("confidence"), said.get("memory")
    if confidence is not None and not _is_within(confidence, 1.0):
        raise InvalidAnswerError(f"confidence is {confidence!r}")
    if memory is not None and not isinstance(memory, str):
        raise InvalidAnswerError("memory is no text")
    notes = tuple(name for name in ("out_of_distribution", "risk") if said.get(name))
    return PolicyAnswer(multipliers, version=version, confidence=confidence, memory=memory, notes=notes)


def _given(said: dict[str, Any], symbols: Sequence[str]) -> list[tuple[str, Any]]:
    one, several = said.get("position_multiplier"), said.get("position_multipliers")
    if several is not None:
        if not isinstance(several, dict) or set(several) != set(symbols) or one is not None:
            about = ", ".join(map(str, several)) if isinstance(several, dict) else repr(several)
            raise InvalidAnswerError(f"the answer is about {about}, not {', '.join(symbols)}")
        return [(symbol, several[symbol]) for symbol in symbols]
    if one is None or len(symbols) != 1:
        raise InvalidAnswerError(f"the answer has no multiplier for {', '.join(symbols)}")
    return [(symbols[0], one)]


def _multiplier(name: str, value: Any) -> float:
    if not _is_within(value, MAX_MULTIPLIER):
        raise InvalidAnswerError(f"the multiplier of {name} is {value!r}, not a number in [0, {MAX_MULTIPLIER:g}]")
    return float(value)


def _is_within(value: Any, most: float) -> bool:
    """A number in [0, most]; NaN and infinity are in no range."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= most


def strict_json(text: str | bytes) -> Any:
    """What a JSON text says, where it says one thing: no NaN, no infinity, no name twice in an object.

    Raises:
        ValueError, RecursionError: it is none.
    """
    return json.loads(text, parse_constant=_no_number, object_pairs_hook=_once)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    said = dict(pairs)
    if len(said) < len(pairs):
        twice = next(name for name in said if sum(each == name for each, _ in pairs) > 1)
        raise ValueError(f"{twice[:100]!r} is there twice")
    return said
