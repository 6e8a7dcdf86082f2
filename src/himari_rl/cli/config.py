"""himari config: every setting of a command, its value, where that was set, and what it means.

himari config show walk-forward lstm
himari config show gate --config run.yaml --json
"""

from __future__ import annotations

from typing import Annotated

import click

from himari_rl.cli.options import Assignments, ConfigFile, Json
from himari_rl.cli.settings import COMMANDS, KINDS
from himari_rl.cli.signature import Argument, make_command, make_group
from himari_rl.config import DEFAULT, Resolved

INDENT = 4


def register(app: click.Group) -> None:
    """Adds `himari config`."""
    group = make_group("config", function=_config)
    group.add_command(make_command(show))
    app.add_command(group)


def _config() -> None:
    """Every setting of every command: its value, where it was set, what it means.

    Example: himari config show walk-forward
    """


def show(
    command: Annotated[str | None, Argument(help=f"{', '.join(COMMANDS)}; all of them by default.")] = None,
    kind: Annotated[str, Argument(help="Of the agent: base, lstm or multi.")] = KINDS[0],
    config_file: ConfigFile = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Prints every setting of a command with its value, origin and meaning, as the command itself would see it.

    Example: himari config show walk-forward lstm --config run.yaml --set walk_forward.folds=6
    """
    import json

    from himari_rl.cli.settings import resolved

    names = [command] if command else list(COMMANDS)
    found = {name: resolved(name, kind, config_file, _of(name, assignments or [], command), ()) for name in names}
    if as_json:
        documents = {name: _document(config) for name, config in found.items()}
        click.echo(json.dumps(documents[command] if command else documents))
        return
    seen: set[str] = set()
    for name, config in found.items():
        _print(name, config, seen)
        seen |= set(config.sections)


def _of(name: str, assignments: list[str], command: str | None) -> list[str]:
    """The assignments for one of all commands: those of its own sections."""
    return [word for word in assignments if command or word.partition(".")[0] in COMMANDS[name]]


def _document(config: Resolved) -> dict[str, object]:
    settings = [
        {"key": each.key, "value": each.shown(), "origin": each.origin, "help": each.help}
        for each in config.settings.values()
    ]
    return {"hash": config.hash, "settings": settings}


def _print(name: str, config: Resolved, seen: set[str]) -> None:
    """Two lines a setting, section by section, of those that were not printed already; fits eighty columns."""
    from himari_rl.cli.console import print_words
    from himari_rl.evaluation.terminal import say, styled

    for section in config.sections:
        if section in seen:
            continue
        say(f"\n{styled(section, 'bold cyan')}  {styled(f'himari {name}', 'dim')}")
        for key, each in config.settings.items():
            if key.startswith(f"{section}."):
                value = each.shown()
                text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
                style = "" if each.origin == DEFAULT else "bold"
                say(f"{key:<39} {text:<16} {each.origin}", style)
                print_words(" " * INDENT + each.help, indent=INDENT, style="dim")
    say(f"\nhimari {name}: settings {config.hash}", "dim")
