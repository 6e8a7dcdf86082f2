"""Connections of one app on this event loop, without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from uvicorn.server import ServerState

from himari_rl.serving.http.app import Api
from himari_rl.serving.http.protocol import PredictProtocol
from himari_rl.serving.http.run import make_server


class Wires:
    """Connections of one app on this loop, whose transports only remember."""

    def __init__(self, app: Api) -> None:
        self.config = make_server(app).config
        self.config.load()
        self.state = ServerState()
        self.state.default_headers = [(b"server", b"t")]
        app.concurrency.connections = self.state.connections  # type: ignore[assignment]
        self.batches: list[int] = []
        self.app = app
        answers = app.fast_path.answers

        def counted(bodies: Any, clients: Any) -> Any:
            self.batches.append(len(bodies))
            return answers(bodies, clients)

        app.fast_path.answers = counted  # type: ignore[method-assign]

    def connect(self) -> tuple[PredictProtocol, Any]:
        sent: list[bytes] = []
        transport = SimpleNamespace(sent=sent, closed=False, write=sent.append, get_extra_info=lambda name: None)
        transport.is_closing = lambda: transport.closed
        transport.close = lambda: setattr(transport, "closed", True)
        transport.reading = True
        transport.pause_reading = lambda: setattr(transport, "reading", False)
        transport.resume_reading = lambda: setattr(transport, "reading", True)
        connection = PredictProtocol(self.config, self.state, {})
        connection.connection_made(transport)  # type: ignore[arg-type]
        return connection, transport


def documents(transport: Any) -> list[Any]:
    """The bodies of what was sent, in order."""
    parts = b"".join(transport.sent).split(b"HTTP/1.1 ")[1:]
    return [json.loads(part.partition(b"\r\n\r\n")[2]) for part in parts]


async def until(condition: Callable[[], object]) -> None:
    """Waits until `condition()` holds."""
    for _ in range(2_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not happen")
