"""The cost ledger: one object for each attempt of a job, written while it runs, in a bucket or a folder.

COSTS/base-himari-rl-3f2a1b0c9d8e.json     model, run, launch, machine's price, seconds, US dollars, state
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from himari_rl.errors import StorageError
from himari_rl.storage import is_remote, join, read_bytes, write_atomic

ENDED, RUNNING, STOPPED_BY_COST = "ended", "running", "stopped at its cost"


@dataclass(frozen=True, kw_only=True)
class JobAttempt:
    """What one attempt of a job has cost so far."""

    name: str
    """Of its object."""
    task: str = ""
    """Which of a job's tasks, where it has several."""
    model: str
    run: str
    """The run's folder: attempts of one run made one policy."""
    launch: str
    """What began it: attempts of one launch share its maximal cost."""
    usd_per_hour: float
    started: str
    """UTC."""
    seconds: float
    usd: float
    state: str


_NEEDED = {field.name for field in fields(JobAttempt)} - {"task"}


class CostLedger:
    """The attempts in a place; an empty place keeps nothing."""

    def __init__(self, place: str) -> None:
        self.place = place

    def write(self, attempt: JobAttempt) -> None:
        """Puts down an attempt as it is now.

        Raises:
            StorageError: the place cannot be written.
        """
        if self.place:
            write_atomic(join(self.place, f"{attempt.name}.json"), json.dumps(asdict(attempt)).encode())

    def attempts(self) -> list[JobAttempt]:
        """All of them, the oldest first.

        Raises:
            StorageError: the place cannot be read, or holds something else.
        """
        return sorted(self._read(), key=lambda each: (each.started, each.name))

    def _read(self) -> Iterator[JobAttempt]:
        for path in _files(self.place) if self.place else ():
            try:
                said = json.loads(read_bytes(path))
                yield JobAttempt(
                    **{field.name: said[field.name] for field in fields(JobAttempt) if field.name in {*said, *_NEEDED}}
                )
            except (ValueError, KeyError, TypeError) as error:
                raise StorageError(f"{path} is no line of a cost ledger", "", "move it away") from error


def _files(place: str) -> list[str]:
    if is_remote(place):
        from himari_rl.storage import gcs

        return [join(place, name) for name in gcs.names(f"{place.rstrip('/')}/") if name.endswith(".json")]
    return [str(path) for path in sorted(Path(place).glob("*.json"))]


def spent(attempts: Sequence[JobAttempt], model: str | None = None) -> float:
    """US dollars of all attempts, or of a model's."""
    return sum(each.usd for each in attempts if model in (None, each.model))


def measured(attempts: Sequence[JobAttempt], model: str) -> float | None:
    """US dollars of a model's newest run that came to its end, every attempt of it; None where none has."""
    ended = [each.run for each in attempts if each.model == model and each.state == ENDED]
    if not ended:
        return None
    return sum(each.usd for each in attempts if each.model == model and each.run == ended[-1])
