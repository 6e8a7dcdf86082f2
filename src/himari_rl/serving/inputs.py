"""What the policy needs of a request: one state, the memory before it, and where the memory after it goes.

Every form of request comes down to this, so that the steps behind it (service.py) are written once.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from himari_rl.errors import StateError
from himari_rl.features.validation import validate_state
from himari_rl.policy.network import F32
from himari_rl.serving.errors import FieldError, within
from himari_rl.serving.messages import MAX_SEQUENCE
from himari_rl.serving.slot import Slot

Request = Mapping[str, Any]


class HeldSession(NamedTuple):
    """A bar of a session that this process keeps."""

    client: str
    name: Hashable
    timestamp: int  # ms UTC, bar OPEN


class PolicyInput(NamedTuple):
    """A request that was checked. The request path builds it with tuple.__new__, a third of what a call costs."""

    state: Sequence[float]  # (F,)
    before: F32 | None = None  # (S,) memory to decide with; None starts an episode
    note: Mapping[str, Any] = {}  # what the answer says about the memory
    carried: bool = False  # the client carries the memory: the answer has it, signed
    together: bool = False  # may be decided in one batch with others
    session: HeldSession | None = None  # this process keeps the memory


def check_fields(slot: Slot, request: Request) -> None:
    """Refuses a request that carries memory in two ways at once, or in one that the policy does not have.

    Raises:
        FieldError: names the field.
    """
    state = request.get("state")
    session, sequence = request.get("session_id"), request.get("sequence")
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


def input_of_sequence(slot: Slot, states: list[Any]) -> PolicyInput:
    """The last of `states`, after all before it were decided from no memory.

    Raises:
        FieldError: too many or too few, or one of them is no state.
    """
    if not 1 <= len(states) <= MAX_SEQUENCE:
        raise FieldError("sequence", f"{len(states)} states", f"1 to {MAX_SEQUENCE}", "send the newest ones")
    for index, state in enumerate(states):
        try:
            validate_state(state, slot.dim, slot.symbols, slot.own)
        except StateError as error:
            raise within(f"sequence[{index}]", error) from error
    memory: F32 | None = None
    for state in states[:-1]:
        memory = slot.policy.step(state, memory).memory
    return PolicyInput(states[-1], memory, {"memory_started": True}, carried=True)
