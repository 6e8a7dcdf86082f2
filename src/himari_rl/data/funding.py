"""Funding settlements of a perpetual, put onto the bars at whose open they are paid.

attach_funding(bars, "BTC-USDT-PERP_funding_8h.parquet")
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from himari_rl.data.checks import cell_problems
from himari_rl.data.grid import interval_name, step
from himari_rl.data.table import read_table, stamp
from himari_rl.errors import DataError
from himari_rl.schema import HOUR_MS, Bars

_LONGEST_FUNDING_MS = 8 * HOUR_MS


def attach_funding(bars: Bars, path: str | Path, *, trim: bool = False) -> Bars:
    """The bars with `funding_rate` from a file of settlements (columns timestamp, funding_rate).

    A settlement goes to the first bar whose open is not before it, so a rate is never known early; several that
    meet one bar (after an outage, or on daily bars) add up. Milliseconds after a full second are the exchange's
    clock jitter and are cut. Bars in between have 0: nothing settles there.

    Args:
        trim: keep only the bars that the file covers; otherwise bars outside it are an error.

    Raises:
        DataError: an unusable file, a hole in it, or bars that it does not cover.
    """
    if bars.funding_rate is not None:
        raise DataError(f"{bars.source} already has funding_rate", "bars without it", "leave the funding file out")
    table = read_table(path)
    if "funding_rate" not in table.columns or "timestamp" in table.missing:
        raise DataError(f"{path} has no column timestamp or funding_rate", "both", "rename or add them")
    for problem in cell_problems(table):
        raise problem.error()
    settled = table.timestamp // 1000 * 1000
    period = max(step(settled), _LONGEST_FUNDING_MS)
    holes = np.diff(settled) > period
    if holes.any():
        at = int(holes.argmax())
        found = f"{path} has no settlement between {stamp(int(settled[at]))} and {stamp(int(settled[at + 1]))}"
        raise DataError(found, f"one every {interval_name(period)}", "complete the file")
    every = step(settled) or _LONGEST_FUNDING_MS
    covered = (bars.timestamp > settled[0] - every) & (bars.timestamp < settled[-1] + every)
    if not covered.any() or not (trim or covered.all()):
        found = f"{path} covers {stamp(int(settled[0]))} .. {stamp(int(settled[-1]))}"
        span = f"{stamp(int(bars.timestamp[0]))} .. {stamp(int(bars.timestamp[-1]))}"
        raise DataError(found, f"the bars' span {span}", "bring a longer file, or bars that end where it does")
    bars = bars[int(covered.argmax()) : len(bars) - int(covered[::-1].argmax())]
    rate = np.zeros(len(bars))
    row = np.searchsorted(bars.timestamp, settled, side="left")
    meets = (row < len(bars)) & (settled > bars.timestamp[0] - bars.interval_ms)
    np.add.at(rate, row[meets], table.columns["funding_rate"][meets])
    return replace(bars, funding_rate=rate)
