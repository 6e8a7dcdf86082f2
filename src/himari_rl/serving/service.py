"""The decisions behind the routes: holds a champion and perhaps a challenger, and answers requests.

One event loop, one process per core. A request reads its policy once (slot.py) and is answered in one go.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from pydantic_core import ValidationError

from himari_rl.errors import HimariError, StateError
from himari_rl.features.validation import categories_hold, validate_state
from himari_rl.monitoring.metrics import Metrics
from himari_rl.policy.network import F32
from himari_rl.policy.runtime import Policy, Step
from himari_rl.serving import decide as raw
from himari_rl.serving import memory as memories
from himari_rl.serving.journal import Journal
from himari_rl.serving.messages import MAX_SEQUENCE, DecideRequest
from himari_rl.serving.refusals import FieldError, KeptError, NotReadyError, within
from himari_rl.serving.sessions import Memory, Sessions, step
from himari_rl.serving.settings import ServeSettings
from himari_rl.serving.shadow import Challenger
from himari_rl.serving.slot import Follower, Slot

Request = Mapping[str, Any]
LOADING = "the policy is still loading"


class Service:
    """What one server process decides with."""

    def __init__(self, source: Policy | str | Path, settings: ServeSettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.journal = Journal(settings.log_every)
        self.slot: Slot | None = None
        self.reason = LOADING
        self.follower = Follower(source, settings)
        self.challenger = Challenger(settings, self.metrics, self.journal) if settings.challenger else None
        self._split = self.challenger if settings.challenger_share else None
        self._shadow = None if settings.challenger_share else self.challenger
        self._key = settings.memory_key or secrets.token_bytes(32)
        self._memories: Sessions[Memory] = Sessions(settings.max_sessions, settings.session_ttl_s)
        self._streams: Sessions[raw.Stream] = Sessions(settings.max_sessions, settings.session_ttl_s)
        self._loading = asyncio.Lock()

    @property
    def policy(self) -> Policy | None:
        """The champion, if there is one."""
        return self.slot.policy if self.slot else None

    def load(self) -> bool:
        """Looks at the source once; swaps where it offers another valid policy, else keeps the one there is.

        Returns:
            whether it swapped. `reason` says why what is offered is not served; empty where it is.
        """
        try:
            slot = self.follower.changed()
        except HimariError as error:
            self.metrics.reload_failures += 1
            self.reason = str(error)
            return False
        self.reason = ""
        if slot is None:
            return False
        self.metrics.swapped(slot.version, slot.policy.manifest.kind, first=self.slot is None)
        self.slot = slot  # the swap: one assignment; a request in progress keeps the slot it read
        return True

    async def reload(self) -> bool:
        """`load`, off the event loop and written down, for champion and challenger; one at a time."""
        async with self._loading:
            if self.challenger is not None:
                await asyncio.to_thread(self.challenger.load)
            said, before = self.reason, self.slot
            swapped = await asyncio.to_thread(self.load)
            serving = self.slot and self.slot.version
            if self.reason not in ("", said):  # the source is asked every few seconds, and says the same for hours
                self.journal.event("refused", "ERROR", reason=self.reason, serving=serving)
            if swapped and (before is not None or said not in ("", LOADING) or self.journal.every):
                # a first start that went well is no event
                self.journal.event("swap", model_version=serving, before=before and before.version)
            return swapped

    async def reload_or_say(self) -> bool:
        """`reload` for somebody who asked for it.

        Raises:
            NotReadyError: there is no valid policy.
            KeptError: what is offered was refused, and the policy before goes on.
        """
        swapped = await self.reload()
        version = self.ready().version
        if self.reason:
            raise KeptError(self.reason, cure=f"{version} goes on answering")
        return swapped

    def ready(self) -> Slot:
        """The champion.

        Raises:
            NotReadyError: there is none; says why.
        """
        if self.slot is None:
            raise NotReadyError(f"no valid policy is loaded: {self.reason}")
        return self.slot

    def predict(self, request: Request, client: str = "") -> dict[str, Any]:
        """The answer to POST /predict.

        Args:
            request: the fields of PredictRequest that were sent; `state` is checked here.
            client: who asks, for a split; the same text always gets the same arm.

        Raises:
            StateError: the state, or another field, cannot be used (422).
            NotReadyError: no valid policy (503).
            BundleError: the policy has no answer to a valid state (503).
            TooManyError: no room for a new session (429).
        """
        started = perf_counter_ns()
        slot = self.slot or self.ready()
        if self._split is not None:
            slot = self._split.choose(slot, str(request.get("session_id") or client))
        answer = self._answer(slot, request)
        if self._shadow is not None:
            self._shadow.offer(request, answer)
        return self._finish(slot, answer, started)

    def predict_bytes(self, body: bytes, client: str = "") -> dict[str, Any]:
        """The same answer to a request as it came: its numbers are held against their ranges while they are parsed.

        Raises:
            ValidationError: it is not in order; the FastAPI route says why.
            HimariError: as `predict`.
        """
        started = perf_counter_ns()
        slot = self.slot or self.ready()
        request: dict[str, Any] = slot.reader.validate_json(body)
        if self._split is not None:
            slot = self._split.choose(slot, str(request.get("session_id") or client))
        if _is_plain(slot, request):
            answer = self._decide(slot, request["state"], request.get("memory"))
        else:
            answer = self._answer(slot, _as_sent(request))
        if self._shadow is not None:
            self._shadow.offer(request, answer)
        return self._finish(slot, answer, started)

    def predict_many(self, bodies: Collection[bytes]) -> list[dict[str, Any] | None]:
        """The answers to requests that came together, in order, all of one policy; never asked under a split.

        The network decides those that carry their memory, or start one, at once (Policy.steps); every other request is
        answered alone. None stands for what `predict_bytes` would refuse, and for all of a batch that one of it spoils:
        each of those is to be asked again, alone.

        Raises:
            NotReadyError: no valid policy.
        """
        started = perf_counter_ns()
        slot = self.slot or self.ready()
        answers: list[dict[str, Any] | None] = [None] * len(bodies)
        requests: dict[int, dict[str, Any]] = {}
        befores: dict[int, F32 | None] = {}
        for index, body in enumerate(bodies):
            try:
                request = slot.reader.validate_json(body)
                if slot.recurrent and _is_plain(slot, request):
                    befores[index] = self._before(slot, request.get("memory"))
                else:
                    answers[index] = self._answer(slot, _as_sent(request))
                requests[index] = request
            except (ValidationError, HimariError):
                continue  # stays None
        states = [requests[index]["state"] for index in befores]
        with suppress(HimariError):
            decisions = slot.policy.steps(states, list(befores.values()))
            for (index, before), state, decision in zip(befores.items(), states, decisions, strict=True):
                answers[index] = self._render(slot, decision, state, self._carried(slot, decision, before is None))
        for index, answer in enumerate(answers):
            if answer is not None:
                if self._shadow is not None:
                    self._shadow.offer(requests[index], answer)
                self._finish(slot, answer, started)
        return answers

    def batch(self, instances: list[Request], client: str = "") -> dict[str, Any]:
        """The answer to POST /v1/batch: every instance alone, in order, all from one policy; none where one is wrong.

        Raises:
            as `predict`; a StateError names the instance.
        """
        started = perf_counter_ns()
        slot = self.ready()
        if self._split is not None:
            slot = self._split.choose(slot, client)
        predictions = []
        for index, request in enumerate(instances):
            if request.get("session_id") is not None:
                raise FieldError(
                    f"instances[{index}]", "an instance has a session_id", "memory or none", "use POST /predict for it"
                )
            try:
                predictions.append(self._answer(slot, request))
            except StateError as error:
                raise within(f"instances[{index}]", error) from error
        return self._finish(slot, {"predictions": predictions}, started)

    def decide(self, request: DecideRequest, client: str = "") -> dict[str, Any]:
        """The answer to POST /v1/decide: the server encodes.

        Raises:
            as `predict`.
        """
        started = perf_counter_ns()
        slot = self.ready()
        if self._split is not None:
            slot = self._split.choose(slot, request.session_id or client)
        assets = raw.assets_of(request, slot)
        name = (request.session_id, slot.symbols, slot.interval_ms)
        self._streams.admit(name)
        stream = self._streams.get(name) or raw.begin(assets, slot)
        state = raw.encode(stream, assets, slot)
        self._streams.put(name, stream)
        validate_state(state, slot.dim, slot.symbols)
        if slot.recurrent:
            decision, said = step(self._memories, ("decide", *name), slot, state, stream.timestamp)
        else:
            decision, said = slot.policy.step(state), {}
        answer = self._render(slot, decision, state, said)
        if self._shadow is not None:
            self._shadow.offer({"state": state}, answer)
        return self._finish(slot, answer, started) | {"state": state}

    def _answer(self, slot: Slot, request: Request) -> dict[str, Any]:
        """One answer without its last two fields."""
        if len(request) != 1 or "state" not in request:
            return self._with_memory(slot, request)
        state = request["state"]
        validate_state(state, slot.dim, slot.symbols)
        return self._decide(slot, state, None)

    def _with_memory(self, slot: Slot, request: Request) -> dict[str, Any]:
        """As `_answer`, for what only policies with a memory understand."""
        state: Any = request.get("state")
        text, session, sequence = request.get("memory"), request.get("session_id"), request.get("sequence")
        ways = [name for name in ("memory", "session_id", "sequence") if request.get(name) is not None]
        if len(ways) > 1 or (state is None) == (sequence is None):
            raise FieldError(
                ways[-1] if ways else "state",
                f"the request has {', '.join(ways) or 'no state'}" + (" and a state" if state is not None else ""),
                "state; state with memory; state with session_id and timestamp; or sequence",
                "choose one way to carry memory",
            )
        if ways and not slot.recurrent:
            raise FieldError(
                ways[0], f"the request has {ways[0]}", "none: this policy has no memory", f"leave {ways[0]} out"
            )
        if (session is None) != (request.get("timestamp") is None):
            raise FieldError(
                "timestamp", "session_id and timestamp come together", "both or none", "send the bar's opening time"
            )
        if sequence is not None:
            return self._sequence(slot, sequence)
        validate_state(state, slot.dim, slot.symbols)
        if session is not None:
            decision, said = step(self._memories, session, slot, state, request["timestamp"])
            return self._render(slot, decision, state, said)
        return self._decide(slot, state, text)

    def _decide(self, slot: Slot, state: Sequence[float], text: str | bytes | None) -> dict[str, Any]:
        """The answer to a state that was checked; `text` is the memory that the client carries."""
        if not slot.recurrent:
            return self._render(slot, slot.policy.step(state), state, {})
        decision = slot.policy.step(state, self._before(slot, text))
        return self._render(slot, decision, state, self._carried(slot, decision, text is None))

    def _sequence(self, slot: Slot, states: list[Any]) -> dict[str, Any]:
        if not 1 <= len(states) <= MAX_SEQUENCE:
            raise FieldError("sequence", f"{len(states)} states", f"1 to {MAX_SEQUENCE}", "send the newest ones")
        for index, state in enumerate(states):
            try:
                validate_state(state, slot.dim, slot.symbols)
            except StateError as error:
                raise within(f"sequence[{index}]", error) from error
        decision = slot.policy.step(states[0])
        for state in states[1:]:
            decision = slot.policy.step(state, decision.memory)
        return self._render(slot, decision, states[-1], self._carried(slot, decision, True))

    def _before(self, slot: Slot, text: str | bytes | None) -> F32 | None:
        """The memory that the client brought."""
        return None if text is None else memories.unpack(text, slot.digest, self._key, slot.policy.memory_size)

    def _carried(self, slot: Slot, decision: Step, started: bool) -> dict[str, Any]:
        """The memory that the client carries to its next request."""
        return {"memory": memories.pack(decision.memory, slot.digest, self._key), "memory_started": started}

    def _render(self, slot: Slot, decision: Step, state: Sequence[float], said: dict[str, Any]) -> dict[str, Any]:
        """The fields that say what was decided, after the risk limits; `said` is about the memory."""
        multipliers = decision.multipliers
        risk = slot.limiter(state, multipliers)
        answer: dict[str, Any]
        if len(multipliers) == 1:
            answer = {"position_multiplier": multipliers[0], "confidence": decision.confidence}
        else:
            named = dict(zip(slot.symbols, multipliers, strict=True))
            answer = {"position_multipliers": named, "confidence": decision.confidence}
        if said:
            answer |= said
        if decision.out_of_distribution:
            answer["out_of_distribution"] = True
        if risk is not None:
            answer["risk"] = risk
        self.metrics.decided(
            multipliers, decision.confidence, decision.familiarity, decision.out_of_distribution, risk is not None
        )
        return answer

    def _finish(self, slot: Slot, answer: dict[str, Any], started: int) -> dict[str, Any]:
        """Adds the last two fields."""
        elapsed = perf_counter_ns() - started
        answer["latency_ms"] = elapsed / 1e6
        answer["model_version"] = slot.version
        self.metrics.answered(elapsed / 1e9)
        return answer


def _is_plain(slot: Slot, request: dict[str, Any]) -> bool:
    """Whether all that was sent is a state, or a state and a memory that this policy has.

    Raises:
        StateError: it is, and the state cannot be used.
    """
    state = request.get("state")
    if state is None or len(request) != 1 + (slot.recurrent and request.get("memory") is not None):
        return False
    if not categories_hold(state, slot.layout):
        validate_state(list(state), slot.dim, slot.symbols)
    return True


def _as_sent(request: dict[str, Any]) -> dict[str, Any]:
    """The request with its state as a list, as the routes have it."""
    return request | {"state": list(request["state"])} if "state" in request else request
