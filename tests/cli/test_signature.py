"""A command made from a function: what its annotations say is what click parses, and its page breaks no word."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import click
import pytest

from himari_rl.cli.signature import Argument, Option, make_command, make_group


class Colour(StrEnum):
    """A choice."""

    red = "red"
    blue = "blue"


def everything(
    context: click.Context,
    name: str,
    shade: Annotated[Colour, Argument(help="Which.")] = Colour.red,
    many: Annotated[list[str] | None, Option(help="Words.")] = None,
    shares: Annotated[list[float], Option("--share", help="Numbers.")] = [0.5],  # noqa: B006 - read only
    count: Annotated[int | None, Option(min=1, max=9, help="How many.")] = None,
    loud_voice: Annotated[bool, Option(help="Shout.")] = False,
    off: Annotated[bool | None, Option("--no-sound", help="Hush.")] = None,
    mode: Annotated[Literal["fast", "slow"], Option(help="How.")] = "fast",
    rate: float = 0.25,
) -> dict[str, Any]:
    """Takes one of each.

    Example: himari everything a --many b c
    """
    return {key: value for key, value in locals().items() if key in USUAL} | {"words": context.args}


USUAL = {"name": "a", "shade": Colour.red, "many": None, "shares": [0.5], "count": None, "loud_voice": False}
USUAL |= {"off": None, "mode": "fast", "rate": 0.25, "words": []}


def run(*words: str) -> Any:
    return make_command(everything).main(list(words), standalone_mode=False)


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("a", {}),
        ("b blue", {"name": "b", "shade": Colour.blue}),
        ("a --many x --many y", {"many": ["x", "y"]}),
        ("a --share 1 --share 2.5", {"shares": [1.0, 2.5]}),
        ("a --count 9 --loud-voice --no-sound", {"count": 9, "loud_voice": True, "off": True}),
        ("a --mode slow --rate 3", {"mode": "slow", "rate": 3.0}),
    ],
)
def test_a_function_gets_what_was_typed_and_its_own_defaults_for_the_rest(words: str, given: dict[str, Any]) -> None:
    assert run(*words.split()) == USUAL | given


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "Missing argument 'NAME'"),
        ("a green", "'green' is not one of 'red', 'blue'"),
        ("a --count 10", "10 is not in the range 1<=x<=9"),
        ("a --mode idle", "'idle' is not one of 'fast', 'slow'"),
        ("a --rate much", "'much' is not a valid float"),
    ],
)
def test_what_cannot_be_is_refused(words: str, said: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        run(*words.split())
    assert said in refused.value.format_message()


def test_a_type_of_which_no_option_can_be_made_is_a_bug() -> None:
    def odd(value: Annotated[dict[str, str], Option(help="No.")]) -> None: ...

    with pytest.raises(TypeError, match="dict"):
        make_command(odd)


@pytest.mark.parametrize("columns", [52, 80, 300])
def test_a_help_page_breaks_no_word_and_keeps_to_a_width_that_can_be_read(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    see = "see docs/how-to/own-data.md#time-zones-and-where-they-come-from-in-files-of-others then walk-forward-run"

    def told(value: str = "") -> None: ...

    told.__annotations__["value"] = Annotated[str, Option(help=f"{see} {see}")]
    group = make_group("himari", "All.", order=["told"])
    group.add_command(make_command(told))
    group.main(["told", "--help"], standalone_mode=False)
    page = capsys.readouterr().out
    assert page.split().count(see.split()[1]) == 2
    assert page.split().count("walk-forward-run") == 2
    assert max(map(len, page.splitlines())) <= max(min(columns, 100), len(see.split()[1]) + 26)


def test_commands_are_listed_in_the_order_asked_for_and_then_as_they_came() -> None:
    group = make_group("himari", "All.", order=["c", "a"])
    for name in "xac":
        group.add_command(make_command(lambda: None, name))
    assert group.list_commands(click.Context(group)) == ["c", "a", "x"]
