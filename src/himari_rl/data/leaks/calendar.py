"""Calendar: a column knows the rest of the candle that it stands in, as a daily candle merged without a shift does.

For candles of P bars (4 h, 8 h, day, week) that start at a phase, pairs of a row and a later return j bars ahead are
either in the same candle or not. An honest predictor of any memory does as well at equal j, so

  s_b = sum over j < P of x_{b-j} * ((other_j / all_j) if in b's candle, else -(same_j / all_j)),   Z = White's t of y s

compares like with like: `other` and `same` are the numbers of such pairs, so the weights are j / P and (P - j) / P
where no bar is missing, and are balanced where bars are (stock hours). r is the correlation of the candle's first row
with the rest of its candle. What changes at midnight and forecasts honestly has both, of the size of a forecast.
All phases are tried: a day may begin at 16:00 UTC, and a week on Monday.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from himari_rl.data.leaks.target import normal_scores
from himari_rl.schema import DAY_MS, HOUR_MS, BoolArray, FloatArray, IntArray

CANDLES_MS = (HOUR_MS // 4, HOUR_MS, 4 * HOUR_MS, 8 * HOUR_MS, DAY_MS, 7 * DAY_MS)
MIN_CANDLE_BARS = 4
MIN_CANDLES = 30
FINEST_MS = HOUR_MS // 12  # nobody's candle starts between two fives of the minute hand
Z_WEAK, R_STRONG = 3.0, 0.7
Z_STRONG, R_WEAK = 6.0, 0.2
R_ERRORS = 3.0  # standard errors that r must be from 0: 30 candles correlate by .18 with anything
NEAR = 0.85  # of the largest Z: phases that are as good
SPARSE = 8  # grid places a bar, above which there is no clock to speak of
_ROUNDING = 1e-6  # of a typical y: where no distance has pairs of both kinds, s is 0 but for rounding
_FULL, _EVEN = (
    0.98,
    0.9,
)  # shares of bars that are there: of all, and of any hour of the week beside the mean, for j / P
_THURSDAY = 3  # 1970-01-01


@dataclass(frozen=True, kw_only=True)
class CandleClock:
    """The bars on a grid without gaps: one place for each interval from the first bar to the last."""

    interval_ms: int
    first_ms: int  # open of place 0
    place: IntArray  # (n,) of each row
    size: int
    y: FloatArray  # (size,) the return of the bar at each place (not the one earned by deciding there); 0 where unknown
    y_known: BoolArray  # (size,)

    @staticmethod
    def of(timestamp: IntArray, interval_ms: int, y: FloatArray) -> CandleClock | None:
        """None where bars are so rare that candles of a few bars do not exist.

        Args:
            timestamp: (T,) open times. y: (n,) what deciding at row t earns: the return of the bar of row t + 1.
        """
        place = (timestamp - timestamp[0]) // interval_ms
        size = int(place[-1]) + 1
        if size > SPARSE * len(timestamp):
            return None
        on_grid, known = np.zeros(size), np.zeros(size, bool)
        on_grid[place[1 : len(y) + 1]], known[place[1 : len(y) + 1]] = y, True
        return CandleClock(
            interval_ms=interval_ms,
            first_ms=int(timestamp[0]),
            place=place[: len(y)],
            size=size,
            y=on_grid,
            y_known=known,
        )

    def spread(self, scores: FloatArray, known: BoolArray) -> tuple[FloatArray, BoolArray]:
        """A column's (n,) rows on the grid, 0 where unknown, and where it is known."""
        x, have = np.zeros(self.size), np.zeros(self.size, bool)
        x[self.place[known]], have[self.place[known]] = scores[known], True
        return x, have


@dataclass(frozen=True, kw_only=True)
class CandleTest:
    """The strongest candle of a column, by Z; of those with an alarm if there are any."""

    bars: int  # P; 0 where no candle could be tried
    z: float
    r: float
    starts: str  # "00:00 UTC", "Monday 00:00 UTC"
    candle: str  # "daily", "4-hour"
    of_changes: bool  # found in the column's changes from bar to bar, not in its level
    alarm: bool


NOTHING = CandleTest(bars=0, z=0.0, r=0.0, starts="", candle="", of_changes=False, alarm=False)


def strongest_candle(column: FloatArray, known: BoolArray, clock: CandleClock) -> CandleTest:
    """The strongest candle of the column itself, or of its changes: a slow indicator of unshifted candles tells by the
    step it makes at midnight, and a value interpolated to the next midnight by its slope.
    """
    level = candle_test(_scores(column, known), known, clock)
    both = known[1:] & known[:-1]
    steps, moved = np.zeros_like(column), np.concatenate(([False], both))
    steps[moved] = np.diff(column)[both]
    changes = replace(candle_test(_scores(steps, moved), moved, clock), of_changes=True)
    return changes if changes.alarm and not level.alarm else level


def _scores(column: FloatArray, known: BoolArray) -> FloatArray:
    out = np.zeros_like(column)
    if known.any():
        out[known] = normal_scores(column[known])
    return out


def candle_test(scores: FloatArray, known: BoolArray, clock: CandleClock) -> CandleTest:
    """The strongest of all candles and phases."""
    x, have = clock.spread(scores, known)
    fine, coarse = (clock, x, have), None
    best = NOTHING
    for candle_ms in CANDLES_MS:
        if candle_ms > HOUR_MS > fine[0].interval_ms and HOUR_MS % fine[0].interval_ms == 0:
            coarse = coarse or hourly(x, have, clock)
            clock, x, have = coarse
        else:
            clock, x, have = fine
        bars = candle_ms // clock.interval_ms
        if bars * clock.interval_ms != candle_ms or bars < MIN_CANDLE_BARS or clock.size < MIN_CANDLES * bars:
            continue
        phases = phases_of(bars, clock)
        z, r, candles = candle_statistics(x, have, clock, bars, phases)
        sure = (np.abs(r) * np.sqrt(candles) > R_ERRORS) & (candles >= MIN_CANDLES)
        alarms = sure & (((z > Z_STRONG) & (np.abs(r) > R_WEAK)) | ((z > Z_WEAK) & (np.abs(r) > R_STRONG)))
        i = _clearest(z, alarms, x, bars, phases)
        if (alarms[i], abs(z[i])) > (best.alarm, abs(best.z)):
            starts, name = _names(candle_ms, (clock.first_ms + int(phases[i]) * clock.interval_ms) % candle_ms)
            best = CandleTest(
                bars=bars,
                z=float(z[i]),
                r=float(r[i]),
                starts=starts,
                candle=name,
                of_changes=False,
                alarm=bool(alarms[i]),
            )
    return best


def _clearest(z: FloatArray, alarms: BoolArray, x: FloatArray, bars: int, phases: IntArray) -> int:
    """The phase to name: of the strongest, which are often neighbours, the one at which the column steps."""
    strength = np.where(alarms, z, 0.0) if alarms.any() else np.abs(z)
    first = int(np.argmax(strength))
    rows = len(x) // bars * bars
    steps = (np.diff(x[:rows], prepend=x[0]) ** 2).reshape(-1, bars).mean(axis=0)[phases]
    near = np.flatnonzero(strength >= NEAR * strength[first])
    at = int(near[np.argmax(steps[near])])
    return at if alarms.any() and steps[at] > 2.0 * np.median(steps) else first


def phases_of(bars: int, clock: CandleClock) -> IntArray:
    """The places at which a first candle may begin: every bar, or every five minutes where bars are finer."""
    every = max(FINEST_MS // clock.interval_ms, 1)
    first = -(clock.first_ms // clock.interval_ms) % every
    return np.arange(first, bars, every)


def hourly(x: FloatArray, have: BoolArray, clock: CandleClock) -> tuple[CandleClock, FloatArray, BoolArray]:
    """Grid and column in whole hours: what the column last said in each, and all that was earned in it.

    Candles of four hours and more are looked for in these: years of minutes have a hundred million pairs a day.
    """
    start = clock.first_ms // HOUR_MS
    group = (clock.first_ms + clock.interval_ms * np.arange(clock.size)) // HOUR_MS - start
    size = int(group[-1]) + 1
    known = np.bincount(group, clock.y_known, size) > 0
    said, there = np.zeros(size), np.zeros(size, bool)
    said[group[have]], there[group[have]] = x[have], True  # the last of equal places stays
    earned = np.bincount(group, clock.y, size).astype(np.float64)
    whole = replace(
        clock, interval_ms=HOUR_MS, first_ms=start * HOUR_MS, place=group, size=size, y=earned, y_known=known
    )
    return whole, said, there


def candle_statistics(
    x: FloatArray, have: BoolArray, clock: CandleClock, bars: int, phases: IntArray
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Z (signed as the relation of x and y is), r and the number of candles, for each phase. x, have on the grid."""
    y, size = clock.y, clock.size
    running = np.concatenate(([0.0], np.cumsum(x)))
    total = np.concatenate(([0.0], np.cumsum(y)))
    lags = np.arange(bars)
    even = _is_even(have & clock.y_known, 7 * DAY_MS // clock.interval_ms)
    ramp = _filtered(x, lags / bars) if even else np.zeros(size)
    pairs = np.zeros(bars) if even else _pairs(have, clock.y_known, bars)
    live, behind = y[bars - 1 :], running[: size - bars + 1]
    z, r, count = np.zeros(len(phases)), np.zeros(len(phases)), np.zeros(len(phases), np.int64)
    for i, phase in enumerate(phases.tolist()):
        weighted = ramp if even else _filtered(x, _other_share(have, clock.y_known, pairs, phase))
        begun = np.repeat(running[phase:size:bars], bars)  # at the start of the candle of each place from `phase` on
        products = live * (weighted[bars - 1 :] - (begun[bars - 1 - phase : size - phase] - behind))
        error = float(np.sqrt(np.sum(products**2)))
        z[i] = products.sum() / error if error > _ROUNDING * np.sqrt(size) else 0.0
        first = np.arange(phase, size - bars + 1, bars)
        first = first[have[first]]
        rest = total[first + bars] - total[first + 1]
        count[i] = len(first)
        r[i] = _correlation(x[first], rest) if len(first) > 2 else 0.0
    return np.where(np.sign(z) == np.sign(r), np.abs(z), -np.abs(z)), r, count


def _filtered(x: FloatArray, weights: FloatArray) -> FloatArray:
    """(size,) sum over j of weights_j x_{b-j}."""
    size = 1 << (len(x) + len(weights)).bit_length()
    return np.asarray(np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(weights, size), size)[: len(x)])


def _is_even(known: BoolArray, week: int) -> bool:
    """Whether hardly a bar is missing, or as often in one hour of the week as in another."""
    if known.mean() > _FULL or len(known) < week:
        return bool(known.mean() > _FULL)
    whole = known[: len(known) // week * week].reshape(-1, week).mean(axis=0)
    return bool(whole.min() >= _EVEN * float(whole.mean()) > 0.0)


def _pairs(have: BoolArray, y_known: BoolArray, bars: int) -> FloatArray:
    """(bars,) how many pairs of a known x and a known y are j bars apart."""
    size = 1 << (2 * len(have)).bit_length()
    found = np.fft.irfft(np.conj(np.fft.rfft(have, size)) * np.fft.rfft(y_known, size), size)[:bars]
    return np.asarray(np.round(found))


def _other_share(have: BoolArray, y_known: BoolArray, pairs: FloatArray, phase: int) -> FloatArray:
    """(bars,) the share of `pairs` j bars apart that are not in the same candle, as counted; 0 for j = 0."""
    bars = len(pairs)
    before = -phase % bars
    around = (before, -(before + len(have)) % bars)  # whole candles only
    rows, earned = (np.pad(part.astype(float), around).reshape(-1, bars) for part in (have, y_known))
    width = 2 * bars
    same = np.fft.irfft((np.conj(np.fft.rfft(rows, width)) * np.fft.rfft(earned, width)).sum(axis=0), width)[:bars]
    share = 1.0 - np.round(same) / np.maximum(pairs, 1.0)
    share[0] = 0.0
    return np.clip(share, 0.0, 1.0)


def _correlation(a: FloatArray, b: FloatArray) -> float:
    a, b = a - a.mean(), b - b.mean()
    power = float(np.sum(a**2)) * float(np.sum(b**2))
    return float(np.sum(a * b)) / np.sqrt(power) if power > 0.0 else 0.0


def _names(candle_ms: int, phase_ms: int) -> tuple[str, str]:
    """When a candle starts, in words, and what it is called."""
    minutes = phase_ms // 60_000
    if candle_ms == 7 * DAY_MS:
        days = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
        day = days[(minutes // 1440 + _THURSDAY) % 7]
        return f"{day} {minutes % 1440 // 60:02d}:{minutes % 60:02d} UTC", "weekly"
    at = f"{minutes // 60:02d}:{minutes % 60:02d} UTC"
    if candle_ms == DAY_MS:
        return at, "daily"
    hours = candle_ms // HOUR_MS
    if hours:
        return f"{at} and every {hours} h after" if hours > 1 else f"minute {minutes} of the hour", f"{hours}-hour"
    return f"minute {minutes} and every {candle_ms // 60_000} after", f"{candle_ms // 60_000}-minute"
