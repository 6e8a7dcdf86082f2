"""himari completion: commands and options completed by the shell's TAB.

himari completion bash >> ~/.bashrc
himari completion zsh > "${fpath[1]}/_himari"
himari completion fish > ~/.config/fish/completions/himari.fish

The shell asks `himari` itself, with the words so far in the environment, so that what it offers is never out of date.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import typer

ASKED = "_HIMARI_COMPLETE"
"""The variable in which a shell's script asks: complete_bash, complete_zsh, complete_fish."""


class Shell(StrEnum):
    """Those whose scripts are tried."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def register(app: typer.Typer) -> None:
    """Adds `himari completion`."""
    app.command()(completion)


def completion(shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Prints what makes a shell complete himari's commands and options.

    Example: himari completion bash >> ~/.bashrc
    """
    raise typer.Exit(_ask([], f"source_{shell.value}"))


def words_of(environment: Mapping[str, str]) -> list[str]:
    """The words after `himari` that a shell has so far, the unfinished one too."""
    line = environment.get("COMP_WORDS") or environment.get("_TYPER_COMPLETE_ARGS", "")
    try:
        return shlex.split(line)[1:]
    except ValueError:  # a quote is open
        return line.split()[1:]


def answer(environment: Mapping[str, str]) -> int:
    """Tells the shell what may follow; only the area that is being typed is loaded."""
    return _ask(words_of(environment), environment[ASKED])


def _ask(words: list[str], instruction: str) -> int:
    from typer.completion import get_completion_inspect_parameters, shell_complete

    from himari_rl import cli

    get_completion_inspect_parameters()  # enters the shells that typer knows
    return shell_complete(cli.command_for(words), {}, "himari", ASKED, instruction)
