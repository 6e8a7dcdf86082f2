"""An optional shortcut, behind ServeSettings.turbo (HIMARI_TURBO); skip this file to read how the server works.

uvicorn's HTTP protocol, which answers an ordinary POST /predict, /v1/decide or /v1/batch before it becomes an ASGI
request, with the same bytes.
It overrides private parts of uvicorn: pyproject.toml bounds uvicorn's version, and a test names every part that is used
and fails when one of them changes.

A request that arrived whole, on a connection with nothing else to do, needs no task, no events and no queue: its body
goes to FastPath and the bytes go out, from within the call that received them. Every other request, and each one
that it declines, takes the ordinary path with the very bytes that came. httptools parses both.

A recurrent policy decides many states together in a third of the time, and a busy server finds many POST /predict in
one turn of its event loop: they are answered together at its end. Nobody waits longer: uvloop sends at the end of one.
"""

from __future__ import annotations

from typing import Any, cast

from himari_rl.serving.http.app import Api
from himari_rl.serving.http.fast_path import FastPath
from himari_rl.serving.http.refusals import BUSY, detailed
from himari_rl.serving.http.turns import BATCH, LONG
from himari_rl.serving.http.upgrade import Http1Protocol


class _PlainPost:
    """What the parser said of every request that is held, when it may have gone on to the next one."""

    get_method = staticmethod(lambda: b"POST")
    get_http_version = staticmethod(lambda: "1.1")
    should_keep_alive = staticmethod(lambda: True)
    should_upgrade = staticmethod(lambda: False)


_PLAIN_POST: Any = _PlainPost()
_NAMES = frozenset({b"x-request-id"})
"""A request with one of these headers is answered with it, on the ordinary path."""
FEW = 24
"""With fewer connections too few requests meet in a turn: each is answered as it arrives."""
MOST = 64
"""So many are answered without waiting for the end of the turn."""
_BATCH = BATCH.encode()
_OK = b"HTTP/1.1 200 OK\r\n%b%d\r\n\r\n%b"
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\n%b%d\r\nretry-after: 1\r\n\r\n%b"
"""A whole answer: the other headers up to the length, the length, the document."""


class PredictProtocol(Http1Protocol):
    """One connection of an Api."""

    __slots__ = ("_body_limit", "_concurrency", "_fast", "_head", "_headers", "_held", "_in_line", "_whole")

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        app = cast(Api, self.config.app)
        self._fast, self._body_limit, self._concurrency = app.fast_path, app.body_limit, app.concurrency
        self._held: bytes | None = None
        """The body so far of a request that may take the short path; only `turn` may know of it."""
        self._whole = self._in_line = False
        self._headers: list[tuple[bytes, bytes]] | None = None
        self._head = b""

    def data_received(self, data: bytes) -> None:
        """As uvicorn's; what is held is answered now, or takes the ordinary path."""
        super().data_received(data)
        if self._held is None:
            return
        fast = self._fast
        if (
            not self._whole
            or len(self._held) > self._body_limit.limit
            or self.flow.write_paused
            or self.transport.is_closing()
        ):
            self._release()
        elif (places := self._concurrency.most - self._concurrency.begun) <= 0:
            if self._concurrency.refuses(self.client):
                self._refuse_busy()
            else:
                self._release()
        elif len(self._held) > LONG or self.url == _BATCH:
            self._in_line = True
            self._concurrency.begun += 1
            fast.line.join(self, self._answer)
        elif (
            len(self.connections) >= FEW
            and (slot := fast.service.slot) is not None
            and slot.recurrent
            and self.url == b"/predict"
        ):
            if not fast.turn:
                self.loop.call_soon(_end_turn, fast)
            fast.turn[self] = self._held
            if len(fast.turn) >= min(MOST, places):
                _end_turn(fast)
        else:
            self._reply(fast.by_url[self.url](self._held, self.client[0] if self.client else ""))

    def eof_received(self) -> None:
        """The client will send no more, and the transport closes: what waits for a turn is answered before."""
        self._do_not_wait()

    def shutdown(self) -> None:
        """As uvicorn's, which closes an idle connection: one that waits for a turn is answered before."""
        self._do_not_wait()
        super().shutdown()

    def waits(self) -> bool:
        """As Http1Protocol's; what is held is being answered."""
        return self._held is None and super().waits()

    def _do_not_wait(self) -> None:
        if self in self._fast.turn:
            _end_turn(self._fast)
        elif self._held is not None:
            self._answer()

    def _answer(self) -> None:
        """Answers what is held, in its turn; who has gone is not asked for."""
        self._leave_line()
        answer = None
        try:
            if not self.transport.is_closing() and self._held is not None:
                answer = self._fast.by_url[self.url](self._held, self.client[0] if self.client else "")
        finally:
            if self.transport.is_closing():
                self._held = None
            else:
                self._reply(answer)

    def on_message_begin(self) -> None:
        """A request behind one that is held: both take the ordinary path, which keeps their order."""
        if self._held is not None:
            self._release()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Holds a plain POST back when nothing before it is still being answered."""
        parser = self.parser
        if (
            self.url in self._fast.by_url
            and self._fast.direct
            and (self.cycle is None or self.cycle.response_complete)
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
            and not self.expect_100_continue
            and _NAMES.isdisjoint(dict(self.headers))
        ):
            self._head_came()
            self._held, self._whole = b"", False
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """As uvicorn's."""
        if self._held is None:
            super().on_body(body)
        else:
            self._held += body

    def on_message_complete(self) -> None:
        """As uvicorn's."""
        if self._held is None:
            super().on_message_complete()
        else:
            self._unread, self._slack, self._whole = 0, self._chunk, True

    def _in_head(self) -> bool:
        """As Http1Protocol's; what is held is past its head."""
        return self._held is None and super()._in_head()

    def _reply(self, answer: bytes | None) -> None:
        """Sends the answer to the request that is held, or lets it take the ordinary path for another one."""
        if answer is None:
            self._release()
            return
        self._held = None
        self._send(_OK, answer)

    def _refuse_busy(self) -> None:
        """As the ordinary path refuses what finds no place, without a task: with hundreds in a turn of the event loop,
        everybody else waits for its end."""
        self._held = None
        self._concurrency.errors[BUSY.status, BUSY.cause] += 1
        self._send(_BUSY, detailed(self._concurrency.busy))

    def _release(self) -> None:
        """Lets the request that is held begin the ordinary path, as far as it has come."""
        body, self._held = self._held, None
        self._fast.turn.pop(self, None)
        self._leave_line()
        parser, self.parser = self.parser, _PLAIN_POST
        super().on_headers_complete()
        if body:
            super().on_body(body)
        if self._whole:
            super().on_message_complete()
        self.parser = parser

    def _leave_line(self) -> None:
        """Gives back the place that a long request has while it waits for its turn."""
        if self._in_line:
            self._in_line = False
            self._concurrency.begun -= 1
            self._fast.line.leave(self)

    def _send(self, status: bytes, document: bytes) -> None:
        """Sends a whole answer; uvicorn makes a new list of headers every second, for the date."""
        headers = self.server_state.default_headers
        if headers is not self._headers:
            lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
            self._head = lines + b"content-type: application/json\r\ncontent-length: "
            self._headers = headers
        self.transport.write(status % (self._head, len(document), document))
        self.on_response_complete()


def _end_turn(fast: FastPath) -> None:
    """Answers all that wait, each on its own connection; where that fails, each takes the ordinary path.

    A connection that took writes when its request came still does: nothing else is being answered on it.
    """
    turn, fast.turn = fast.turn, {}
    answers: list[bytes | None] = [None] * len(turn)
    try:
        if turn:  # not answered before, by a full turn or an end of the connection
            clients = [connection.client[0] if connection.client else "" for connection in turn]
            answers = fast.answers(turn.values(), clients)
    finally:
        for connection, answer in zip(turn, answers, strict=True):
            if connection.transport.is_closing():
                connection._held = None  # nobody is there to read it
            else:
                connection._reply(answer)
