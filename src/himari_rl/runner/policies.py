"""Who is asked: a bundle in this process, or a server. One face, one form of answer, memory as an opaque text."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import datetime
from time import perf_counter
from typing import Protocol

import numpy as np

from himari_rl.client.answers import POLICY_ERROR, PolicyAnswer
from himari_rl.client.caller import PolicyCaller
from himari_rl.client.config import ClientConfig
from himari_rl.errors import ConfigError, HimariError
from himari_rl.policy.arrival import ArrivalRules
from himari_rl.policy.drift import DriftSpec
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.runtime import Policy
from himari_rl.runner.config import RunConfig
from himari_rl.schema import SECOND_MS

LOCAL, CLOUD, FALLBACK = "local_model", "gcp_api", "fallback"
"""Sources of a multiplier."""
MOST_ADVANCED = 64
"""Above so many missing bars a memory starts anew under either gap rule, as on the server."""


class AsksPolicy(Protocol):
    """One policy, however it is reached."""

    source: str
    symbols: tuple[str, ...]
    interval_ms: int
    phase_ms: int | None
    ledger: LedgerConfig
    own: tuple[str, ...]  # own features that it reads; signals carry them by name
    drift: DriftSpec | None  # what its training met; None: it does not say
    about: str  # version and verdict, for people

    def ask(self, state: Sequence[float], memory: str | None) -> PolicyAnswer:
        """The multipliers, or the cause why there are none; never raises."""
        ...

    def over_gap(self, state: Sequence[float], memory: str, missing: int) -> str | None:
        """The memory after bars that were missing; None starts an episode."""
        ...

    def close(self) -> None:
        """Nothing is asked any more."""
        ...


class LocalPolicy:
    """A bundle in this process, warm from the start."""

    source = LOCAL

    def __init__(self, policy: Policy) -> None:
        self._policy, manifest = policy, policy.manifest
        self.own = manifest.own_features
        self.symbols, self.interval_ms = manifest.symbols, manifest.ledger.interval_ms
        self.phase_ms = ArrivalRules.of(manifest).phase_ms
        self.ledger, self.version = manifest.ledger.config, manifest.version
        self.drift = manifest.drift
        verdict = (manifest.evaluation or {}).get("sentence", "not judged")
        self.about = f"{self.version}: {verdict}"

    def ask(self, state: Sequence[float], memory: str | None) -> PolicyAnswer:
        started = perf_counter()
        try:
            step = self._policy.step(state, unpacked(memory))
        except HimariError as error:
            return PolicyAnswer(None, POLICY_ERROR, str(error), latency_ms=1e3 * (perf_counter() - started))
        return PolicyAnswer(
            tuple(step.multipliers),
            version=self.version,
            confidence=step.confidence,
            memory=packed(step.memory) if self._policy.memory_size else None,
            latency_ms=1e3 * (perf_counter() - started),
            notes=("out_of_distribution",) if step.out_of_distribution else (),
        )

    def over_gap(self, state: Sequence[float], memory: str, missing: int) -> str | None:
        if self._policy.manifest.gap_rule == "reset" or missing > MOST_ADVANCED:
            return None
        carried = unpacked(memory)
        for _ in range(missing):
            carried = self._policy.step(state, carried).memory
        return None if carried is None else packed(carried)

    def close(self) -> None:
        """Nothing is open."""


class CloudPolicy:
    """A policy server, asked within a deadline. Fees, grid and limits are those that its /ready names.

    Args:
        symbols, interval_ms: what the policy must be for.
        ledger: where the server cannot be reached at the start.
    """

    source = CLOUD

    def __init__(
        self, url: str, symbols: Sequence[str], interval_ms: int, config: RunConfig, ledger: LedgerConfig | None = None
    ) -> None:
        self.symbols, self.interval_ms = tuple(symbols), interval_ms
        self.drift: DriftSpec | None = None
        self.about = f"behind {url}"
        client = ClientConfig(
            timeout_ms=config.rl_timeout_ms,
            retries=config.retries,
            breaker_failures=config.breaker_failures,
            breaker_open_s=config.breaker_open_s,
            versions=config.versions,
            keep_warm_s=config.keep_warm_s,
            api_key=config.api_key,
            audience=config.audience,
        )
        self.caller = PolicyCaller(url, symbols, interval_ms, client)
        self.trouble = self.caller.connect()
        """Why it cannot be used yet; empty where it can."""
        self.phase_ms: int | None = 0
        self.ledger = ledger or LedgerConfig()
        ready = self.caller.ready
        self.own: tuple[str, ...] = tuple(json.loads(ready.get("features", "[]")))
        try:
            if "ledger" in ready:
                self.ledger = LedgerSpec.model_validate_json(ready["ledger"]).config
            if "first_bar" in ready:
                first = datetime.fromisoformat(ready["first_bar"])
                self.phase_ms = round(first.timestamp() * SECOND_MS) % interval_ms
        except ValueError as error:
            raise ConfigError(f"{url}/ready: {error}", "a server of this release", "update it") from error

    def ask(self, state: Sequence[float], memory: str | None) -> PolicyAnswer:
        return self.caller.ask(state, memory)

    def over_gap(self, state: Sequence[float], memory: str, missing: int) -> str | None:
        """An episode starts anew: a server that is asked once for each missing bar is asked too much in 150 ms."""
        return None

    def close(self) -> None:
        self.caller.close()


def packed(memory: np.ndarray) -> str:
    """A memory as text; `unpacked` gives the same bits."""
    return base64.b64encode(np.asarray(memory, "<f4").tobytes()).decode()


def unpacked(text: str | None) -> np.ndarray | None:
    """The memory that a text holds.

    Raises:
        ConfigError: it is none, as after a change by hand.
    """
    if text is None:
        return None
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<f4").copy()
    except (ValueError, binascii.Error) as error:
        raise ConfigError(f"a memory that is none: {error}", "what a decision before wrote") from error
