"""What the server does, without HTTP: holds one valid policy or the reason why there is none, and decides."""

from __future__ import annotations

import secrets
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from himari_rl.errors import BundleError, HimariError, StateError
from himari_rl.features.contract import WIDTH, state_dim
from himari_rl.features.validation import validate_state
from himari_rl.monitoring.metrics import Metrics
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.serving import memory as memories
from himari_rl.serving.settings import ServeSettings

_ORDINARY = [0.5, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0.1, 0.5, 0]  # HOLD, T4, flat: a quiet hour


class NotReadyError(HimariError):
    """No valid policy is loaded (HTTP 503)."""


class Service:
    """One policy behind every route. It belongs to one event loop; run one process per core."""

    def __init__(self, source: Policy | str | Path, settings: ServeSettings) -> None:
        self.source = source
        self.settings = settings
        self.metrics = Metrics()
        self.policy: Policy | None = None
        self.reason = "the policy is still loading"
        self._symbols: list[str] = []
        self._version = ""
        self._key = settings.memory_key or secrets.token_bytes(32)

    def load(self) -> bool:
        """Loads the policy and makes it decide once; on failure keeps the reason and says False."""
        try:
            policy = self.source if isinstance(self.source, Policy) else load_policy(self.source)
            warm_up(policy)
        except HimariError as error:
            self.reason = str(error)
            return False
        self.policy, self.reason = policy, ""
        manifest = policy.manifest
        self._symbols = list(manifest.symbols)
        self._version = manifest.version
        self.metrics.policy = {"model_version": manifest.version, "kind": manifest.kind}
        return True

    def ready(self) -> Policy:
        """The policy being served.

        Raises:
            NotReadyError: there is none; says why.
        """
        if self.policy is None:
            raise NotReadyError(f"no valid policy is loaded: {self.reason}")
        return self.policy

    def predict(self, state: list[float], memory: str | None = None) -> dict[str, Any]:
        """The answer to POST /predict.

        Args:
            state: what the client sent; checked here.
            memory: signed text of the previous answer, for a recurrent policy; None starts an episode.

        Raises:
            StateError: the state or the memory cannot be used (422).
            NotReadyError: no valid policy (503).
            BundleError: the policy has no answer to a valid state (503).
        """
        started = perf_counter_ns()
        policy = self.policy or self.ready()
        manifest = policy.manifest
        validate_state(state, manifest.state_dim, manifest.symbols)
        before = None if memory is None else self._unpack(policy, memory)
        decision = policy.decide(state, before)
        multipliers: list[float] = decision.multipliers.tolist()
        answer: dict[str, Any]
        if len(multipliers) == 1:
            answer = {"position_multiplier": multipliers[0], "confidence": decision.confidence}
        else:
            named = dict(zip(self._symbols, multipliers, strict=True))
            answer = {"position_multipliers": named, "confidence": decision.confidence}
        if policy.memory_size:
            answer["memory"] = memories.pack(decision.memory, manifest.manifest_sha256, self._key)
            answer["memory_started"] = memory is None
        if decision.out_of_distribution:
            answer["out_of_distribution"] = True
            self.metrics.out_of_distribution += 1
        elapsed = perf_counter_ns() - started
        answer["latency_ms"] = elapsed / 1e6
        answer["model_version"] = self._version
        self.metrics.count(elapsed / 1e9, multipliers)
        return answer

    def _unpack(self, policy: Policy, text: str) -> Any:
        if not policy.memory_size:
            raise memories.SignedMemoryError(
                "the request has a memory", "none: this policy has no memory", "leave memory out"
            )
        return memories.unpack(text, policy.manifest.manifest_sha256, self._key, policy.memory_size)


def warm_up(policy: Policy) -> None:
    """One real decision on an ordinary state.

    Raises:
        BundleError: the policy does not answer it.
    """
    state = ordinary_state(len(policy.manifest.symbols))
    try:
        validate_state(state, policy.manifest.state_dim, policy.manifest.symbols)
        policy.decide(state)
    except StateError as error:
        raise BundleError(f"{policy.manifest.version} refuses an ordinary state: {error}") from error


def ordinary_state(assets: int) -> list[float]:
    """A valid state of a quiet hour without positions: for warming up and for a first curl."""
    state = [float(value) for value in _ORDINARY] * assets
    return state + [0.0] * (state_dim(assets) - WIDTH * assets)  # no correlation, no exposure
