"""How many look-aheads do the tests of a column catch, and how many honest columns do they accuse?

python benchmarks/leak_power.py --data BTC-USDT_1h.parquet --since 2023-04-01 --until 2025-04-01

Every leak of leak_kinds.py and every column of honest_columns.py is put into a Layer 2 column of the bars, one at a
time, and examined as a walk-forward examines it. The thresholds are those of data/leaks/, fixed before. Prints a table
by kind and test; the last line is JSON. Exit code 1 where less than 75 % of the leaks are caught, by any test, or
more than 1 % of the honest columns are accused. `--data` twice with as many spans examines both.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from himari_rl.data.leaks import examine
from himari_rl.data.leaks.report import BINS, CALENDAR, SHARE, SIZE, SPIKE, STOP, VOLATILITY
from himari_rl.data.sources import load_bars
from himari_rl.schema import Bars
from honest_columns import honest_columns
from leak_kinds import frame_of, leak_kinds, with_column

TESTS = (STOP, SHARE, SPIKE, CALENDAR, BINS, VOLATILITY, SIZE)
CAUGHT, ACCUSED = 0.75, 0.01


@dataclass(frozen=True)
class Examined:
    """One column and the tests that it failed."""

    kind: str
    name: str
    leak: bool
    tests: tuple[str, ...]


def span_of(bars: Bars, since: str, until: str) -> Bars:
    first, last = (int(np.datetime64(day, "ms").astype(np.int64)) for day in (since, until))
    return bars[int(np.searchsorted(bars.timestamp, first)) : int(np.searchsorted(bars.timestamp, last))]


def tests_failed(bars: Bars) -> tuple[str, ...]:
    """The alarms of the column that `with_column` put in; an action is examined twice, with and without confidence."""
    return tuple(dict.fromkeys(alarm.test for report in examine(bars) for alarm in report.alarms))


def examined(bars: Bars) -> Iterable[Examined]:
    frame = frame_of(bars)
    with np.errstate(all="ignore"):
        for leak in leak_kinds():
            column = leak.column(frame)
            yield Examined(leak.kind, leak.name, True, tests_failed(with_column(bars, column, leak.into)))
        for honest in honest_columns():
            made, column = honest.make(bars)
            yield Examined(honest.kind, honest.name, False, tests_failed(with_column(made, column, honest.into)))


def table(found: list[Examined]) -> str:
    """One row a kind: columns, those caught by anything, by a named test, and by each test."""
    rows = [("kind", "columns", "caught", "by name", *TESTS)]
    by_kind: dict[str, list[Examined]] = defaultdict(list)
    for one in found:
        by_kind[one.kind].append(one)
    for leak in (True, False):
        by_kind["all leaks" if leak else "all honest"] = [one for one in found if one.leak == leak]
    for kind, ones in by_kind.items():
        count = Counter(test for one in ones for test in one.tests)
        named = sum(any(test != SIZE for test in one.tests) for one in ones)
        cells = (len(ones), sum(bool(one.tests) for one in ones), named, *(count[test] for test in TESTS))
        rows.append((kind, *map(str, cells)))
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ("---",) * len(rows[0]), *rows[1:]])


def main() -> int:
    """Prints the tables and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--since", action="append", required=True)
    parser.add_argument("--until", action="append", required=True)
    parser.add_argument("--names", action="store_true", help="also lists each column with its alarms")
    asked = parser.parse_args()
    failed, documents = False, []
    for path, since, until in zip(asked.data, asked.since, asked.until, strict=True):
        bars = span_of(load_bars(path), since, until)
        started = time.perf_counter()
        found = list(examined(bars))
        leaks, honest = ([one for one in found if one.leak == leak] for leak in (True, False))
        caught = sum(bool(one.tests) for one in leaks) / len(leaks)
        accused = sum(bool(one.tests) for one in honest) / len(honest)
        failed |= caught < CAUGHT or accused > ACCUSED
        print(f"\n{bars.symbol} {since} .. {until}, {len(bars):,} bars\n\n{table(found)}\n")
        for one in found:
            if asked.names or bool(one.tests) != one.leak:
                told = "missed" if one.leak and not one.tests else ", ".join(one.tests) or "none"
                print(f"{'leak  ' if one.leak else 'honest'} {one.kind}: {one.name}: {told}")
        documents.append(
            {
                "symbol": bars.symbol,
                "since": since,
                "until": until,
                "bars": len(bars),
                "leaks": len(leaks),
                "caught": round(caught, 4),
                "honest": len(honest),
                "accused": round(accused, 4),
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
    print(json.dumps(documents))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
