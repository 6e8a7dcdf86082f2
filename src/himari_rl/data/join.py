"""Signals that come as events, put onto bars: each counts from the close of the bar in which it came.

    joined = join_signals(bars, read_table("signals.csv"))      joined.bars have Layer 2's four columns

The clock is the ledger's: at the close of bar t everything up to that close is known, and what is decided then is
filled at the next open. So a signal at time s belongs to the bar with open <= s < close, which is where it came, and is
known at that bar's close. A signal stamped exactly at an open belongs to the bar that begins there, not to the one that
ends: many feeds stamp what they computed *from* a bar with that bar's open, and then the earlier bar would know it an
interval too soon. A signal that came in a gap counts at the close of the first bar after it.

A signal is held while its age at the bar's close, close - s, is at most `max_age_ms`; several in one bar: the last one.
Where nothing is held the bar says NOTHING_HELD: HOLD, by which the ledger keeps the last direction, at confidence 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from himari_rl.data.checks import cell_problems
from himari_rl.data.facts import DEFAULTS
from himari_rl.data.grid import interval_name
from himari_rl.data.table import Table, stamp
from himari_rl.errors import ConfigError, DataError
from himari_rl.schema import HOLD, LAYER2, Bars, Layer2

NOTHING_HELD = {"signal_action": float(HOLD), "signal_confidence": 0.0, "signal_tier": 4.0, "cascade_risk": 0.0}
DEFAULT_AGE_BARS = 4
_ALLOWED = {"partial_layer2", "duplicate"}  # a direction alone is enough, and two signals at one time are the last one


@dataclass(frozen=True, kw_only=True)
class JoinedSignals:
    """Bars with signals, and what became of each signal."""

    bars: Bars
    signals: int  # rows of the signals' file
    used: int  # say something at one bar or more
    before: int  # earlier than the first bar
    after: int  # later than the last bar's close
    replaced: int  # another one came in the same bar after it
    outdated: int  # too old already at the first close at which they would have been known
    held: int  # bars that say a signal
    max_age_ms: int
    defaults: dict[str, float]  # columns that the signals do not have, and what stands there while one is held


def join_signals(bars: Bars, signals: Table, max_age_ms: int | None = None) -> JoinedSignals:
    """The bars with Layer 2's columns made of signals at any times.

    Args:
        signals: rows of timestamp and signal_action, in time order; confidence, tier and cascade_risk where known.
        max_age_ms: how old a signal may be at a bar's close; four bars if not given.

    Raises:
        DataError: bars with own signals, or signals without a time or an action, out of order, or with wrong words.
        ConfigError: an age shorter than a bar: no signal would live to the close at which it is known.
    """
    age = DEFAULT_AGE_BARS * bars.interval_ms if max_age_ms is None else max_age_ms
    if age < bars.interval_ms:
        raise ConfigError(
            f"signals that age out after {interval_name(age)} on {interval_name(bars.interval_ms)} bars",
            "an age of one bar at least",
        )
    if bars.signals_supplied:
        raise DataError(f"{bars.source} has Layer 2 columns already", "bars without them", "drop those columns first")
    _require_signals(signals)
    close = bars.timestamp + bars.interval_ms
    came = signals.timestamp
    inside = (came >= bars.timestamp[0]) & (came < close[-1])
    first = np.searchsorted(close, came, side="right")  # the first bar that closes after it came
    newest = np.searchsorted(came, close, side="left") - 1  # of each bar, the last signal that came before its close
    known = newest >= 0
    known[known] = inside[newest[known]]
    at = newest[known]
    held = np.flatnonzero(known)[close[known] - came[at] <= age]
    said = {}
    defaults = {name: value for name, value in DEFAULTS.items() if name not in signals.columns}
    for name in LAYER2:
        values = signals.columns.get(name, np.full(len(signals), defaults.get(name, np.nan)))
        column = np.full(len(bars), NOTHING_HELD[name])
        column[held] = values[newest[held]]
        said[name] = column
    used = len(np.unique(newest[held]))
    last_of_bar = np.r_[first[1:] != first[:-1], True] if len(came) else np.zeros(0, bool)
    return JoinedSignals(
        bars=replace(
            bars,
            signals=Layer2(
                action=said["signal_action"].astype(np.int64),
                confidence=said["signal_confidence"],
                tier=said["signal_tier"].astype(np.int64),
                cascade_risk=said["cascade_risk"],
                supplied=True,
            ),
        ),
        signals=len(signals),
        used=used,
        before=int((came < bars.timestamp[0]).sum()),
        after=int((came >= close[-1]).sum()),
        replaced=int((inside & ~last_of_bar).sum()),
        outdated=int((inside & last_of_bar).sum()) - used,
        held=len(held),
        max_age_ms=age,
        defaults=defaults,
    )


def _require_signals(signals: Table) -> None:
    """Times and actions that can be read, in time order.

    Raises:
        DataError: the first of them that cannot.
    """
    lost = [name for name in ("timestamp", "signal_action") if name in signals.missing or name not in _has(signals)]
    if lost:
        found = f"{signals.source} has no column {', '.join(lost)} (it has: {', '.join(_has(signals))})"
        raise DataError(found, "timestamp and signal_action", "rename or add them")
    for problem in cell_problems(signals):
        if problem.code not in _ALLOWED:
            raise problem.error()


def _has(signals: Table) -> list[str]:
    return ["timestamp"] * ("timestamp" not in signals.missing) + [*signals.columns, *signals.ignored]


def described(joined: JoinedSignals) -> list[str]:
    """What became of the signals, a line each."""
    bars, age = joined.bars, interval_name(joined.max_age_ms)
    lines = [
        f"{joined.used:,} of {joined.signals:,} signals are used, on {joined.held:,} of {len(bars):,} bars: each from "
        f"the close of the bar in which it came, until it is {age} old"
    ]
    left_out = (
        (joined.before, f"came before the first bar ({stamp(int(bars.timestamp[0]))})"),
        (joined.after, f"came after the last bar ({stamp(int(bars.timestamp[-1]))})"),
        (joined.replaced, "were followed by another one in the same bar, which counts"),
        (joined.outdated, f"came in a gap and were older than {age} at the first close after it"),
    )
    lines += [f"{count:,} {why}" for count, why in left_out if count]
    if joined.defaults:
        lines.append(f"not in the signals, so while one is held: {_words(joined.defaults)}")
    return [*lines, f"where none is held: {_words(NOTHING_HELD)} (HOLD keeps the last direction)"]


def _words(values: dict[str, float]) -> str:
    shown = {name: f"T{value:.0f}" if name == "signal_tier" else f"{value:g}" for name, value in values.items()}
    return ", ".join(f"{name} {shown[name]}" for name in values).replace("signal_action 0", "signal_action HOLD")
