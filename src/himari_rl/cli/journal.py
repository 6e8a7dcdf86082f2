"""himari journal: what runner or server decided, entry by entry: verified, shown, exported.

himari journal verify runs/live/journal.sqlite
himari journal tail runs/live/journal.sqlite --count 20
himari journal export runs/live/journal.sqlite --out decisions.parquet
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import click

from himari_rl.cli.options import Json
from himari_rl.cli.signature import Argument, Option, make_command, make_group

if TYPE_CHECKING:
    from himari_rl.journal.entry import Stored

Place = Annotated[str, Argument(metavar="JOURNAL", help="An SQLite file, or postgresql://...")]


def verify(place: Place, as_json: Json = False) -> None:
    """Checks that every entry is as it was written and that none was taken out, swapped or added by another hand.

    Example: himari journal verify runs/live/journal.sqlite
    """
    import json
    from collections import Counter

    from himari_rl.journal.store import open_journal

    with open_journal(place, create=False) as journal:
        count = journal.verify()
        kinds = dict(Counter(row.entry.kind for row in journal.entries()))
    if as_json:
        click.echo(json.dumps({"entries": count, "kinds": kinds, "whole": True}))
    else:
        parts = ", ".join(f"{number:,} {kind}" for kind, number in sorted(kinds.items()))
        click.echo(f"{count:,} entries, the chain is whole ({parts or 'nothing yet'})")


def tail(
    place: Place,
    count: Annotated[int, Option(min=1, help="How many entries.")] = 10,
    kind: Annotated[str, Option(help="Only entries of one kind: decision, rejection, halt, resume, answer.")] = "",
    as_json: Json = False,
) -> None:
    """Shows the newest entries, the newest last.

    Example: himari journal tail runs/live/journal.sqlite --kind halt
    """
    import json

    from himari_rl.errors import ConfigError
    from himari_rl.journal.entry import KINDS
    from himari_rl.journal.store import open_journal

    if kind and kind not in KINDS:
        raise ConfigError(f"kind {kind!r}", f"one of {', '.join(KINDS)}")
    with open_journal(place, create=False) as journal:
        rows = journal.newest(count, kind=kind)
    for row in rows:
        if as_json:
            whole = {"number": row.number, **row.entry._asdict(), "body": row.entry.said, "chain": row.chain}
            click.echo(json.dumps(whole))
        else:
            click.echo(_line(row))


def export(
    place: Place,
    out: Annotated[str, Option(help="The Parquet file to write.")],
    as_json: Json = False,
) -> None:
    """Writes every entry to a Parquet file.

    Example: himari journal export runs/live/journal.sqlite --out decisions.parquet
    """
    import json

    from himari_rl.journal.export import export as write
    from himari_rl.journal.store import open_journal

    with open_journal(place, create=False) as journal:
        journal.verify()
        count = write(journal, out)
    click.echo(json.dumps({"entries": count, "out": out}) if as_json else f"{count:,} entries in {out}")


def _line(row: Stored) -> str:
    from himari_rl.data.table import stamp

    entry, said = row.entry, row.entry.said
    head = f"{row.number:>8} {entry.at} {entry.kind:<9} {entry.strategy or '*'} {entry.symbol or '*'}"
    at = "" if entry.bar is None else f" {stamp(entry.bar)}"
    if entry.kind == "decision":
        why = said["cause"] or said["version"]
        sized = f"x{said['multiplier']:.4f} {said['size_usd']:+,.2f} USD"
        return f"{head}{at} {sized} {said['source']} ({why})"
    if entry.kind == "answer":
        return f"{head}{at} x{said['multiplier']:.4f} {said['path']} ({said['version']})"
    return f"{head}{at} {said.get('reason', '')} {said.get('why', '')}".rstrip()


def register(app: click.Group) -> None:
    """Adds `himari journal`."""
    group = make_group("journal", "Decisions of runner and server: verify, tail, export.")
    for command in (verify, tail, export):
        group.add_command(make_command(command))
    app.add_command(group)
