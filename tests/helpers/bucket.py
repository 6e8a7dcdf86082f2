"""A bucket of fifty lines that the unpatched Google client takes for Cloud Storage."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from himari_rl.storage import gcs

QUIET = ("ignore::ImportWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
"""What the client's own imports warn of."""


def _crc32c(data: bytes) -> str:
    import google_crc32c

    return base64.b64encode(google_crc32c.value(data).to_bytes(4)).decode()


class Bucket(ThreadingHTTPServer):
    """Objects with generations, as the JSON API shows them."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.guard = threading.Lock()
        self.corrupt = self.lose_answer = False
        self.asked: list[str] = []
        super().__init__(address, Handler)

    def put(self, folder: Path, name: str) -> None:
        for file in folder.iterdir():
            self.write(f"{name}/{file.name}", file.read_bytes())

    def write(self, name: str, data: bytes, expected: int | None = None) -> dict[str, Any] | None:
        with self.guard:
            generation = self.objects.get(name, (0, b""))[0]
            if expected is not None and expected != generation:
                return None
            self.objects[name] = (generation + 1, data)
            return self.describe(name)

    def listed(self, asked: dict[str, list[str]]) -> list[dict[str, Any]]:
        [prefix] = asked.get("prefix", [""])
        return [self.describe(name) for name in sorted(self.objects) if name.startswith(prefix)]

    def describe(self, name: str) -> dict[str, Any]:
        generation, data = self.objects[name]
        md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
        id_ = f"b/{name}/{generation}"
        return {
            "id": id_,
            "name": name,
            "bucket": "b",
            "generation": str(generation),
            "size": str(len(data)),
            "md5Hash": md5,
        }


class Handler(BaseHTTPRequestHandler):
    server: Bucket

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.asked.append(path)
        if path.endswith("/o"):
            self.answer(200, json.dumps({"items": self.server.listed(parse_qs(urlsplit(self.path).query))}).encode())
            return
        name = unquote(path.rpartition("/o/")[2])
        if name not in self.server.objects:
            self.answer(404, json.dumps({"error": {"code": 404, "message": "No such object"}}).encode())
        elif self.path.startswith("/download/"):
            described, data = self.server.describe(name), self.server.objects[name][1]
            self.answer(
                200,
                data[:-1] + b"?" if self.server.corrupt else data,
                f"crc32c={_crc32c(data)},md5={described['md5Hash']}",
                described["generation"],
            )
        else:
            self.answer(200, json.dumps(self.server.describe(name)).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        boundary = b"--" + self.headers["content-type"].partition("boundary=")[2].strip('"').encode()
        meta, data = (part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n") for part in body.split(boundary)[1:3])
        [expected] = parse_qs(urlsplit(self.path).query).get("ifGenerationMatch", [None])
        written = self.server.write(json.loads(meta)["name"], data, None if expected is None else int(expected))
        if written is None:
            self.answer(412, json.dumps({"error": {"code": 412, "message": "conditionNotMet"}}).encode())
        elif self.server.lose_answer:
            self.server.lose_answer = False
            self.answer(503, b"{}")
        else:
            self.answer(200, json.dumps(written).encode())

    def answer(self, status: int, body: bytes, digest: str = "", generation: str = "") -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        if digest:
            self.send_header("x-goog-hash", digest)
            self.send_header("x-goog-generation", generation)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def bucket_server() -> Iterator[Bucket]:
    """A running bucket `b`, which the client finds."""
    server = Bucket()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
        gcs._client.cache_clear()
        yield server
        if gcs._client.cache_info().currsize:
            gcs._client().close()
        gcs._client.cache_clear()
    server.shutdown()
    server.server_close()
    thread.join()
