"""A search nested in a walk-forward: training rows of one fold in, the settings its seeds train with out.

RUN/folds/PART/003.search    settings, what was tried, the probability that the choice is luck

A fold's search sees what its policies see, the rows before its test rows less the purge, so the account of the
walk-forward stays out of sample. Its twins are searched as well: a control is the same pipeline or it is none.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from himari_rl.config import as_dict, config_hash
from himari_rl.data.panel import Panel
from himari_rl.experiments.fold_files import require_key
from himari_rl.experiments.recipe import Recipe
from himari_rl.schema import Bars
from himari_rl.storage import read_bytes, write_atomic
from himari_rl.storage.sealed import sealed, unsealed
from himari_rl.training.fan_out import Pool, fan_out
from himari_rl.training.record import training_data


@dataclass(frozen=True, kw_only=True)
class SearchTask:
    """What one worker needs."""

    part: str
    fold: int
    train: Bars | Panel
    recipe: Recipe
    trials: int

    @property
    def name(self) -> str:
        """The file it becomes."""
        return f"{self.part}/{self.fold:03d}.search"

    @property
    def key(self) -> str:
        """Changes whenever the answer could."""
        said = [self.part, self.fold, self.trials, training_data(self.train)["sha256"], as_dict(self.recipe)]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Searched:
    """One fold's answer."""

    key: str
    settings: dict[str, float]
    tried: dict[str, dict[str, float]]  # every trial's settings, by the hash of its recipe
    overfitting: float | None


def search_fold(task: SearchTask) -> bytes:
    """Searches one fold's training rows; the bytes of its file. Same task, same settings, on any machine."""
    from himari_rl.experiments.tune import search  # Optuna is a second of imports, for those who search

    tried: dict[str, dict[str, float]] = {}

    def record(chosen: Recipe, params: dict[str, float]) -> None:
        tried[config_hash(chosen)] = params

    with tempfile.TemporaryDirectory() as folder:
        found = search(task.train, task.recipe, task.trials, Path(folder), seed=task.fold, record=record)
    return sealed(json.dumps(asdict(Searched(task.key, found.settings, tried, found.overfitting))).encode())


def search_all(
    tasks: list[SearchTask], folder: Path, pool: Pool | None, progress: Callable[[int], None] = lambda done: None
) -> dict[tuple[str, int], Searched]:
    """What every (part, fold) is to be trained with; what has its file already is not searched again.

    Raises:
        StorageError: a file belongs to another walk-forward, is damaged, or cannot be written.
    """
    found: dict[tuple[str, int], Searched] = {}

    def keep(task: SearchTask, data: bytes) -> list[SearchTask]:
        path = folder / task.name
        searched = Searched(**json.loads(unsealed(data, str(path))))
        require_key(searched.key, task.key, str(path))
        found[task.part, task.fold] = searched
        progress(len(found))
        return []

    def done(task: SearchTask, data: bytes) -> list[SearchTask]:
        write_atomic(folder / task.name, data)
        return keep(task, data)

    missing = []
    for task in tasks:
        if (folder / task.name).exists():
            keep(task, read_bytes(folder / task.name))
        else:
            missing.append(task)
    fan_out(search_fold, missing, done, pool)
    return found
