"""Asks a policy server within a deadline: an answer that was checked, or the cause why there is none. Never raises.

with PolicyCaller(url, ("BTC-USDT",), HOUR_MS) as caller:
    caller.connect()                  reads /ready: which policy, of which symbols and interval; wakes the server
    answer = caller.ask(state, memory)
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Sequence
from time import monotonic, perf_counter
from types import TracebackType
from typing import Any

from himari_rl.client.answers import (
    BREAKER_OPEN,
    INVALID,
    InvalidAnswerError,
    PolicyAnswer,
    UnknownVersionError,
    read_answer,
)
from himari_rl.client.breaker import Breaker
from himari_rl.client.config import ClientConfig
from himari_rl.client.tokens import Credentials
from himari_rl.client.wire import CallError, Wire

MOST_DETAIL = 500
"""Characters of what a server said that go into a detail, and so into a journal."""


class PolicyCaller:
    """One policy server, asked for one policy's symbols and interval."""

    def __init__(self, url: str, symbols: Sequence[str], interval_ms: int, config: ClientConfig | None = None) -> None:
        self.url, self.symbols, self.interval_ms = url, tuple(symbols), interval_ms
        self.config = config or ClientConfig()
        self.breaker = Breaker(self.config.breaker_failures, self.config.breaker_open_s)
        self.failures: Counter[str] = Counter()
        """Questions without an answer, by cause."""
        self._credentials = Credentials(self.config.api_key, self.config.audience)
        self._wire = Wire(url, self._credentials.headers, self.config.retries)
        self._versions = frozenset(self.config.versions)
        self._looking = threading.Lock()
        self.ready: dict[str, str] = {}
        """What /ready said: `first_bar` (ISO 8601), `ledger` (JSON), and own `features` (a list in JSON)."""
        if self.config.keep_warm_s:
            self._wire.spawn(self._keep_warm())

    def __enter__(self) -> PolicyCaller:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def versions(self) -> frozenset[str]:
        """Those that may answer."""
        return self._versions

    def connect(self) -> str:
        """Reads /ready, which also wakes a server that was scaled to zero; why it cannot be used, or nothing.

        Raises:
            ConfigError: no ID token where one must be shown.
        """
        self._credentials.begin()
        try:
            return self._learn(self._wire.call("GET", "/ready", None, self.config.connect_s))
        except CallError as error:
            return f"{self.url} did not say which policy it has ({error}): calls fall back until it does"

    def ask(self, state: Sequence[float], memory: str | None = None) -> PolicyAnswer:
        """The multipliers for a state; where there are none, why."""
        started, deadline = perf_counter(), self.config.timeout_ms / 1e3
        if not self.breaker.allows():
            return self._failed(BREAKER_OPEN, f"{self.url} failed too often; it is tried again soon", started)
        question: dict[str, Any] = {"state": list(state)}
        if memory is not None:
            question["memory"] = memory
        try:
            body = self._wire.call("POST", "/predict", json.dumps(question).encode(), deadline)
            answer = read_answer(body, self.symbols, self._versions)
        except CallError as error:
            self.breaker.failed()
            return self._failed(error.cause, error.detail, started)
        except InvalidAnswerError as error:
            self.breaker.failed()
            self._wire.forget()
            if isinstance(error, UnknownVersionError) and not self.config.versions:
                self._look_again()
            return self._failed(INVALID, str(error), started)
        self.breaker.succeeded()
        return answer._replace(latency_ms=1e3 * (perf_counter() - started))

    def _failed(self, cause: str, detail: str, started: float) -> PolicyAnswer:
        self.failures[cause] += 1
        return PolicyAnswer(None, cause, detail[:MOST_DETAIL], latency_ms=1e3 * (perf_counter() - started))

    def _learn(self, body: bytes) -> str:
        """Takes the version that /ready names, if its policy is for our symbols and interval; what is wrong if not."""
        try:
            said = json.loads(body)
            version, symbols = said["model_version"], tuple(said["symbols"])
            if not isinstance(version, str):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            return f"{self.url}/ready is none of a policy server: {body[:100]!r}"
        interval_ms = said.get("interval_ms", self.interval_ms)
        if symbols != self.symbols or interval_ms != self.interval_ms:
            found = f"{', '.join(map(str, symbols))} on bars of {interval_ms} ms"
            return f"{self.url} has a policy for {found}, not for {', '.join(self.symbols)} on {self.interval_ms} ms"
        if self.config.versions and version not in self.config.versions:
            return f"{self.url} has {version}, not {', '.join(self.config.versions)}"
        if isinstance(said.get("first_bar"), str) and isinstance(said.get("ledger"), dict):
            self.ready = {"first_bar": said["first_bar"], "ledger": json.dumps(said["ledger"])}
            self.ready["features"] = json.dumps([str(name) for name in said.get("features") or ()])
        challenger = said.get("challenger") or {}  # one that answers a share of the clients answers us perhaps
        split = challenger.get("model_version") if str(challenger.get("mode")).startswith("split") else None
        self._versions = self._versions | {version} | ({split} if split else set())
        return ""

    def _look_again(self) -> None:
        """Asks /ready in the background whose the new version is: a promoted policy is known from the next call on."""
        if self._looking.acquire(blocking=False):
            future = self._wire.spawn(self._learn_again())
            future.add_done_callback(lambda _: self._looking.release())

    async def _learn_again(self) -> None:
        try:
            self._learn(await self._wire.exchange("GET", "/ready", None, monotonic() + self.config.connect_s))
        except CallError:
            return  # the next unknown answer asks again

    async def _keep_warm(self) -> None:
        while True:
            await asyncio.sleep(self.config.keep_warm_s)
            await self._learn_again()

    def close(self) -> None:
        """Ends the connection."""
        self._wire.close()
