"""uvicorn's HTTP protocol, for which `Upgrade` is what RFC 9110 (7.8) lets a server make of it: nothing.

Java's HttpClient asks for h2c with its first request by default. httptools then ends the request behind its headers and
leaves the body to the protocol that was asked for; uvicorn speaks HTTP/1.1 on, so it answered a POST without its body
and dropped what came behind it. Here the head goes through the parser again without the offer, and the body after it.

It also counts what connections.py bounds: the bytes of a head, and the heads. And it bounds how many requests of one
connection wait behind the one that is being answered: uvicorn makes an object of each, and reads on after each answer.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from contextlib import suppress
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any, cast

import httptools
import orjson
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from himari_rl.serving.http.app import Api
from himari_rl.serving.http.connections import MOST_HEAD, TooLargeHeadError
from himari_rl.serving.http.refusals import HEAD_LARGE, HEAD_SLOW, Refusal

_OFFERS = (b"upgrade", b"http2-settings")
_INVALID = "Invalid HTTP request received."
MOST_BEHIND = 16
"""Requests that may wait behind the one that is being answered before no more is read of the connection."""
PIECE = 4_096
"""Bytes that the parser gets at once; the requests of one piece may wait too, some 230 at most."""


class _Flow(FlowControl):
    """As uvicorn's, but nothing is read on while requests wait behind the one that is being answered."""

    def __init__(self, transport: asyncio.Transport, behind: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._behind = behind

    def resume_reading(self) -> None:
        if self.read_paused and not self._behind():
            super().resume_reading()


class Http1Protocol(HttpToolsProtocol):
    """One connection on which every request is HTTP/1.1, whatever else its client could speak."""

    __slots__ = (
        "_answering",
        "_chunk",
        "_idle_since",
        "_idle_timer",
        "_later",
        "_offered",
        "_slack",
        "_unread",
        "heads",
    )
    # beside uvicorn's attributes in the instance's dictionary they would be more than CPython shares the keys of (30)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._offered = False
        """The request that the parser is in offers another protocol: it will come again without the offer."""
        self._answering: Any = None
        """The request that is being answered: not uvicorn's `cycle`, where a client has sent the next ones already."""
        self.heads = 0
        """Requests whose head has come whole."""
        self._unread = 0
        """Bytes since the chunk in which the last request ended; with `_slack`, which that chunk had, no head has
        more."""
        self._chunk = self._slack = 0
        """Bytes that came at once: just now, and with the end of the last request."""
        self._later = b""
        """What came behind more requests than may wait."""
        self._idle_since = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn's."""
        super().connection_made(transport)
        self.flow = _Flow(transport, lambda: bool(self.pipeline or self._later))

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, but for a request that offers an upgrade, has too many headers or stands behind many."""
        size = self._chunk = len(data)
        self._unread += size
        if self._later:
            self._put_off(data)
            return
        at = 0
        while at < size:
            if len(self.pipeline) >= MOST_BEHIND:
                self._put_off(data[at:])
                return
            try:
                self.parser.feed_data(data if size <= PIECE else data[at : at + PIECE])
                at += PIECE
                continue
            except httptools.HttpParserUpgrade as upgrade:
                self._offered = False
                if self.parser.get_method() != b"CONNECT":
                    data, at = self._without_offer() + data[at + upgrade.args[0] :], 0
                    size = len(data)
                    continue
                self._refuse()
            except httptools.HttpParserError as error:
                if isinstance(error.__context__, TooLargeHeadError):
                    self._answer_head(HEAD_LARGE, f"the head of the request has more than {MOST_HEAD} bytes")
                else:
                    self._refuse()
            return
        if self._unread > MOST_HEAD and self._in_head():
            self._answer_head(HEAD_LARGE, f"the head of the request has more than {MOST_HEAD} bytes")

    def on_response_complete(self) -> None:
        """As uvicorn's, but that one timer of an idle connection lives through many answers: uvicorn makes one an
        answer and takes it back. What has come comes before what is read next."""
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            self.flow.resume_reading()
            self._idle_since = self.loop.time()
            if self._idle_timer is None:
                self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._look_idle)
        if self._later and not self.transport.is_closing():
            self.loop.call_soon(self._go_on)

    def _look_idle(self) -> None:
        """Ends a connection that was idle for the keep-alive time; one that was not has its timer again."""
        self._idle_timer = None
        if self.waits() and not self._unread:  # else its next answer begins anew
            left = self._idle_since + self.timeout_keep_alive - self.loop.time()
            if left > 0.0:
                self._idle_timer = self.loop.call_later(left, self._look_idle)
            else:
                self.timeout_keep_alive_handler()

    def _put_off(self, data: bytes) -> None:
        """Keeps what is not parsed yet, and stops reading: nothing of it has been seen."""
        self._later += data
        self._unread -= len(data)
        self.flow.pause_reading()

    def _go_on(self) -> None:
        """Parses what was kept, as if it came now."""
        if self._later and len(self.pipeline) < MOST_BEHIND and not self.transport.is_closing():
            data, self._later = self._later, b""
            self.data_received(data)
            self.flow.resume_reading()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's, which tells only the newest of several requests that nobody is there to read their answers."""
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        # Each of these leads back here. What is left in a circle waits for the garbage collector, which under a flood
        # of connections then stops everything for 80 ms at a time.
        self.flow = self.cycle = self._answering = self._idle_timer = None  # type: ignore[assignment]
        self.pipeline.clear()

    def waits(self) -> bool:
        """Whether nothing is being answered, and no body of a request that is."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def unread(self) -> int:
        """Bytes of answers that the client has not taken, as far as they are more than the system's buffers hold.

        The system takes up what it lets go of in lumps of megabytes, so what it still holds counts too: a client that
        reads a little at a time is seen to read.
        """
        held = int(self.transport.get_write_buffer_size())
        if held and (wire := self.transport.get_extra_info("socket")) is not None:
            queued = array("i", [0])
            with suppress(OSError):
                ioctl(wire.fileno(), TIOCOUTQ, queued)
            held += queued[0]
        return held

    def give_up(self) -> None:
        """Ends a connection that brings no request, or reads no answer; says so to one that has begun a head."""
        if self.unread:
            self.transport.abort()  # a close would wait until it is read
        elif self._unread and self._in_head():
            self._answer_head(HEAD_SLOW, "the head of the request did not arrive in time")
        else:
            self.transport.close()

    def _in_head(self) -> bool:
        """Whether what comes next is of a head: the parser is in no body."""
        return not self.scope or "method" not in self.scope

    def _head_came(self) -> None:
        """Counts a whole head.

        Raises:
            TooLargeHeadError: it is larger than one may be.
        """
        if self._unread + self._slack > MOST_HEAD:  # else it cannot be
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > MOST_HEAD:
                raise TooLargeHeadError
        self.heads += 1

    def on_headers_complete(self) -> None:
        """As uvicorn's, unless the request comes again."""
        self._head_came()
        self._offered = self.parser.should_upgrade()
        if not self._offered:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """As uvicorn's, unless the request comes again."""
        self._unread, self._slack = 0, self._chunk
        if not self._offered:
            super().on_message_complete()

    def _refuse(self) -> None:
        self.logger.warning(_INVALID)
        self.send_400_response(_INVALID)

    def _answer_head(self, how: Refusal, detail: str) -> None:
        """Refuses a request that never became one, and ends the connection."""
        cast(Api, self.config.app).state.service.metrics.errors[how.status, how.cause] += 1
        if self.transport.is_closing():
            return
        body = orjson.dumps({"detail": detail})
        reason = {408: b"Request Timeout", 431: b"Request Header Fields Too Large"}[how.status]
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (how.status, reason, len(body)) + body)
        self.transport.close()

    def _without_offer(self) -> bytes:
        """The head of the request that the parser has just read, without the offer of another protocol."""
        parser = self.parser
        lines = [b"%b %b HTTP/%b" % (parser.get_method(), self.url, parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                kept = [part for part in value.split(b",") if part.strip().lower() not in _OFFERS]
                value = b",".join(kept)
            if name not in _OFFERS and (value or name != b"connection"):
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join([*lines, b"\r\n"])
