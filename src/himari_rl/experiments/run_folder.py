"""Whose a run's folder is: one run, one writer at a time, and nothing that is there is replaced in silence.

    with claimed(out, this, ...):      holds the folder, or says in one line why it may not be had

A folder that holds another run is refused, or set aside with the date in its name (--overwrite).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from himari_rl.errors import ConfigError, StorageError
from himari_rl.evaluation.record import BUNDLE, SETTINGS, read_document
from himari_rl.storage import set_aside
from himari_rl.storage.lock import LOCK, writer
from himari_rl.training.record import CHECKPOINT, RECORD
from himari_rl.trials.ledger import Trials

TRAINING, WALK_FORWARD, UNKNOWN = "training run", "walk-forward", "run that left no record"

NAMED = 4  # settings that are named one by one

Tell = Callable[[str], None]


@dataclass(frozen=True)
class RunIdentity:
    """What makes two runs the same: their kind, and hashes of their settings and of their bars and symbols."""

    kind: str
    settings: str = ""
    data: str = ""
    said: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    """The settings themselves, where they are at hand: what differs is then named."""


def nothing_said(line: str) -> None:
    """Tells nobody."""


def run_in(out: Path) -> RunIdentity | None:
    """The run that a folder holds, None where it holds none."""
    for name, kind in ((SETTINGS, WALK_FORWARD), (RECORD, TRAINING)):
        if (out / name).exists():
            try:
                said = read_document(out / name)
            except StorageError:  # damaged: some run's, and nobody can say which
                return RunIdentity(UNKNOWN)
            data = said.get("data_sha256") or (said.get("data") or {}).get("sha256", "")
            symbols = said.get("symbols")
            data = f"{data} {','.join(symbols)}" if symbols else str(data)
            return RunIdentity(kind, str(said.get("hash", "")), data, said.get("settings"))
    left = (out / BUNDLE).exists() or any(out.glob(CHECKPOINT.format(seed="*")))
    return RunIdentity(UNKNOWN) if left else None


@contextmanager
def claimed(
    out: Path, this: RunIdentity, *, same: str, overwrite: bool, resume: bool = False, tell: Tell = nothing_said
) -> Iterator[RunIdentity | None]:
    """Holds a folder for one run; yields the run that is there, None where there is none.

    Args:
        this: the run that wants it.
        same: what the caller does with a run of the same settings and data, in words; nothing is decided here.
        overwrite: sets another run, or the same one, aside.
        resume: what is there is checked by whoever goes on with it.
        tell: called with the line that says so.

    Raises:
        StorageError: the folder holds another run, somebody writes in it, or it cannot be written.
    """
    with ExitStack() as held:
        held.enter_context(writer(out))
        there = run_in(out)
        if there is not None and overwrite:
            tell(f"the {there.kind} in {out} was set aside: {_moved(out)}")
            held.enter_context(writer(out))
            there = None
        if there is not None and there != this and not resume:
            differing = f"other settings{_named(there, this)}" if there.settings != this.settings else "other data"
            found = f"a {there.kind} of {differing}" if there.kind == this.kind else f"a {there.kind}"
            raise StorageError(
                f"{out} holds {found}",
                f"a new folder, or the same command as before ({same})",
                "choose another --out, or give --overwrite, which sets that run aside",
            )
        yield there


def _named(there: RunIdentity, this: RunIdentity) -> str:
    """The settings that two runs do not share."""
    one, other = (dict(_leaves(each.said or {})) for each in (there, this))
    if not (one and other):
        return ""
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return f" ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})" if names else ""


def _leaves(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def put_aside(out: Path, tell: Tell) -> None:
    """Sets aside whatever run a folder holds, and says so."""
    if run_in(out) is not None:
        with writer(out):
            tell(f"the earlier run in {out} was set aside: {_moved(out)}")


def _moved(out: Path) -> Path:
    moved = set_aside(out)
    (moved / LOCK).unlink(missing_ok=True)  # ours, until now
    return moved


def require_ledger() -> None:
    """Finds out that the trial ledger can be written, before hours of training.

    Raises:
        StorageError: it cannot.
    """
    with Trials() as ledger:
        ledger.require_writable()


def require_one(resume: bool, overwrite: bool) -> None:
    """Refuses two answers to one question.

    Raises:
        ConfigError: both were given.
    """
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite", "one of the two", "resume goes on, overwrite begins anew")
