"""The background work of a server, which goes on whatever happens to it.

    Jobs        runs named jobs for ever: what fails is a reason in /ready, a metric and a log line, and starts again
    in_daemon   a call in a thread that nobody has to wait for: a hung mount holds neither the loop nor the exit

asyncio.to_thread would do for the second, but its threads are joined when the loop closes, and a read that never comes
back would then keep a stopped server alive until it is killed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from himari_rl.monitoring.metrics import Metrics
from himari_rl.serving.journal import Journal

T = TypeVar("T")
PAUSE_S = 1.0
"""Between the failure of a job and its next start."""


class Jobs:
    """Named jobs that never end."""

    def __init__(self, metrics: Metrics, journal: Journal, pause_s: float = PAUSE_S) -> None:
        self.failing: dict[str, str] = {}
        """Why a job that failed last time it ran did so, by name; empty while all is well."""
        self._metrics, self._journal, self._pause_s = metrics, journal, pause_s
        self._tasks: list[asyncio.Task[None]] = []

    def repeat(self, name: str, step: Callable[[], Awaitable[object]], every_s: float) -> asyncio.Event:
        """Starts a job: `step`, and again `every_s` seconds after its end.

        Returns:
            what is set when the first step has ended, well or not.
        """
        tried = asyncio.Event()

        async def steps() -> None:
            while True:
                try:
                    await step()
                    self.failing.pop(name, None)
                finally:
                    tried.set()
                await asyncio.sleep(every_s)

        self.keep(name, steps)
        return tried

    def keep(self, name: str, job: Callable[[], Awaitable[None]]) -> None:
        """Starts a job that has a loop of its own; where it fails it begins anew after a pause."""
        self._tasks.append(asyncio.create_task(self._for_ever(name, job), name=name))

    async def stop(self) -> None:
        """Ends all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _for_ever(self, name: str, job: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await job()
            except Exception as error:  # noqa: BLE001  # whatever it was, it is said in three places, and the job goes on
                reason = said(error)
                self._metrics.job_failures[name] += 1
                if self.failing.get(name) != reason:
                    self._journal.event("job_failed", "ERROR", job=name, reason=reason)
                self.failing[name] = reason
            await asyncio.sleep(self._pause_s)


def said(error: BaseException) -> str:
    """An error that is not ours, in one line: its kind and its own words."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


async def in_daemon(call: Callable[[], T]) -> T:
    """What `call` gives or raises, from a daemon thread of its own."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None only where T has it

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except Exception as caught:  # noqa: BLE001  # raised again where it is awaited
            error = caught
        if not loop.is_closed():  # else nobody waits any more
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, name="himari-look", daemon=True).start()
    return await future


def background(every_s: float, throttled: bool, shadow: bool) -> dict[str, str]:
    """What goes on between requests, and what cannot where the CPU is taken away after each answer; for people."""
    said = {"follows": f"within requests, {every_s:g} s after the last look" if throttled else f"every {every_s:g} s"}
    if shadow:
        rare = "only while other requests are answered: not reliable here, use a steady profile"
        said["shadow"] = rare if throttled else "between requests"
    return said
