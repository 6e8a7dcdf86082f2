"""A policy server that fails in whatever way a test asks for, on a real socket."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

READY = {"model_version": "base-1", "symbols": ["BTC-USDT"], "interval_ms": 3_600_000}
GOOD: dict[str, Any] = {"position_multiplier": 0.75, "confidence": 0.5, "model_version": "base-1", "latency_ms": 0.1}


class Faulty:
    """`mode` says how POST /predict fails; "good" does not. It may be changed between two calls."""

    def __init__(self) -> None:
        self.mode, self.ready, self.calls = "good", dict(READY), 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._ending = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as stream:
            while line := stream.readline():
                path, length = line.split()[1].decode(), 0
                while (header := stream.readline().strip()) != b"":
                    if header.lower().startswith(b"content-length:"):
                        length = int(header.split(b":")[1])
                stream.read(length)
                if path == "/ready":
                    connection.sendall(_http(json.dumps(self.ready).encode()))
                    continue
                self.calls += 1
                if not self._fail(connection):
                    return

    def _fail(self, connection: socket.socket) -> bool:
        """Answers in the mode's way; whether the connection goes on."""
        match self.mode:
            case "stall":
                self._ending.wait(60.0)
                return False
            case "dribble":  # a byte now and then: every read succeeds, and it never ends
                for byte in _http(json.dumps(GOOD).encode(), length=1_000_000) + b" " * 1_000:
                    connection.sendall(bytes([byte]))
                    if self._ending.wait(0.03):
                        return False
            case "cut":
                connection.sendall(_http(json.dumps(GOOD).encode())[:60])
                return False
            case "close":
                return False
            case "500" | "404":
                connection.sendall(_http(b'{"detail": "no"}', status=int(self.mode)))
            case "garbage":
                connection.sendall(b"\x00\xff\x17 what is this\r\n\r\n" * 9)
                return False
            case "text":
                connection.sendall(_http(b"<html>hello</html>"))
            case "endless":
                with contextlib.suppress(OSError):
                    connection.sendall(_http(b" " * 4_000_000))
            case "nan":
                connection.sendall(_http(json.dumps(GOOD | {"position_multiplier": float("nan")}).encode()))
            case "good":
                connection.sendall(_http(json.dumps(GOOD).encode()))
            case changed:  # JSON that replaces fields of a good answer; null takes one out
                said = {k: v for k, v in (GOOD | json.loads(changed)).items() if v is not None}
                connection.sendall(_http(json.dumps(said).encode()))
        return True

    def close(self) -> None:
        self._ending.set()
        self._socket.close()


def _http(body: bytes, *, status: int = 200, length: int | None = None) -> bytes:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length or len(body)}\r\n\r\n"
    return head.encode() + body


@contextlib.contextmanager
def faulty_server() -> Iterator[Faulty]:
    server = Faulty()
    try:
        yield server
    finally:
        server.close()


def until(condition: Callable[[], bool], patience_s: float) -> None:
    """Waits for what must come."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
