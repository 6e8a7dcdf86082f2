"""An answer of the server as entries of the journal: one for each decision and symbol, as the runner's are.

The server knows no account and no USD, and may be asked the same bar twice, so its entries are of a kind of their own
(`answer`), which no rule of one for a bar binds: each answer that was given is there once, whatever it repeats.

    strategy    the session that the client named, else the client
    bar         where the request has one: /v1/decide, or a session with its timestamp
    body        the numbers of the symbol; request and answer whole, with a decision's last symbol
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from himari_rl.journal.entry import ANSWER, Entry, entry_of

SERVER = "server"
_FLAT = ("position_multiplier", "position_multipliers", "confidence", "latency_ms", "model_version", "state")
"""Fields of an answer that the entry has beside it."""


class Answered(NamedTuple):
    """One request and its answer, as they crossed the wire."""

    path: str
    client: str
    request_id: str  # what the client sent, or the server made for its log; empty where there is none
    symbols: tuple[str, ...]  # of the policy that answered
    body: bytes
    answer: bytes


def entries_of(answered: Answered) -> list[Entry]:
    """The entries of one request: a batch has as many decisions as instances."""
    request, answer = _document(answered.body), orjson.loads(answered.answer)
    if "predictions" not in answer:
        return list(_decision(answered, request, answer, answer, None))
    sent = [each if isinstance(each, dict) else {"state": each} for each in request["instances"]]
    decided = zip(sent, answer["predictions"], strict=True)
    return [entry for i, (one, said) in enumerate(decided) for entry in _decision(answered, one, said, answer, i)]


def _decision(
    answered: Answered, request: Mapping[str, Any], said: Mapping[str, Any], whole: Mapping[str, Any], place: int | None
) -> Iterator[Entry]:
    symbols = answered.symbols
    multipliers = said.get("position_multipliers") or {symbols[0]: said["position_multiplier"]}
    wanted = (said.get("risk") or {}).get("wanted", multipliers)
    assets = assets_of(request, symbols)
    bar = assets[symbols[0]]["bar"]["timestamp"] if assets else request.get("timestamp")
    who = _printable(request.get("session_id") or answered.client)
    for symbol in symbols:
        body: dict[str, Any] = {
            "source": SERVER,
            "cause": "",
            "version": whole["model_version"],
            "multiplier": multipliers[symbol],
            "wanted": wanted[symbol],
            "confidence": said["confidence"],
            "latency_ms": whole["latency_ms"],
            "symbols": symbols,
            "path": answered.path,
            "client": answered.client,
            "request_id": answered.request_id,
        }
        body |= {"instance": place} if place is not None else {}
        body |= {"close": assets[symbol]["bar"]["close"]} if assets else {}
        if symbol == symbols[-1]:
            body |= {"multipliers": multipliers} if len(symbols) > 1 else {}
            body |= {"request": request} | ({"state": said["state"]} if "state" in said else {})
            body["answer"] = {name: value for name, value in said.items() if name not in _FLAT}
        yield entry_of(ANSWER, body, strategy=who, symbol=symbol, bar=bar)


def assets_of(request: Mapping[str, Any], symbols: tuple[str, ...]) -> Mapping[str, Any]:
    """What a request of /v1/decide says of each symbol; empty for a request of another kind."""
    if request.get("assets") is not None:
        found: Mapping[str, Any] = request["assets"]
        return found
    return {symbols[0]: request} if request.get("bar") is not None else {}


def _document(body: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = orjson.loads(body)
    except orjson.JSONDecodeError:  # half a surrogate pair, which the standard library reads
        found = json.loads(body)
    return found


def _printable(text: str) -> str:
    """A name as a column can hold it: no database takes half a surrogate pair, and PostgreSQL takes no NUL."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
