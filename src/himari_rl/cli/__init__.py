"""`himari ...`: the root command, and the one place where an error becomes one line and an exit code.

    himari demo                                        the whole road, walked once
    himari train base --data bars.csv --out runs/mine  a policy bundle
    himari evaluate runs/mine/bundle --data bars.csv   its verdict on bars it never saw
    himari serve runs/mine/bundle --port 8080          POST /predict

Each area has its own file with `register(app)`; what it needs to work, it imports inside its commands, so that
`himari --help` answers at once. Exit codes: 0 done; 1 refused by a gate or a check; 2 bad usage or bad input.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import click

from himari_rl import __version__
from himari_rl.cli import completion
from himari_rl.cli.extras import missing_extra
from himari_rl.cli.options import checking, listing
from himari_rl.cli.signature import Option, make_group
from himari_rl.config import Resolved
from himari_rl.errors import HimariError
from himari_rl.training.slim_torch import import_later

AREAS = {
    "data": ("data",),
    "features": ("features",),
    "train": ("train",),
    "certify": ("certify",),
    "evaluate": ("evaluate",),
    "register": ("register",),
    "tune": ("tune",),
    "walk_forward": ("walk-forward",),
    "gate": ("gate", "promote", "rollback", "decide"),
    "report": ("report",),
    "judge": ("judge", "verify", "certificate", "runs"),
    "bundle": ("export", "sign"),
    "serve": ("serve",),
    "runner": ("run",),
    "replay": ("replay",),
    "journal": ("journal",),
    "ab": ("ab",),
    "config": ("config",),
    "launch": ("launch",),
    "cost": ("cost",),
    "deploy": ("deploy",),
    "monitoring": ("monitoring",),
    "demo": ("demo",),
    "init": ("init",),
    "doctor": ("doctor",),
    "completion": ("completion",),
}
"""Module of this package -> its commands, in the order of the road."""
STOPPED = 130  # 128 + SIGINT, what a shell expects of a program stopped by Ctrl-C


def _version(asked: bool) -> None:
    if asked:
        click.echo(f"himari {__version__}")
        raise click.exceptions.Exit


def _root(version: Annotated[bool, Option("--version", help="Print the version.", then=_version)] = False) -> None:
    """Sizes crypto positions: trains policies, proves them, judges them honestly and serves them.

    Example: himari demo
    """


@cache
def build_app(area: str | None = None, bare: bool = False) -> click.Group:
    """The root command with one area on it, or with all; bare without the options that are made of settings."""
    app = make_group("himari", function=_root)
    with listing() if bare else nullcontext():
        for name in [area] if area else AREAS:
            import_module(f"himari_rl.cli.{name}").register(app)
    return app


def command_for(argv: Sequence[str]) -> click.Group:
    """The command tree that these words need: of one area alone, or of all but without their options, to list them."""
    areas = {name: area for area, names in AREAS.items() for name in names}
    area = areas.get(argv[0]) if argv else None
    return build_app(area, bare=area is None)


def spread_lists(command: Any, argv: Sequence[str]) -> list[str]:
    """`--data a b c` as `--data a --data b --data c`: a list option takes every word up to the next option.

    Which options are lists is read from the command itself. `--` ends a list, as everywhere.
    """
    words = iter(argv)
    for word in argv:
        command = getattr(command, "commands", {}).get(word, command)
    lists = {name for option in command.params if getattr(option, "multiple", False) for name in option.opts}
    lists.discard("--set")  # each takes one key=value, so that a word may follow it
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
        ClickException: bad usage.
    """
    command = command_for(argv)
    try:
        code = command.main(args=spread_lists(command, argv), prog_name="himari", standalone_mode=False)
    except click.Abort:  # what click makes of Ctrl-C
        return STOPPED
    return code if isinstance(code, int) else 0


def check(argv: Sequence[str]) -> Resolved:
    """The settings of a command with these words, which is not run: what a launcher asks before anything is paid for.

    Raises:
        HimariError: a setting that cannot be. ClickException: bad usage.
    """
    command = command_for(argv)
    with checking():
        settings = command.main(args=spread_lists(command, argv), prog_name="himari", standalone_mode=False)
    assert isinstance(settings, Resolved)
    return settings


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; never a traceback for a mistake of the caller."""
    if argv is None:  # the process is ours
        import_later()
        if completion.ASKED in os.environ:
            return completion.answer(os.environ)
    argv = sys.argv[1:] if argv is None else argv
    try:
        code = run(argv)
    except HimariError as error:
        from himari_rl.storage.mirror import shown

        return _say(f"himari: {shown(str(error))}", error.exit_code)
    except ModuleNotFoundError as error:
        line = missing_extra(error, argv)
        if not line:
            raise
        return _say(line, HimariError.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        path = getattr(getattr(error, "ctx", None), "command_path", "himari")
        said = error.format_message().rstrip(".")
        return _say(f"{path}: {said}{'' if said.endswith('?') else ';'} see {path} --help", error.exit_code)
    return _say("himari: stopped", STOPPED) if code == STOPPED else code


def _say(line: str, code: int) -> int:
    sys.stderr.write(" ".join(line.split()) + "\n")
    return code
