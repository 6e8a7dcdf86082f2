"""The chain of rows: each holds the hash of the row before it and of its own content. One implementation for all logs.

The trial ledger, the log of promotions and the journal of decisions hang on it. A row that was edited, added by another
hand or taken out is found, and so is a cut end, where the last hash is kept beside the rows. Somebody who may write the
file can compute the whole chain again: against that a copy elsewhere helps, or a bucket that keeps what was written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

BEGINNING = "0" * 64

Content = Sequence[str | int | None]
"""One row's columns, without its number and its hash."""


def link(previous: str, row: Content) -> str:
    """The hash of a row: of the one before it and of its own content."""
    return hashlib.sha256(json.dumps([previous, *row]).encode()).hexdigest()


def beginning(old: Iterable[Content]) -> str:
    """What the first row of a chain hangs on: every row that was written before there were chains."""
    previous = BEGINNING
    for row in old:
        previous = link(previous, row)
    return previous


def first_break(rows: Iterable[tuple[int, Content, str | None]], last: str) -> str:
    """The first row that is not what was written, in words; empty where all are.

    Args:
        rows: number, content and hash of each, in order; a hash of None where it was written before there were chains.
        last: the hash that the log says it ends with; empty where it has none yet.
    """
    previous, chained, before, number, ended = BEGINNING, False, 0, 0, 0
    for number, row, said in rows:
        if said is None and not chained:
            previous = link(previous, row)
        elif said is None:
            return f"row {number} has no hash: it was not written by the ledger"
        elif said != link(previous, row):
            if number > before + 1:
                return f"row {before + 1} is gone"
            return f"row {number} was changed" if chained else f"one of the rows 1 to {number} was changed"
        else:
            previous, chained = said, True
            ended = number if said == last else ended
        before = number
    if (last or chained) and last != previous:
        return f"row {ended + 1} was added by another hand" if ended else f"what came after row {number} is gone"
    return ""
