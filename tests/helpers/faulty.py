"""A policy server that fails in whatever way a test asks for, on a real socket."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
import zlib
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
                path, length, asked = line.split()[1].decode(), 0, b""
                while (header := stream.readline().strip()) != b"":
                    if header.lower().startswith(b"content-length:"):
                        length = int(header.split(b":")[1])
                    if header.lower().startswith(b"x-request-id:"):
                        asked = header
                stream.read(length)
                if path == "/ready":
                    connection.sendall(_http(json.dumps(self.ready).encode()))
                    continue
                self.calls += 1
                if not self._fail(connection, asked):
                    return

    def _fail(self, connection: socket.socket, asked: bytes) -> bool:
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
            case "302" | "204":
                connection.sendall(_http(b"", status=int(self.mode), more=b"location: http://127.0.0.1:1/predict\r\n"))
            case "slow headers":  # one after the other, and they never end
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                for number in range(1_000):
                    connection.sendall(b"x-%d: y\r\n" % number)
                    if self._ending.wait(0.03):
                        return False
            case "long headers":
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"x: %s\r\n" % (b"y" * 1_000_000))
                return False
            case "hints":  # 1xx, which no client has to wait for, for ever
                while not self._ending.wait(0.001):
                    connection.sendall(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 20)
                return False
            case "continue":
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" + _http(json.dumps(GOOD).encode()))
            case "half closed":
                connection.shutdown(socket.SHUT_WR)
                self._ending.wait(60.0)
                return False
            case "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            case "too long":  # says more than it sends, and stays open
                connection.sendall(_http(json.dumps(GOOD).encode(), length=10_000))
                self._ending.wait(60.0)
                return False
            case "too short":
                connection.sendall(_http(json.dumps(GOOD).encode(), length=20))
            case "two lengths":
                connection.sendall(_http(json.dumps(GOOD).encode(), more=b"content-length: 7\r\n"))
            case "bomb":  # a hundred megabytes of spaces in a tenth of one
                packed = zlib.compressobj(wbits=31)
                body = b"".join(packed.compress(b" " * 10_000_000) for _ in range(10)) + packed.flush()
                connection.sendall(_http(body, more=b"content-encoding: gzip\r\n"))
            case "twice":  # the second answer waits for the next question
                connection.sendall(2 * _http(json.dumps(GOOD).encode(), more=asked + b"\r\n"))
            case "endless chunks":
                with contextlib.suppress(OSError):
                    connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                    connection.sendall((b"1000\r\n" + b" " * 4096 + b"\r\n") * 400)
                return False
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


def _http(body: bytes, *, status: int = 200, length: int | None = None, more: bytes = b"") -> bytes:
    """An answer; `more` are whole header lines."""
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length or len(body)}\r\n"
    return head.encode() + more + b"\r\n" + body


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
