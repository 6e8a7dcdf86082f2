"""A walk-forward as tasks of a job: each trains its share of the folds and seeds, and the one that ends last judges."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from himari_rl.data.panel import Panel
from himari_rl.errors import StorageError
from himari_rl.experiments.arguments import accepted_facts
from himari_rl.experiments.run import identity_of_run, write_settings
from himari_rl.experiments.run_folder import run_in
from himari_rl.experiments.train_all import share_of, train_all
from himari_rl.experiments.walk_forward import Settings, plan
from himari_rl.schema import Bars
from himari_rl.storage import exchange, join

TASKS = "tasks.json"  # which tasks of a job have ended


def train_share(
    bars: Bars | Panel,
    settings: Settings,
    out: Path,
    index: int,
    count: int,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    accept: Sequence[str] = (),
    beliefs_from: Sequence[Bars] = (),
) -> None:
    """Trains one task's share of a walk-forward's folds and seeds, on a machine of its own; nothing is judged.

    Raises:
        StorageError: the folder belongs to another run.
    """
    accepted_facts(bars, accept)
    there = run_in(out)
    if there is not None and there != identity_of_run(settings, bars, beliefs_from):
        raise StorageError(f"{out} holds a {there.kind} of other settings or data", "a new folder", "choose another")
    work = plan(bars, settings, others=beliefs_from)
    write_settings(work, bars, out)
    train_all(work, out, None, progress, only=set(share_of(work, index, count)))


def all_shares_done(out: str | Path, settings: Settings, bars: Bars | Panel, index: int, count: int) -> bool:
    """Writes down that a task has ended; true for the one that ends last, which judges.

    A task that is begun again, as the one that should have judged was stopped, is the last one again.
    """
    run = f"{settings.hash} {bars.fingerprint}"

    def ended(before: bytes | None) -> bytes:
        said = json.loads(before) if before else {}
        others = said["done"] if (said.get("run"), said.get("count")) == (run, count) else []
        done = sorted({*others, index})
        return json.dumps({"run": run, "count": count, "done": done, "transaction": secrets.token_hex(8)}).encode()

    return len(json.loads(exchange(join(out, TASKS), ended))["done"]) == count
