"""The cost ledger: one object for each attempt of a job, written while it runs, in a bucket or a folder.

COSTS/9d8e3f2a1b0c-base-himari-rl-3f2a1b0c9d8e.json     model, run, launch, machine's price, seconds, US dollars, state

In front stands a digest of launch, run and task: what earlier attempts of one task have spent is a listing of a few
names, however many tasks a job has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from himari_rl.errors import StorageError
from himari_rl.storage import is_remote, join, read_bytes, write_atomic
from himari_rl.storage.sealed import digest_of

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
            mark = _mark(attempt.launch, attempt.run, attempt.task)
            write_atomic(join(self.place, f"{mark}{attempt.name}.json"), json.dumps(asdict(attempt)).encode())

    def attempts(self) -> list[JobAttempt]:
        """All of them, the oldest first.

        Raises:
            StorageError: the place cannot be read, or holds something else.
        """
        return sorted(self._read(""), key=lambda each: (each.started, each.name))

    def attempts_of(self, launch: str, run: str, task: str) -> list[JobAttempt]:
        """Those of one task of a launch alone; the same errors."""
        found = self._read(_mark(launch, run, task))
        return [each for each in found if (each.launch, each.run, each.task) == (launch, run, task)]

    def _read(self, start: str) -> Iterator[JobAttempt]:
        for path in _files(self.place, start) if self.place else ():
            try:
                said = json.loads(read_bytes(path))
                yield JobAttempt(
                    **{field.name: said[field.name] for field in fields(JobAttempt) if field.name in {*said, *_NEEDED}}
                )
            except (ValueError, KeyError, TypeError) as error:
                raise StorageError(f"{path} is no line of a cost ledger", "", "move it away") from error


def _mark(launch: str, run: str, task: str) -> str:
    return f"{digest_of(json.dumps([launch, run, task]).encode())[:12]}-"


def _files(place: str, start: str) -> list[str]:
    if is_remote(place):
        from himari_rl.storage import gcs

        return [join(place, start + name) for name in gcs.names(join(place, start)) if name.endswith(".json")]
    return [str(path) for path in sorted(Path(place).glob(f"{start}*.json"))]


def spent(attempts: Sequence[JobAttempt], model: str | None = None) -> float:
    """US dollars of all attempts, or of a model's."""
    return sum(each.usd for each in attempts if model in (None, each.model))


def measured(attempts: Sequence[JobAttempt], model: str) -> float | None:
    """US dollars of a model's newest run that came to its end, every attempt of it; None where none has."""
    ended = [each.run for each in attempts if each.model == model and each.state == ENDED]
    if not ended:
        return None
    return sum(each.usd for each in attempts if each.model == model and each.run == ended[-1])
