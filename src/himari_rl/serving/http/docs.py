"""GET /docs: every route with what it takes, what it answers and an example, on one page that asks nobody else.

FastAPI's own page loads its scripts from another company's servers: behind a firewall it is empty, and elsewhere it
tells them who reads. This one is made of the same OpenAPI document (GET /openapi.json), and needs no script.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

from fastapi import FastAPI, Response

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h2{margin:2.5rem 0 0;font-size:1.1rem}code,pre{font:13px/1.45 ui-monospace,monospace}
pre{background:#f4f4f2;padding:.8rem;overflow:auto}table{border-collapse:collapse}
td{padding:.1rem 1rem .1rem 0;vertical-align:top}.m{color:#777}"""


def add_docs(app: FastAPI) -> None:
    """The route."""
    page = ""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        nonlocal page
        page = page or page_of(app.openapi())
        return Response(page, media_type="text/html; charset=utf-8")


def page_of(document: dict[str, Any]) -> str:
    """The page of an OpenAPI document."""
    info = document["info"]
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>"]
    parts.append(
        f"<style>{_STYLE}</style><h1>{escape(info['title'])} <span class=m>{escape(info['version'])}</span></h1>"
    )
    parts.append(f"<p>{escape(info.get('summary', ''))}. As data: <a href=openapi.json>openapi.json</a>.")
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            parts.append(
                f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(route.get('description', ''))}"
            )
            parts += _request(document, path, route)
            parts.append("<table>" + "".join(map(_row, _answers(document, route))) + "</table>")
    return "".join(parts)


def _request(document: dict[str, Any], path: str, route: dict[str, Any]) -> list[str]:
    body = route.get("requestBody")
    if body is None:
        return []
    schema = _resolved(document, body["content"]["application/json"]["schema"])
    fields = [(name, field.get("description", "")) for name, field in schema.get("properties", {}).items()]
    parts = ["<table>" + "".join(map(_row, fields)) + "</table>"]
    for example in schema.get("examples", [])[:1]:
        call = f"curl -s $URL{path} -H 'content-type: application/json' -d '{json.dumps(example)}'"
        parts.append(f"<pre>{escape(call)}</pre>")
    return parts


def _answers(document: dict[str, Any], route: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    for status, answer in route["responses"].items():
        content = answer.get("content", {}).get("application/json", {})
        fields = _resolved(document, content.get("schema", {})).get("properties", {}) if status == "200" else {}
        found.append((status, answer.get("description", "") + (": " + ", ".join(fields) if fields else "")))
    return found


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = document["components"]["schemas"][name] if name else schema
    return found


def _row(cells: tuple[str, str]) -> str:
    return f"<tr><td><code>{escape(cells[0])}</code><td>{escape(cells[1])}"
