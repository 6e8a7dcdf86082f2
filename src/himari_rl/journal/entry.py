"""One entry of the journal: what happened, to whom, at which bar, and everything about it as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from himari_rl.errors import StorageError

DECISION, REJECTION, HISTORY, HALT, RESUME = ("decision", "rejection", "history", "halt", "resume")
PLAN, OUTCOME, VERDICT = ("plan", "outcome", "verdict")
ANSWER = "answer"
KINDS = (DECISION, REJECTION, HISTORY, HALT, RESUME, PLAN, OUTCOME, VERDICT, ANSWER)
"""A signal that was sized, one that was refused, the bars before a desk's first decision, the kill switch; of an A/B
test what it compares, what came of a bar, and how it ended; and a multiplier that a policy server answered, which knows
neither account nor USD (serving/answered.py)."""
ONCE = (DECISION, OUTCOME)
"""Kinds of which strategy, symbol and bar have one."""


class Entry(NamedTuple):
    """One row as it is stored; the names are the table's columns."""

    at: str  # ISO 8601, UTC
    kind: str  # one of KINDS
    strategy: str
    symbol: str
    bar: int | None  # ms UTC, bar OPEN
    body: str  # JSON

    @property
    def said(self) -> dict[str, Any]:
        """The body."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class Stored(NamedTuple):
    """An entry that is in the journal."""

    number: int
    entry: Entry
    chain: str | None


class Written(NamedTuple):
    """What became of an entry that was given to the journal."""

    number: int
    earlier: Entry | None
    """What this strategy, symbol and bar had already: it stands, and the new one was not written."""


def entry_of(
    kind: str, body: Mapping[str, Any], *, strategy: str = "", symbol: str = "", bar: int | None = None
) -> Entry:
    """An entry of this moment. NaN and infinity are no JSON: a body that has them is a mistake of ours.

    Raises:
        StorageError: the body has a number that is none.
    """
    try:
        text = json.dumps(body, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise StorageError(f"a {kind} of {symbol or 'the runner'} cannot be journalled: {error}") from error
    return Entry(datetime.now(UTC).isoformat(timespec="milliseconds"), kind, strategy, symbol, bar, text)
