"""Long requests take turns: in each turn of the event loop one, or as many as take no longer than all else in it did.

uvloop takes in one new connection a turn. Were every batch that has come decided in one turn, each of 64 new
connections would wait for the batches of all before it, and a turn would last as long as 64 of them: seconds until the
last connection's first answer, while the first ones get many. A short request behind a long one now waits for that one
alone, whatever else has come. But with one batch a turn and no more, hundreds of clients who ask again as soon as they
are refused take nearly all of each turn, and who was let in waits for sixty of them: seconds again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from time import perf_counter

LONG = 8_192
"""Bytes of a body from which on it is long, some half a millisecond; every batch is, however short."""
BATCH = "/v1/batch"
MOST_S = 0.005
"""Of a turn for long requests beside the first, however much else there was: probes wait for the end of the turn."""


class Turns:
    """Who waits for a turn, first come, first served; by whoever waits, who may leave."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, Callable[[], None]] = OrderedDict()
        self._called = False
        self._since = 0.0
        """When the last of them was done, or the first one came."""

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, who: Hashable, work: Callable[[], None]) -> None:
        """Does `work` in its turn."""
        self._waiting[who] = work
        if not self._called:
            self._since = perf_counter()
            self._call()

    def leave(self, who: Hashable) -> None:
        """Forgets it."""
        self._waiting.pop(who, None)

    async def turn(self) -> None:
        """Waits for a turn."""
        come: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.join(come, lambda: None if come.done() else come.set_result(None))  # done: its task was cancelled
        try:
            await come
        finally:
            self.leave(come)

    def _call(self) -> None:
        self._called = True
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._called = False
        begun = perf_counter()
        end = begun + min(begun - self._since, MOST_S)
        try:
            while self._waiting:
                who, work = self._waiting.popitem(last=False)
                work()
                # the work of who waits by `turn` comes later: how long it takes is not known yet
                if isinstance(who, asyncio.Future) or perf_counter() >= end:
                    break
        finally:
            self._since = perf_counter()
            if self._waiting and not self._called:
                self._call()
