"""The front door's arguments: bars that are bars, and settings by the names that the command line has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from himari_rl.config import from_dict
from himari_rl.data.facts import Fact, require_accepted
from himari_rl.data.panel import Panel
from himari_rl.errors import DataError
from himari_rl.features.signals import with_signals
from himari_rl.schema import Bars

C = TypeVar("C")


def require_bars(bars: object, call: str) -> None:
    """Refuses what is neither bars nor a panel.

    Args:
        call: how the function is called, for the error line.

    Raises:
        DataError: something else, a DataFrame say.
    """
    if not isinstance(bars, Bars | Panel):
        raise DataError(
            f"a {type(bars).__name__} where bars belong",
            f"Bars or a Panel: {call}",
            "Bars.from_frame(df) makes bars of a DataFrame, load_bars(path) reads a file",
        )


def accepted_facts(bars: Bars | Panel, accept: Sequence[str]) -> tuple[Fact, ...]:
    """What the data says of itself, with the signals that will be used counted.

    Raises:
        DataError: a finding that makes every figure after it false and that nobody accepted.
        ConfigError: a name in `accept` that no finding has.
    """
    return require_accepted(with_signals(bars), accept)


def settings_from(kind: type[C], given: Mapping[str, Any]) -> C:
    """A section from keyword arguments; a number of seeds stands for the first so many.

    Raises:
        ConfigError: a name that the section does not have, or a value that it does not take.
    """
    seeds = given.get("seeds")
    return from_dict(kind, dict(given) | ({"seeds": tuple(range(seeds))} if isinstance(seeds, int) else {}))
