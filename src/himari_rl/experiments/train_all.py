"""Trains every fold and seed of a walk-forward that has no file yet; a killed run continues where it was.

With tune_trials each fold's settings are searched first (fold_search.py); with a warm start a fold waits for the fold
before it. Each result is one file under RUN/folds that is whole or not there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from himari_rl.experiments.external_folds import fit_again, fit_folds, is_fitted
from himari_rl.experiments.fold_files import FoldTask, TrainedFold, unpacked
from himari_rl.experiments.fold_search import search_all
from himari_rl.experiments.walk_forward import PARTS, Key, WalkForwardPlan
from himari_rl.storage import read_bytes, write_atomic
from himari_rl.training.fan_out import Pool, fan_out

FOLDS_FOLDER = "folds"
TOGETHER = 5  # nets of one program: more gain little, and leave the last cores without work
MOST_ROWS = 1_000_000  # of all their folds: what is encoded of each is kept to the end (of minutes a gigabyte a fold)


def train_all(
    work: WalkForwardPlan,
    out: Path,
    pool: Pool | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    parts: tuple[str, ...] = PARTS,
    only: Collection[Key] | None = None,
) -> dict[Key, TrainedFold]:
    """Trains what has no file under `out`/folds yet; each result is one file that is whole or not there.

    Args:
        pool: from fan_out.py; None works in this process.
        progress: (finished, total), called as results arrive; those found on disk count at once.
        parts: which of the histories.
        only: of these pieces, all of them if not given.

    Raises:
        StorageError: a file belongs to another walk-forward, is damaged, or cannot be written.
    """
    keys = [key for key in work.pieces() if key[0] in parts and (only is None or key in only)]
    cut = {(part, fold) for part, fold, _ in keys}
    searches = [task for task in work.searches(parts) if (task.part, task.fold) in cut]
    total = len(searches) + len(keys)
    work = replace(work, searched=search_all(searches, out / FOLDS_FOLDER, pool, lambda count: progress(count, total)))
    found: dict[Key, TrainedFold] = {}
    ready: list[FoldTask] = []
    chained = work.settings.warm_start
    for key in keys:
        if not chained or key[1] == 0:
            ready += _next(work, out, key, None, found)
    progress(len(searches) + len(found), total)

    def done(group: Sequence[FoldTask], files: Sequence[bytes]) -> list[Sequence[FoldTask]]:
        follow: list[FoldTask] = []
        for task, data in zip(group, files, strict=True):
            path = out / FOLDS_FOLDER / task.name
            write_atomic(path, data)
            key = (task.part, task.fold, task.seed)
            found[key] = unpacked(data, task.key, str(path))
            follow += _next(work, out, _after(key), found[key], found) if chained and _after(key) in keys else []
        progress(len(searches) + len(found), total)
        return together(follow)

    if ready and work.settings.code is not None:
        alone: list[Sequence[FoldTask]] = [[task] for task in ready]
        fan_out(fit_folds, alone, done, pool)
    elif ready:
        from himari_rl.experiments.folds import train_folds  # torch, which a finished run does without

        fan_out(train_folds, together(ready), done, pool)
    fit_again([(work.task(key), each.manifest) for key, each in found.items() if not is_fitted(each)])
    return found


def share_of(work: WalkForwardPlan, index: int, count: int) -> list[Key]:
    """What one of `count` tasks on as many machines trains: pieces dealt out in turn, what needs another beside it.

    With a warm start a seed's folds wait for each other; seeds of a fold that is searched share the search.
    """
    settings = work.settings

    def unit(key: Key) -> tuple[object, ...]:
        part, fold, seed = key
        return (part, seed) if settings.warm_start else (part, fold) if settings.tune_trials else key

    units = list(dict.fromkeys(unit(key) for key in work.pieces()))
    mine = set(units[index::count])
    return [key for key in work.pieces() if unit(key) in mine]


def together(tasks: Sequence[FoldTask]) -> list[Sequence[FoldTask]]:
    """What one worker trains in one program: up to TOGETHER neighbours of one part, a fold's seeds above all, of up to
    MOST_ROWS rows.

    The files do not depend on it.
    """
    groups: list[list[FoldTask]] = []
    rows = 0
    for task in tasks:
        last = groups[-1][-1] if groups else None
        more = 0 if last is not None and last.fold == task.fold else len(task.train)
        if last is None or len(groups[-1]) == TOGETHER or last.part != task.part or (more and rows + more > MOST_ROWS):
            groups.append([])
            rows, more = 0, len(task.train)
        groups[-1].append(task)
        rows += more
    return list(groups)


def _after(key: Key) -> Key:
    return key[0], key[1] + 1, key[2]


def _next(
    work: WalkForwardPlan, out: Path, key: Key, before: TrainedFold | None, found: dict[Key, TrainedFold]
) -> list[FoldTask]:
    """The task of `key`, or with its file already there the first one missing behind it in its chain."""
    keys = set(work.pieces())
    while key in keys:
        task = work.task(key, before)
        path = out / FOLDS_FOLDER / task.name
        if not path.exists():
            return [task]
        before = found[key] = unpacked(read_bytes(path), task.key, str(path))
        if not work.settings.warm_start:
            return []
        key = _after(key)
    return []
