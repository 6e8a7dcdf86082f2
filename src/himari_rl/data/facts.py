"""What the data says of itself: one line a fact, and the findings that stop a run until somebody accepts them.

    facts(history)                    every fact of Bars or a Panel, in the order of the tables below
    require_accepted(history, accept) the same, or a DataError that names the finding and `--accept NAME`

A fact is one small function in `OF_BARS` (one symbol) or in panel_facts.py (several together). A *note* is for
reading, a *warning* deserves a look, a *refusal* would make every figure after it false: a rate charged eight times, a
price that moved by a comma. Checks that make bars unreadable are checks.py's; look-aheads are leaks.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from himari_rl.data.checks import EVENTS
from himari_rl.data.config import BREAKS, CONSTANT, FUNDING, LOW_COVERAGE, REPEATED, DataConfig
from himari_rl.data.grid import interval_name
from himari_rl.data.panel import Panel
from himari_rl.data.panel_facts import common_span, lagged_correlation
from himari_rl.data.table import stamp
from himari_rl.errors import DataError
from himari_rl.schema import BUY, DAY_MS, HOLD, HOUR_MS, LAYER2, MINUTE_MS, SELL, YEAR_MS, Bars, FloatArray, direction

NOTE, WARNING, REFUSAL = "note", "warning", "refusal"
FULL_COVERAGE, LEAST_COVERAGE = 0.9, 0.5
FEW = 100  # rows: fewer may be all alike by chance
DEFAULTS = {"signal_confidence": 0.5, "signal_tier": 4.0, "cascade_risk": 0.0}
"""What `himari data join` writes where only a direction is known; in a file it means "not said"."""
MOST_FUNDING = 1.0  # a year, of the position: beyond it the rates are in per cent, or nobody would hold the position
MOST_RATE = 3.0  # a year, of the rates' size: the same where they change their sign
SAME_PHASE = 0.95  # share of a rate's changes that fall on one phase of a coarser grid where it was filled forward
BREAK, BREAK_AFTER_GAP = 3.0, 5.0  # factor between two neighbouring prices, and between two with a day between them
LISTED = 4


@dataclass(frozen=True)
class Fact:
    """One thing the data says of itself."""

    name: str
    level: str  # note, warning or refusal
    sentence: str
    cure: str = ""

    def as_json(self) -> dict[str, str]:
        """Plain JSON types."""
        return asdict(self)


def facts(history: Bars | Panel) -> tuple[Fact, ...]:
    """Every fact of a history; of a panel first what its symbols are together, then each one's own.

    Args:
        history: with the signals that will be used (features/signals.py: with_signals), where they are to be counted.
    """
    shared = facts_together(history) if isinstance(history, Panel) else ()
    return (*shared, *(fact for bars in history.each for table in OF_BARS for fact in table(bars)))


def facts_together(panel: Panel) -> tuple[Fact, ...]:
    """What the symbols of a panel are together: the span they share, and whether their clocks agree."""
    spans = [Fact(name, WARNING if odd else NOTE, said) for name, odd, said in common_span(panel)]
    lags = [Fact(name, WARNING, said) for name, said in lagged_correlation(panel)]
    own = [bars.symbol for bars in panel.each if bars.signals_supplied]
    others = [bars.symbol for bars in panel.each if not bars.signals_supplied]
    said = f"{', '.join(own)} with own Layer 2 columns, {', '.join(others)} without: there the causal reference signal"
    return (*spans, *lags, *([Fact("mixed-signals", WARNING, said)] if own and others else []))


def require_accepted(history: Bars | Panel, accept: Sequence[str]) -> tuple[Fact, ...]:
    """The facts of a history in which nothing is refused, or everything that is was accepted.

    Args:
        accept: names of findings, as DataConfig.accept.

    Raises:
        DataError: a refusal that was not accepted. ConfigError: a name that no finding has.
    """
    accepted, found = DataConfig(accept=tuple(accept)).accept, facts(history)
    refused = unaccepted(found, accepted)
    if refused:
        first = refused[0]
        others = sorted({fact.name for fact in refused} - {first.name})
        told = f"--accept {first.name} goes on with it (accept=[{first.name!r}] in Python)"
        more = f"; refused too: {', '.join(others)}" if others else ""
        raise DataError(first.sentence, "", f"{first.cure}; {told}{more}")
    return found


def unaccepted(found: Sequence[Fact], accept: Sequence[str]) -> list[Fact]:
    """The refusals that nobody accepted."""
    return [fact for fact in found if fact.level == REFUSAL and fact.name not in accept]


def recorded(found: Sequence[Fact], accept: Sequence[str]) -> dict[str, Any]:
    """The facts as a run's document keeps them, with the refusals that were accepted."""
    kept = [fact.name for fact in found if fact.level == REFUSAL and fact.name in accept]
    return {"facts": [fact.as_json() for fact in found], "accepted": list(dict.fromkeys(kept))}


def whose_signals(history: Bars | Panel) -> str:
    """data, reference, or for a panel that has both each symbol's."""
    whose = ["data" if bars.signals_supplied else "reference" for bars in history.each]
    each = ", ".join(f"{symbol} {said}" for symbol, said in zip(history.symbols, whose, strict=True))
    return whose[0] if len(set(whose)) == 1 else f"mixed: {each}"


def _taken_for(bars: Bars) -> Iterator[Fact]:
    for note in bars.notes:
        yield Fact("read-as", NOTE, f"{bars.symbol}: {note}")


def _coverage(bars: Bars) -> Iterator[Fact]:
    if len(bars) < 2:
        return
    first, last = int(bars.timestamp[0]), int(bars.timestamp[-1])
    places = (last - first) // bars.interval_ms + 1
    share = len(bars) / places
    said = (
        f"{bars.symbol}: coverage {_percent(share)}: {len(bars):,} of {places:,} {interval_name(bars.interval_ms)} "
        f"bars between {stamp(first)} and {stamp(last)}"
    )
    if share >= FULL_COVERAGE:
        yield Fact("coverage", NOTE, said)
    elif share >= LEAST_COVERAGE:
        yield Fact(LOW_COVERAGE, WARNING, f"{said}; figures per year count the time between them too")
    else:
        cure = "bring the missing bars; a market with closing hours has none: its figures per year are of elapsed time"
        if bars.signals_supplied:
            cure = EVENTS
        yield Fact(LOW_COVERAGE, REFUSAL, f"{said} (refused below {LEAST_COVERAGE:.0%})", cure)


def _phase(bars: Bars) -> Iterator[Fact]:
    phase = int(bars.timestamp[0]) % bars.interval_ms if len(bars) else 0
    if bars.interval_ms % (7 * DAY_MS) == 0:  # the epoch is a Thursday: a week's phase says nothing
        phase %= DAY_MS
    if not phase:
        return
    where = f"{bars.symbol}: the {interval_name(bars.interval_ms)} bars open {_after(phase)} after the full interval"
    whole = phase % MINUTE_MS == 0
    late = "" if whole else ": times of a close, or of a clock that is off, where a bar's open belongs?"
    yield Fact("grid-phase", NOTE if whole else WARNING, where + late)


def _constant(bars: Bars) -> Iterator[Fact]:
    """Columns that say the same in every row; refused where a policy reads them."""
    if len(bars) < FEW:
        return
    still = {name: float(values[0]) for name, values in bars.columns().items() if np.ptp(values) == 0.0}
    ours = {name: value for name, value in still.items() if name in LAYER2} if bars.signals_supplied else {}
    told = {name: value for name, value in ours.items() if DEFAULTS.get(name) != value}
    if told:
        yield Fact(
            CONSTANT,
            REFUSAL,
            f"{bars.symbol}: {_each(told)} in every one of the {len(bars):,} rows",
            "a signal that never changes says nothing: bring Layer 2's own answers, or leave its columns out",
        )
    unsaid = {name: value for name, value in ours.items() if name not in told}
    if unsaid:
        yield Fact("constant-defaults", NOTE, f"{bars.symbol}: {_each(unsaid)} in every row: read as not said")
    others = {name: value for name, value in still.items() if name in ("volume", "funding_rate")}
    if others:
        yield Fact("constant-others", WARNING, f"{bars.symbol}: {_each(others)} in every row")


def _not_used(bars: Bars) -> Iterator[Fact]:
    if set(bars.extra) - set(bars.features):
        still = {name for name, values in bars.extra.items() if len(bars) and np.ptp(values) == 0.0}
        names = [f"{name} (constant)" if name in still else name for name in bars.extra if name not in bars.features]
        yield Fact("columns-not-used", NOTE, f"{bars.symbol}: not used: {', '.join(names)}")


def _funding(bars: Bars) -> Iterator[Fact]:
    """Funding a year and settlements a day: a unit that is off by 100, and a rate that is charged at every bar."""
    rate = None if bars.funding_rate is None else np.nan_to_num(bars.funding_rate)
    if rate is None or not rate.any():
        return
    years = _years(bars)
    year, size = float(rate.sum()) / years, float(np.abs(rate).sum()) / years
    daily = np.count_nonzero(rate) / years / (YEAR_MS / DAY_MS)
    typical = float(np.median(np.abs(rate[rate != 0.0])))
    said = f"{bars.symbol}: funding {year:+.1%} a year of a long position, {daily:.1f} settlements a day"
    filled = _filled_forward(bars, rate)
    too_much = abs(year) > MOST_FUNDING or size > MOST_RATE
    if filled:
        yield Fact(
            REPEATED,
            REFUSAL,
            f"{said}: {filled}, so each settlement would be charged again and again",
            "keep each rate on the bar at whose open it settles and write 0 on the others",
        )
    if too_much:
        yield Fact(
            FUNDING,
            REFUSAL,
            f"{said}: not plausible (typical rate {typical:g})",
            f"the unit is a fraction, 0.0001 for 0.01 %: rates in per cent are divided by 100, which gives "
            f"{year / 100.0:+.1%} a year",
        )
    if not filled and not too_much:
        yield Fact("funding", NOTE, said)


def _filled_forward(bars: Bars, rate: FloatArray) -> str:
    """How a settlement's rate stands on more than one bar, in words; nothing where each bar may settle by itself.

    Venues that settle every hour repeat a rate too, but change it at any hour. A rate filled forward from a coarser
    grid changes at one phase of that grid only.
    """
    near = np.diff(bars.timestamp) == bars.interval_ms
    pair = near & (rate[1:] != 0.0) & (rate[:-1] != 0.0)
    same = pair & (rate[1:] == rate[:-1])
    if bars.interval_ms >= DAY_MS or same.sum() < 10 or same.sum() < 0.4 * pair.sum():
        return ""
    changes = bars.timestamp[1:][pair & ~same]
    if len(changes) < 8:
        return f"the same rate stands on consecutive bars ({int(same.sum()):,} of {int(pair.sum()):,} pairs)"
    for hours in (8, 4, 2, 1, 24):
        grid = hours * HOUR_MS
        if grid <= bars.interval_ms or grid % bars.interval_ms:
            continue
        _, counts = np.unique(changes % grid, return_counts=True)
        if counts.max() >= SAME_PHASE * counts.sum():
            return f"a rate of {hours} h stands on every bar until the next one"
    return ""


def _breaks(bars: Bars) -> Iterator[Fact]:
    """Prices that jump by a factor no market makes: a redenomination, a decimal slip, a tick that is wrong."""
    path = np.column_stack([bars.open, bars.close]).ravel()
    factor = path[1:] / path[:-1]
    gap = np.zeros(len(factor), bool)
    gap[1::2] = np.diff(bars.timestamp) > max(DAY_MS, bars.interval_ms)
    size = np.maximum(factor, 1.0 / factor)
    at = np.flatnonzero(size >= np.where(gap, BREAK_AFTER_GAP, BREAK))
    if at.size:
        when = [stamp(int(bars.timestamp[(row + 1) // 2])) for row in at[:LISTED].tolist()]
        jumps = [
            f"{path[row]:.8g} to {path[row + 1]:.8g} (x{factor[row]:.3g}) at {moment}"
            for row, moment in zip(at[:LISTED].tolist(), when, strict=True)
        ]
        more = f" and {at.size - LISTED} more" if at.size > LISTED else ""
        back = abs(float(np.log(factor[at]).sum())) < np.log(BREAK) and at.size > 1
        rest = "comes back" if back else "stays"
        yield Fact(
            BREAKS,
            REFUSAL,
            f"{bars.symbol}: the price breaks from {'; from '.join(jumps)}{more}, and {rest}",
            "a slip or a wrong tick: leave these bars out; a redenomination: bring the prices on one scale",
        )
    body_low, body_high = np.minimum(bars.open, bars.close), np.maximum(bars.open, bars.close)
    wicks = np.flatnonzero((body_low / bars.low >= BREAK) | (bars.high / body_high >= BREAK))
    if wicks.size:
        named = ", ".join(stamp(int(bars.timestamp[row])) for row in wicks[:LISTED].tolist())
        yield Fact(
            "wicks",
            WARNING,
            f"{bars.symbol}: {wicks.size} wick(s) of a factor {BREAK:g} or more ({named}); fills are at opens only",
        )


def _whose(bars: Bars) -> Iterator[Fact]:
    """Whose signals, how many of each, and what the direction earns alone."""
    if bars.signals is None:
        yield Fact(
            "signals", NOTE, f"{bars.symbol}: no Layer 2 columns; the causal reference signal (momentum) is used"
        )
        return
    said, rows = bars.signals, max(len(bars), 1)
    whose = "own Layer 2 columns" if said.supplied else "no Layer 2 columns: the causal reference signal (momentum)"
    counts = ", ".join(
        f"{int((said.action == action).sum()):,} {word}"
        for word, action in (("BUY", BUY), ("SELL", SELL), ("HOLD", HOLD))
    )
    tiers = ", ".join(f"T{tier} {(said.tier == tier).sum() / rows:.0%}" for tier in (1, 2, 3, 4))
    low, middle, high = np.quantile(said.confidence, (0.0, 0.5, 1.0)) if len(bars) else (0.0, 0.0, 0.0)
    alone, market = growth_alone(bars)
    yield Fact(
        "signals",
        NOTE,
        f"{bars.symbol}: {whose}: {counts}; {tiers}; confidence {low:.2f} to {high:.2f}, median {middle:.2f}; alone, "
        f"long or flat with all of the equity and without costs, it earns {alone:+.1%} a year (log-growth; holding "
        f"{market:+.1%})",
    )
    if len(bars) and not (said.action == BUY).any():
        only = "SELL or HOLD in every row: no position without shorts" if (said.action == SELL).any() else ""
        only = only or "HOLD in every row: no position to size or to judge"
        yield Fact("no-direction", WARNING, f"{bars.symbol}: {only}")


def growth_alone(bars: Bars) -> tuple[float, float]:
    """Log-growth a year of the direction alone, long or flat, and of holding; by the clock of DESIGN section 4.

    Decided at the close of t, filled at the open of t+1, held to the open of t+2; no costs, exposure 1.
    """
    if len(bars) < 3 or bars.signals is None:
        return 0.0, 0.0
    earned = np.log(bars.open[2:] / bars.open[1:-1])
    years = int(bars.timestamp[-1] - bars.timestamp[1]) / YEAR_MS
    side = direction(bars.signals.action, allow_short=False)[:-2]
    return float((side * earned).sum()) / years, float(earned.sum()) / years


OF_BARS: tuple[Callable[[Bars], Iterator[Fact]], ...] = (
    _taken_for,
    _coverage,
    _phase,
    _breaks,
    _constant,
    _not_used,
    _funding,
    _whose,
)


def _years(bars: Bars) -> float:
    return (int(bars.timestamp[-1]) - int(bars.timestamp[0]) + bars.interval_ms) / YEAR_MS


def _percent(share: float) -> str:
    """Rounded towards what it is not: 99.99 % is not all."""
    return "100 %" if share == 1.0 else f"{min(100.0 * share, 99.9):.1f} %"


def _each(columns: dict[str, float]) -> str:
    return ", ".join(f"{name} is {value:g}" for name, value in columns.items())


def _after(ms: int) -> str:
    """1h30m, 59m59.999s."""
    hours, rest = divmod(ms, HOUR_MS)
    minutes, rest = divmod(rest, MINUTE_MS)
    return f"{hours}h" * (hours > 0) + f"{minutes}m" * (minutes > 0) + f"{rest / 1000:g}s" * (rest > 0)
