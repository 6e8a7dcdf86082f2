"""himari replay: a journal computed again offline, number by number.

himari replay runs/live/journal.sqlite --bundle runs/btc/bundle
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import click

from himari_rl.cli.options import Json
from himari_rl.cli.signature import Argument, Option, make_command

if TYPE_CHECKING:
    from himari_rl.runner.replay import Difference

SHOWN = 20


def replay(
    journal: Annotated[str, Argument(metavar="JOURNAL", help="An SQLite file, or postgresql://...")],
    bundle: Annotated[str, Option(help="The bundle that answered.")],
    as_json: Json = False,
) -> None:
    """Computes every decision again with the offline encoder, bundle and ledger; exit code 1 where a number differs.

    Of a server's journal the answers, and what /v1/decide encoded; what cannot be computed again is named. Listed are
    features beyond 1e-6, multipliers beyond 1e-5 and sizes beyond one cent, each with its cause.

    Example: himari replay runs/live/journal.sqlite --bundle runs/btc/bundle
    """
    import json
    from dataclasses import asdict

    from himari_rl.errors import DataError
    from himari_rl.journal.store import open_journal
    from himari_rl.policy.runtime import load_policy
    from himari_rl.runner.replay import Replayed
    from himari_rl.runner.replay import replay as computed
    from himari_rl.runner.replay_answers import replay_answers

    with open_journal(journal, create=False) as kept:
        kept.verify()
        policy = load_policy(bundle)
        answered = replay_answers(kept, policy)
        found: list[Replayed] = []
        try:
            found = computed(kept, policy)
        except DataError:
            if not answered:
                raise
    if as_json:
        click.echo(json.dumps([*map(asdict, found), *map(asdict, answered)]))
    for session in [] if as_json else answered:
        click.echo(
            f"{session.strategy} on {', '.join(session.symbols)}: {session.answers:,} answers of a server, "
            f"{session.compared:,} multipliers and {session.encoded:,} states computed again; "
            f"{len(session.differences)} differences"
        )
        for reason, count in sorted(session.left_out.items()):
            click.echo(f"  not replayed, {count:,}: {reason}")
        _show(session.differences)
    for each in [] if as_json else found:
        fallbacks = ", ".join(f"{count} {cause}" for cause, count in sorted(each.fallbacks.items())) or "no"
        click.echo(
            f"{each.strategy} on {', '.join(each.symbols)}: {each.decisions:,} bars, {each.answered:,} answered, "
            f"{fallbacks} fallbacks; {len(each.differences)} differences; "
            f"equity {each.equity_usd:,.2f} USD, within {each.equity_gap:.1e} of the live one"
        )
        if each.drift:
            named = ", ".join(f"{name} {bars}" for name, bars in each.drift.items())
            click.echo(f"  drift on {each.drift_days} days, bars: {named}")
        _show(each.differences)
    if any(each.differences for each in found) or any(session.differences for session in answered):
        raise click.exceptions.Exit(1)


def _show(differences: Sequence[Difference]) -> None:
    for one in differences[:SHOWN]:
        click.echo(f"  {one.bar} {one.symbol} {one.what}: live {one.live:.9g}, offline {one.offline:.9g}: {one.cause}")
    if len(differences) > SHOWN:
        click.echo(f"  and {len(differences) - SHOWN:,} more")


def register(app: click.Group) -> None:
    """Adds `himari replay`."""
    app.add_command(make_command(replay, "replay"))
