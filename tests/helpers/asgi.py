"""A client of an application in this process: every middleware and route, and no socket."""

from __future__ import annotations

import asyncio
from typing import Any, Self

import httpx

from himari_rl.serving.http.app import Api


class AsgiClient:
    """Asks `app` from an address; a failure of the application is a 500, as behind a server."""

    def __init__(self, app: Api, address: str = "127.0.0.1") -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 1))
        app.state.service.load()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def request(self, method: str, path: str, **what: Any) -> httpx.Response:
        """One request, as httpx.Client.request."""

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://t") as client:
                return await client.request(method, path, **what)

        return asyncio.run(ask())

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def head(self, path: str) -> httpx.Response:
        return self.request("HEAD", path)

    def post(self, path: str, **what: Any) -> httpx.Response:
        return self.request("POST", path, **what)
