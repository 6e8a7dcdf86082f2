"""pandas in and out: the same bars, through the same rules, as from a file. `Bars.from_frame` and `to_frame` lead here.

Pandas and pyarrow are imported inside: whoever only reads Bars needs neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from himari_rl.data.layouts import Raw
from himari_rl.data.readers import one_ticker
from himari_rl.data.sources import sound_bars
from himari_rl.data.table import interpret
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
    names, ticker = _names(frame, source)
    columns: list[Any] = [frame.iloc[:, place] for place in range(len(names))]
    if isinstance(frame.index, pd.DatetimeIndex):
        if "timestamp" in [name.strip().lower() for name in names]:
            found = f"{source} has a DatetimeIndex and a column timestamp"
            raise DataError(found, "one of them", "frame.reset_index(drop=True) keeps the column")
        names, columns = ["timestamp", *names], [frame.index, *columns]
    notes = () if ticker is None else (f"the columns of {ticker}",)
    arrays = tuple(_arrow(pa, column) for column in columns)
    alone = ticker if symbol == "asset" else None
    raw = Raw(names=tuple(names), columns=arrays, symbol=alone, notes=notes)
    return sound_bars([interpret(source, symbol, raw)], interval)


def _names(frame: pd.DataFrame, source: str) -> tuple[list[str], str | None]:
    """The columns' names, and the ticker of yfinance's frame of one."""
    import pandas as pd

    if isinstance(frame.columns, pd.MultiIndex) and frame.columns.nlevels == 2:
        return one_ticker(source, list(frame.columns))
    odd = [name for name in frame.columns if not isinstance(name, str)]
    if odd:
        cure = "one symbol's columns: frame.columns = frame.columns.droplevel(1)" if isinstance(odd[0], tuple) else ""
        raise DataError(f"{source} has a column named {odd[0]!r}", "names such as open, high, low, close, volume", cure)
    return [str(name) for name in frame.columns], None


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

    columns = bars.recorded.columns()
    stamps = columns.pop("timestamp").astype("datetime64[ms]")
    if bars.synthetic:
        columns["synthetic"] = np.ones(len(bars), np.int64)
    return pd.DataFrame(columns, index=pd.DatetimeIndex(stamps, name="timestamp").tz_localize("UTC"))
