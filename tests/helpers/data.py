"""Small hand-made bars and files for the data tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from helpers import shared_data
from himari_rl.schema import HOUR_MS, Bars

START = 1_704_067_200_000  # 2024-01-01T00:00Z
HEADER = "timestamp,open,high,low,close,volume"


def bars_at(hours: list[int], **columns: object) -> Bars:
    """Bars at START + hours, prices 100, 101, ..., volume 1."""
    price = 100.0 + np.arange(len(hours))
    values: dict[str, object] = {
        "symbol": "BTC-USD",
        "timestamp": START + HOUR_MS * np.array(hours, np.int64),
        "open": price,
        "high": price + 2.0,
        "low": price - 2.0,
        "close": price + 1.0,
        "volume": np.ones(len(hours)),
        "interval_ms": HOUR_MS,
        "source": "by hand",
    }
    return Bars(**(values | columns))  # type: ignore[arg-type]


def csv_file(folder: Path, *rows: str, name: str = "BTC-USD_1h.csv", header: str = HEADER) -> Path:
    """A CSV file of the given rows."""
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def row(hour: int, text: str = "10,12,9,11,5") -> str:
    """A CSV row at an hour of 2024-01-01 (or later days)."""
    moment = np.datetime64(START + hour * HOUR_MS, "ms")
    return f"{np.datetime_as_string(moment, unit='s')}Z,{text}"


def shared(name: str) -> Path:
    """A file of the real data, or a visible skip."""
    return shared_data(name)
