"""Promotion: an alias moves only on a passed gate, or with a written reason, and the log keeps both.

    promote("aliases/champion.json", bundle, answer)                       the gate said yes
    promote("aliases/champion.json", bundle, answer, override="why")       somebody takes it on himself
    rollback("aliases/champion.json")                                      one step back, logged as well

The log is one JSON line an event, in a bucket one object an event, chained as the trial ledger is (audit.py), and its
last move of an alias must be the one that the alias stands at: a line changed or taken out shows.
"""

from __future__ import annotations

import fcntl
import getpass
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from himari_rl.errors import BundleError, RefusedError, StorageError
from himari_rl.policy import alias as aliases
from himari_rl.policy.alias import Alias
from himari_rl.release.audit import FOLDER, bucket_log, chained, checked
from himari_rl.release.gate import GateAnswer
from himari_rl.storage import is_file, is_remote, join, local_path, name_of, parent

LOG = "audit.jsonl"


def promote(path: str, bundle: str, answer: GateAnswer, *, override: str | None = None) -> Alias:
    """Points the alias at `path` to a bundle that passed its gate.

    Args:
        bundle: a folder, which the alias is to name by its absolute path, or gs://.
        override: the reason to promote in spite of a refusal; it is logged.

    Raises:
        RefusedError: the gate refused, or the log lacks the alias's last move, and there is no reason.
        BundleError: the answer is about other weights. StorageError: alias or log cannot be written.
    """
    from himari_rl.policy.bundle import read_manifest

    if not answer.passed and not (override or "").strip():
        raise RefusedError(
            answer.reason,
            "a passed gate",
            'himari gate says why of each rule; --override "reason" takes it on yourself',
        )
    unlogged = _unlogged(path)
    if unlogged and not (override or "").strip():
        raise RefusedError(
            unlogged, "a log of every move", 'restore it, or give --override "reason" to go on from here'
        )
    target = bundle if is_remote(bundle) else str(local_path(bundle).resolve())
    if (found := read_manifest(target)).version != answer.version or found.weights_sha256 != answer.weights_sha256:
        raise BundleError(f"the gate was asked about another policy than {bundle} holds", answer.version)
    event: dict[str, Any] = {"event": "promote", "alias": path, "bundle": target, "version": answer.version}
    event |= {"gate_passed": answer.passed, "gate": answer.reason, "override": override}
    event |= {"exceptions": [*answer.exceptions, *([unlogged] if unlogged else [])]}
    append(path, event | {"state": "asked"})  # before the move: a move that is not in the log must not exist
    moved = aliases.point(path, target)
    append(path, event | {"state": "done", "step": moved.step, "transaction": moved.transaction})
    return moved


def rollback(path: str, reason: str | None = None) -> Alias:
    """Points the alias at the bundle before, and logs it.

    Raises:
        ConfigError: there is none. BundleError: it is gone or changed. StorageError: alias or log cannot be written.
    """
    if not is_file(path):
        raise StorageError(f"there is no alias {path}", "", "himari promote NAME BUNDLE makes one")
    unlogged = _unlogged(path)  # written down and no obstacle: who rolls back at night has no time for it
    event: dict[str, Any] = {"event": "rollback", "alias": path, "override": reason}
    event |= {"exceptions": [unlogged] if unlogged else []}
    append(path, event | {"state": "asked"})
    moved = aliases.rollback(path)
    move = {"bundle": moved.bundle, "step": moved.step, "transaction": moved.transaction}
    append(path, event | {"state": "done", **move})
    return moved


def _unlogged(path: str) -> str:
    """What is wrong where the alias does not stand at the last move that the log has of it; empty where it does."""
    if not is_file(path):
        return ""
    alias = aliases.read_alias(path)
    moves = [e for e in read_log(path) if e.get("state") == "done" and name_of(e["alias"]) == name_of(path)]
    if moves and moves[-1].get("transaction") == alias.transaction:
        return ""
    last = f"ends at step {moves[-1].get('step')} of it" if moves else "has no move of it"
    place = join(parent(path), FOLDER) if is_remote(path) else log_of(path)
    return f"{path} is at step {alias.step}, and {place} {last}"


def append(path: str, event: dict[str, Any]) -> None:
    """Adds a line to the log beside the alias, chained to the line before; one writer at a time.

    Raises:
        StorageError: the log cannot be written, or somebody has changed it.
    """
    line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "by": getpass.getuser(), **event}
    if is_remote(path):
        bucket_log(path).append(line)
        return
    log = log_of(path)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise StorageError(f"cannot write {log}: {error.strerror}", "", "choose a folder you may write to") from error
    with os.fdopen(descriptor, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        rows = checked(file.read().splitlines(), log)
        file.write(chained(line, rows) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_log(path: str) -> list[dict[str, Any]]:
    """Every event of the log beside an alias, the oldest first.

    Raises:
        StorageError: a line was changed or taken out.
    """
    if is_remote(path):
        return bucket_log(path).events()
    log = log_of(path)
    if not log.exists():
        return []
    return [row.said for row in checked(log.read_bytes().splitlines(), log)]


def log_of(path: str) -> Path:
    """The log beside the alias at `path`, on this machine."""
    return local_path(path).parent / LOG
