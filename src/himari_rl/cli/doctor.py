"""himari doctor: what is missing here, and the cure of each.

himari doctor                                 everything; exit code 1 where something is unfit
himari doctor train judge serve               these extras must be there
himari doctor train --data data/coinbase      and bars
"""

from __future__ import annotations

import json
import os
from typing import Annotated

import click

from himari_rl.cli.extras import EXTRAS
from himari_rl.cli.signature import Argument, Option, make_command

MARKS = {"ok": ("ok     ", "green"), "absent": ("-      ", "yellow"), "missing": ("MISSING", "red")}


def register(app: click.Group) -> None:
    """Adds `himari doctor`."""
    app.add_command(make_command(doctor))


def doctor(
    needed: Annotated[
        list[str] | None, Argument(metavar="[EXTRA]...", help=f"What must be there: {', '.join(EXTRAS)}.")
    ] = None,
    data: Annotated[str | None, Option(help="Folder or file of bars that must be there (default: data).")] = None,
    as_json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Says what is here and what is missing: versions, machine, extras, data, credentials. No network is asked.

    Exit code 1 where something is unfit, or what was named is missing; what is only absent is no failure.

    Example: himari doctor train judge serve
    """
    from himari_rl.cli.checkup import BAD, findings
    from himari_rl.cli.console import print_words
    from himari_rl.errors import ConfigError

    unknown = [extra for extra in needed or () if extra not in EXTRAS]
    if unknown:
        raise ConfigError(f"no extra is called {unknown[0]!r}", f"one of {', '.join(EXTRAS)}")
    found = findings(needed or (), data, os.environ)
    bad = [finding for finding in found if finding.state == BAD]
    if as_json:
        click.echo(json.dumps({"fit": not bad, "findings": [finding._asdict() for finding in found]}))
    else:
        for finding in found:
            cure = f"; {finding.cure}" if finding.cure else ""
            print_words(f"{finding.name:<17} {finding.said}{cure}", mark=MARKS[finding.state], indent=26)
        print_words(f"{len(bad)} to mend" if bad else "Fit. What is marked - is absent and was not asked for.")
    if bad:
        raise click.exceptions.Exit(1)
