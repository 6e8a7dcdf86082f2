"""A real uvicorn server on a free port of this machine, and what to ask it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from helpers import PATIENCE_S, ROOT
from himari_rl.serving.http.app import Api
from himari_rl.serving.http.run import listen, make_server

DEADLINE_S = PATIENCE_S


@contextlib.contextmanager
def running(app: Api) -> Iterator[httpx.Client]:
    """Serves `app` from a thread; gives a client of it."""
    sock = listen("127.0.0.1", 0)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        wait_for(lambda: server.started)
        with httpx.Client(base_url=f"http://127.0.0.1:{sock.getsockname()[1]}", timeout=DEADLINE_S) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(DEADLINE_S)
        sock.close()


@contextlib.contextmanager
def cloud_run_server(
    bundle: Path, port_variable: str = "PORT", **environment: str
) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """cloud_run/api_server.py in its own process, as a container starts it; gives the process and a client."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    settings = {"MODEL_PATH": str(bundle), port_variable: str(port), "HOST": "127.0.0.1"} | environment
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "cloud_run" / "api_server.py")],
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client:
            wait_for(lambda: answers(client) or process.poll() is not None)
            yield process, client
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_S)


def answers(client: httpx.Client) -> bool:
    """Whether somebody listens."""
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def wait_for(condition: object) -> None:
    """Waits until `condition()` holds."""
    end = time.monotonic() + DEADLINE_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "the server did not get there in time"
        time.sleep(0.02)


class Connection:
    """One keep-alive connection, for load: a fraction of what an httpx client costs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def post(self, path: str, body: object) -> tuple[int, Any]:
        """Status and document of the answer."""
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: t\r\ncontent-length: {len(content)}\r\n\r\n"
        self._writer.write(head.encode() + content)
        return await self._answer()

    async def get(self, path: str) -> int:
        """Status of the answer."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nhost: t\r\n\r\n".encode())
        return (await self._answer())[0]

    async def _answer(self) -> tuple[int, Any]:
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(answer.partition("content-length: ")[2].partition("\r")[0])
        return int(answer.split()[1]), json.loads(await self._reader.readexactly(length))

    def close(self) -> None:
        self._writer.close()
