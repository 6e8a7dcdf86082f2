"""The challenger: a second policy on live requests, in one of two ways.

    shadow   it decides on the same requests, later and only while there is time; its answer is logged, never returned
    split    it answers its share of clients, always the same ones, because a client's hash decides

The champion never waits: a request only appends to a bounded queue, the queue is worked off a few at a time between
requests, and what does not fit is dropped and counted.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from himari_rl.errors import HimariError
from himari_rl.features.validation import validate_state
from himari_rl.monitoring.metrics import Metrics
from himari_rl.policy.runtime import Decision
from himari_rl.serving.journal import Journal
from himari_rl.serving.settings import ServeSettings
from himari_rl.serving.slot import Follower, Slot

QUEUE = 1_000  # requests that wait for the shadow
PAUSE_S, SLICE_S = 0.01, 0.0002  # the shadow takes at most a fiftieth of the time


class Challenger:
    """A second policy, and what it would have answered."""

    def __init__(self, settings: ServeSettings, metrics: Metrics, journal: Journal) -> None:
        self.share = settings.challenger_share
        self.follower = Follower(settings.challenger, settings)
        self.slot: Slot | None = None
        self.reason = "the challenger is still loading"
        self._metrics, self._journal = metrics, journal
        self._queue: deque[tuple[list[list[float]], dict[str, Any]]] = deque()

    def load(self, champion: Slot | None = None) -> None:
        """As Service.load: keeps the policy before where the one on offer is refused; of the champion's contract."""
        if champion is not None:
            if self.slot is not None and self.slot.contract != champion.contract:
                self.slot = None  # the champion's has changed, as somebody allowed
                self.follower.forget()
            self.follower.contract = champion.contract
        try:
            slot = self.follower.changed()
        except HimariError as error:
            if self.reason != str(error):
                self._journal.event("challenger_refused", "ERROR", reason=str(error))
            self.reason = str(error)
            return
        self.reason = ""
        self.slot = slot or self.slot

    def choose(self, champion: Slot, client: str) -> Slot:
        """The policy that answers `client`: the challenger for its share of all clients."""
        if self.slot is None or self.slot.contract != champion.contract:
            return champion
        digest = hashlib.sha256(client.encode()).digest()
        return self.slot if int.from_bytes(digest[:6]) < self.share * 2**48 else champion

    def offer(self, request: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Remembers a request and what the champion answered; constant time."""
        states = request.get("sequence") or [request["state"]]
        if len(self._queue) < QUEUE:
            self._queue.append((states, dict(answer)))
        else:
            self._metrics.shadow["dropped"] += 1

    async def work(self) -> None:
        """Works the queue off, for ever, in small slices."""
        while True:
            await asyncio.sleep(PAUSE_S)
            end = perf_counter() + SLICE_S
            while self._queue and perf_counter() < end:
                self.compare(*self._queue.popleft())

    def compare(self, states: list[list[float]], answer: dict[str, Any]) -> None:
        """Decides as the challenger and logs it beside the champion's answer.

        A recurrent challenger decides on whole sequences only: elsewhere the champion's memory is not its own.
        """
        slot = self.slot
        if slot is None or slot.dim != len(states[-1]) or (slot.recurrent and len(states) == 1):
            self._metrics.shadow["skipped"] += 1
            return
        try:
            decision = _decide(slot, [list(state) for state in (states if slot.recurrent else states[-1:])])
        except HimariError as error:
            self._metrics.shadow["failed"] += 1
            if self._journal.every:
                self._journal.event("shadow_failed", "WARNING", model_version=slot.version, reason=str(error))
            return
        multipliers: list[float] = decision.multipliers.tolist()
        slot.limiter(states[-1], multipliers)
        several = answer.get("position_multipliers")
        champion = [answer["position_multiplier"]] if several is None else list(several.values())
        difference = max(abs(a - b) for a, b in zip(multipliers, champion, strict=True))
        self._metrics.shadow["decided"] += 1
        self._metrics.shadow_difference.add(difference)
        if self._journal.every:
            own = {"multipliers": multipliers, "champion": champion, "difference": difference}
            self._journal.event("shadow", model_version=slot.version, **own)


def _decide(slot: Slot, states: list[list[float]]) -> Decision:
    memory = None
    for state in states:
        validate_state(state, slot.dim, slot.symbols, slot.own)
        decision = slot.policy.decide(state, memory)
        memory = decision.memory
    return decision
