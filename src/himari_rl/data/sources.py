"""Bars from files: every row that comes out was in the file, in time order, or there is an error.

    load_bars("BTC-USDT_1h.parquet")                     one file
    load_bars(["2023.csv.gz", "2024.csv.gz"])            several files of one symbol, in any order
    load_bars("data/", symbol="BTC-USDT", interval="1h") one data set of a folder

Nothing is filled or invented. A gap stays a gap; a bar without volume stays and is not tradable. What a file was
taken for, and the few rows that grid.py settles, stand in `Bars.notes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from himari_rl.data.checks import dead_problems, grid_problems, interval_ms, of_events, problems
from himari_rl.data.grid import interval_name, step
from himari_rl.data.readers import ALSO_OTHERS, SUFFIXES
from himari_rl.data.table import Table, name_parts, read_table, stamp, stem_of
from himari_rl.errors import DataError
from himari_rl.schema import LAYER2, PRICES, Bars, FloatArray, Layer2
from himari_rl.storage import is_remote
from himari_rl.storage.mirror import fetched

Paths = str | Path | Sequence[str | Path]

_OURS = {"timestamp", *PRICES, "volume", *LAYER2, "funding_rate", "synthetic"}


def load_bars(paths: Paths, symbol: str | None = None, interval: str | None = None) -> Bars:
    """One symbol's bars from a file, several files or a folder.

    Args:
        paths: files and folders; several files of the symbol are joined in time order and must not overlap.
        symbol: which one, where there are several; BTC/USDT and BTC-USDT are the same.
        interval: "1h", "1d": which one, where there are several.

    Returns:
        Bars with every optional column the files have: Layer 2 columns as `signals`, `funding_rate`, and any other
        numeric column in `extra`. Timestamps stamp the bar's open, UTC.

    Raises:
        DataError: anything that makes the bars unusable, with the file, the row and the cure.

    >>> from himari_rl.data.synthetic import synthetic_bars
    >>> from himari_rl.data.table import write_bars
    >>> write_bars(synthetic_bars(100, seed=0), "BTC-SYNTHETIC_1h.csv")
    >>> len(load_bars("BTC-SYNTHETIC_1h.csv"))
    100
    """
    files = choose(find(paths), symbol, interval)
    bars = sound_bars([read_table(file) for file in files], interval)
    return replace(bars, symbol=_tidy(symbol)) if symbol is not None and name_parts(files[0])[1] is None else bars


def sound_bars(tables: Sequence[Table], interval: str | None = None) -> Bars:
    """Tables of one symbol, wherever they were read, as Bars: the one door, with every rule of checks.py.

    Raises:
        DataError: the first broken rule, as `load_bars`.
    """
    for table in tables:
        for problem in problems(table):
            raise problem.error()
    bars = join(tables)
    if interval is not None and bars.interval_ms != interval_ms(interval):
        raise DataError(f"{bars.source} holds {interval_name(bars.interval_ms)} bars", f"{interval} bars", "")
    return bars


def find(paths: Paths) -> list[Path]:
    """The bar files that the paths name, folders opened (not their sub-folders, and no funding files).

    Raises:
        DataError: a path that does not exist, or a folder without any bar file.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found: list[Path] = []
    for path in (fetched(str(p), _readable) if is_remote(p) else Path(p) for p in given):
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(p for p in path.iterdir() if p.name.lower().endswith(SUFFIXES) and not p.name.startswith("."))
        inside = [p for p in inside if "_funding_" not in p.name and _of_bars(p)]
        if not inside:
            raise DataError(
                f"the folder {path} has no bar files",
                f"files that end in {', '.join(SUFFIXES)}",
                "himari data fetch BTC-USD",
            )
        found += inside
    missing = [str(path) for path in found if not path.exists()]
    if missing:
        raise DataError(f"{missing[0]} does not exist", "a file or folder of bars", "check the path")
    if not found:
        raise DataError("no data was named", "a file or folder of bars", "for example --data BTC-USD_1h.parquet")
    return list(dict.fromkeys(found))


def _readable(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _of_bars(file: Path) -> bool:
    """Whether a file of a folder is meant: JSON and plain text are bars only where their name tells an interval."""
    return not file.name.lower().endswith(ALSO_OTHERS) or name_parts(file)[1] is not None


def choose(files: Sequence[Path], symbol: str | None = None, interval: str | None = None) -> list[Path]:
    """The files of one symbol and one interval, told by their names.

    Raises:
        DataError: none or several remain, with the choices.
    """
    kept = [file for file in files if symbol is None or _is(file, symbol, alone=len(files) == 1)]
    if not kept:
        raise DataError(f"no file of {symbol}", f"one of {_listed(name_parts(f)[0] for f in files)}", "choose a symbol")
    wanted = None if interval is None else interval_ms(interval)
    fitting = [f for f in kept if wanted is None or (name := name_parts(f)[1]) is None or interval_ms(name) == wanted]
    if not fitting:
        raise DataError(f"no file of {interval} bars", f"one of {_listed(f.name for f in kept)}", "choose an interval")
    for part, what in ((0, "symbols"), (1, "intervals")):
        names = {name_parts(file)[part] or "unnamed" for file in fitting}
        if len(names) > 1:
            cure = f"choose the {what[:-1]}, or name the files of one (SYMBOL_1h.parquet, SYMBOL_1h_2024.parquet)"
            raise DataError(f"{len(names)} {what} in the data ({_listed(names)})", "one", cure)
    stems: dict[str, Path] = {}
    for file in fitting:
        if (twin := stems.setdefault(str(file.with_name(stem_of(file))), file)) is not file:
            raise DataError(f"{twin.name} and {file.name} hold the same bars twice", "one of them", "name one file")
    return fitting


def _is(file: Path, symbol: str, *, alone: bool) -> bool:
    """Whether the file holds the symbol; a single file whose name tells no interval may hold any."""
    name, interval = name_parts(file)
    return (alone and interval is None) or _tidy(name) == _tidy(symbol)


def _tidy(symbol: str) -> str:
    return symbol.replace("/", "-").upper()


def _listed(names: Iterable[str | None]) -> str:
    unique = sorted({str(name) for name in names})
    return ", ".join(unique[:8]) + (f" and {len(unique) - 8} more" if len(unique) > 8 else "")


def join(tables: Sequence[Table]) -> Bars:
    """Sound tables of one symbol as Bars, in time order.

    Raises:
        DataError: they overlap, differ in their columns or their symbol, or do not share one interval.
    """
    tables = sorted(tables, key=lambda table: int(table.timestamp[0]))
    first = tables[0]
    for before, table in pairwise(tables):
        end, start = int(before.timestamp[-1]), int(table.timestamp[0])
        if start <= end:
            found = f"{before.source} ends {stamp(end)} and {table.source} starts {stamp(start)}"
            raise DataError(found, "files that do not overlap", "drop the rows they share, or name one of them")
        if set(table.columns) != set(before.columns):
            odd = ", ".join(sorted(set(table.columns) ^ set(before.columns)))
            raise DataError(f"{before.source} and {table.source} differ in {odd}", "the same columns", "")
    timestamp = np.concatenate([table.timestamp for table in tables])
    source = ", ".join(table.source for table in tables[:3]) + (f" and {len(tables) - 3} more" if tables[3:] else "")
    column = {name: np.concatenate([table.columns[name] for table in tables]) for name in first.columns}
    for problem in [*grid_problems(timestamp, source), *dead_problems(column["close"], column["volume"], source)]:
        raise of_events(problem, column).error()
    synthetic = column.get("synthetic", np.zeros(1))
    if np.unique(synthetic).size > 1:
        raise DataError(f"{source} mix synthetic and recorded bars", "one or the other", "name them apart")
    return Bars(
        symbol=first.symbol,
        timestamp=timestamp,
        open=column["open"],
        high=column["high"],
        low=column["low"],
        close=column["close"],
        volume=column["volume"],
        interval_ms=step(timestamp),
        source=source,
        synthetic=bool(synthetic[0]),
        signals=_signals(column),
        funding_rate=column.get("funding_rate"),
        extra={name: values for name, values in column.items() if name not in _OURS},
        notes=tuple(dict.fromkeys(note for table in tables for note in table.notes)),
    )


def _signals(column: dict[str, FloatArray]) -> Layer2 | None:
    if "signal_action" not in column:
        return None
    return Layer2(
        action=column["signal_action"].astype(np.int64),
        confidence=column["signal_confidence"],
        tier=column["signal_tier"].astype(np.int64),
        cascade_risk=column["cascade_risk"],
        supplied=True,
    )
