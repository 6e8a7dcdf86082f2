"""A server seen as bytes on one connection."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

from helpers import PATIENCE_S
from himari_rl.serving.http.app import Api
from himari_rl.serving.messages import EXAMPLE_STATE

GOOD = json.dumps({"state": EXAMPLE_STATE}).encode()
BAD = json.dumps({"state": [7, *EXAMPLE_STATE[1:]]}).encode()


def post(body: bytes = GOOD, *headers: str, path: str = "/predict", version: str = "1.1") -> bytes:
    """The bytes of one request."""
    lines = [f"POST {path} HTTP/{version}", "Host: t", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


HEALTH = b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n"


class Wire:
    """One connection, seen as bytes."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self._buffer = b""

    def answer(self) -> tuple[int, bytes, bytes]:
        """Status, head and body of the next answer; the head without what the clock says."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
        while len(self._buffer) < length:
            self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        body = re.sub(rb'"latency_ms":[0-9.e-]+', b'"latency_ms":0', body)
        head = re.sub(rb"(date: |content-length: )[^\r]*", rb"\1", head)
        return int(head.split()[1]), head, body

    def _more(self) -> None:
        data = self.socket.recv(65_536)
        assert data, "the server closed the connection"
        self._buffer += data

    def closed(self) -> bool:
        """Whether the server closes without another byte."""
        return self._buffer == b"" and self.socket.recv(1) == b""


class Served:
    """A running server and how many requests became an ASGI request."""

    def __init__(self, app: Api, port: int) -> None:
        self.port, self.ordinary = port, 0
        front = app.front

        async def counted(scope: Any, receive: Any, send: Any) -> None:
            self.ordinary += 1
            await front(scope, receive, send)

        app.front = counted
