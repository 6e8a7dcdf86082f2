"""What a server keeps between two requests of one client, and the gap rule.

    Sessions       a bounded dict that forgets what was silent for too long, and refuses a newcomer when it is full
    SessionMemory  a recurrent policy's memory after a bar, and before it, so that a bar sent twice is answered alike

The gap rule: after a missing bar a memory either starts anew (`reset`) or is carried over the gap by deciding the last
state once more for each missing bar (`advance`); the answer says which, and how many bars were missing.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from time import monotonic
from typing import Any, Generic, NamedTuple, TypeVar

from himari_rl.policy.network import F32
from himari_rl.serving.errors import FieldError, TooManyError
from himari_rl.serving.slot import Slot

T = TypeVar("T")
MOST_ADVANCED = 64
"""Above so many missing bars a memory starts anew under either rule."""


class Sessions(Generic[T]):
    """At most `most` values by name, `most_each` of one client; one that nobody touched for `ttl_s` s is forgotten."""

    def __init__(
        self, most: int, ttl_s: float, clock: Callable[[], float] = monotonic, most_each: int | None = None
    ) -> None:
        self._most, self._ttl, self._clock = most, ttl_s, clock
        self._most_each = most if most_each is None else most_each
        self._kept: OrderedDict[Hashable, tuple[float, T, str]] = OrderedDict()
        self._of: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, name: Hashable) -> T | None:
        """The value, if it is there and not expired."""
        self._forget()
        kept = self._kept.get(name)
        return None if kept is None else kept[1]

    def admit(self, name: Hashable, client: str = "") -> T | None:
        """As `get`; refuses a new name when there is no room, for anybody or for this client.

        Raises:
            TooManyError: `most` sessions are alive, or `most_each` of this client.
        """
        self._forget()
        if (kept := self._kept.get(name)) is not None:
            return kept[1]
        cure = "use fewer session_ids, or carry memory"
        if len(self._kept) >= self._most:
            raise TooManyError(f"{len(self._kept)} sessions are open", f"at most {self._most}", cure)
        if (own := self._of[client]) >= self._most_each:
            raise TooManyError(f"{own} sessions of this client are open", f"at most {self._most_each}", cure)
        return None

    def put(self, name: Hashable, value: T, client: str = "") -> None:
        """Keeps a value of a client; its time starts anew."""
        if name not in self._kept:
            self._of[client] += 1
        self._kept[name] = (self._clock(), value, client)
        self._kept.move_to_end(name)

    def _forget(self) -> None:
        oldest = self._clock() - self._ttl
        while self._kept and next(iter(self._kept.values()))[0] < oldest:
            _, (_, _, client) = self._kept.popitem(last=False)
            self._of[client] -= 1
            if not self._of[client]:
                del self._of[client]


class SessionMemory(NamedTuple):
    """A session of one policy: times in ms UTC, bar OPEN."""

    digest: str  # of the policy
    timestamp: int  # of the last bar
    before: F32 | None  # memory before the last bar; None: it started there
    after: F32
    state: Sequence[float]  # of the last bar


class Resumed(NamedTuple):
    """Where a session goes on at a bar."""

    memory: F32 | None  # None starts from zeros
    note: dict[str, Any]  # what the answer must say about it


def resume(kept: SessionMemory | None, slot: Slot, timestamp: int) -> Resumed:
    """The memory to decide the bar at `timestamp` with, by the gap rule.

    Raises:
        FieldError: the bar is older than the last one, or not on its grid.
    """
    if kept is None:
        return Resumed(None, {"memory_started": True})
    if kept.digest != slot.digest:
        return Resumed(None, {"memory_started": True, "gap": {"rule": "reset", "reason": "another policy answers now"}})
    if timestamp == kept.timestamp:
        return Resumed(kept.before, {"memory_started": kept.before is None, "repeated": True})
    steps, rest = divmod(timestamp - kept.timestamp, slot.interval_ms)
    if steps < 0 or rest:
        raise FieldError(
            "timestamp",
            f"timestamp is {timestamp} after {kept.timestamp}",
            f"a later bar, a multiple of {slot.interval_ms} ms away",
            "send each bar's opening time in ms, in order, or start another session_id",
        )
    missing = steps - 1
    if missing == 0:
        return Resumed(kept.after, {"memory_started": False})
    if slot.gap_rule == "reset" or missing > MOST_ADVANCED:
        return Resumed(None, {"memory_started": True, "gap": {"rule": "reset", "missing_bars": missing}})
    memory = kept.after
    for _ in range(missing):
        memory = slot.policy.step(kept.state, memory).memory
    return Resumed(memory, {"memory_started": False, "gap": {"rule": "advance", "missing_bars": missing}})
