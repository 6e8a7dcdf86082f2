"""The server's journal: every decision is on the disk before it is answered, or it is not answered.

One daemon thread writes. Requests that come while it waits for the disk are its next group: one transaction, one fsync.
The event loop only puts a request into a bounded queue and awaits what becomes of it, so a disk that hangs holds
nothing but the requests that need it, and those not longer than `wait_s`.

While the journal cannot be written, no request is decided: each is refused with 503, and /ready says why. The thread
tries again by itself, with a write that changes nothing. A request that is refused after its entry was begun may be in
the journal without ever having been answered; the other way round never happens.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from himari_rl.errors import HimariError, StorageError
from himari_rl.journal.database import is_postgres, without_password
from himari_rl.journal.store import open_journal
from himari_rl.serving.answered import Answered, entries_of
from himari_rl.serving.errors import NotJournalledError
from himari_rl.serving.jobs import in_daemon, said
from himari_rl.serving.recent import AnswersView
from himari_rl.serving.settings import ServeSettings

if TYPE_CHECKING:
    from himari_rl.journal.entry import Entry
    from himari_rl.journal.store import DecisionJournal

GROUP = 1_000
"""Requests that are written with one fsync at most."""
PROBE_S = 0.5
"""Between two attempts while the journal cannot be written."""
_CURE = "try again; /ready says when the journal can be written"


class Numbers(NamedTuple):
    """Which entries of the journal an answer is: the first and the last."""

    first: int
    last: int


class _Waiting(NamedTuple):
    answered: Answered
    future: asyncio.Future[Numbers]
    loop: asyncio.AbstractEventLoop


class AnswerJournal:
    """A journal for one event loop.

    Args:
        place: an SQLite file, or postgresql://...
        wait_s: how long an answer waits for the disk at most.
        most: requests that may wait.
        event: writes a log line.
    """

    def __init__(self, place: str, *, wait_s: float, most: int, event: Callable[..., None]) -> None:
        self.place = without_password(place) if is_postgres(place) else place
        self.view = AnswersView(place)
        self.written = 0
        """Entries since the start."""
        self._url, self._wait_s, self._most, self._event = place, wait_s, most, event
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._journal: DecisionJournal | None = None
        self._failing = f"the journal {self.place} is not open yet"
        self._since: float | None = None  # when the write in hand began
        self._tried, self._thread = threading.Event(), threading.Thread(target=self._work, daemon=True)

    @property
    def trouble(self) -> str:
        """Why the journal cannot be written now; empty where it can."""
        since = self._since
        if since is not None and monotonic() - since > self._wait_s:
            return f"a write to the journal {self.place} has not come back for {monotonic() - since:.0f} s"
        return self._failing

    def require_writable(self) -> None:
        """Refuses a request before anything is decided.

        Raises:
            NotJournalledError: the journal cannot be written, or too many wait for it.
        """
        if trouble := self.trouble:
            raise NotJournalledError(f"no decision is made without the journal: {trouble}", cure=_CURE)
        if self._queue.qsize() >= self._most:
            raise NotJournalledError(f"{self._most} answers wait for the journal {self.place}", cure=_CURE)

    async def keep(self, answered: Answered) -> Numbers:
        """Returns when the answer is on the disk.

        Raises:
            NotJournalledError: it is not known to be.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Numbers] = loop.create_future()
        self._queue.put(_Waiting(answered, future, loop))
        try:
            return await asyncio.wait_for(future, self._wait_s)
        except TimeoutError as error:
            found = f"the journal {self.place} did not take the decision within {self._wait_s:g} s"
            raise NotJournalledError(found, cure=_CURE) from error

    async def start(self, wait_s: float) -> None:
        """Begins to write; returns when the journal was opened, or could not be, or after `wait_s`."""
        self._thread.start()
        await in_daemon(lambda: self._tried.wait(wait_s))

    async def stop(self, wait_s: float) -> None:
        """Writes what waits, and ends; not later than after `wait_s`."""
        self._queue.put(None)
        await in_daemon(lambda: self._thread.join(wait_s))

    def _work(self) -> None:
        while (group := self._group()) is not None:
            self._since = monotonic()
            try:
                self._write(group)
            except Exception as error:  # noqa: BLE001  # whatever it was: these requests are refused, and it is said why
                self._fail(group, str(error) if isinstance(error, HimariError) else said(error))
            else:
                if self._failing and self._tried.is_set():
                    self._event("journal_writes", journal=self.place)
                self._failing = ""
            self._since = None
            self._tried.set()
        if self._journal is not None:
            self._journal.close()

    def _group(self) -> list[_Waiting] | None:
        """All that wait; none after a while, if the journal fails and is to be tried; None at the end."""
        if not self._tried.is_set():
            return []
        group: list[_Waiting] = []
        with suppress(queue.Empty):
            one = self._queue.get(timeout=PROBE_S if self._failing else None)
            while one is not None:
                group.append(one)
                if len(group) == GROUP:
                    return group
                one = self._queue.get_nowait()
            if group:
                self._queue.put(None)  # the end, after these
                return group
            return None
        return group

    def _write(self, group: list[_Waiting]) -> None:
        if self._journal is None:
            self._journal = open_journal(self._url)
        if not group:
            self._journal.probe()
            return
        entries: list[Entry] = []
        spans: list[tuple[_Waiting, int, int]] = []
        for one in group:
            if one.future.done():  # it waited too long and was refused
                continue
            try:
                own = entries_of(one.answered)
            except Exception as error:  # noqa: BLE001  # a mistake of ours in one request is not the others'
                _tell([(one, NotJournalledError(f"this answer cannot be journalled: {said(error)}"))])
                continue
            spans.append((one, len(entries), len(entries) + len(own) - 1))
            entries += own
        written = self._journal.append(entries)
        self.written += len(written)
        _tell([(one, Numbers(written[first].number, written[last].number)) for one, first, last in spans])

    def _fail(self, group: list[_Waiting], reason: str) -> None:
        if reason != self._failing:
            self._event("journal_failed", "ERROR", journal=self.place, reason=reason)
        self._failing = reason
        _tell(
            [(one, NotJournalledError(f"the decision could not be journalled: {reason}", cure=_CURE)) for one in group]
        )
        if self._journal is not None:
            journal, self._journal = self._journal, None  # the next attempt begins with a new connection
            with suppress(StorageError, OSError):
                journal.close()


def _tell(results: list[tuple[_Waiting, Numbers | NotJournalledError]]) -> None:
    """Ends the waits, in the event loop, with one call."""

    def tell() -> None:
        for one, result in results:
            if one.future.done():
                continue
            if isinstance(result, NotJournalledError):
                one.future.set_exception(result)
            else:
                one.future.set_result(result)

    if results:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            results[0][0].loop.call_soon_threadsafe(tell)


def journal_of(settings: ServeSettings, event: Callable[..., None]) -> AnswerJournal:
    """The journal that the settings name."""
    return AnswerJournal(settings.journal, wait_s=settings.journal_wait_s, most=settings.journal_queue, event=event)
