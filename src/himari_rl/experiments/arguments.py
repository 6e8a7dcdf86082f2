"""The front door's arguments: bars that are bars, and settings by the names that the command line has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from himari_rl.config import from_dict
from himari_rl.data.panel import Panel
from himari_rl.errors import DataError
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


def settings_from(kind: type[C], given: Mapping[str, Any]) -> C:
    """A section from keyword arguments; a number of seeds stands for the first so many.

    Raises:
        ConfigError: a name that the section does not have, or a value that it does not take.
    """
    seeds = given.get("seeds")
    return from_dict(kind, dict(given) | ({"seeds": tuple(range(seeds))} if isinstance(seeds, int) else {}))
