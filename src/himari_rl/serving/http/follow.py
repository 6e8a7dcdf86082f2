"""Following an alias where nothing runs between requests: Cloud Run takes the CPU away after each answer.

There a job that looks every few seconds stands still, so the look is part of a request: of the first one that comes
`reload_s` after the last look. It waits for the look, but no longer than WAIT_S: whoever asks has a deadline of
150 ms, and an answer of the policy before is better than none. A longer look goes on within the next requests.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from starlette.types import ASGIApp, Receive, Scope, Send

from himari_rl.serving.service import Service

WAIT_S = 0.08


class FollowsInRequests:
    """A middleware that looks at the sources before it hands a request on, where the last look is old."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self.service
        at = service.looked_at
        if at is None or monotonic() - at >= service.settings.reload_s:
            await asyncio.wait({asyncio.ensure_future(service.reload())}, timeout=WAIT_S)
        await self.app(scope, receive, send)
