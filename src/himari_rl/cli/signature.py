"""A command made from a function: its parameters are the options, its docstring is the help.

    def rollback(alias: Annotated[str, Argument(help="Which alias.")], as_json: Json = False) -> None: ...
    app.add_command(make_command(rollback))

click parses and answers; what stands here is only how an annotation becomes one of its parameters.
"""

from __future__ import annotations

import inspect
import os
import textwrap
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import click

from himari_rl.evaluation.terminal import styled

WIDEST = 100
"""Columns of a help page: a longer line is hard to read."""
EMPTY = inspect.Parameter.empty


@dataclass(frozen=True, kw_only=True, slots=True)
class Argument:
    """What is said of a parameter that is given by its place."""

    help: str
    metavar: str | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """What is said of a parameter that is given by its name."""

    name: str = ""
    """Of the option; without it the parameter's own, with dashes."""
    help: str = field(kw_only=True)
    metavar: str | None = field(default=None, kw_only=True)
    min: float | None = field(default=None, kw_only=True)
    max: float | None = field(default=None, kw_only=True)
    envvar: str | None = field(default=None, kw_only=True)
    show_default: bool | str = field(default=True, kw_only=True)
    """A text: is shown in place of the default."""
    then: Callable[[bool], None] | None = field(default=None, kw_only=True)
    """Called with the value before any other option is looked at."""


def make_command(function: Callable[..., Any], name: str | None = None, **settings: Any) -> click.Command:
    """The command that calls a function; its name is the function's, with dashes, where none is given."""
    parts = _parts(function, name)
    return _Command(**parts, **settings)


def make_group(
    name: str, help: str = "", function: Callable[..., Any] | None = None, order: Sequence[str] = (), **settings: Any
) -> click.Group:
    """A command of commands; `function` takes its options. Without a word its help is shown, or `function` is called.

    Args:
        order: in which its commands are listed; otherwise as they were added.
    """
    settings.setdefault("no_args_is_help", not settings.get("invoke_without_command"))
    parts = {"name": name} if function is None else _parts(function, name)
    group = _Group(**{**parts, **({"help": help} if help else {})}, **settings)
    group.order = {each: place for place, each in enumerate(order)}
    return group


def _parts(function: Callable[..., Any], name: str | None) -> dict[str, Any]:
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    defaults = {each.name: each.default for each in parameters}
    context = next((each for each, hint in hints.items() if hint is click.Context), None)

    def call(**given: Any) -> Any:
        if context is not None:
            given[context] = click.get_current_context()
        for each, value in given.items():
            if isinstance(value, tuple):  # click's of an option that may be repeated; empty: it was not given
                given[each] = list(value) if value else defaults[each]
        return function(**given)

    made = [_parameter(each.name, hints[each.name], each.default) for each in parameters if each.name != context]
    own = name or function.__name__.replace("_", "-")
    return {"name": own, "params": made, "callback": call, "help": inspect.getdoc(function)}


def _parameter(name: str, hint: Any, default: Any) -> click.Parameter:
    said: Argument | Option | None = None
    if get_origin(hint) is Annotated:
        hint, said, *_ = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):  # None is what an option is without being given
        hint = next(each for each in get_args(hint) if each is not types.NoneType)
    many = get_origin(hint) is list
    hint = get_args(hint)[0] if many else hint
    required = default is EMPTY
    usual = {} if required else {"default": default}
    if isinstance(said, Argument) or (said is None and required):
        metavar, text = (said.metavar, said.help) if said else (None, None)
        return click.Argument(
            [name], type=_type(hint), nargs=-1 if many else 1, required=required, metavar=metavar, help=text,
            **usual,
        )  # fmt: skip
    said = said or Option(help="")
    then = said.then
    return _Option(
        [name, said.name or f"--{name.replace('_', '-')}"],
        type=None if hint is bool else _type(hint, said.min, said.max),
        is_flag=hint is bool,
        multiple=many,
        required=required,
        help=said.help,
        metavar=said.metavar,
        envvar=said.envvar,
        show_envvar=True,
        show_default=said.show_default,
        is_eager=then is not None,
        expose_value=then is None,
        callback=None if then is None else lambda _context, _option, value: then(value),
        **usual,
    )


def _type(hint: Any, least: float | None = None, most: float | None = None) -> click.ParamType[Any]:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return click.Choice(hint)
    if get_origin(hint) is Literal:
        return click.Choice(get_args(hint))
    if hint is int:
        return click.INT if least is most is None else click.IntRange(_whole(least), _whole(most))
    if hint is float:
        return click.FLOAT if least is most is None else click.FloatRange(least, most)
    if hint is str:
        return click.STRING
    raise TypeError(f"no option can be made of {hint!r}")


def _whole(bound: float | None) -> int | None:
    return None if bound is None else int(bound)


class _Option(click.Option):
    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        if isinstance(self.show_default, str):  # click would put it in parentheses
            extra["default"] = self.show_default
        return extra


class _Page(click.HelpFormatter):
    """A help page whose words are never broken, neither in the middle nor at a hyphen."""

    def write_heading(self, heading: str) -> None:
        super().write_heading(styled(heading, "bold"))

    def write_text(self, text: str) -> None:
        for place, paragraph in enumerate(text.split("\n\n")):
            lead = " " * self.current_indent
            self.write("\n" * bool(place) + self._filled(paragraph, self.width, lead) + "\n")

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        every = list(rows)
        column = min(max(len(first) for first, _ in every), col_max) + col_spacing + self.current_indent
        for first, second in every:
            head = " " * self.current_indent + first
            text = self._filled(second, self.width, " " * column)
            if len(head) + col_spacing <= column:
                self.write(f"{head.ljust(column)}{text.lstrip()}".rstrip() + "\n")
            else:
                self.write(f"{head}\n{text}\n" if text else f"{head}\n")

    def _filled(self, text: str, width: int, lead: str) -> str:
        return textwrap.fill(
            " ".join(text.split()), width, initial_indent=lead, subsequent_indent=lead,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip


class _Context(click.Context):
    formatter_class = _Page

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{"max_content_width": WIDEST, **settings})
        if os.environ.get("NO_COLOR"):
            self.color = False


class _Command(click.Command):
    context_class = _Context


class _Group(click.Group):
    context_class = _Context
    order: dict[str, int]

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.commands, key=lambda name: self.order.get(name, len(self.order)))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each command with its whole first paragraph, where click would cut it off."""
        with formatter.section("Commands"):
            listed = ((name, self.commands[name].help or "") for name in self.list_commands(ctx))
            formatter.write_dl([(name, text.partition("\n\n")[0]) for name, text in listed])
