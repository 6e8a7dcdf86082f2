"""Own features: named numeric columns of the data, which stand in the state after the contract's numbers.

    bars = with_features(load_bars("BTC-USD_1h.parquet"), ["spread", "basis"])     himari walk-forward ... --features

Whoever trains or judges on such bars sees them; bars without it keep such columns unused, and say so. They are what
the data says at the close of their bar, and go through the leak tests like every other column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from himari_rl.data.panel import Panel
from himari_rl.errors import DataError
from himari_rl.features.contract import state_features
from himari_rl.schema import Bars

H = TypeVar("H", Bars, Panel, Bars | Panel)


def with_features(history: H, names: Sequence[str]) -> H:
    """The same history, whose named columns are seen, in this order; of a panel every symbol has all of them.

    Raises:
        DataError: a column that is not there, or that has a gap or an infinity; one name twice.
        ConfigError: too many, or a name that the contract has.
    """
    if len(set(names)) < len(names):
        raise DataError(f"features {', '.join(names)}", "each once")
    state_features(history.symbols, names)
    if isinstance(history, Panel):
        return replace(history, bars=tuple(_seen(bars, names) for bars in history.bars))
    return _seen(history, names)


def with_named(history: H, said: str | None) -> H:
    """`with_features` of names in a text with commas, as the command line has them: "spread,basis".

    Raises:
        DataError, ConfigError: as `with_features`.
    """
    names = [name.strip() for name in (said or "").split(",") if name.strip()]
    return with_features(history, names) if names else history


def _seen(bars: Bars, names: Sequence[str]) -> Bars:
    for name in names:
        if name not in bars.extra:
            has = ", ".join(bars.extra) or "none"
            raise DataError(f"{bars.source} has no numeric column {name}", f"one of: {has}", "add it to the file")
        wrong = ~np.isfinite(bars.extra[name])
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(f"{name} is {bars.extra[name][row]} in row {row}", "a finite number in every row")
    return replace(bars, features=tuple(names))
