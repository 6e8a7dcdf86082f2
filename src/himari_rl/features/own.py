"""Own features: named numeric columns of the data, which stand in the state after the contract's numbers.

    bars = with_features(load_bars("BTC-USD_1h.parquet"), ["spread", "basis"])     himari walk-forward ... --features

Whoever trains or judges on such bars sees them; bars without it keep such columns unused, and say so. They are what
the data says at the close of their bar, and go through the leak tests like every other column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from himari_rl.errors import DataError
from himari_rl.features.contract import state_features
from himari_rl.schema import Bars


def with_features(bars: Bars, names: Sequence[str]) -> Bars:
    """The same bars, whose named columns are seen, in this order.

    Raises:
        DataError: a column that is not there, or that has a gap or an infinity; one name twice.
        ConfigError: too many, or a name that the contract has.
    """
    for name in names:
        if name not in bars.extra:
            has = ", ".join(bars.extra) or "none"
            raise DataError(f"{bars.source} has no numeric column {name}", f"one of: {has}", "add it to the file")
        wrong = ~np.isfinite(bars.extra[name])
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(f"{name} is {bars.extra[name][row]} in row {row}", "a finite number in every row")
    if len(set(names)) < len(names):
        raise DataError(f"features {', '.join(names)}", "each once")
    state_features(bars.symbols, names)
    return replace(bars, features=tuple(names))
