"""`himari ...`: the root command, and the one place where an error becomes one line and an exit code.

    himari demo                                        the whole road, walked once
    himari train base --data bars.csv --out runs/mine  a policy bundle
    himari evaluate runs/mine/bundle --data bars.csv   its verdict on bars it never saw
    himari serve runs/mine/bundle --port 8080          POST /predict

Each area has its own file with `register(app)`; what it needs to work, it imports inside its commands, so that
`himari --help` answers at once. Exit codes: 0 done; 1 refused by a gate or a check; 2 bad usage or bad input.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from himari_rl import __version__
from himari_rl.errors import HimariError

AREAS = ("data", "train", "certify", "evaluate", "tune", "walk_forward", "gate", "report", "bundle", "serve", "demo")
STOPPED = 130  # 128 + SIGINT, what a shell expects of a program stopped by Ctrl-C


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"himari {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Sizes crypto positions: trains policies, proves them, judges them honestly and serves them.

    Example: himari demo
    """


class _InOrder(typer.core.TyperGroup):
    """Lists commands in the order of the road instead of functions first."""

    def list_commands(self, ctx: Any) -> list[str]:
        road = {area.replace("_", "-"): place for place, area in enumerate(AREAS)}
        return sorted(self.commands, key=lambda name: road.get(name, len(road)))


@cache
def build_app() -> typer.Typer:
    """The root app with every area on it."""
    app = typer.Typer(cls=_InOrder, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_root)
    for area in AREAS:
        import_module(f"himari_rl.cli.{area}").register(app)
    return app


def spread_lists(command: Any, argv: Sequence[str]) -> list[str]:
    """`--data a b c` as `--data a --data b --data c`: a list option takes every word up to the next option.

    Which options are lists is read from the command itself. `--` ends a list, as everywhere.
    """
    words = iter(argv)
    for word in argv:
        command = getattr(command, "commands", {}).get(word, command)
    lists = {name for option in command.params if getattr(option, "multiple", False) for name in option.opts}
    spread: list[str] = []
    current: str | None = None  # the list option that is taking words
    for word in words:
        if word == "--":
            return [*spread, word, *words]
        if word.startswith("-") and len(word) > 1:
            current = word if word in lists else None
            spread.append(word)
        elif current is not None and spread[-1] != current:
            spread += [current, word]
        else:
            spread.append(word)
    return spread


def run(argv: Sequence[str]) -> int:
    """Runs one command; its errors come through as they are. `himari demo` walks its road with this.

    Raises:
        HimariError: bad input, or a refusal.
        TyperException: bad usage.
    """
    command = typer.main.get_command(build_app())
    code = command.main(args=spread_lists(command, argv), prog_name="himari", standalone_mode=False)
    return code if isinstance(code, int) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; never a traceback for a mistake of the caller."""
    try:
        code = run(sys.argv[1:] if argv is None else argv)
    except HimariError as error:
        return _say(f"himari: {error}", error.exit_code)
    except TyperException as error:
        path = getattr(getattr(error, "ctx", None), "command_path", "himari")
        message = error.format_message()
        if not message:  # a group without a command has printed its help
            return error.exit_code
        return _say(f"{path}: {message.rstrip('.')}; see {path} --help", error.exit_code)
    return _say("himari: stopped", STOPPED) if code == STOPPED else code


def _say(line: str, code: int) -> int:
    sys.stderr.write(" ".join(line.split()) + "\n")
    return code
