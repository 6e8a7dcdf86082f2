"""A second port of this machine alone with GET /metrics and nothing else, for a scraper beside the server: no key.

On Cloud Run that is the Managed Prometheus sidecar (profile steady), which shares the loopback; no request from
outside reaches any port but PORT.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from himari_rl.errors import ConfigError
from himari_rl.monitoring.metrics import Metrics

TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TRIES = 5
_PATIENCE_S = 10.0  # with a scraper that asks for nothing


@contextmanager
def scraped(metrics: Metrics, port: int) -> Iterator[int]:
    """Answers on 127.0.0.1:port while the body runs. Gives the port; 0 asks for none and gives 0.

    Raises:
        ConfigError: the port is taken.
    """
    if not port:
        yield 0
        return
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # a cold start without this port is spared it

    class Handler(BaseHTTPRequestHandler):
        timeout = _PATIENCE_S

        def do_GET(self) -> None:
            if self.path != "/metrics":
                self.send_error(404)
                return
            body = _text(metrics)
            self.send_response(200)
            self.send_header("content-type", TYPE)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A scrape is no event."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Nor is a scraper that leaves: the standard library would write a traceback to stderr."""
            if not isinstance(sys.exception(), OSError):
                super().handle_error(request, client_address)

    try:
        server = Server(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on 127.0.0.1:{port}: {error}", "a free port", "choose another") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="himari-scrape", daemon=True)
    thread.start()
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _text(metrics: Metrics) -> bytes:
    """The exposition, read beside the event loop that counts: a count that is new meanwhile is read again."""
    for _ in range(_TRIES - 1):
        try:
            return metrics.text()
        except RuntimeError:  # dictionary changed size during iteration
            continue
    return metrics.text()
