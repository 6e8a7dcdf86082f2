"""Recurrent requests that meet: what both files of tests about them need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from helpers.bundle import valid_states
from himari_rl.serving.http.app import create_app
from himari_rl.serving.memory import unpack
from himari_rl.serving.service import Service
from himari_rl.serving.settings import ServeSettings

KEY = b"k" * 32
NEAR = 1e-6
HOUR = 3_600_000
COUNT = 24


def loaded(folder: Path, **settings: Any) -> Service:
    service: Service = create_app(folder, ServeSettings(memory_key=KEY, **settings)).state.service
    assert service.load()
    return service


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def bodies_of(service: Service, count: int = COUNT, seed: int = 3) -> list[bytes]:
    """Requests of different states; each but every third one brings the memory of a bar before."""
    before, now = valid_states(count, seed=seed).tolist(), valid_states(count, seed=seed + 1).tolist()
    texts = [service.predict_bytes(body(state=state))["memory"] for state in before]
    return [body(state=now[i]) if i % 3 == 0 else body(state=now[i], memory=texts[i]) for i in range(count)]


def numbers(service: Service, answer: dict[str, Any]) -> np.ndarray:
    """Multiplier, confidence and memory, for comparing."""
    assert service.slot
    memory = unpack(answer["memory"], service.slot.digest, KEY, service.slot.policy.memory_size)
    return np.concatenate([[answer["position_multiplier"], answer["confidence"]], memory])


def kind_of(answer: dict[str, Any]) -> dict[str, Any]:
    """What of an answer is not a number of the network."""
    said = {name: answer.get(name) for name in ("memory_started", "out_of_distribution", "model_version")}
    return said | {"limits": list(answer.get("risk", ()))}
