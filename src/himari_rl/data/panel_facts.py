"""What several symbols say together: the span they share, and whether their clocks agree.

common_span(panel)          days lost by aligning, and to whom
lagged_correlation(panel)   a symbol whose returns follow the others' by the same number of bars: its times are off
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from himari_rl.data.grid import interval_name
from himari_rl.data.panel import Panel
from himari_rl.data.table import stamp
from himari_rl.schema import DAY_MS, Bars, FloatArray

MOST_LAG = 24  # bars: a local time is at most 14 hours off
LEAST_CORRELATION = 0.2
MARGIN = 2.0  # times the correlation at lag 0
T_ALARM = 8.0  # standard errors of no correlation, over all lags and pairs
LEAST_BARS = 200


def common_span(panel: Panel) -> Iterator[tuple[str, bool, str]]:
    """(name, whether it deserves a look, sentence) of the span that all symbols share."""
    late = max(panel.bars, key=lambda bars: int(bars.timestamp[0]))
    early = min(panel.bars, key=lambda bars: int(bars.timestamp[-1]))
    said = f"common span {stamp(panel.start)} to {stamp(panel.end)}"
    lost = [f"{b.symbol} {days:,.1f} days" for b in panel.bars if (days := _outside(b, panel)) > 0.0]
    whole = int(late.timestamp[0]) == panel.start and int(early.timestamp[-1]) == panel.end
    if not whole or not lost:
        yield "common-span", False, f"{said}, the same for every symbol" if whole else f"{said} (a part of the history)"
        return
    ends = []
    if any(int(b.timestamp[0]) < panel.start for b in panel.bars):
        ends.append(f"{late.symbol} begins {stamp(panel.start)}")
    if any(int(b.timestamp[-1]) > panel.end for b in panel.bars):
        ends.append(f"{early.symbol} ends {stamp(panel.end)}")
    yield "common-span", True, f"{said}, as {' and '.join(ends)}: not used of {', '.join(lost)}"


def _outside(bars: Bars, panel: Panel) -> float:
    """Days of a symbol's own bars that lie outside the common span."""
    rows = (bars.timestamp < panel.start) | (bars.timestamp > panel.end)
    return float(rows.sum()) * bars.interval_ms / DAY_MS


def lagged_correlation(panel: Panel) -> Iterator[tuple[str, str]]:
    """(name, sentence) for each symbol whose returns go with the first symbol's of an earlier or later bar."""
    first, *others = panel.bars
    for other in others:
        lag, there, here = lag_between(first, other)
        if lag:
            off = f"{abs(lag)} bar(s) ({interval_name(abs(lag) * panel.interval_ms)})"
            yield (
                "lagged-correlation",
                f"{other.symbol}'s times look {off} {'ahead of' if lag > 0 else 'behind'} {first.symbol}'s: their "
                f"returns correlate {there:+.2f} there and {here:+.2f} at the same time",
            )


def lag_between(first: Bars, other: Bars) -> tuple[int, float, float]:
    """The lag in bars at which the returns of two symbols go together, 0 where that is now or nowhere.

    Positive: `other` shows a move so many bars after `first` does, as where its times were written in a zone ahead.

    Returns:
        the lag, the correlation there, the correlation at lag 0.
    """
    interval = first.interval_ms
    a, b = _returns(first), _returns(other)
    start = min(int(first.timestamp[0]), int(other.timestamp[0]))
    rows = max(int(first.timestamp[-1]), int(other.timestamp[-1])) - start
    on_grid = np.full((2, rows // interval + 1), np.nan)
    for row, (bars, returns) in enumerate(((first, a), (other, b))):
        on_grid[row, (bars.timestamp[1:] - start) // interval] = returns
    found = {lag: _correlation(on_grid[0], on_grid[1], lag) for lag in range(-MOST_LAG, MOST_LAG + 1)}
    here = found[0][0]
    lag = max(found, key=lambda each: abs(found[each][0]))
    there, pairs = found[lag]
    strong = abs(there) > max(LEAST_CORRELATION, MARGIN * abs(here), T_ALARM / np.sqrt(max(pairs, 1)))
    return (lag, there, here) if lag and strong else (0, here, here)


def _returns(bars: Bars) -> FloatArray:
    """(T-1,) log returns over one bar; NaN over a gap. Clipped at 4 deviations: one crash is no correlation."""
    returns = np.diff(np.log(bars.close))
    returns[np.diff(bars.timestamp) != bars.interval_ms] = np.nan
    spread = float(np.nanstd(returns)) if np.isfinite(returns).any() else 0.0
    return np.clip(returns, -4.0 * spread, 4.0 * spread)


def _correlation(a: FloatArray, b: FloatArray, lag: int) -> tuple[float, int]:
    """Of a[t] with b[t + lag], and the number of pairs."""
    one, two = (a[: len(a) - lag], b[lag:]) if lag >= 0 else (a[-lag:], b[: len(b) + lag])
    known = np.isfinite(one) & np.isfinite(two)
    one, two = one[known], two[known]
    if len(one) < LEAST_BARS or one.std() == 0.0 or two.std() == 0.0:
        return 0.0, len(one)
    return float(np.corrcoef(one, two)[0, 1]), len(one)
