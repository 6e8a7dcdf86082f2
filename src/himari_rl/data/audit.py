"""What is in the data, said before anybody trains on it.

    audit(bars)               -> AuditReport     bars in memory
    audit_files(paths)        -> AuditReport...  files as they are, sound or not: one report per data set

The rules are those of checks.py, so `usable` is exactly "load_bars takes it". Gaps, outliers, bars without
volume and suspected leaks are findings, not problems: they are the market's (or Layer 2's), and they are shown. What
facts.py would stop a run for is in `refused`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from himari_rl.data.cells import NOT_A_TIME
from himari_rl.data.checks import Problem, grid_problems, of_events, problems
from himari_rl.data.facts import WARNING, Fact, facts, facts_together, unaccepted
from himari_rl.data.grid import interval_name, step
from himari_rl.data.leaks import LeakReport, doubtful_columns
from himari_rl.data.orders import broken
from himari_rl.data.panel import panel_of
from himari_rl.data.readers import kind_of
from himari_rl.data.sources import Paths, choose, find, join, load_bars
from himari_rl.data.table import Table, name_parts, read_table, stamp
from himari_rl.errors import DataError, HimariError
from himari_rl.schema import PRICES, Bars, BoolArray, FloatArray, IntArray

OUTLIER_MADS = 20.0  # robust deviations; hourly bitcoin has some dozens in seven years
LISTED = 5
_MAD_TO_SIGMA = 1.4826  # of a normal distribution


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A hole in the grid."""

    after: str  # open of the last bar before it
    before: str  # open of the first bar behind it
    missing_bars: int


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """A close-to-close return far outside the others, or a wick as far outside its own bar."""

    timestamp: str
    log_return: float
    deviations: float  # from the median, in robust standard deviations
    of: str = "close"  # close, low or high


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """One data set's facts. Rows are counted over all its files."""

    source: str
    symbol: str
    usable: bool  # load_bars takes it
    rows: int
    start: str
    end: str
    interval: str
    interval_ms: int
    gaps: int
    missing_bars: int
    largest_gap_bars: int
    first_gaps: tuple[Gap, ...]
    duplicates: int
    unsorted: int
    outliers: int
    first_outliers: tuple[Outlier, ...]
    ohlc_violations: int  # rows with high < low, or open or close outside low..high
    unreadable: int  # rows with a NaN, infinite or unreadable price, volume or time
    non_positive: int  # rows with a price <= 0
    zero_volume: int  # placeholders: they mark the position, nothing trades
    columns: tuple[str, ...]
    ignored_columns: tuple[str, ...]
    synthetic: bool
    sha256: str | None  # None where the data is unusable
    problems: tuple[str, ...]
    suspected_leaks: tuple[LeakReport, ...]
    implausible_columns: tuple[LeakReport, ...]  # size alone: too good, by no mechanism that a test could name
    facts: tuple[Fact, ...]  # what the data says of itself; none where it cannot be read
    refused: tuple[str, ...]  # the facts that stop train, evaluate and walk-forward, less those accepted

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


Resolve = Callable[[Bars], Bars]


def _as_read(bars: Bars) -> Bars:
    return bars


def audit(bars: Bars, accept: Sequence[str] = ()) -> AuditReport:
    """The report of bars in memory, leaks included."""
    columns = {name: np.asarray(values, np.float64) for name, values in bars.columns().items()}
    del columns["timestamp"]
    table = Table(source=bars.source, symbol=bars.symbol, timestamp=bars.timestamp, columns=columns)
    return _report([table], [*problems(table), *_time_problems([table])], bars, bars, accept)


def audit_files(
    paths: Paths,
    symbol: str | None = None,
    interval: str | None = None,
    *,
    accept: Sequence[str] = (),
    resolve: Resolve = _as_read,
) -> list[AuditReport]:
    """One report per data set: files of the same symbol, interval and kind belong together.

    Args:
        accept: findings that are no reason to refuse, by name.
        resolve: bars with the signals that would be used, so that these are counted (features/signals.py).

    Raises:
        DataError: a path that does not exist, or no file of that symbol and interval.
    """
    return [_audit_group(files, accept, resolve) for files in _data_sets(paths, symbol, interval)]


def audit_together(paths: Paths, symbol: str | None = None, interval: str | None = None) -> tuple[Fact, ...]:
    """What the symbols of the same interval are together, where there are several that can be read."""
    found: dict[int, dict[str, Bars]] = {}
    for files in _data_sets(paths, symbol, interval):
        try:
            bars = load_bars(files)
        except DataError:
            continue  # its own report says why
        found.setdefault(bars.interval_ms, {}).setdefault(bars.symbol, bars)
    said: list[Fact] = []
    for each in found.values():
        if len(each) > 1:
            try:
                said += facts_together(panel_of(list(each.values())))
            except HimariError as error:
                said.append(Fact("common-span", WARNING, f"no panel: {error}"))
    return tuple(said)


def _data_sets(paths: Paths, symbol: str | None, interval: str | None) -> list[list[Path]]:
    """The files of each data set."""
    groups: dict[tuple[str, str | None, str], list[Path]] = {}
    for file in find(paths):
        if symbol is not None or interval is not None:
            try:
                choose([file], symbol, interval)
            except DataError:
                continue
        kind = kind_of(file)
        groups.setdefault((*name_parts(file), kind), []).append(file)
    if not groups:
        raise DataError(f"no file of {symbol or 'any symbol'} {interval or ''}".rstrip(), "bar files", "check the name")
    return list(groups.values())


def _audit_group(files: Sequence[Path], accept: Sequence[str], resolve: Resolve) -> AuditReport:
    tables, found = [], []
    for file in files:
        try:
            tables.append(read_table(file))
        except DataError as error:
            found.append(Problem("unreadable", 1, error.found, error.expected, error.cure))
    found += [problem for table in tables for problem in problems(table)]
    found += _time_problems(tables) if tables else []
    bars = None
    if not found:
        try:
            bars = join(tables)
        except DataError as error:
            found.append(Problem("files", 1, error.found, error.expected, error.cure))
    if not tables:
        empty = np.zeros(0, np.int64)
        tables = [Table(source=str(files[0]), symbol=name_parts(files[0])[0], timestamp=empty, columns={})]
    return _report(tables, found, bars, None if bars is None or found else resolve(bars), accept)


def _time_problems(tables: Sequence[Table]) -> list[Problem]:
    """The grid's rules over the readable times of all files, sorted: what is unsorted is a problem of its own."""
    times = _sorted_times(tables)
    found = grid_problems(times, tables[0].source) if times.size else []
    return [of_events(problem, tables[0].columns) for problem in found]


def _sorted_times(tables: Sequence[Table]) -> IntArray:
    times = np.concatenate([table.timestamp for table in tables])
    return np.unique(times[times != NOT_A_TIME])


def _report(
    tables: Sequence[Table],
    found: Sequence[Problem],
    bars: Bars | None,
    resolved: Bars | None,
    accept: Sequence[str],
) -> AuditReport:
    """The report of one data set.

    Args:
        resolved: the bars with the signals that would be used.
    """
    said = facts(resolved) if resolved is not None and not found else ()
    times = _sorted_times(tables)
    interval = step(times)
    missing = np.diff(times) // interval - 1 if interval else np.zeros(0, np.int64)
    at = np.flatnonzero(missing > 0)
    raw = np.concatenate([table.timestamp for table in tables])
    known = raw[raw != NOT_A_TIME]
    rows = [_Rows.of(table) for table in tables]
    outliers = [outlier for table in tables for outlier in _outliers(table)]
    named, too_good = doubtful_columns(bars) if bars is not None and not found else ([], [])
    return AuditReport(
        source=", ".join(table.source for table in tables),
        symbol=tables[0].symbol,
        usable=bars is not None and not found,
        rows=len(raw),
        start=stamp(int(times[0])) if times.size else "",
        end=stamp(int(times[-1])) if times.size else "",
        interval=interval_name(interval) if interval else "",
        interval_ms=interval,
        gaps=len(at),
        missing_bars=int(missing[at].sum()),
        largest_gap_bars=int(missing[at].max()) if at.size else 0,
        first_gaps=tuple(_gap(times, missing, int(row)) for row in at[:LISTED]),
        duplicates=len(known) - len(times),
        unsorted=int(np.sum(np.diff(known) < 0)),
        outliers=len(outliers),
        first_outliers=tuple(outliers[:LISTED]),
        ohlc_violations=sum(int(r.crossed.sum()) for r in rows),
        unreadable=sum(int(r.unreadable.sum()) for r in rows),
        non_positive=sum(int(r.non_positive.sum()) for r in rows),
        zero_volume=sum(int(r.zero_volume.sum()) for r in rows),
        columns=tuple(tables[0].columns),
        ignored_columns=tuple(sorted({name for table in tables for name in table.ignored})),
        synthetic=bars.synthetic if bars is not None else False,
        sha256=bars.fingerprint if bars is not None and not found else None,
        problems=tuple(str(problem.error()) for problem in found),
        suspected_leaks=tuple(named),
        implausible_columns=tuple(too_good),
        facts=said,
        refused=tuple(dict.fromkeys(fact.name for fact in unaccepted(said, accept))),
    )


def _gap(times: IntArray, missing: IntArray, row: int) -> Gap:
    return Gap(after=stamp(int(times[row])), before=stamp(int(times[row + 1])), missing_bars=int(missing[row]))


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """(T,) masks of one file's rows."""

    unreadable: BoolArray
    non_positive: BoolArray
    crossed: BoolArray
    zero_volume: BoolArray

    @staticmethod
    def of(table: Table) -> _Rows:
        nothing = np.full(len(table), np.nan)
        have = [name for name in (*PRICES, "volume") if name in table.columns]
        opened, high, low, close = (table.columns.get(name, nothing) for name in PRICES)
        unreadable = table.timestamp == NOT_A_TIME if "timestamp" not in table.missing else np.isnan(nothing) & False
        for name in have:
            unreadable = unreadable | ~np.isfinite(table.columns[name])
        return _Rows(
            unreadable=unreadable,
            non_positive=np.any([table.columns.get(name, nothing) <= 0.0 for name in PRICES], axis=0),
            crossed=broken(opened, high, low, close),
            zero_volume=table.columns.get("volume", nothing) == 0.0,
        )


def _outliers(table: Table) -> list[Outlier]:
    """Log returns of neighbouring rows more than OUTLIER_MADS robust deviations from their median, and such wicks."""
    close: FloatArray = table.columns.get("close", np.zeros(0))
    prices = np.column_stack([table.columns.get(name, np.full(len(close), np.nan)) for name in PRICES])
    sound = np.flatnonzero(np.all(np.isfinite(prices) & (prices > 0.0), axis=1))
    if sound.size < 3:
        return []
    returns = np.diff(np.log(close[sound]))
    middle = float(np.median(returns))
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(returns - middle)))
    if spread <= 0.0:
        return []
    deviations = (returns - middle) / spread
    far = np.flatnonzero(np.abs(deviations) > OUTLIER_MADS)
    opened, high, low, close = np.log(prices[sound].T)
    wicks = {"low": low - np.minimum(opened, close), "high": high - np.maximum(opened, close)}
    found = [(int(row) + 1, float(returns[row]), float(deviations[row]), "close") for row in far]
    for of, depth in wicks.items():
        found += [
            (int(row), float(depth[row]), float(depth[row] / spread), of)
            for row in np.flatnonzero(np.abs(depth) > OUTLIER_MADS * spread)
        ]
    return [
        Outlier(timestamp=stamp(int(table.timestamp[sound[row]])), log_return=size, deviations=far_out, of=of)
        for row, size, far_out, of in sorted(found)
    ]
