"""himari config: every setting of a command, its value, where that was set, and what it means.

himari config show walk-forward lstm
himari config show gate --config run.yaml --json
"""

from __future__ import annotations

from typing import Annotated

import typer

from himari_rl.cli.options import Assignments, ConfigFile, Json
from himari_rl.cli.settings import COMMANDS, KINDS
from himari_rl.config import DEFAULT, Resolved

INDENT = 4

config_app = typer.Typer(no_args_is_help=True, help="Every setting: its value, where it was set, what it means.")


def register(app: typer.Typer) -> None:
    """Adds `himari config`."""
    app.add_typer(config_app, name="config")


@config_app.callback()
def _config() -> None:
    """Every setting of every command: its value, where it was set, what it means.

    Example: himari config show walk-forward
    """


@config_app.command()
def show(
    command: Annotated[str | None, typer.Argument(help=f"{', '.join(COMMANDS)}; all of them by default.")] = None,
    kind: Annotated[str, typer.Argument(help="Of the agent: base, lstm or multi.")] = KINDS[0],
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
        typer.echo(json.dumps(documents[command] if command else documents))
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
    from rich.console import Console
    from rich.markup import escape

    from himari_rl.cli.console import print_words

    console = Console(highlight=False)
    for section in config.sections:
        if section in seen:
            continue
        console.print(f"\n[bold cyan]{section}[/]  [dim]himari {name}[/]")
        for key, each in config.settings.items():
            if key.startswith(f"{section}."):
                value = each.shown()
                text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
                style = "" if each.origin == DEFAULT else "bold"
                console.print(f"{key:<39} {escape(text):<16} {escape(each.origin)}", style=style, soft_wrap=True)
                print_words(" " * INDENT + each.help, indent=INDENT, style="dim")
    console.print(f"\nhimari {name}: settings {config.hash}", style="dim")
