"""What a bar and an account must be when they arrive live, before anything is computed from them.

One place for whoever takes live bars: the server asks here, and so does the runner. Pure functions of what was sent and
of what the policy was trained on; nothing here keeps a bar or reads a clock. Every check is constant time per bar.

    milliseconds    a time, in the one unit that the project has; seconds, microseconds and nanoseconds are named
    share           a number in [0, 1]; per cent is named
    ArrivalRules    one policy's: the grid of its training bars, the exposure that its ledger can have ordered

The traps that made each rule: times in seconds made both momenta 0; a history of minutes was read as hourly volatility;
an exposure in per cent was a full position; one bar sent twenty times had volatility 0, which lifts the limits; a close
of 1e308 stayed in the windows for twenty bars.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Literal

import numpy as np

from himari_rl.errors import StateError
from himari_rl.features import contract
from himari_rl.policy.ledger import drift, grow
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.policy.manifest import Manifest
from himari_rl.schema import DAY_MS, HOUR_MS, MAX_MULTIPLIER, MINUTE_MS, SECOND_MS

Reason = Literal[
    "time_unit", "off_grid", "interval", "unclosed", "stale", "order", "few_bars", "close", "exposure", "pnl", "share"
]
"""Why something is refused, in one word: for a journal or a counter."""

HISTORY_BARS = contract.ASSET_FEATURES[contract.VOLATILITY].window
"""Bars before the present one that fill the encoder's windows: 20 returns need 21 closes."""
FIRST_MS, END_MS = 946_684_800_000, 4_133_980_800_000  # the years 2000 to 2100
MAX_PRICE_RATIO = 10.0
"""Between the closes of neighbouring bars. A coin can lose nine tenths in a bar; beyond that it is another unit."""
ONE_BAR_MOVE = 0.2
"""A position may have drifted beyond what the ledger orders by one bar's move of a fifth, and by its costs."""
ROUNDING = 0.01
SKEW_MS = 10 * SECOND_MS  # between the clock of whoever sends and ours

_UNITS: tuple[tuple[str, float], ...] = (("seconds", 1e3), ("microseconds", 1e-3), ("nanoseconds", 1e-6))  # in ms
Place = tuple[str | int, ...]
Closes = tuple[list[int], list[float]]
"""Opening times, ms UTC, and the close of each."""


class ArrivalError(StateError):
    """A live bar, its history or its account cannot be used (HTTP 422).

    Args:
        reason: why, in one word.
        place: the path of the field, for example ("bar", "timestamp").
    """

    def __init__(self, reason: Reason, place: Place, found: str, expected: str = "", cure: str = "") -> None:
        super().__init__(found, expected, cure)
        self.reason, self.place = reason, place

    def __reduce__(self) -> tuple[type[ArrivalError], tuple[Reason, Place, str, str, str]]:  # type: ignore[override]
        return type(self), (self.reason, self.place, self.found, self.expected, self.cure)


def milliseconds(value: object, place: Place = ("timestamp",)) -> int:
    """`value` as a bar's opening time, ms UTC.

    Raises:
        ArrivalError: it is not a whole number of milliseconds within the years 2000 to 2100.
    """
    if type(value) is int and FIRST_MS <= value < END_MS:
        return value
    name = str(place[-1]) if place and isinstance(place[-1], str) else "timestamp"
    expected = "a whole number of ms since 1970, of the years 2000 to 2100"
    if isinstance(value, str):
        cure = "send ms as a JSON number, without quotes"
        raise ArrivalError("time_unit", place, f"{name} is the text {_shown(value)}", expected, cure)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArrivalError("time_unit", place, f"{name} is {_shown(value)}", expected, "send ms")
    for unit, in_ms in _UNITS:
        if FIRST_MS / in_ms <= value < END_MS / in_ms:  # not value * in_ms: an integer of 400 digits is no float
            cure = f"send ms: {round(value * in_ms)}"
            raise ArrivalError("time_unit", place, f"{name} is in {unit}, {_shown(value)}", expected, cure)
    if isinstance(value, float) and FIRST_MS <= value < END_MS:
        cure = f"send ms: {round(value)}, without a decimal point"
        raise ArrivalError("time_unit", place, f"{name} is {value!r}, with a fraction", expected, cure)
    raise ArrivalError("time_unit", place, f"{name} is {_shown(value)}", expected, "send ms since 1970, UTC")


def share(value: object, place: Place) -> float:
    """`value` as a number in [0, 1].

    Raises:
        ArrivalError: it is none; one that can be per cent is named.
    """
    name = str(place[-1])
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArrivalError("share", place, f"{name} is {_shown(value)}", "a number in [0, 1]", "send a share")
    if 0.0 <= value <= 1.0:
        return float(value)
    cure = "divide per cent by 100" if 1.0 < value <= 100.0 else "send a share, not per cent"
    raise ArrivalError("share", place, f"{name} is {_shown(value)}", "a share in [0, 1]", cure)


def interval_text(interval_ms: float) -> str:
    """3,600,000 is "1 h"."""
    for unit, size in (("d", DAY_MS), ("h", HOUR_MS), ("min", MINUTE_MS), ("s", SECOND_MS)):
        if interval_ms >= size and interval_ms % size == 0:
            return f"{interval_ms / size:g} {unit}"
    return f"{interval_ms:g} ms"


@dataclass(frozen=True, kw_only=True)
class ArrivalRules:
    """What live bars and accounts must be for one policy."""

    interval_ms: int
    phase_ms: int | None
    """Where in an interval the training bars opened, ms; None: not known."""
    ordered: float
    """The largest exposure that the ledger orders, fraction of equity."""
    most: float
    """The largest it can have become since: `ordered` after drift and costs."""
    most_gross: float
    """The same for the sum over assets."""

    @classmethod
    def of(cls, manifest: Manifest) -> ArrivalRules:
        """The rules of a policy: its bars' grid from the training data, its largest exposure from its ledger."""
        interval_ms = manifest.ledger.interval_ms
        phase_ms = _phase(manifest.training_data.start, interval_ms)
        return cls.for_ledger(manifest.ledger.config, interval_ms, phase_ms, manifest.action_dim)

    @classmethod
    def for_ledger(cls, ledger: LedgerConfig, interval_ms: int, phase_ms: int | None, assets: int) -> ArrivalRules:
        """The rules of a ledger on so many assets, where a policy's manifest is not at hand."""
        ordered = min(MAX_MULTIPLIER * ledger.max_position_pct, ledger.limits.max_leverage)
        gross = min(assets * MAX_MULTIPLIER * ledger.max_position_pct, ledger.limits.max_leverage)
        return cls(
            interval_ms=interval_ms,
            phase_ms=phase_ms,
            ordered=ordered,
            most=drifted(ordered, ledger),
            most_gross=drifted(gross, ledger),
        )

    def check_grid(self, timestamp: int, place: Place) -> None:
        """Refuses a bar that does not open where the training's bars did.

        Raises:
            ArrivalError: names the next opening time before it.
        """
        if self.phase_ms is None or (late := (timestamp - self.phase_ms) % self.interval_ms) == 0:
            return
        raise ArrivalError(
            "off_grid",
            place,
            f"timestamp is {timestamp}, {interval_text(late)} after the opening of a {self._bar}",
            f"the opening time of a {self._bar}, as in training",
            f"send the bar's opening time ({timestamp - late}), or ask a policy that was trained on such bars",
        )

    def check_clock(self, timestamp: int, now_ms: float, max_age_ms: float, open_bars: bool, place: Place) -> float:
        """How long ago the bar closed, ms; negative where it has not.

        Args:
            now_ms: the clock of whoever receives it.
            max_age_ms: a bar that closed longer ago is refused; infinity takes every one.
            open_bars: takes a bar that has opened and not closed yet.

        Raises:
            ArrivalError: it is not closed yet, or stale.
        """
        age = now_ms - timestamp - self.interval_ms
        if age < -SKEW_MS and not (open_bars and timestamp <= now_ms + SKEW_MS):
            found = f"the bar of {_utc(timestamp)} has not closed; it is {_utc(now_ms)} here"
            cure = f"send a bar once it has closed, at {_utc(timestamp + self.interval_ms)}"
            raise ArrivalError("unclosed", place, found, "a closed bar", cure)
        if age > max_age_ms:
            found = f"the bar of {_utc(timestamp)} closed {interval_text(round(age / 1e3) * 1e3)} ago and is stale"
            cure = f"send the newest closed bar; it is {_utc(now_ms)} here"
            raise ArrivalError("stale", place, found, f"at most {interval_text(max_age_ms)}", cure)
        return age

    def check_order(self, timestamp: int, last: int, place: Place) -> None:
        """Refuses a bar older than the stream's last one.

        Raises:
            ArrivalError: it is older. The last one again is no error: it corrects that bar.
        """
        if timestamp < last:
            raise ArrivalError(
                "order",
                place,
                f"the bar of {_utc(timestamp)} came after that of {_utc(last)}",
                "bars in the order of time; only the last one may be sent again, corrected",
                "start another session_id and send its history to go back",
            )

    def check_account(self, exposure: float, unrealised_pnl: float, place: Place = ("account",)) -> None:
        """Refuses a position that the ledger cannot have ordered, and a profit that the position cannot have made.

        Both are fractions of equity. A position that was bought is worth more than what it gained, and a short one
        lost less than it is worth now; so |P&L| beyond the exposure on that side is another unit.

        Raises:
            ArrivalError: names the number and the bound.
        """
        if abs(exposure) > self.most:
            found = f"exposure {exposure:.10g} is beyond the ledger's largest {self.ordered:.4}"
            raise ArrivalError("exposure", (*place, "exposure"), found, "a fraction of equity", _per_cent(exposure))
        if abs(unrealised_pnl) > 1.0 + ROUNDING:
            found = f"unrealised_pnl {unrealised_pnl:.10g} is more than all equity"
            where = (*place, "unrealised_pnl")
            raise ArrivalError("pnl", where, found, "a fraction of equity", _per_cent(unrealised_pnl))
        gained_too_much = exposure > 0.0 and unrealised_pnl > exposure + ROUNDING
        lost_too_much = exposure < 0.0 and unrealised_pnl < exposure - ROUNDING
        if gained_too_much or lost_too_much:
            found = f"unrealised_pnl {unrealised_pnl:.10g} is more than the whole position, {exposure:.10g} of equity"
            where = (*place, "unrealised_pnl")
            raise ArrivalError("pnl", where, found, "a fraction of equity", _per_cent(unrealised_pnl))

    def check_gross(self, exposures: Sequence[float], place: Place = ("assets",)) -> None:
        """Refuses positions that together are beyond the ledger's leverage.

        Raises:
            ArrivalError: names the sum and the bound.
        """
        if len(exposures) > 1 and (gross := sum(map(abs, exposures))) > self.most_gross:
            found = f"the exposures sum to {gross:.10g}, beyond the ledger's largest {self.most_gross:.4}"
            raise ArrivalError(
                "exposure", place, found, "fractions of one equity", "send each as a share of all equity"
            )

    def check_close(self, close: float, before: float, place: Place) -> None:
        """Refuses a close that no market made of the one before.

        Raises:
            ArrivalError: it is more than MAX_PRICE_RATIO times it, or less than that part of it, or no price.
        """
        if not (0.0 < close < math.inf):
            raise ArrivalError("close", place, f"close is {close:.10g}", "a positive number", "skip the bar")
        if not before / MAX_PRICE_RATIO <= close <= before * MAX_PRICE_RATIO:
            found = f"close {close:.10g} is {_times(close, before)} the close before, {before:.10g}"
            cure = "send the price in the unit of the earlier bars, or start another session_id with its own history"
            raise ArrivalError("close", place, found, f"within a factor of {MAX_PRICE_RATIO:g}", cure)

    def check_fill(self, opened: float, close: float, funding: float) -> None:
        """Refuses an open that no bar with this close had, and a funding rate that nobody pays.

        Raises:
            ArrivalError: names which; orders are filled at opens, so an account would never get over it.
        """
        place = ("bar", "open")
        if not (0.0 < opened < math.inf):
            raise ArrivalError("close", place, f"open is {opened:.10g}", "a positive number", "skip the bar")
        if not opened / MAX_PRICE_RATIO <= close <= opened * MAX_PRICE_RATIO:
            found = f"close {close:.10g} is {_times(close, opened)} the open, {opened:.10g}"
            expected = f"within a factor of {MAX_PRICE_RATIO:g}"
            raise ArrivalError("close", place, found, expected, "send both in the same unit")
        if not abs(funding) <= 1.0:
            found = f"funding_rate is {funding:.10g}"
            raise ArrivalError("share", ("bar", "funding_rate"), found, "a fraction such as 0.0001", _per_cent(funding))

    def history(self, rows: Sequence[tuple[int, float]], now: int, who: str, place: Place) -> Closes:
        """The earlier bars that fill a new stream's windows, in the order of time, each once. A thousand of them are
        judged by a few calls.

        Args:
            rows: [timestamp, close] in any order; the same row may be there twice.
            now: the present bar's time, which is not among them.
            who: whose history, for the message: "this session is new here and".

        Raises:
            ArrivalError: fewer than HISTORY_BARS distinct ones, of another interval or grid, two closes of one time,
                a price that jumps, or not before `now`.
        """
        distinct: dict[int, float] = dict(rows)
        if len(distinct) < HISTORY_BARS:
            plural = "" if len(distinct) == 1 else "s"
            raise ArrivalError(
                "few_bars",
                place,
                f"{who} has {len(rows)} earlier bars: {len(distinct)} distinct bar{plural}, {HISTORY_BARS} needed",
                f"at least {HISTORY_BARS} closed bars of different times",
                "send `history`, the [timestamp, close] of the bars before this one",
            )
        if len(distinct) < len(rows):
            for timestamp, close in rows:
                if distinct[timestamp] != close:
                    both = f"{close} and {distinct[timestamp]}"
                    found = f"history has the bar of {_utc(timestamp)} twice, closing at {both}"
                    raise ArrivalError("order", place, found, "each bar once, closed", "send its final close only")
        times = sorted(distinct)
        if times[-1] >= now:
            found = f"history reaches the bar itself: its last is of {_utc(times[-1])}"
            raise ArrivalError("order", place, found, "bars before it", "leave the newest bar out")
        self._check_interval(times, place)
        self.check_grid(times[0], place)
        closes = [distinct[timestamp] for timestamp in times]
        if not _all_can_follow(closes):
            for before, after in pairwise(closes):
                self.check_close(after, before, place)
        return times, closes

    def _check_interval(self, times: list[int], place: Place) -> None:
        """Half of the steps must be one interval, and every step several: what is missing is a gap, not another bar."""
        steps = np.sort(np.diff(times))
        usual = int(steps[(len(steps) - 1) // 2])
        odd = next(map(int, steps[steps % self.interval_ms != 0]), None)
        if odd is None and usual == self.interval_ms:
            return
        apart = usual if usual != self.interval_ms or odd is None else odd
        text = f"{apart / SECOND_MS:g} s" if apart < HOUR_MS else interval_text(apart)
        raise ArrivalError(
            "interval",
            place,
            f"history is {text} apart",
            f"{interval_text(self.interval_ms)}: this policy was trained on {self._bar}s",
            f"send the closes of {self._bar}s, or ask a policy that was trained on others",
        )

    @property
    def _bar(self) -> str:
        return f"{interval_text(self.interval_ms)} bar"


def _all_can_follow(closes: Sequence[float]) -> bool:
    """Whether `check_close` would refuse none of neighbouring closes: all of them at once."""
    prices = np.array(closes)
    with np.errstate(all="ignore"):
        after, before = prices[1:], prices[:-1]
        good = (
            (after > 0.0) & (after < np.inf) & (before / MAX_PRICE_RATIO <= after) & (after <= before * MAX_PRICE_RATIO)
        )
    return bool(good.all())


def missing_bars(times: Sequence[int], interval_ms: int) -> int:
    """How many bars are missing between the first and the last of sorted, distinct opening times."""
    return (times[-1] - times[0]) // interval_ms - (len(times) - 1)


def drifted(ordered: float, ledger: LedgerConfig) -> float:
    """The largest |exposure| an ordered one can have become, by the ledger's own lines, at its next close.

    A long position grows in a rise while it is below all equity, and in a fall above it; a short one in a rise.
    """
    signs = (1.0, -1.0) if ledger.allow_short else (1.0,)
    largest = ordered
    for sign in signs:
        for move in (ONE_BAR_MOVE, -ONE_BAR_MOVE):
            exposure, returns = np.array([sign * ordered]), np.array([move])
            growth = grow(exposure, np.float64(0.0), returns)
            largest = max(largest, float(abs(drift(exposure, returns, growth)[0])))
    return largest * (1.0 + ROUNDING)


def _phase(start: str, interval_ms: int) -> int | None:
    """Where in an interval the bars that begin at `start` (ISO 8601) open; None for what is no time."""
    try:
        opened = datetime.fromisoformat(start)
    except ValueError:
        return None
    opened = opened if opened.tzinfo else opened.replace(tzinfo=UTC)
    return round(opened.timestamp() * SECOND_MS) % interval_ms


def _per_cent(value: float) -> str:
    return (
        f"divide per cent by 100 ({value / 100.0:.10g})" if abs(value) <= 1e4 else "divide it by the account's equity"
    )


def _times(close: float, before: float) -> str:
    ratio = close / before
    return f"{ratio:.4g} times" if ratio >= 1.0 else f"1/{1.0 / ratio:.4g} of" if ratio else "nothing of"


def _utc(time_ms: float) -> str:
    return datetime.fromtimestamp(time_ms / SECOND_MS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
