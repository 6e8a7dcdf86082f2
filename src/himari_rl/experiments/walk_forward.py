"""The walk-forward: train on the past, decide on what follows, move on; one account through all of it.

    plan(bars, settings)        folds, and a task for each fold and seed, of the data and of both twins (controls.py)
    train_all(plan, out, ...)   every task that has no file yet; a killed run continues where it was
                                (with tune_trials each fold's settings are searched first, fold_search.py)
    Relay                       the fold whose test rows have begun decides; the account is carried over

Every fold's answer is its seeds' mean. A fold's policy decides until the next fold's test rows begin, so rows between
two test spans (an embargo, an outage) are decided by the older policy, which has not seen them either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from himari_rl.config import config_hash
from himari_rl.data.panel import Panel
from himari_rl.data.splits import PURGE_BARS, Fold, folds
from himari_rl.data.surrogates import driftless
from himari_rl.errors import ConfigError
from himari_rl.experiments.fan_out import Pool, fan_out, inline
from himari_rl.experiments.fold_search import Searched, SearchTask, search_all
from himari_rl.experiments.folds import FoldTask, Trained, ensemble, train_fold, unpacked
from himari_rl.experiments.power import Power, planted_in, planted_power
from himari_rl.experiments.recipe import Recipe
from himari_rl.policy.bands import Bands
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.protocol import bands_of
from himari_rl.policy.runtime import Policy
from himari_rl.schema import Bars, FloatArray
from himari_rl.storage import read_bytes, write_atomic

REAL, DRIFTLESS, PLANTED = "real", "driftless", "planted"
PARTS = (REAL, DRIFTLESS, PLANTED)
TWIN_SEED = 20_231
FOLDS_FOLDER = "folds"

Key = tuple[str, int, int]  # part, fold, seed


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One walk-forward."""

    kind: str = "base"
    train: str = "6mo"
    """Length of each training span."""
    test: str = "1mo"
    """Length of each test span."""
    step: str = "1mo"
    """How far the next fold starts later."""
    purge_bars: int = PURGE_BARS
    """Rows between training and test rows that neither uses."""
    embargo_bars: int = 0
    """Rows taken off the start of each test span."""
    anchored: bool = False
    """Training always starts at the first bar."""
    newest: int = 0
    """Only the newest folds, so many of them; 0 is all."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Members of each fold's ensemble."""
    control_seeds: tuple[int, ...] = (0,)
    """Members of the ensembles on the driftless and the planted twin."""
    warm_start: bool = False
    """Each fold starts from the weights of the fold before."""
    tune_trials: int = 0
    """Settings searched inside each fold's training rows, before its seeds are trained; 0 is off."""
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        if min(self.newest, self.tune_trials) < 0:
            raise ConfigError(f"the newest {self.newest} folds, {self.tune_trials} trials", "0 or more; 0 is all, none")
        if self.tune_trials and self.warm_start:
            raise ConfigError(
                "a warm start of searched settings", "one of the two", "the nets differ from fold to fold"
            )
        for seeds in (self.seeds, self.control_seeds):
            if not seeds or len(set(seeds)) != len(seeds):
                raise ConfigError(f"seeds {list(seeds)}", "at least one, each once")

    @property
    def hash(self) -> str:
        return config_hash(self)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What there is to do: the histories of each part, their folds, and the last window, which becomes the bundle."""

    settings: Settings
    bars: Mapping[str, Bars | Panel]
    folds: tuple[Fold, ...]
    planted: Power | None = None
    """The edge in the planted twin, where there is one."""
    searched: Mapping[tuple[str, int], Searched] = field(default_factory=dict)
    """What a search chose for a part's fold."""

    def train_rows(self, fold: int) -> slice:
        """The training rows of a fold; the number after the last one is the bundle's."""
        return self.folds[fold].train if fold < len(self.folds) else self.bundle_rows

    @property
    def bundle_rows(self) -> slice:
        """The newest rows, as many as the last fold trained on."""
        last = self.folds[-1].train
        return slice(max(0, len(self.bars[REAL]) - (last.stop - last.start)), len(self.bars[REAL]))

    @property
    def start_row(self) -> int:
        """First row that is decided out of sample."""
        return self.folds[0].test.start

    @property
    def stop_row(self) -> int:
        return self.folds[-1].test.stop

    def pieces(self) -> list[Key]:
        """Every (part, fold, seed): test folds of all parts, and the bundle's window of the real one."""
        settings, count = self.settings, len(self.folds)
        real = [(REAL, fold, seed) for fold in range(count + 1) for seed in settings.seeds]
        twins = [(part, fold, seed) for part in PARTS[1:] for fold in range(count) for seed in settings.control_seeds]
        return real + [key for key in twins if key[0] in self.bars]

    def searches(self, parts: tuple[str, ...] = PARTS) -> list[SearchTask]:
        """A search for every (part, fold) that is trained; none without tune_trials."""
        settings = self.settings
        every = dict.fromkeys((part, fold) for part, fold, _ in self.pieces() if part in parts)
        return [
            SearchTask(
                part=part,
                fold=fold,
                train=self.bars[part][self.train_rows(fold)],
                recipe=settings.recipe,
                trials=settings.tune_trials,
            )
            for part, fold in (every if settings.tune_trials else ())
        ]

    def recipe(self, part: str, fold: int) -> Recipe:
        """How a fold is trained: the walk-forward's recipe, or what the search inside its training rows chose."""
        found = self.searched.get((part, fold))
        return self.settings.recipe if found is None else self.settings.recipe.with_agent(found.settings)

    def task(self, key: Key, before: Trained | None = None) -> FoldTask:
        """The task of a key; with a warm start it needs the fold before."""
        part, fold, seed = key
        return FoldTask(
            part=part,
            fold=fold,
            seed=seed,
            train=self.bars[part][self.train_rows(fold)],
            recipe=self.recipe(part, fold),
            start=None if before is None else before.tensors,
        )


def plan(bars: Bars | Panel, settings: Settings, *, controls: bool = True) -> Plan:
    """Cuts the folds and makes the twins; the same bars and settings give the same plan.

    Raises:
        DataError: the bars are shorter than one fold.
        ConfigError: a span that cannot be read, or gaps that are no gaps.
    """
    cut = tuple(
        folds(
            bars,
            train=settings.train,
            test=settings.test,
            step=settings.step,
            purge_bars=settings.purge_bars,
            embargo_bars=settings.embargo_bars,
            anchored=settings.anchored,
        )
    )
    if not cut:
        raise ConfigError("no fold has rows left", "training and test rows", "choose longer spans or smaller gaps")
    cut = cut[-settings.newest :]  # all of them for 0
    return with_twins(
        Plan(settings=settings, bars={REAL: bars}, folds=cut),
        LedgerSpec.of(settings.recipe.environment, bars.interval_ms),
        controls,
    )


def with_twins(work: Plan, ledger: LedgerSpec, controls: bool = True) -> Plan:
    """The plan with a driftless and a planted twin of its history, the edge as small as this much data can show."""
    if not controls:
        return work
    bars, fold = work.bars[REAL], work.folds[0]
    train_rows = fold.train.stop - fold.train.start
    power = planted_power(bars[: work.stop_row], work.start_row, train_rows, ledger, TWIN_SEED)
    rng = np.random.default_rng([TWIN_SEED, 0])
    one = driftless(bars, rng) if isinstance(bars, Bars) else _each(bars, rng)
    other = planted_in(bars, np.random.default_rng([TWIN_SEED, 1]), power.edge)
    return replace(work, bars={REAL: bars, DRIFTLESS: one, PLANTED: other}, planted=power)


def _each(panel: Panel, rng: np.random.Generator) -> Panel:
    return replace(panel, bars=tuple(driftless(each, rng) for each in panel.bars))


def train_all(
    work: Plan,
    out: Path,
    pool: Pool | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    parts: tuple[str, ...] = PARTS,
) -> dict[Key, Trained]:
    """Trains what has no file under `out`/folds yet; each result is one file that is whole or not there.

    Args:
        pool: from fan_out.py; None works in this process.
        progress: (finished, total), called as results arrive; those found on disk count at once.
        parts: which of the histories.

    Raises:
        StorageError: a file belongs to another walk-forward, is damaged, or cannot be written.
    """
    keys = [key for key in work.pieces() if key[0] in parts]
    searches = work.searches(parts)
    total = len(searches) + len(keys)
    work = replace(work, searched=search_all(searches, out / FOLDS_FOLDER, pool, lambda count: progress(count, total)))
    found: dict[Key, Trained] = {}
    ready: list[FoldTask] = []
    chained = work.settings.warm_start
    for key in keys:
        if not chained or key[1] == 0:
            ready += _next(work, out, key, None, found)
    progress(len(searches) + len(found), total)

    def done(task: FoldTask, data: bytes) -> list[FoldTask]:
        path = out / FOLDS_FOLDER / task.name
        write_atomic(path, data)
        key = (task.part, task.fold, task.seed)
        found[key] = unpacked(data, task.key, str(path))
        follow = _next(work, out, _after(key), found[key], found) if chained and _after(key) in keys else []
        progress(len(searches) + len(found), total)
        return follow

    if ready:
        (inline if pool is None else partial(fan_out, pool=pool))(train_fold, ready, done)
    return found


def _after(key: Key) -> Key:
    return key[0], key[1] + 1, key[2]


def _next(work: Plan, out: Path, key: Key, before: Trained | None, found: dict[Key, Trained]) -> list[FoldTask]:
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


class Relay:
    """Many policies as one: at each decision the newest fold whose test rows have begun.

    Args:
        policies: one a fold.
        starts: (folds,) first decision of each, counted from the first decision of the stage; the first is 0.
        rows: (D, F) market rows to decide on instead of the ones given (the shuffled control).
    """

    def __init__(self, policies: list[Policy], starts: list[int], rows: FloatArray | None = None) -> None:
        self.policies, self.starts, self.rows = policies, starts, rows
        self.columns = None if rows is None else np.flatnonzero(np.abs(rows).sum(0) > 0.0)

    def on_rows(self, rows: FloatArray) -> Relay:
        """The same policies, deciding on other rows."""
        return Relay(self.policies, self.starts, rows)

    def bands(self, rows: FloatArray) -> Bands | None:
        """Every decision's no-trade bands, each fold's from its own policy; None where one reads the account."""
        seen = rows if self.rows is None else self.rows
        ends = [*self.starts[1:], len(seen)]
        parts = [bands_of(p, seen[a:b]) for p, a, b in zip(self.policies, self.starts, ends, strict=True)]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        return Bands(*(np.concatenate(leaves) for leaves in zip(*known, strict=True)))

    def decide_batch(self, states: Any, memory: Any = None) -> tuple[Any, Any]:
        step, inner = memory or (0, None)
        turn = int(np.searchsorted(self.starts, step, side="right")) - 1
        if self.starts[turn] == step:
            inner = None  # a fresh policy starts with a fresh memory
        if self.rows is not None:
            states = states.copy()
            states[:, self.columns] = self.rows[step, self.columns]
        multipliers, inner = self.policies[turn].decide_batch(states, inner)
        return multipliers, (step + 1, inner)


def relay(work: Plan, trained: Mapping[Key, Trained], part: str, seeds: tuple[int, ...]) -> Relay:
    """The walk-forward's policy on one part, made of the given seeds."""
    policies = [Policy(*ensemble([trained[part, fold, seed] for seed in seeds])) for fold in range(len(work.folds))]
    return Relay(policies, [fold.test.start - work.start_row for fold in work.folds])
