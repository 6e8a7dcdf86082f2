"""POST /v1/batch of plain states in columns: read, checked, decided, limited and counted without a loop over decisions.

The same answers as service.py gives one by one; it asks here for batches whose instances are all lists of numbers.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import orjson

from himari_rl.errors import StateError
from himari_rl.features.validation import validate_state
from himari_rl.monitoring.metrics import Metrics
from himari_rl.schema import FloatArray
from himari_rl.serving import memory as memories
from himari_rl.serving.messages import MAX_STATES
from himari_rl.serving.slot import Slot


def read_states(body: bytes, slot: Slot) -> FloatArray:
    """The states (B, F) of a request whose instances are lists of numbers.

    orjson reads a number in half the time of pydantic-core, and takes neither NaN nor infinity. Text, true, false and
    null are refused by their letters, since the one name is without them: then all that is not a list is a number.

    Raises:
        StateError: it is anything else, or one is no state; the FastAPI route says what.
    """
    try:
        if body.count(b'"') != 2 or b"u" in body or b"f" in body:
            raise ValueError("more than numbers")
        states = orjson.loads(body)["instances"]
        if not 1 <= len(states) <= MAX_STATES or {*map(len, states)} != {slot.dim}:
            raise ValueError("not so many numbers")
        flat = np.fromiter(chain.from_iterable(states), np.float64, slot.dim * len(states))
    except (ValueError, TypeError, KeyError) as error:
        raise StateError("the batch is not of plain states", "lists of numbers", "ask the route") from error
    rows = flat.reshape(-1, slot.dim)
    validate_state(rows, slot.dim, slot.symbols, slot.own)
    return rows


def decide_in_columns(slot: Slot, states: FloatArray, key: bytes, metrics: Metrics) -> list[dict[str, Any]]:
    """The answers to states (B, F), each a new episode where the policy has memory, signed with `key`.

    Raises:
        BundleError: the policy answers something that is not a multiplier.
    """
    found = slot.policy.columns(states.astype(np.float32))
    said = slot.limiter.rows(states, found.multipliers)
    outside = np.flatnonzero(found.out_of_distribution).tolist()
    metrics.decided_many(found.multipliers, found.confidence, found.familiarity, len(outside), len(said))
    answers: list[dict[str, Any]]
    rows = zip(found.multipliers.tolist(), found.confidence.tolist(), strict=True)
    if len(slot.symbols) == 1:
        answers = [{"position_multiplier": value, "confidence": sure} for (value,), sure in rows]
    else:
        named = ((dict(zip(slot.symbols, values, strict=True)), sure) for values, sure in rows)
        answers = [{"position_multipliers": by_symbol, "confidence": sure} for by_symbol, sure in named]
    if slot.recurrent:
        for answer, memory in zip(answers, found.memory, strict=True):
            answer["memory"] = memories.pack(memory, slot.digest, key)
            answer["memory_started"] = True
    for row in outside:
        answers[row]["out_of_distribution"] = True
    for row, risk in said.items():
        answers[row]["risk"] = risk
    return answers
