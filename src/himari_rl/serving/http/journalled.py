"""No answer without its entry: holds an answer back until the journal has it on the disk.

It stands before FastPath and FastAPI, so whichever of them answers, what goes into the journal are the bytes that the
client gets. `x-journal-entry` of the answer names its entry, or the first and the last of several.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from himari_rl.errors import HimariError
from himari_rl.serving.answer_journal import AnswerJournal
from himari_rl.serving.answered import Answered
from himari_rl.serving.http.access import REQUEST
from himari_rl.serving.http.middleware import BODY, client_of
from himari_rl.serving.http.refusals import Errors, refusal_of, refuse
from himari_rl.serving.service import Service

ENTRY = b"x-journal-entry"
DECIDES = frozenset({"/predict", "/v1/batch", "/v1/decide"})


class Journalled:
    """A middleware behind the one that reads the body."""

    def __init__(self, app: ASGIApp, service: Service, journal: AnswerJournal) -> None:
        self.app, self._service, self._journal = app, service, journal
        self._errors: Errors = service.metrics.errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if BODY not in scope or scope["path"] not in DECIDES:
            await self.app(scope, receive, send)
            return
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)

        try:
            self._journal.require_writable()
            symbols = self._symbols()
            try:
                await self.app(scope, receive, hold)
            finally:
                if not held or held[0]["status"] != 200:
                    for message in held:
                        await send(message)
            if not held or held[0]["status"] != 200:
                return
            answer = b"".join(message.get("body", b"") for message in held[1:])
            kept = (scope["path"], client_of(scope), scope.get(REQUEST, ""), symbols, scope[BODY], answer)
            numbers = await self._journal.keep(Answered(*kept))
        except HimariError as error:
            await refuse(send, self._errors, refusal_of(error), str(error))
            return
        text = b"%d" % numbers.first if numbers.first == numbers.last else b"%d-%d" % numbers
        await send({**held[0], "headers": [*held[0]["headers"], (ENTRY, text)]})
        await send({"type": "http.response.body", "body": answer})

    def _symbols(self) -> tuple[str, ...]:
        """Of whichever policy will answer: a challenger of other symbols is refused."""
        return () if self._service.slot is None else self._service.slot.symbols
