"""The decisions behind the routes: holds a champion and perhaps a challenger, and answers requests.

One event loop, one process per core. A request reads its policy once (slot.py) and is answered in one go.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, perf_counter_ns, time
from typing import Any

from pydantic_core import ValidationError

from himari_rl.errors import HimariError, StateError
from himari_rl.features.validation import categories_hold, validate_state
from himari_rl.monitoring.metrics import Metrics
from himari_rl.policy.runtime import Policy, Step
from himari_rl.serving import decide as raw
from himari_rl.serving import memory as memories
from himari_rl.serving.columns import decide_in_columns, read_states
from himari_rl.serving.errors import FieldError, NotReadyError, OfferRefusedError, within
from himari_rl.serving.inputs import HeldSession, PolicyInput, Request, check_fields, input_of_sequence
from himari_rl.serving.jobs import Jobs, background, in_daemon
from himari_rl.serving.journal import Journal
from himari_rl.serving.log_lines import LogLines
from himari_rl.serving.messages import DecideRequest
from himari_rl.serving.reader import SentDecide, as_sent, decide_reader
from himari_rl.serving.sessions import SessionMemory, Sessions, resume
from himari_rl.serving.settings import ServeSettings
from himari_rl.serving.shadow import Challenger
from himari_rl.serving.slot import Follower, Slot

LOADING = "the policy is still loading"
FOLLOW = "follow"  # the background job that looks at the sources
_NO_NOTE: Mapping[str, Any] = {}
_READ_DECIDE: Callable[[bytes], SentDecide] = decide_reader().validate_json


class Service:
    """What one server process decides with."""

    def __init__(self, source: Policy | str | Path, settings: ServeSettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.log_lines = LogLines(self.metrics.lines_dropped)
        self.journal = Journal(settings.log_every, self.log_lines)
        self.jobs = Jobs(self.metrics, self.journal)
        self.slot: Slot | None = None
        self.reason = LOADING
        self.follower = Follower(source, settings)
        self.challenger = Challenger(settings, self.metrics, self.journal) if settings.challenger else None
        self._split = self.challenger if settings.challenger_share else None
        self._shadow = None if settings.challenger_share else self.challenger
        self._key = settings.memory_key or secrets.token_bytes(32)
        bounds: dict[str, Any] = {"most": settings.max_sessions, "ttl_s": settings.session_ttl_s}
        bounds["most_each"] = min(settings.max_sessions, settings.max_sessions_each)
        self._memories: Sessions[SessionMemory] = Sessions(**bounds)
        self._streams: Sessions[raw.Stream] = Sessions(**bounds)
        self._loading = asyncio.Lock()
        self._look: asyncio.Task[bool] | None = None
        self._looking_since = 0.0
        self._announced = False
        self._before: tuple[str, Slot | None] = (LOADING, None)
        self.looked_at: float | None = None
        """When the last look at the sources came back, by the monotonic clock; None before the first."""
        self.clock = time
        """Seconds since 1970: what the times of live bars are held against."""

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

    def announce(self, url: str) -> None:
        """Says where the server listens and what it will serve there; and what it serves, when that is loaded."""
        settings = self.settings
        keys = "API keys" * bool(settings.api_keys) or "ID tokens" * bool(settings.audience) or "nobody is asked"
        more = background(settings.reload_s, settings.throttled, self._shadow is not None)
        self.journal.event("listening", url=url, source=self.follower.place, keys=keys, admin=settings.admin, **more)
        self._announced = True

    async def reload(self) -> bool:
        """`load`, off the event loop and written down, for champion and challenger; one at a time."""
        async with self._loading:
            if self._look is None:
                self._before, self._looking_since = (self.reason, self.slot), monotonic()
                self._look = asyncio.create_task(in_daemon(self._look_at_sources))
            await asyncio.wait({self._look}, timeout=self.settings.look_timeout_s)
            if not self._look.done():  # a hung mount: the next call waits for the same look, there is never a second
                return False
            look, self._look = self._look, None
            self.looked_at = monotonic()
            (earlier, before), swapped = self._before, look.result()
            serving = self.slot and self.slot.version
            if self.reason not in ("", earlier):  # the source is asked every few seconds, and says the same for hours
                self.journal.event("refused", "ERROR", reason=self.reason, serving=serving)
            if swapped and before is None and self._announced and self.slot is not None:
                data = self.slot.policy.manifest.training_data
                self.journal.event(
                    "serving",
                    model_version=serving,
                    source=self.follower.place,
                    symbols=self.slot.symbols,
                    interval_ms=self.slot.interval_ms,
                    synthetic=data.synthetic,
                )
            elif swapped and (before is not None or earlier not in ("", LOADING) or self.journal.every):
                # a first start that went well is no event
                self.journal.event("swap", model_version=serving, before=before and before.version)
            return swapped

    def _look_at_sources(self) -> bool:
        swapped = self.load()
        if self.challenger is not None:
            self.challenger.load(self.slot)
        return swapped

    @property
    def refused(self) -> str:
        """Why what the source offers now is not served; empty where it is."""
        if self._look is not None:
            seconds = monotonic() - self._looking_since
            if seconds > self.settings.look_timeout_s:
                return f"a look at {self.follower.place} has not come back for {seconds:.0f} s"
        return self.jobs.failing.get(FOLLOW, self.reason)

    async def reload_or_say(self) -> bool:
        """`reload` for somebody who asked for it.

        Raises:
            NotReadyError: there is no valid policy.
            OfferRefusedError: what is offered was refused, and the policy before goes on.
        """
        self.follower.hurry()
        if self.challenger is not None:
            self.challenger.follower.hurry()
        swapped = await self.reload()
        version = self.ready().version
        if self.refused:
            raise OfferRefusedError(self.refused, cure=f"{version} goes on answering")
        if self.challenger is not None and self.challenger.reason:
            raise OfferRefusedError(f"the challenger: {self.challenger.reason}", cure=f"{version} goes on answering")
        return swapped

    def ready(self) -> Slot:
        """The champion.

        Raises:
            NotReadyError: there is none; says why.
        """
        if self.slot is None:
            raise NotReadyError(f"no valid policy is loaded: {self.refused}")
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
        return self._predict(self.slot or self.ready(), request, client, started, in_range=False)

    def predict_bytes(self, body: bytes, client: str = "") -> dict[str, Any]:
        """The same answer to a request as it came: its numbers are held against their ranges while they are parsed.

        Raises:
            ValidationError: it is not in order; the FastAPI route says why.
            HimariError: as `predict`.
        """
        started = perf_counter_ns()
        slot = self.slot or self.ready()
        return self._predict(slot, slot.reader.validate_json(body), client, started, in_range=True)

    def predict_many(self, bodies: Collection[bytes], clients: Sequence[str] = ()) -> list[dict[str, Any] | None]:
        """The answers to requests that came together, in order, all of one policy; never asked under a split.

        The network decides those that carry their memory, or start one, at once (Policy.steps); every other request is
        answered alone. None stands for what `predict_bytes` would refuse, and for all of a batch that one of it spoils:
        each of those is to be asked again, alone.

        Args:
            clients: who asks, in the order of `bodies`; none where nobody says.

        Raises:
            NotReadyError: no valid policy.
        """
        started = perf_counter_ns()
        slot = self.slot or self.ready()
        answers: list[dict[str, Any] | None] = [None] * len(bodies)
        requests: dict[int, Request] = {}
        batch: dict[int, PolicyInput] = {}
        for index, body in enumerate(bodies):
            with suppress(ValidationError, HimariError):  # what is refused stays None
                request = slot.reader.validate_json(body)
                given = self._prepare(slot, request, clients[index] if clients else "", in_range=True)
                if given.together:
                    batch[index] = given
                else:  # at once: the next request may be of the same session
                    answers[index] = self._answer(slot, given, slot.policy.step(given.state, given.before))
                requests[index] = request
        with suppress(HimariError):
            decisions = slot.policy.steps([one.state for one in batch.values()], [one.before for one in batch.values()])
            for (index, given), decision in zip(batch.items(), decisions, strict=True):
                answers[index] = self._answer(slot, given, decision)
        for index, answer in enumerate(answers):
            if answer is not None:
                self._finish(slot, requests[index], answer, started)
        return answers

    def batch(self, instances: Sequence[Request], client: str = "") -> dict[str, Any]:
        """The answer to POST /v1/batch: each instance for itself, in order, in one pass; none where one is wrong.

        Raises:
            as `predict`; a StateError names the instance.
        """
        return self._batch(self._chosen(client), instances, client, perf_counter_ns())

    def batch_bytes(self, body: bytes, client: str = "") -> dict[str, Any]:
        """The same answer to a batch of plain states as it came: as `predict_bytes`."""
        started = perf_counter_ns()
        slot = self._chosen(client)
        states = read_states(body, slot)
        if len(states) == 1:  # one decision has the bits of `predict`
            return self._batch(slot, [{"state": states[0].tolist()}], client, started)
        predictions = decide_in_columns(slot, states, self._key, self.metrics)
        if self._shadow is not None:
            for state, answer in zip(states.tolist(), predictions, strict=True):
                self._shadow.offer({"state": state}, answer)
        return self._finish(slot, None, {"predictions": predictions}, started)

    def _chosen(self, client: str) -> Slot:
        slot = self.slot or self.ready()
        return slot if self._split is None else self._split.choose(slot, client)

    def _batch(self, slot: Slot, instances: Sequence[Request], client: str, started: int) -> dict[str, Any]:
        given = []
        for index, request in enumerate(instances):
            where = f"instances[{index}]"
            if request.get("session_id") is not None:
                raise FieldError(where, "an instance has a session_id", "memory or none", "use POST /predict for it")
            try:
                given.append(self._prepare(slot, request, client, in_range=False))
            except StateError as error:
                raise within(where, error) from error
        if len(given) > 1:
            decisions = slot.policy.steps([one.state for one in given], [one.before for one in given])
        else:
            decisions = [slot.policy.step(given[0].state, given[0].before)]
        predictions = []
        for request, one, decision in zip(instances, given, decisions, strict=True):
            answer = self._answer(slot, one, decision)
            if self._shadow is not None:
                self._shadow.offer(request, answer)
            predictions.append(answer)
        return self._finish(slot, None, {"predictions": predictions}, started)

    def decide(self, request: DecideRequest | bytes, client: str = "") -> dict[str, Any]:
        """The answer to POST /v1/decide: the server encodes. A refused request leaves every stream as it was.

        Args:
            request: or its bytes, which are refused with a ValidationError where they are not in order.
            client: who asks: a stream belongs to one client and its session_id.

        Raises:
            as `predict`.
        """
        started = perf_counter_ns()
        sent = _READ_DECIDE(request) if isinstance(request, bytes) else as_sent(request)
        session = sent.get("session_id")
        slot = self._chosen(session or client)
        arrived = raw.arrive(sent, slot, self.settings, self.clock() * 1000.0)
        name, stream = None, None
        if session is not None:
            name = (client, session, slot.symbols, slot.interval_ms)
            stream = self._streams.admit(name, client)
        if stream is None or arrived.anew:
            known = "the request has no session_id and" if name is None else "this session is new here and"
            stream = raw.begin(arrived, slot, known if stream is None else "the request")
        stream, state, note = raw.encode(stream, arrived, slot)
        if slot.recurrent and name is not None:
            given = self._in_session(slot, state, client, ("decide", *name), arrived.timestamp)
            given = given._replace(note={**note, **given.note})
        else:
            note |= {"memory_started": True} if slot.recurrent else _NO_NOTE
            given = tuple.__new__(PolicyInput, (state, None, note, False, False, None))
        answer = self._answer(slot, given, slot.policy.step(state, given.before))
        if name is not None:
            self._streams.put(name, stream, client)
        return self._finish(slot, {"state": state}, answer, started) | {"state": state}

    # ---- the steps of every answer: _prepare, Policy.step, _answer (limits, memory), _finish (shadow, record)

    def _predict(self, slot: Slot, request: Request, client: str, started: int, *, in_range: bool) -> dict[str, Any]:
        """All of them for one request. `in_range`: reader.py has held the state's numbers to their ranges already."""
        if self._split is not None:
            slot = self._split.choose(slot, str(request.get("session_id") or client))
        given = self._prepare(slot, request, client, in_range=in_range)
        answer = self._answer(slot, given, slot.policy.step(given.state, given.before))
        return self._finish(slot, request, answer, started)

    def _prepare(self, slot: Slot, request: Request, client: str, *, in_range: bool) -> PolicyInput:
        """Checks a request and finds the memory that it brings or that a session holds."""
        state: Any = request.get("state")
        text = request.get("memory")
        plain = state is not None and len(request) == 1 + (slot.recurrent and text is not None)
        if not plain:
            check_fields(slot, request)
            if request.get("sequence") is not None:
                return input_of_sequence(slot, request["sequence"])
        if not (in_range and categories_hold(state, slot.layout)):
            validate_state(list(state) if in_range else state, slot.dim, slot.symbols, slot.own)
        if not slot.recurrent:
            return tuple.__new__(PolicyInput, (state, None, _NO_NOTE, False, False, None))
        if (session := request.get("session_id")) is not None:
            return self._in_session(slot, state, client, (client, session), request["timestamp"])
        before = None if text is None else memories.unpack(text, slot.digest, self._key, slot.policy.memory_size)
        return tuple.__new__(PolicyInput, (state, before, {"memory_started": text is None}, True, plain, None))

    def _in_session(
        self, slot: Slot, state: Sequence[float], client: str, name: Hashable, timestamp: int
    ) -> PolicyInput:
        """A bar of a session that this process keeps; the session stays as it was until the bar is decided."""
        now_ms = self.clock() * 1000.0
        if timestamp > now_ms + slot.interval_ms:  # it would refuse every real bar from then on
            raise FieldError(
                "timestamp",
                f"timestamp is {timestamp}, more than a bar after {now_ms:.0f}, which it is here",
                "the opening time of a bar that is there",
                "send each bar's opening time in ms, UTC",
            )
        before, note = resume(self._memories.admit(name, client), slot, timestamp)
        return PolicyInput(state, before, note, session=HeldSession(client, name, timestamp))

    def _answer(self, slot: Slot, given: PolicyInput, decision: Step) -> dict[str, Any]:
        """Limits a decision, keeps or signs its memory and counts it: the answer without its last two fields."""
        multipliers = decision.multipliers
        risk = slot.limiter(given.state, multipliers)
        answer: dict[str, Any]
        if len(multipliers) == 1:
            answer = {"position_multiplier": multipliers[0], "confidence": decision.confidence}
        else:
            named = dict(zip(slot.symbols, multipliers, strict=True))
            answer = {"position_multipliers": named, "confidence": decision.confidence}
        if given.session is not None:
            client, name, timestamp = given.session
            kept = SessionMemory(slot.digest, timestamp, given.before, decision.memory, given.state)
            self._memories.put(name, kept, client)
        elif given.carried:
            answer["memory"] = memories.pack(decision.memory, slot.digest, self._key)
        answer |= given.note
        if decision.out_of_distribution:
            answer["out_of_distribution"] = True
        if risk is not None:
            answer["risk"] = risk
        self.metrics.decided(
            multipliers, decision.confidence, decision.familiarity, decision.out_of_distribution, risk is not None
        )
        return answer

    def _finish(self, slot: Slot, request: Request | None, answer: dict[str, Any], started: int) -> dict[str, Any]:
        """Shows request and answer to a challenger in the shadow, adds the last two fields and counts the request."""
        if self._shadow is not None and request is not None:
            self._shadow.offer(request, answer)
        elapsed = perf_counter_ns() - started
        answer["latency_ms"] = elapsed / 1e6
        answer["model_version"] = slot.version
        self.metrics.answered(elapsed / 1e9)
        return answer
