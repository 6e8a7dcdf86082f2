"""What is tried again and for how long: the calls that Google's libraries do not repeat, and lost answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from himari_rl.errors import CloudError

T = TypeVar("T")
LONGEST_S = 30.0


class LostAnswerError(CloudError):
    """Nothing tells whether a call was carried out: it was unavailable, timed out or broke off."""


class SoldOutError(CloudError):
    """A place has no machine or no quota left (RESOURCE_EXHAUSTED)."""


@dataclass(frozen=True)
class Patience:
    """How often something is tried, and the pause between."""

    attempts: int
    pause_s: float
    tell: Callable[[str], None] = lambda line: None

    def pauses(self, attempt: int) -> None:
        """Waits after an attempt, counted from 1; twice as long each time."""
        time.sleep(min(self.pause_s * 2 ** (attempt - 1), max(LONGEST_S, self.pause_s)))

    def repeat(self, call: Callable[[], T]) -> T:
        """A call that may be carried out twice, such as a look.

        Raises:
            LostAnswerError, SoldOutError: the last attempt's.
        """
        for attempt in range(1, self.attempts):
            try:
                return call()
            except (LostAnswerError, SoldOutError) as error:
                self.tell(f"{error}; again")
                self.pauses(attempt)
        return call()

    def once(self, find: Callable[[], T | None], create: Callable[[], T]) -> T:
        """Creates something exactly once: looks for it before every attempt, and after the last.

        Args:
            find: what an earlier attempt created whose answer was lost, recognised by its label.

        Raises:
            SoldOutError: every attempt was refused for want of machines or quota. LostAnswerError: nothing answered.
        """
        last: CloudError | None = None
        for attempt in range(1, self.attempts + 1):
            found = self.repeat(find)
            if found is not None:
                if last is not None:
                    self.tell("the answer was lost, and what was asked for is there")
                return found
            try:
                return create()
            except (LostAnswerError, SoldOutError) as error:
                last = error
                self.tell(f"{error}; looking whether it was carried out")
                self.pauses(attempt)
        found = self.repeat(find)
        if found is not None:
            return found
        assert last is not None
        raise last
