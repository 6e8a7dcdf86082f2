"""pandas in and out: the same bars, through the same rules, as from a file. `Bars.from_frame` and `to_frame` lead here.

Pandas and pyarrow are imported inside: whoever only reads Bars needs neither.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from himari_rl.data.sources import sound_bars
from himari_rl.data.table import by_name, interpret
from himari_rl.errors import DataError
from himari_rl.schema import Bars

if TYPE_CHECKING:
    import pandas as pd


def bars_from_frame(frame: pd.DataFrame, symbol: str, interval: str | None, source: str) -> Bars:
    """See `Bars.from_frame`."""
    import pandas as pd
    import pyarrow as pa

    if not isinstance(frame, pd.DataFrame):
        raise DataError(
            f"{source} is a {type(frame).__name__}", "a pandas DataFrame", "for a file use load_bars(path) instead"
        )
    odd = [name for name in frame.columns if not isinstance(name, str)]
    if odd:
        cure = "one symbol's columns: frame.columns = frame.columns.droplevel(1)" if isinstance(odd[0], tuple) else ""
        raise DataError(f"{source} has a column named {odd[0]!r}", "names such as open, high, low, close, volume", cure)
    names = [str(name) for name in frame.columns]
    columns: list[Any] = [frame.iloc[:, place] for place in range(len(names))]
    if isinstance(frame.index, pd.DatetimeIndex):
        if "timestamp" in [name.strip().lower() for name in names]:
            found = f"{source} has a DatetimeIndex and a column timestamp"
            raise DataError(found, "one of them", "frame.reset_index(drop=True) keeps the column")
        names, columns = ["timestamp", *names], [frame.index, *columns]
    return sound_bars([interpret(source, symbol, by_name(source, names, [_arrow(pa, c) for c in columns]))], interval)


def _arrow(pa: Any, column: Any) -> Any:
    """A pyarrow column; one of several types, which pyarrow refuses, becomes text and is judged cell by cell."""
    try:
        return pa.chunked_array([pa.Array.from_pandas(column)])
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.chunked_array([pa.array([str(cell) for cell in column])])


def frame_from_bars(bars: Bars) -> pd.DataFrame:
    """See `Bars.to_frame`."""
    import numpy as np
    import pandas as pd

    recorded = bars if bars.signals_supplied else replace(bars, signals=None)
    columns = recorded.columns()
    stamps = columns.pop("timestamp").astype("datetime64[ms]")
    if bars.synthetic:
        columns["synthetic"] = np.ones(len(bars), np.int64)
    return pd.DataFrame(columns, index=pd.DatetimeIndex(stamps, name="timestamp").tz_localize("UTC"))
