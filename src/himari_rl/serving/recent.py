"""What the server's page shows of its journal: the newest answers, and equity of policy and of multiplier 1.0.

Equity needs bars, which /v1/decide carries and a bare state does not. The requests have closes alone, so both accounts
are filled at the close that was decided on, on the policy's own ledger. A thread reads, on a connection of its own.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from himari_rl.features.live import Signal
from himari_rl.journal.entry import ANSWER, HALT, RESUME, Stored
from himari_rl.journal.store import DecisionJournal, open_journal
from himari_rl.monitoring.page import Curve, PageTable
from himari_rl.policy.arrival import ArrivalError
from himari_rl.policy.book import Book, closed_bars
from himari_rl.schema import ACTIONS, SECOND_MS
from himari_rl.serving.answered import assets_of
from himari_rl.serving.jobs import in_daemon, said
from himari_rl.serving.slot import Slot

RECENT, HALTS = 20, 5
MOST = 5_000
"""Entries that a first look goes back."""
CURVES = 6
LOOK_S = 1.0
NO_HALTS = "no halts: this server asks a policy, the runner halts"


@dataclass
class _Account:
    """One session on paper: as the policy said, and with multiplier 1.0."""

    books: tuple[Book, Book]
    last: tuple[float, ...]  # closes
    policy: list[float] = field(default_factory=list)
    one: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class JournalShown:
    """What a page has of the journal."""

    trouble: str = ""
    curves: Sequence[Curve] = ()
    tables: Sequence[PageTable] = ()


class AnswersView:
    """Follows the journal from look to look; one event loop asks.

    Args:
        place: of the journal, as the settings say it.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._journal: DecisionJournal | None = None
        self._seen = -1
        self._accounts: OrderedDict[tuple[str, str], _Account] = OrderedDict()
        self._look: asyncio.Task[JournalShown] | None = None
        self._shown = JournalShown()

    async def shown(self, slot: Slot | None) -> JournalShown:
        """The newest; what the last look found, where this one takes long."""
        if self._look is None:
            self._look = asyncio.create_task(in_daemon(lambda: self._now(slot)))
        await asyncio.wait({self._look}, timeout=LOOK_S)
        if self._look.done():
            look, self._look = self._look, None
            self._shown = look.result()
        return self._shown

    def _now(self, slot: Slot | None) -> JournalShown:
        try:
            journal = self._journal = self._journal or open_journal(self._place, create=False)
            if self._seen < 0:
                newest = journal.newest(1)
                self._seen = max(0, newest[-1].number - MOST) if newest else 0
            for row in journal.entries(self._seen, (ANSWER,)):
                self._seen = row.number
                if slot is not None and "request" in (body := row.entry.said):
                    self._take(row, body, slot)
            recent = journal.newest(RECENT, kind=ANSWER)
            halts = [*journal.newest(HALTS, kind=HALT), *journal.newest(HALTS, kind=RESUME)]
        except Exception as error:  # noqa: BLE001  # the page says it
            self._journal = None
            return JournalShown(trouble=f"the journal cannot be read: {said(error)}")
        curves = [
            Curve(name=f"Equity of {session}, {client}", policy=list(each.policy), one=list(each.one))
            for (client, session), each in self._accounts.items()
        ]
        return JournalShown("", curves, (_halts(halts), _recent(recent)))

    def _take(self, row: Stored, body: Mapping[str, Any], slot: Slot) -> None:
        """A bar of a session. One that came again, or was corrected, was filled by then."""
        request = body["request"]
        assets, session = assets_of(request, slot.symbols), request.get("session_id")
        if session is None or row.entry.bar is None or tuple(body["symbols"]) != slot.symbols or not assets:
            return
        key, bar, own = (body["client"], session), row.entry.bar, [assets[symbol] for symbol in slot.symbols]
        try:
            account = self._accounts.get(key)
            if account is None:
                account = self._accounts[key] = _begun(own, slot)
            self._accounts.move_to_end(key)
            if account.books[0].last is not None and bar <= account.books[0].last:
                return
            closes = tuple(float(asset["bar"]["close"]) for asset in own)
            bars, signals = closed_bars(bar, account.last, closes), [_signal(asset["signal"]) for asset in own]
            given = _multipliers(body, slot.symbols)
            for book, curve, sized in zip(
                account.books, (account.policy, account.one), (given, [1.0] * len(own)), strict=True
            ):
                curve.append(book.close(bars, signals).equity_usd)
                book.order(sized)
            account.last = closes
        except ArrivalError:  # bars of another grid or price: its curve begins anew with its next history
            self._accounts.pop(key, None)
        while len(self._accounts) > CURVES:
            self._accounts.popitem(last=False)


def _begun(assets: Sequence[Mapping[str, Any]], slot: Slot) -> _Account:
    """Both accounts, with the bars of the request's history that all symbols have."""
    past = [dict(asset.get("history") or ()) for asset in assets]
    times = sorted(set.intersection(*(set(each) for each in past)))
    ledger = slot.policy.manifest.ledger.config
    books = (Book(slot.symbols, slot.arrival, ledger), Book(slot.symbols, slot.arrival, ledger))
    for time in times:
        closes = [each[time] for each in past]
        for book in books:
            book.begin(closed_bars(time, closes, closes))
    last = [each[times[-1]] for each in past] if times else [asset["bar"]["close"] for asset in assets]
    return _Account(books, tuple(map(float, last)))


def _multipliers(body: Mapping[str, Any], symbols: Sequence[str]) -> list[float]:
    named: Mapping[str, float] = body.get("multipliers") or {symbols[-1]: body["multiplier"]}
    return [named[symbol] for symbol in symbols]


def _signal(said: Mapping[str, Any]) -> Signal:
    risk = float(said["cascade_risk"])
    return Signal(ACTIONS[said["action"]], float(said["confidence"]), int(said["tier"][1]), risk)


def _halts(rows: Sequence[Stored]) -> PageTable:
    newest = sorted(rows, key=lambda row: row.number, reverse=True)[:HALTS]
    told = [
        (
            row.entry.at[:19].replace("T", " "),
            row.entry.kind,
            f"{row.entry.strategy} {row.entry.symbol}".strip(),
            str(row.entry.said.get("reason", "")),
            str(row.entry.said.get("why", "")),
        )
        for row in newest
    ]
    columns = ("written", "kind", "account", "cause", "why")
    return PageTable(title="Halts of a runner on this journal", columns=columns, rows=told, nothing=NO_HALTS)


def _recent(rows: Sequence[Stored]) -> PageTable:
    told = []
    for row in reversed(rows):
        entry, body = row.entry, row.entry.said
        bar = "" if entry.bar is None else datetime.fromtimestamp(entry.bar / SECOND_MS, UTC).strftime("%Y-%m-%d %H:%M")
        numbers = (f"{body['multiplier']:.3f}", f"{body['confidence']:.3f}")
        at = entry.at[:19].replace("T", " ")
        told.append((f"{row.number:,}", at, entry.strategy, entry.symbol, bar, *numbers, body["path"], body["version"]))
    columns = ("entry", "written", "session or client", "symbol", "bar", "multiplier", "confidence", "route", "version")
    return PageTable(title="Recent decisions", columns=columns, rows=told)
