"""Google's REST APIs in a hundred lines: monitoring, logging and Cloud Run jobs, strict where the real ones are."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COLLECTIONS = {"dashboards": "v1", "alertPolicies": "v3", "notificationChannels": "v3", "metrics": "v2"}


def parsed_by_google(collection: str, document: dict[str, Any]) -> str:
    """What Google's own message says against a document; empty where it takes it, or where it is not installed."""
    try:
        from google.cloud import monitoring_dashboard_v1, monitoring_v3
        from google.protobuf import json_format
    except ImportError:
        return ""
    messages = {
        "dashboards": monitoring_dashboard_v1.Dashboard,
        "alertPolicies": monitoring_v3.AlertPolicy,
        "notificationChannels": monitoring_v3.NotificationChannel,
    }
    if collection not in messages:
        return ""
    try:
        json_format.ParseDict(document, messages[collection].pb()())
    except json_format.ParseError as error:
        return str(error)
    return ""


class GoogleApi(ThreadingHTTPServer):
    """Resources by name, and what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.resources: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str]] = []
        self.lost_answers = 0
        """So many writes are carried out and answered with 503."""
        self.refused: dict[str, int] = {}
        """Part of a path -> status of every call there; 429, no room, of every write."""
        self.guard = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def writes(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path in self.asked if method != "GET"]


class _Handler(BaseHTTPRequestHandler):
    server: GoogleApi

    def _serve(self) -> None:
        url = urlsplit(self.path)
        name = unquote(url.path).lstrip("/").partition("/")[2]
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        with self.server.guard:
            self.server.asked.append((self.command, name))
            status, answer = self._answered(name, body, parse_qs(url.query))
            if status == 200 and self.command != "GET" and self.server.lost_answers:
                self.server.lost_answers -= 1
                status, answer = 503, {"error": {"message": "the answer was lost"}}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = _serve

    def _answered(self, name: str, body: dict[str, Any], query: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        resources = self.server.resources
        for part, status in self.server.refused.items():
            if part in name and (status != 429 or self.command != "GET"):
                return status, {"error": {"message": "made by the test"}}
        kind = next((part for part in reversed(name.split("/")) if part in COLLECTIONS), "")
        if self.command == "GET":
            if name in resources:
                return 200, resources[name]
            last = name.rpartition("/")[2]
            if last in COLLECTIONS or last == "executions":
                found = [r for n, r in resources.items() if n.rpartition("/")[0] == name]
                return 200, {last: found} if found else {}
            return 404, {"error": {"message": f"no {name}"}}
        if error := parsed_by_google(kind, body):
            return 400, {"error": {"message": error}}
        if name.endswith(":run"):
            job = name.removesuffix(":run")
            count = resources[job]["template"]["taskCount"]
            made = {"name": f"{job}/executions/e{len(resources)}", "taskCount": count, "succeededCount": count}
            resources[made["name"]] = made | {"completionTime": "2026-01-01T00:00:00Z"}
            return 200, {"done": False}
        if "jobId" in query:
            name = f"{name}/{query['jobId'][0]}"
            if name in resources:
                return 409, {"error": {"message": f"{name} exists"}}
        elif self.command == "POST":
            name = f"{name}/{len(resources) + 1}"
        made = {**body, "name": body["name"] if kind == "metrics" else name}
        resources[name] = made | ({"etag": str(len(self.server.asked))} if kind == "dashboards" else {})
        return 200, resources[name]

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def google_api() -> Iterator[GoogleApi]:
    """A running server."""
    server = GoogleApi()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
