"""The kill switch: what halts an account, holds through any restart, and ends only as it is written.

A halt and a resume are entries of the journal, and the journal alone says what is halted: a process killed with -9
finds on its return what it left, `himari run halt` reaches every runner on the journal, and nobody can halt or go on
without a line that says why. A halt is of one account (strategy and symbols) or, by hand, of all ("*").

    daily_loss   equity marked at closes, since the start of the UTC day    ends with the next UTC day
    drawdown     since its highest                                          ends by hand alone
    volatility   of the last 20 bars, the largest of any symbol             ends below four fifths of the limit
    stale        the newest bar that could be used is too old               ends with so many bars in a row
    drift        a feature is no longer as in training (drift.py)           ends with bars like the training's
    harm         an A/B test has shown the challenger to be worse           ends by hand alone
    hand         somebody said so                                           ends by hand alone
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from himari_rl.errors import ConfigError
from himari_rl.journal.entry import HALT, RESUME, Entry, entry_of
from himari_rl.journal.store import DecisionJournal
from himari_rl.policy.book import Observed
from himari_rl.policy.drift import Strayed
from himari_rl.runner.config import HaltConfig
from himari_rl.runner.signals import EVERY
from himari_rl.schema import DAY_MS

HAND, DAILY_LOSS, DRAWDOWN, VOLATILITY, STALE = "hand", "daily_loss", "drawdown", "volatility", "stale"
DRIFTED, HARM = "drift", "harm"
CALMER = 0.8  # of the limit: a volatility that hovers about it does not switch to and fro


@dataclass(frozen=True, kw_only=True)
class Halted:
    """One cause that halts one account, or all."""

    strategy: str
    symbols: str
    cause: str
    why: str
    at: str  # ISO 8601, UTC
    bar: int | None


@dataclass
class HaltWatch:
    """What the rules remember of one account; kept with its decisions."""

    peak: float = -math.inf  # highest log equity
    fresh: int = 0  # bars in a row without one missing
    strayed: int = 0  # bars in a row unlike training's; below 0 so many like them

    def snapshot(self) -> dict[str, Any]:
        """As JSON types."""
        peak = None if math.isinf(self.peak) else self.peak
        return {"peak": peak, "fresh": self.fresh, "strayed": self.strayed}

    @classmethod
    def restored(cls, kept: Mapping[str, Any]) -> HaltWatch:
        """From a snapshot."""
        peak = -math.inf if kept["peak"] is None else kept["peak"]
        return cls(peak=peak, fresh=kept["fresh"], strayed=kept.get("strayed", 0))


@dataclass
class Switch:
    """What is halted now, by the journal."""

    journal: DecisionJournal
    config: HaltConfig
    _seen: int = 0
    _halts: dict[tuple[str, str, str], Halted] = field(default_factory=dict)

    def refresh(self) -> None:
        """Takes what was halted and resumed since the last look, by whomever."""
        for row in self.journal.entries(self._seen, (HALT, RESUME)):
            self._seen = row.number
            entry, said = row.entry, row.entry.said
            if entry.kind == HALT:
                key = (entry.strategy, entry.symbol, said["reason"])
                found = Halted(
                    strategy=entry.strategy,
                    symbols=entry.symbol,
                    cause=said["reason"],
                    why=said["why"],
                    at=entry.at,
                    bar=entry.bar,
                )
                self._halts.setdefault(key, found)
            else:
                self._ended(entry, said["reason"])

    def _ended(self, entry: Entry, cause: str) -> None:
        """By hand everything of an account ends, or of all; by a rule its own cause."""
        for key in list(self._halts):
            strategy, symbols, own = key
            here = entry.strategy == EVERY or (strategy, symbols) == (entry.strategy, entry.symbol)
            if here and cause in (HAND, own):
                del self._halts[key]

    def halted(self, strategy: str, symbols: str) -> list[Halted]:
        """What halts an account now."""
        return [
            h for h in self._halts.values() if h.strategy == EVERY or (h.strategy, h.symbols) == (strategy, symbols)
        ]

    @property
    def active(self) -> list[Halted]:
        """Everything that is halted."""
        return list(self._halts.values())

    def judge(
        self, strategy: str, symbols: str, seen: Observed, watch: HaltWatch, strayed: Sequence[Strayed] = ()
    ) -> list[Entry]:
        """What the rules halt and what they end, at a close that was taken; `strayed` is what drifts there."""
        config, position = self.config, seen.position
        watch.peak = max(watch.peak, position.log_equity)
        watch.fresh = 0 if seen.missing else watch.fresh + 1
        watch.strayed = max(watch.strayed, 0) + 1 if strayed else min(watch.strayed, 0) - 1
        lost = 0.0 if seen.day_ends else -math.expm1(position.log_equity - position.day_log_equity)
        fallen, moved = -math.expm1(position.log_equity - watch.peak), float(seen.volatility.max())
        now = {h.cause: h for h in self.halted(strategy, symbols) if h.strategy != EVERY}
        rules = {
            DAILY_LOSS: (lost, config.daily_loss, f"{100 * lost:.2f} % of the day's equity are lost"),
            DRAWDOWN: (fallen, config.drawdown, f"equity is {100 * fallen:.2f} % below its highest"),
            VOLATILITY: (moved, config.volatility, f"volatility is {moved:.4f} a bar"),
            STALE: (float(seen.missing), config.stale_bars, f"{seen.missing} bars are missing"),
            DRIFTED: (float(watch.strayed), config.drift_bars or math.inf, f"{strayed[0] if strayed else ''}"),
        }
        made = []
        for cause, (value, limit, why) in rules.items():
            if value >= limit and value > 0.0 and cause not in now:
                made.append(_entry(HALT, strategy, symbols, cause, f"{why}; the limit is {limit:g}", seen.timestamp))
        for cause in now.keys() & set(config.resume):
            why = self._over(cause, now[cause], seen, moved, watch)
            if why:
                made.append(_entry(RESUME, strategy, symbols, cause, why, seen.timestamp))
        return made

    def _over(self, cause: str, halt: Halted, seen: Observed, moved: float, watch: HaltWatch) -> str:
        """Why a halt ends by its rule; empty where it does not."""
        if cause == DAILY_LOSS and halt.bar is not None and seen.timestamp // DAY_MS > halt.bar // DAY_MS:
            return "another UTC day has begun"
        if cause == VOLATILITY and moved < CALMER * self.config.volatility:
            return f"volatility is {moved:.4f}, below {CALMER:g} of the limit"
        if cause == DRIFTED and -watch.strayed >= self.config.fresh_bars:
            return f"{-watch.strayed} bars in a row are like training's"
        if cause == STALE and watch.fresh >= self.config.fresh_bars:
            return f"{watch.fresh} bars in a row have come"
        return ""

    def stale(self, strategy: str, symbols: str, age_intervals: float, watch: HaltWatch) -> list[Entry]:
        """What a feed without a usable bar for so many intervals halts."""
        limit = self.config.stale_bars
        if age_intervals < limit or any(h.cause == STALE for h in self.halted(strategy, symbols)):
            return []
        watch.fresh = 0
        why = f"no usable bar for {age_intervals:.1f} intervals; the limit is {limit:g}"
        return [_entry(HALT, strategy, symbols, STALE, why, None)]


def _entry(kind: str, strategy: str, symbols: str, cause: str, why: str, bar: int | None) -> Entry:
    return entry_of(kind, {"reason": cause, "why": why}, strategy=strategy, symbol=symbols, bar=bar)


def harm(strategy: str, symbols: str, why: str) -> Entry:
    """A halt of an account whose policy an A/B test has stopped."""
    return _entry(HALT, strategy, symbols, HARM, why, None)


def by_hand(kind: str, why: str, strategy: str = EVERY, symbols: str = EVERY) -> Entry:
    """A halt or a resume that somebody orders.

    Raises:
        ConfigError: without a reason.
    """
    if not why.strip():
        raise ConfigError(f"a {kind} without a reason", "why", 'give --why "..."')
    return _entry(kind, strategy, symbols, HAND, why.strip(), None)
