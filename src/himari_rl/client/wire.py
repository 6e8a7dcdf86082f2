"""HTTP under one deadline: connect, send, read and retries together, on the monotonic clock.

httpx's own time-outs are for one operation each: a server that sends a byte every 100 ms satisfies all of them for
ever. So calls run on an event loop of their own in a thread, where a whole exchange is cancelled when its time is over,
and whoever asked waits on the clock, not on the exchange: even a loop that hangs cannot hold an answer up.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitedTooLongError
from time import monotonic
from typing import Any, TypeVar

import anyio
import httpx

from himari_rl.client.answers import BROKEN, CLIENT_ERROR, INVALID, REFUSED, SERVER_ERROR, TIMEOUT

T = TypeVar("T")
REQUEST_ID = "x-request-id"
"""A server that says it again shows which question its answer is to. A proxy may put an id of its own in its place."""
_SHOWN = {"content-type": "application/json", "accept-encoding": "identity"}
SPARE_S, SPARE_SHARE = 0.015, 0.1
"""Of the deadline, the smaller: kept for what comes after the wait, as a busy machine wakes nobody on the dot."""
MOST_SHARE = 1 / 3
LATE_TIMES, FORGET = 1.5, 0.99
"""More is kept where waits came back late: so many times the largest lateness, which every call forgets a little of."""
GRACE_S = 0.05
"""So much later the exchange ends itself: whoever asked has gone on by then, and does not share the interpreter's lock
with the clearing away."""
MAX_ANSWER_BYTES = 1 << 20
"""More is no answer of a policy server and is not read to its end."""


class CallError(Exception):
    """A call that brought nothing.

    Args:
        cause: in one word, one of answers.CAUSES.
    """

    def __init__(self, cause: str, detail: str) -> None:
        self.cause, self.detail = cause, detail
        super().__init__(f"{cause}: {detail}")


class Margin:
    """What is kept of a deadline for coming back from the wait, learned from how late it was before.

    A wait that ends at 135 ms comes back at 135.1 ms on a machine with a CPU to spare, and at 165 ms where other
    programs take turns on it: then it has to end earlier, or every time-out is an answer after the deadline.
    """

    def __init__(self) -> None:
        self.late_s = 0.0

    def of(self, timeout_s: float) -> float:
        """Seconds before the deadline at which the wait ends."""
        least = min(SPARE_S, SPARE_SHARE * timeout_s)
        return min(max(least, LATE_TIMES * self.late_s), MOST_SHARE * timeout_s)

    def woke(self, late_s: float) -> None:
        """A wait is over, so much after its end; below 0 when its answer came before."""
        self.late_s = max(late_s, FORGET * self.late_s)


class Wire:
    """A server's address, asked from any thread."""

    def __init__(self, url: str, headers: Callable[[], Mapping[str, str]], retries: int) -> None:
        self._url, self._headers, self._retries = url.rstrip("/"), headers, retries
        self._run, self._ids = secrets.token_hex(4), itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self.margin = Margin()
        self._thread = threading.Thread(target=self._loop.run_forever, name="himari-client", daemon=True)
        self._thread.start()
        # before the first question, not within its deadline: the certificates and the backend take 50 ms to load
        self._trust = httpx.create_ssl_context(trust_env=False)
        self._client = self._opened()
        self.spawn(anyio.sleep(0.0)).result()  # httpx's way to the loop

    def call(self, method: str, path: str, body: bytes | None, timeout_s: float) -> bytes:
        """The body of a 200 answer.

        Raises:
            CallError: there was none in time.
        """
        deadline = monotonic() + timeout_s - self.margin.of(timeout_s)
        future = self.spawn(self.exchange(method, path, body, deadline, GRACE_S))
        try:
            return future.result(max(0.0, deadline - monotonic()))
        except (WaitedTooLongError, TimeoutError) as error:
            raise CallError(TIMEOUT, f"no answer within {1e3 * timeout_s:.0f} ms") from error
        finally:
            self.margin.woke(monotonic() - deadline)

    def spawn(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Runs something on the loop, in the background."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def exchange(
        self, method: str, path: str, body: bytes | None, deadline: float, grace_s: float = 0.0
    ) -> bytes:
        """`call`, on the loop; nothing is tried again after the deadline, and all ends `grace_s` later."""
        tries = 0
        while True:
            try:
                async with asyncio.timeout(max(0.0, deadline + grace_s - monotonic())):
                    return await self._once(method, path, body)
            except TimeoutError as error:
                raise CallError(TIMEOUT, "no answer before the deadline") from error
            except httpx.TransportError as error:
                tries, cause = tries + 1, _cause(error)
                if cause == INVALID or tries > self._retries or monotonic() >= deadline:
                    raise CallError(cause, f"{type(error).__name__}: {error}") from error
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # a body that is not what its header says
                raise CallError(INVALID, f"{type(error).__name__}: {error}") from error

    def _opened(self) -> httpx.AsyncClient:
        """Connections that are none yet."""
        return httpx.AsyncClient(timeout=None, trust_env=False, verify=self._trust)  # nosec B113 - the deadline is kept

    def forget(self) -> None:
        """Gives up the connections, as after an answer that was none: what is left of it is no answer to anything."""
        self.spawn(self._forgotten())

    async def _forgotten(self) -> None:
        before, self._client = self._client, self._opened()
        await before.aclose()

    async def _once(self, method: str, path: str, body: bytes | None) -> bytes:
        asked = f"{self._run}-{next(self._ids)}"
        headers = {**_SHOWN, REQUEST_ID: asked, **self._headers()}
        request = self._client.build_request(method, self._url + path, content=body, headers=headers)
        response = await self._client.send(request, stream=True)
        try:
            said = response.headers.get(REQUEST_ID, asked)
            if said != asked and said.startswith(self._run):  # where a server sent more than one answer to another
                raise CallError(INVALID, f"the answer is to question {said[:80]}, not to {asked}")
            if (coding := response.headers.get("content-encoding", "identity")) != "identity":
                raise CallError(INVALID, f"the answer is packed ({coding[:80]}), which was not asked for")
            read = bytearray()
            async for part in response.aiter_raw():
                read += part
                if len(read) > MAX_ANSWER_BYTES:
                    raise CallError(INVALID, f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        finally:
            await response.aclose()
        if response.status_code != 200:
            raise CallError(_cause_of(response.status_code), f"status {response.status_code}: {_shown(read, response)}")
        return bytes(read)

    def close(self) -> None:
        """Ends the loop; whatever is under way is dropped."""
        if self._thread.is_alive():
            future = self.spawn(self._closed())
            try:
                future.result(1.0)
            except (WaitedTooLongError, TimeoutError):
                future.cancel()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5.0)
            if not self._thread.is_alive():
                self._loop.close()

    async def _closed(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()


def _cause_of(status: int) -> str:
    """A redirect is followed by nobody: where a question goes is written in the settings, not in an answer."""
    if status >= 500:
        return SERVER_ERROR
    return CLIENT_ERROR if status >= 400 else INVALID


def _shown(read: bytearray, response: httpx.Response) -> str:
    """What an answer that is none says of itself."""
    if place := response.headers.get("location"):
        return f"it is at {place[:200]}, where nothing is asked"
    return bytes(read[:200]).decode(errors="replace")


def _cause(error: httpx.TransportError) -> str:
    """httpx says that what came is no HTTP, and that nothing more came, with one class and two texts."""
    if isinstance(error, httpx.ConnectError):
        return REFUSED
    if isinstance(error, httpx.RemoteProtocolError):
        said = str(error).lower()
        return BROKEN if "disconnect" in said or "closed" in said else INVALID
    return BROKEN
