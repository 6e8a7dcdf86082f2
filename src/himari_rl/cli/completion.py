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

import click

from himari_rl.cli.signature import Argument, make_command

ASKED = "_HIMARI_COMPLETE"
"""The variable in which a shell's script asks: bash_complete, zsh_complete, fish_complete."""


class Shell(StrEnum):
    """Those whose scripts are tried."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def register(app: click.Group) -> None:
    """Adds `himari completion`."""
    app.add_command(make_command(completion))


def completion(shell: Annotated[Shell, Argument(help="bash, zsh or fish.")]) -> None:
    """Prints what makes a shell complete himari's commands and options.

    Example: himari completion bash >> ~/.bashrc
    """
    raise click.exceptions.Exit(_ask([], f"{shell.value}_source"))


def words_of(environment: Mapping[str, str]) -> list[str]:
    """The words after `himari` that a shell has so far, the unfinished one too."""
    line = environment.get("COMP_WORDS", "")
    try:
        return shlex.split(line)[1:]
    except ValueError:  # a quote is open
        return line.split()[1:]


def answer(environment: Mapping[str, str]) -> int:
    """Tells the shell what may follow; only the area that is being typed is loaded."""
    return _ask(words_of(environment), environment[ASKED])


def _ask(words: list[str], instruction: str) -> int:
    from click.shell_completion import shell_complete

    from himari_rl import cli

    return shell_complete(cli.command_for(words), {}, "himari", ASKED, instruction)
