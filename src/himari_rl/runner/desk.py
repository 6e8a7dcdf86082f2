"""A desk: one strategy on the symbols of one policy. Its book, its memory and what its halts remember.

The journal is its only home: the newest decision holds what a restart needs (`snapshot`), and the bars before it are
those of the decisions before. So whatever was told is what a restarted desk goes on from, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from himari_rl.errors import ConfigError
from himari_rl.features.contract import CORRELATION
from himari_rl.features.live import Signal
from himari_rl.journal.entry import DECISION, HISTORY, Entry, entry_of
from himari_rl.journal.store import DecisionJournal
from himari_rl.policy.arrival import ArrivalRules
from himari_rl.policy.book import QUIET, Book, closed_bars
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.paper import ClosedBars
from himari_rl.runner.config import PortfolioConfig
from himari_rl.runner.drift import DriftWatch
from himari_rl.runner.halt import HaltWatch
from himari_rl.runner.policies import AsksPolicy
from himari_rl.runner.signals import Said, own_numbers
from himari_rl.schema import HOUR_MS, Bars

JOINED = "+"
MOMENTUM_MS = 4 * HOUR_MS


def window_bars(interval_ms: int) -> int:
    """Earlier bars that fill every window of the encoder."""
    return CORRELATION.window + 40 + MOMENTUM_MS // interval_ms


class Desk:
    """One account, on its way through the bars."""

    def __init__(
        self,
        strategy: str,
        policy: AsksPolicy,
        ledger: LedgerConfig,
        portfolio: PortfolioConfig,
        warm_bars: int,
        arm: str = "",
        also: Sequence[str] = (),
    ) -> None:
        self._also = also
        """Features that others read: a signal may carry them."""
        self.strategy, self.policy, self.symbols = strategy, policy, policy.symbols
        self.arm = arm
        """In a split: whether champion or challenger sizes it."""
        self.name = JOINED.join(policy.symbols)
        rules = ArrivalRules.for_ledger(ledger, policy.interval_ms, policy.phase_ms, len(policy.symbols))
        paper = portfolio.account == "paper"
        self.book = Book(
            policy.symbols,
            rules,
            ledger,
            equity_usd=portfolio.equity_usd,
            paper=paper,
            warm_bars=warm_bars,
            own=policy.own,
        )
        self._equity_usd = portfolio.equity_usd
        self.watch = HaltWatch()
        self.drift = None if policy.drift is None else DriftWatch(policy.drift, policy.symbols, policy.own)
        self.memory: str | None = None
        self.state: list[float] | None = None  # before a gap a recurrent policy decides it again
        self.waiting: dict[str, Said] = {}
        """Of several symbols: those of the newest bar that have come."""

    def closed(self, parts: Sequence[Said]) -> ClosedBars:
        """The bars of one close; without an open its close, which no paper account uses.

        Raises:
            SignalError: a feature that the policy reads is missing, or there is one that nobody reads.
        """
        return closed_bars(
            parts[0].timestamp,
            [part.close if part.open is None else part.open for part in parts],
            [part.close for part in parts],
            [part.tradable for part in parts],
            [part.funding for part in parts],
            [own_numbers(part.features, self.policy.own, part.symbol, self._also) for part in parts],
        )

    def snapshot(self) -> dict[str, Any]:
        """What a restart needs, as JSON types."""
        kept = {"book": self.book.snapshot(), "watch": self.watch.snapshot(), "memory": self.memory}
        kept |= {"arm": self.arm} if self.arm else {}
        return kept | ({} if self.memory is None else {"last_state": self.state})

    def restore(self, journal: DecisionJournal) -> bool:
        """Goes on where the journal ends; whether there was anything.

        Raises:
            ConfigError: the account was kept with another ledger: its equity and positions are not this one's.
        """
        needed = window_bars(self.policy.interval_ms)
        rows = [journal.newest(needed, kind=DECISION, strategy=self.strategy, symbol=s) for s in self.symbols]
        if not rows[-1]:
            return False
        history = journal.newest(1, kind=HISTORY, strategy=self.strategy, symbol=self.name)
        for row in history:
            self._require_same(row.entry.said)
        bars: dict[int, dict[int, tuple[float, float]]] = {}
        for row in history:
            for timestamp, *closes in row.entry.said["bars"]:
                bars[timestamp] = {asset: (close, close) for asset, close in enumerate(closes)}
        for asset, decided in enumerate(rows):
            for each in decided:
                said = each.entry.said
                assert each.entry.bar is not None
                bars.setdefault(each.entry.bar, {})[asset] = (said["open"] or said["close"], said["close"])
        whole = [(t, at) for t, at in sorted(bars.items()) if len(at) == len(self.symbols)]
        for timestamp, at in whole[-needed:]:
            opens, closes = zip(*(at[asset] for asset in range(len(self.symbols))), strict=True)
            self.book.begin(closed_bars(timestamp, opens, closes))
        if self.drift is not None:
            self.drift.restore([each.entry.said for each in rows[-1]], list(zip(*rows, strict=False)))
        kept = rows[-1][-1].entry.said["desk"]
        self.book.restore(kept["book"])
        same = kept.get("arm", "") in ("", self.arm)  # another policy's memory is none of ours
        self.watch, self.memory = HaltWatch.restored(kept["watch"]), kept["memory"] if same else None
        self.state = kept.get("last_state")
        return True

    def begin(self, histories: Mapping[str, Bars], before: int) -> Entry:
        """Takes the bars of before the first decision; what the journal says of them and of the ledger."""
        every = [histories[symbol] for symbol in self.symbols if symbol in histories]
        whole = len(every) == len(self.symbols)
        times = sorted(set.intersection(*(set(bars.timestamp.tolist()) for bars in every))) if whole else []
        times = [t for t in times if t < before]
        rows = [np.searchsorted(bars.timestamp, times) for bars in every]
        kept: list[list[float]] = []
        for number, timestamp in enumerate(times):
            closes = [float(bars.close[row[number]]) for bars, row in zip(every, rows, strict=True)]
            signals = [_signal(bars, int(row[number])) for bars, row in zip(every, rows, strict=True)]
            self.book.begin(closed_bars(timestamp, closes, closes), signals)
            kept.append([timestamp, *closes])
        bars = kept[-window_bars(self.policy.interval_ms) :]
        body = {"bars": bars, "sides": self.book.snapshot()["sides"]} | self._terms()
        return entry_of(HISTORY, body, strategy=self.strategy, symbol=self.name)

    def _terms(self) -> dict[str, Any]:
        """What the account is kept with."""
        ledger = LedgerSpec.of(self.book.ledger, self.policy.interval_ms).model_dump(mode="json")
        account = "given" if self.book.paper is None else "paper"
        return {"ledger": ledger, "equity_usd": self._equity_usd, "account": account}

    def _require_same(self, kept: Mapping[str, Any]) -> None:
        if other := [name for name, value in self._terms().items() if kept[name] != value]:
            found = f"{self.strategy} on {self.name} was begun with another {', '.join(other)}"
            raise ConfigError(found, "the same, as its account goes on", "use the same settings, or a new journal")

    def age_intervals(self, now_ms: float) -> float:
        """How many intervals ago the newest usable bar closed; 0 before the first."""
        if self.book.last is None:
            return 0.0
        return (now_ms - self.book.last - self.policy.interval_ms) / self.policy.interval_ms


def _signal(bars: Bars, row: int) -> Signal:
    said = bars.signals
    return QUIET if said is None else QUIET._replace(action=int(said.action[row]))
