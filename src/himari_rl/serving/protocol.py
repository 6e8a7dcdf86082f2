"""uvicorn's HTTP protocol, which answers an ordinary POST /predict before it becomes an ASGI request.

A request that arrived whole, on a connection with nothing else to do, needs no task, no events and no queue: its body
goes to FastPath.answer and the bytes go out, from within the call that received them. Every other request, and each one
that `answer` declines, goes the ordinary way with the very bytes that came. httptools parses both.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from himari_rl.serving.fast_path import FastPath


class _PlainPost:
    """What the parser said of every request that is held, when it may have gone on to the next one."""

    get_method = staticmethod(lambda: b"POST")
    get_http_version = staticmethod(lambda: "1.1")
    should_keep_alive = staticmethod(lambda: True)
    should_upgrade = staticmethod(lambda: False)


_PLAIN_POST: Any = _PlainPost()


class PredictProtocol(HttpToolsProtocol):
    """One connection of an Api."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._fast: FastPath = self.config.app.fast_path  # type: ignore[union-attr]
        self._held: bytes | None = None
        """The body so far of a request that may take the short way; nobody else knows of it yet."""
        self._whole = False
        self._headers: list[tuple[bytes, bytes]] | None = None
        self._head = b""

    def data_received(self, data: bytes) -> None:
        """As uvicorn's; what is held is answered now, or goes the ordinary way."""
        super().data_received(data)
        if self._held is None:
            return
        if not self._whole or self.flow.write_paused or self.transport.is_closing():
            self._release()
            return
        answer = self._fast.answer(self._held)
        if answer is None:
            self._release()
            return
        self._held = None
        self.transport.write(b"%b%d\r\n\r\n%b" % (self._start(), len(answer), answer))
        self.on_response_complete()

    def on_message_begin(self) -> None:
        """A request behind one that is held: both go the ordinary way, which keeps their order."""
        if self._held is not None:
            self._release()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Holds a plain POST /predict back when nothing before it is still being answered."""
        parser = self.parser
        if (
            self.url == b"/predict"
            and self._fast.direct
            and len(self.tasks) < self._fast.most
            and (self.cycle is None or self.cycle.response_complete)
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
            and not self.expect_100_continue
        ):
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
            self._whole = True

    def _release(self) -> None:
        """Lets the request that is held begin the ordinary way, as far as it has come."""
        body, self._held = self._held, None
        parser, self.parser = self.parser, _PLAIN_POST
        super().on_headers_complete()
        if body:
            super().on_body(body)
        if self._whole:
            super().on_message_complete()
        self.parser = parser

    def _start(self) -> bytes:
        """The head of an answer up to its length; uvicorn makes a new list of headers every second, for the date."""
        headers = self.server_state.default_headers
        if headers is not self._headers:
            lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
            self._head = b"HTTP/1.1 200 OK\r\n" + lines + b"content-type: application/json\r\ncontent-length: "
            self._headers = headers
        return self._head
