"""Several symbols on one clock: every bar was recorded, and what was not recorded is never traded.

    panel = load_panel("data/", ["BTC-USDT", "ETH-USDT", "SOL-USDT"])
    train, test = train_test(panel)                     a panel is cut by rows of its clock, like Bars

The clock is the union of the symbols' bar times within their common span: from the latest listing to the earliest last
bar. Where a symbol has no bar, or one without volume, it is not tradable and its position is carried, valued at its
last recorded close. No bar is made up: `prices` says what a position is worth, not what could be bought.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np

from himari_rl.data.funding import attach_funding
from himari_rl.data.grid import interval_name
from himari_rl.data.sources import Paths, find, load_bars
from himari_rl.data.table import name_parts, stamp, stem_of
from himari_rl.errors import ConfigError, DataError
from himari_rl.schema import Bars, BoolArray, FloatArray, IntArray, bars_per_year
from himari_rl.storage import is_remote
from himari_rl.storage.mirror import fetched

MOST_SYMBOLS = 100  # a state of 6,551 numbers, most of them correlations of pairs


class Prices(NamedTuple):
    """What positions are worth at each time of the clock. It has the fields that policy/clock.py reads of `Bars`."""

    timestamp: IntArray  # (T,)
    open: FloatArray  # (T, A)
    close: FloatArray  # (T, A)
    tradable: BoolArray  # (T, A) a bar with volume was recorded
    funding_rate: FloatArray  # (T, A) 0 where nothing settles


@dataclass(frozen=True)
class Panel:
    """Aligned symbols. Build one with `panel_of` or `load_panel`.

    `bars` may begin before `start`: older rows are history for the features, no decision is made on them.
    """

    bars: tuple[Bars, ...]
    start: int  # ms UTC, first time of the clock
    end: int  # ms UTC, last time of the clock

    def __len__(self) -> int:
        return int(self.timestamp.shape[0])

    def __getitem__(self, rows: slice) -> Panel:
        """A contiguous part of the clock. What comes after it is cut off; what was before it stays as history."""
        times = self.timestamp[rows]
        if times.shape[0] == 0:
            raise DataError(f"rows {rows.start} to {rows.stop} of a panel of {len(self)}", "at least one row")
        kept = tuple(bars[: int(np.searchsorted(bars.timestamp, times[-1], side="right"))] for bars in self.bars)
        return Panel(kept, int(times[0]), int(times[-1]))

    @cached_property
    def timestamp(self) -> IntArray:
        """(T,) ms UTC: every bar-open time that any symbol has within the span."""
        clock = reduce(np.union1d, [bars.timestamp for bars in self.bars])
        within: IntArray = clock[(clock >= self.start) & (clock <= self.end)]
        return within

    @property
    def each(self) -> tuple[Bars, ...]:
        return self.bars

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(bars.symbol for bars in self.bars)

    @property
    def features(self) -> tuple[str, ...]:
        """Own features that policies see: every symbol has the same."""
        return self.bars[0].features

    @property
    def interval_ms(self) -> int:
        return self.bars[0].interval_ms

    @property
    def bars_per_year(self) -> float:
        return float(bars_per_year(len(self), self.start, self.end + self.interval_ms))

    @property
    def synthetic(self) -> bool:
        return self.bars[0].synthetic

    @property
    def source(self) -> str:
        return ", ".join(bars.source for bars in self.bars)

    @property
    def signals_supplied(self) -> bool:
        """Whether the data itself has Layer 2's columns, for every symbol."""
        return all(bars.signals_supplied for bars in self.bars)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the symbols, their order, their bars and the span."""
        digest = hashlib.sha256(f"himari panel 1 {self.start} {self.end}".encode())
        for bars in self.bars:
            digest.update(f"|{bars.symbol}:{bars.fingerprint}".encode())
        return digest.hexdigest()

    def rows(self) -> tuple[IntArray, BoolArray]:
        """(T, A) each symbol's last row at or before each time of the clock, and whether it is of exactly that time."""
        clock = self.timestamp
        latest = np.stack([np.searchsorted(b.timestamp, clock, side="right") - 1 for b in self.bars], axis=1)
        here = np.stack([b.timestamp[row] == clock for b, row in zip(self.bars, latest.T, strict=True)], axis=1)
        return latest.astype(np.int64), here

    def prices(self) -> Prices:
        """Opens, closes and what is tradable at each time; a symbol without a bar is worth its last close."""
        latest, here = self.rows()

        def column(name: str) -> FloatArray:
            return np.stack([getattr(b, name)[row] for b, row in zip(self.bars, latest.T, strict=True)], axis=1)

        rates = [np.zeros(len(b)) if b.funding_rate is None else np.nan_to_num(b.funding_rate) for b in self.bars]
        funding = np.stack([rate[row] for rate, row in zip(rates, latest.T, strict=True)], axis=1)
        close = column("close")
        return Prices(
            timestamp=self.timestamp,
            open=np.where(here, column("open"), close),
            close=close,
            tradable=here & (column("volume") > 0.0),
            funding_rate=np.where(here, funding, 0.0),
        )


def panel_of(bars: Sequence[Bars]) -> Panel:
    """Aligns one Bars per symbol on their common span, in the order given.

    Raises:
        ConfigError: fewer than 2 or more than MOST_SYMBOLS symbols, or one twice.
        DataError: a symbol without bars, no common span, or bars that do not belong on one clock.
    """
    check_symbols([b.symbol for b in bars])
    for b in bars:
        if len(b) == 0:
            raise DataError(f"{b.symbol} has no bars", "bars of every symbol", "fetch it, or leave the symbol out")
    first = bars[0]
    for b in bars[1:]:
        if b.interval_ms != first.interval_ms:
            names = [f"{x.symbol} has {interval_name(x.interval_ms)} bars" for x in (first, b)]
            raise DataError(" and ".join(names), "one interval", "give the files of one interval only")
        if (int(b.timestamp[0]) - int(first.timestamp[0])) % first.interval_ms:
            found = (
                f"{first.symbol} opens at {stamp(int(first.timestamp[0]))}, {b.symbol} at {stamp(int(b.timestamp[0]))}"
            )
            raise DataError(found, "bars on one grid", "resample one of them")
        if b.features != first.features:
            names = [f"{x.symbol} shows {', '.join(x.features) or 'no own feature'}" for x in (first, b)]
            raise DataError(" and ".join(names), "the same own features of every symbol", "name them once, for all")
        if b.synthetic != first.synthetic:
            made = next(x.symbol for x in (first, b) if x.synthetic)
            raise DataError(f"{made} is synthetic and another symbol is not", "all recorded or all synthetic", "")
    latest = max(bars, key=lambda b: int(b.timestamp[0]))
    earliest = min(bars, key=lambda b: int(b.timestamp[-1]))
    start, end = int(latest.timestamp[0]), int(earliest.timestamp[-1])
    if start > end:
        found = f"{latest.symbol} starts {stamp(start)} and {earliest.symbol} ends {stamp(end)}"
        raise DataError(found, "a span that all symbols share", "leave one of the two out")
    return Panel(tuple(bars), start, end)


def check_symbols(symbols: Sequence[str]) -> None:
    """Refuses a list that makes no panel.

    Raises:
        ConfigError: fewer than 2 or more than MOST_SYMBOLS symbols, or one twice.
    """
    if not 2 <= len(symbols) <= MOST_SYMBOLS or len(set(symbols)) != len(symbols):
        raise ConfigError(
            f"{len(symbols)} symbols ({', '.join(symbols)})",
            f"2 to {MOST_SYMBOLS} different ones",
            "for one symbol train base or lstm",
        )


def load_panel(
    paths: Paths, symbols: Sequence[str], interval: str | None = None, *, funding: str | Path | None = None
) -> Panel:
    """Aligned bars of the named symbols from files or a folder, in the order of `symbols`.

    Args:
        interval: "1h", "1d": which one; by default 1h where the data has several.
        funding: folder of SYMBOL_funding_8h files; every symbol needs its own, and the bars are cut to them.

    Raises:
        ConfigError, DataError: as `panel_of`, and a symbol without a file, by name.

    >>> from himari_rl.data.synthetic_panel import synthetic_panel
    >>> from himari_rl.data.table import write_bars
    >>> for bars in synthetic_panel(("A-USD", "B-USD"), 100, seed=0).each:
    ...     write_bars(bars, f"{bars.symbol}_1h.csv")
    >>> load_panel(".", ["A-USD", "B-USD"]).symbols
    ('A-USD', 'B-USD')
    """
    check_symbols(symbols)
    files = find(paths)
    folder = Path() if funding is None else fetched(str(funding)) if is_remote(funding) else Path(funding)
    found = []
    for symbol in symbols:
        bars = bars_of(files, symbol, interval)
        found.append(bars if funding is None else attach_funding(bars, _settlements(folder, symbol), trim=True))
    return panel_of(found)


def bars_of(files: Sequence[Path], symbol: str, interval: str | None) -> Bars:
    """One symbol's bars. A file in two formats is read once, provided that both hold the same bars."""
    own = [file for file in files if name_parts(file)[0] == symbol.replace("/", "-").upper()]
    if not own:
        held = ", ".join(sorted({str(name_parts(file)[0]) for file in files}))
        raise DataError(f"no data of {symbol}", f"files of {held}", "fetch it, or leave the symbol out")
    intervals = {name_parts(file)[1] for file in own}
    if interval is None and len(intervals) > 1:
        interval = "1h"
    if interval is not None:
        own = [file for file in own if name_parts(file)[1] in (interval, None)]
        if not own:
            raise DataError(f"no {interval} bars of {symbol}", f"one of {', '.join(map(str, intervals))}", "")
    twins: dict[Path, list[Path]] = {}
    for file in own:
        twins.setdefault(file.with_name(stem_of(file)), []).append(file)
    for same in twins.values():
        loaded = [load_bars(file, symbol) for file in same] if len(same) > 1 else []
        if len({bars.fingerprint for bars in loaded}) > 1:
            raise DataError(f"{same[0].name} and {same[1].name} differ", "the same bars", "remove one of them")
    return replace(load_bars([same[-1] for same in twins.values()], symbol), symbol=symbol)


def _settlements(folder: Path, symbol: str) -> Path:
    own = sorted(folder.glob(f"{symbol.replace('/', '-').upper()}*_funding_*")) if folder.is_dir() else []
    if len(own) != 1:
        raise DataError(f"{len(own)} funding files of {symbol} in {folder}", "one", "fetch it, or leave --funding out")
    return own[0]
