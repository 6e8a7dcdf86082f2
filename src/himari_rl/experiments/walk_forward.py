"""What a walk-forward consists of: its settings, its folds, the twins of its controls, and every task there is to do.

plan(bars, settings)        folds, and a task for each fold and seed, of the data and of both twins (controls.py)
train_all(work, out, ...)   train_all.py: every task that has no file yet
FoldPolicies                fold_policies.py: the trained folds as one policy, one account through all of them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from himari_rl.agents.config import PPOConfig, of_reward
from himari_rl.config import as_dict, config_hash
from himari_rl.data.panel import Panel
from himari_rl.data.splits import Fold, folds, until
from himari_rl.data.surrogates import driftless, planted
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.errors import ConfigError
from himari_rl.experiments.config import FoldConfig, WalkForwardConfig
from himari_rl.experiments.fold_files import FoldTask, TrainedFold
from himari_rl.experiments.fold_search import Searched, SearchTask
from himari_rl.experiments.power import Power, planted_in, planted_power
from himari_rl.experiments.recipe import Recipe
from himari_rl.policy.code import CodeReference
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.schema import Bars

REAL, DRIFTLESS, PLANTED = "real", "driftless", "planted"
PARTS = (REAL, DRIFTLESS, PLANTED)
TWIN_SEED = 20_231

Key = tuple[str, int, int]  # part, fold, seed


@dataclass(frozen=True, kw_only=True)
class Settings(WalkForwardConfig):
    """One walk-forward of one kind of agent in one environment."""

    kind: str = "base"
    """base, lstm or multi."""
    agent: PPOConfig = field(default_factory=PPOConfig)
    """Network and learning."""
    environment: TradingEnvConfig = field(default_factory=TradingEnvConfig)
    """Fees, limits, episode and reward."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "agent", of_reward(self.agent, self.environment.own_reward))

    @property
    def recipe(self) -> Recipe:
        """How each fold and seed is trained, unless a search changes it."""
        shared = {each.name: getattr(self, each.name) for each in fields(FoldConfig)}
        return Recipe(agent=self.agent, environment=self.environment, **shared)

    @property
    def plain(self) -> dict[str, Any]:
        """What shapes the run, as plain JSON types."""
        return as_dict(self)

    @property
    def hash(self) -> str:
        return config_hash(self.plain)

    @property
    def budget(self) -> str:
        """What each fold and seed is trained with, in words."""
        return self.recipe.budget

    @property
    def code(self) -> CodeReference | None:
        """Whose policy it is, where it is not this project's agent."""
        return None


@dataclass(frozen=True, kw_only=True)
class ExternalSettings(Settings):
    """One walk-forward of somebody's own policy: a factory that is fitted on each fold's training rows."""

    kind: str = "external"
    """external."""
    factory: CodeReference
    """The factory, by name and by the hash of its source."""
    folder: str = ""
    """Where its module lies, for workers on the same disk; shapes nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        own = ("validation_fraction", "bootstrap_paths", "synthetic_paths", "tune_trials", "warm_start")
        asked = [name for name in own if getattr(self, name)]
        if asked:
            raise ConfigError(
                f"{', '.join(asked)} for {self.factory}", "settings of this project's agents", "the factory fits itself"
            )

    @property
    def plain(self) -> dict[str, Any]:
        shapes_nothing = ("agent", "folder", "num_episodes")
        said = {name: value for name, value in as_dict(self).items() if name not in shapes_nothing}
        if not self.factory.modules:
            del said["factory"]["modules"]  # such code keeps the hash it always had
        return said

    @property
    def budget(self) -> str:
        code = self.factory
        what = f"sha256 {code.sha256[:12]}" if code.sha256 else code.settings
        own = f", with its modules {', '.join(sorted(code.modules))}" if code.modules else ""
        return f"fitted by {code}, {what}{own}"

    @property
    def code(self) -> CodeReference:
        return self.factory


@dataclass(frozen=True, kw_only=True)
class WalkForwardPlan:
    """What there is to do: the histories of each part, their folds, and the last window, which becomes the bundle."""

    settings: Settings
    bars: Mapping[str, Bars | Panel]
    folds: tuple[Fold, ...]
    planted: Power | None = None
    """The edge in the planted twin, where there is one."""
    searched: Mapping[tuple[str, int], Searched] = field(default_factory=dict)
    """What a search chose for a part's fold."""
    others: Mapping[str, tuple[Bars, ...]] = field(default_factory=dict)
    """Other symbols of each part, evidence for the beliefs."""

    def train_rows(self, fold: int) -> slice:
        """The training rows of a fold; the number after the last one is the bundle's."""
        return self.folds[fold].train if fold < len(self.folds) else self.bundle_rows

    def train_year(self, fold: int) -> float:
        """Bars a year of a fold's training rows, by their own elapsed time."""
        return self.bars[REAL][self.train_rows(fold)].bars_per_year

    @property
    def bundle_rows(self) -> slice:
        """The newest rows: all of them, or as many as the last fold trained on."""
        last, count = self.folds[-1].train, len(self.bars[REAL])
        return slice(0 if self.settings.expanding else max(0, count - (last.stop - last.start)), count)

    @property
    def start_row(self) -> int:
        """First row that is decided out of sample."""
        return int(self.folds[0].test.start)

    @property
    def stop_row(self) -> int:
        return int(self.folds[-1].test.stop)

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

    def task(self, key: Key, before: TrainedFold | None = None) -> FoldTask:
        """The task of a key; with a warm start it needs the fold before."""
        part, fold, seed = key
        train = self.bars[part][self.train_rows(fold)]
        return FoldTask(
            part=part,
            fold=fold,
            seed=seed,
            train=train,
            others=tuple(until(other, train) for other in self.others.get(part, ())),
            recipe=self.recipe(part, fold),
            start=None if before is None else before.tensors,
            code=self.settings.code,
            folder=getattr(self.settings, "folder", ""),
        )


def plan(
    bars: Bars | Panel,
    settings: Settings,
    *,
    controls: bool = True,
    kept: Path | None = None,
    others: Sequence[Bars] = (),
) -> WalkForwardPlan:
    """Cuts the folds and makes the twins; the same bars and settings give the same plan.

    Args:
        kept: folder in which an earlier run may have kept the planted edge (power.py).
        others: other symbols, evidence for the beliefs; they have twins too.

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
            anchored=settings.expanding,
        )
    )
    if not cut:
        raise ConfigError("no fold has rows left", "training and test rows", "choose longer spans or smaller gaps")
    cut = cut[-settings.folds :]  # all of them for 0
    return with_twins(
        WalkForwardPlan(settings=settings, bars={REAL: bars}, folds=cut, others={REAL: tuple(others)}),
        LedgerSpec.of(settings.environment, bars.interval_ms),
        controls,
        kept,
    )


def with_twins(
    work: WalkForwardPlan, ledger: LedgerSpec, controls: bool = True, kept: Path | None = None
) -> WalkForwardPlan:
    """The plan with a driftless and a planted twin of its history, the edge as small as this much data can show."""
    if not controls:
        return work
    bars, fold = work.bars[REAL], work.folds[0]
    train_rows = fold.train.stop - fold.train.start
    power = planted_power(bars[: work.stop_row], work.start_row, train_rows, ledger, TWIN_SEED, kept)
    rng = np.random.default_rng([TWIN_SEED, 0])
    one = driftless(bars, rng) if isinstance(bars, Bars) else _each(bars, rng)
    other = planted_in(bars, np.random.default_rng([TWIN_SEED, 1]), power.edge)
    beside = {REAL: work.others.get(REAL, ())}
    beside[DRIFTLESS] = tuple(driftless(each, rng) for each in beside[REAL])
    edges = np.random.default_rng([TWIN_SEED, 2])
    beside[PLANTED] = tuple(planted(each, edges, power.edge) for each in beside[REAL])
    return replace(work, bars={REAL: bars, DRIFTLESS: one, PLANTED: other}, planted=power, others=beside)


def _each(panel: Panel, rng: np.random.Generator) -> Panel:
    return replace(panel, bars=tuple(driftless(each, rng) for each in panel.bars))
