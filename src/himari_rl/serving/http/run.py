"""uvicorn as this project runs it: uvloop where it is installed, httptools, no line per request, a graceful end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
from typing import cast

import uvicorn

from himari_rl.errors import ConfigError
from himari_rl.serving.http.app import Api
from himari_rl.serving.http.upgrade import Http1Protocol
from himari_rl.serving.log_lines import JsonLines
from himari_rl.serving.settings import bare

GRACE_S = 7  # an exit takes less than 8; Cloud Run kills ten seconds after SIGTERM
BACKLOG = 2048
SWITCH_S = 2e-4
"""For which a thread that reads a new policy may hold the interpreter while a request waits; CPython's own is 5 ms."""


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises:
        ConfigError: the port is taken or forbidden, or the host is not this machine.
    """
    host = bare(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=BACKLOG)
        # Connections inherit it. uvloop sets it on each; asyncio only on a socket whose protocol is named, and without
        # it an answer of two writes waits 40 ms for the client's delayed acknowledgement (Nagle's algorithm).
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ConfigError(
            f"cannot listen on {host}:{port}: {reason}", cure="choose another --port or --host"
        ) from error
    except OverflowError as error:
        raise ConfigError(f"the port is {port}", "0 to 65535", "choose another --port") from error


def url_of(host: str, sock: socket.socket) -> str:
    """Where a socket is asked, as a URL writes it."""
    name, port = bare(host), sock.getsockname()[1]
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def make_server(app: Api) -> uvicorn.Server:
    """A server whose connections `app` can see."""
    http: type[asyncio.Protocol] = Http1Protocol
    if app.state.service.settings.turbo:
        from himari_rl.serving.http.protocol import PredictProtocol

        http = PredictProtocol
    config = uvicorn.Config(
        app,
        loop="auto",  # uvloop, [fast], where it is installed
        http=http,
        ws="none",
        access_log=False,
        proxy_headers=False,  # an address that a client may claim is none; docs/serving.md says whose it is
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_S,
    )
    lines = JsonLines(app.state.service.journal)
    for name in ("uvicorn", "asyncio"):  # their words are lines like ours
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [lines], False
    server = uvicorn.Server(config)
    app.connections.open = cast(set[Http1Protocol], server.server_state.connections)
    app.concurrency.connections = app.connections.open
    return server


def serve(app: Api, sock: socket.socket) -> None:
    """Answers on `sock` until SIGINT or SIGTERM, then finishes what it has begun.

    Whoever starts a process for this calls `gc.disable()` before its imports: a sixth of a cold start is the search for
    garbage among modules, which have none.
    """
    server = make_server(app)
    gc.freeze()  # modules and routes live as long as the process: no collection need look at them
    gc.enable()
    sys.setswitchinterval(SWITCH_S)
    server.run(sockets=[sock])
