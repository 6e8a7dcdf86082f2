"""A whole walk-forward as a folder: settings, one file for each fold and seed, bundle, judgement, curves.

RUN/settings.json           what is run, written first
RUN/folds/PART/003-1.fold   weights of fold 3, seed 1
RUN/bundle/                 the ensemble of the newest window: what would be shipped
RUN/walk_forward.json       the judgement; the same bytes however often the run was killed
RUN/curves.safetensors      equity of every strategy, multiplier, exposure, cost
RUN/cost.json               time and money of this call
RUN/planted_power           the planted edge of its control, so that a run which continues need not find it again
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from himari_rl.agents.config import PPOConfig, config_type
from himari_rl.data.facts import recorded
from himari_rl.data.panel import Panel
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.errors import ConfigError
from himari_rl.evaluation.control import Judgement
from himari_rl.evaluation.record import BUNDLE, COST, SETTINGS, read_document
from himari_rl.experiments.arguments import accepted_facts, require_bars, settings_from
from himari_rl.experiments.config import WalkForwardConfig
from himari_rl.experiments.fold_files import TrainedFold
from himari_rl.experiments.fold_search import search_all
from himari_rl.experiments.judged import judged_bars, write_judgement
from himari_rl.experiments.power import keep
from himari_rl.experiments.run_folder import (
    WALK_FORWARD,
    RunIdentity,
    Tell,
    claimed,
    nothing_said,
    require_ledger,
)
from himari_rl.experiments.train_all import FOLDS_FOLDER, train_all
from himari_rl.experiments.walk_forward import REAL, ExternalSettings, Settings, WalkForwardPlan, plan
from himari_rl.features.own import with_features
from himari_rl.policy.code import Factory, described, folder_of, named
from himari_rl.schema import Bars
from himari_rl.storage import join, write_atomic
from himari_rl.storage.mirror import shown, workplace
from himari_rl.training.fan_out import Pool, local_pool
from himari_rl.trials.fingerprint import paths_of
from himari_rl.trials.ledger import Trial, Trials, look_of, span_of
from himari_rl.trials.register import standing

USD_PER_HOUR = 0.10  # of a two-core machine; for the cost line only, change it with --usd-per-hour


@dataclass(frozen=True, kw_only=True)
class WalkForwardRun:
    """A finished walk-forward; `print` it for a page."""

    folder: str | Path
    document: dict[str, Any]
    """As in walk_forward.json."""
    judgement: Judgement

    @property
    def bundle(self) -> str | Path:
        """The policy that would be shipped: what `gate` asks about."""
        return join(self.folder, BUNDLE)

    def __str__(self) -> str:
        symbols, folds = ", ".join(self.document["symbols"]), len(self.document["folds"])
        return f"{symbols}: {folds} folds in {self.folder}\n\n{self.judgement}"

    def __repr__(self) -> str:
        return f"<WalkForwardRun {self.folder}: {self.judgement.verdict.answer}>"


def walk_forward(
    bars: Bars | Panel | Factory | str,
    kind: str | Factory | Bars | Panel = "base",
    *,
    out: str | Path = "runs/walk-forward",
    agent: PPOConfig | None = None,
    environment: TradingEnvConfig | None = None,
    jobs: int | None = 1,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    accept: Sequence[str] = (),
    beliefs_from: Sequence[Bars] = (),
    features: Sequence[str] = (),
    **settings: Any,
) -> WalkForwardRun:
    """Trains on the past and judges what follows, fold after fold, with controls; what `himari walk-forward` does.

    Args:
        bars, kind: the history and base, lstm or multi; or `walk_forward(factory, bars)` with a policy of your own:
            factory(train_bars, seed) returns one (policy/protocol.py), or names it, MODULE:NAME (docs/judge.md).
        agent, environment: the kind's defaults if not given.
        jobs: processes, the same bytes with any number; None is one a core, and needs a script with a main guard.
        accept: findings of `himari data audit` to go on with, by name; recorded in the document.
        overwrite: sets a run that is in `out` aside, renamed with the date; the same run there is continued without it.
        beliefs_from: bars of other symbols, evidence for the beliefs beside the policy's own.
        features: columns of the data that the policy sees too, in this order (features/own.py).
        settings: fields of WalkForwardConfig: train, test, step, folds, seeds (how many, or which), num_episodes ...

    Raises:
        DataError: too few bars, or a finding not accepted. ConfigError: a wrong setting.
        StorageError: `out` belongs to another run.

    >>> from himari_rl.data.synthetic import synthetic_bars
    >>> small = PPOConfig(num_envs=20, hidden_dim=8, minibatch=500)
    >>> options = {"train": "30d", "test": "10d", "step": "10d", "purge_bars": 24, "num_episodes": 2, "seeds": 1}
    >>> run = walk_forward(synthetic_bars(2000, 0), out="run", agent=small, folds=1, **options)
    >>> len(run.document["folds"])
    1
    """
    history, what = (kind, bars) if callable(bars) or isinstance(bars, str) else (bars, kind)
    require_bars(history, "walk_forward(bars, ...) or walk_forward(factory, bars, ...)")
    bars = cast(Bars | Panel, history)
    bars = with_features(bars, features) if features else bars
    asked = settings_of(what, agent, environment or TradingEnvConfig(), settings_from(WalkForwardConfig, settings))
    pool = None if jobs == 1 else local_pool(jobs)
    said: dict[str, Any] = {"progress": progress, "overwrite": overwrite, "accept": accept}
    with workplace(out) as folder:
        document, judgement = _run(bars, asked, folder, pool, **said, beliefs_from=beliefs_from)
    return WalkForwardRun(folder=out, document=document, judgement=judgement)


def settings_of(
    kind: object, agent: PPOConfig | None, environment: TradingEnvConfig, asked: WalkForwardConfig
) -> Settings:
    """A walk-forward's settings: of a kind of agent, or of somebody's own factory, given or named.

    Raises:
        ConfigError: no such kind and no such code, or an agent's settings for a factory.
    """
    shared: dict[str, Any] = {"environment": environment, **vars(asked)}
    if isinstance(kind, str) and ":" not in kind:
        return Settings(kind=kind, agent=config_type(kind)() if agent is None else agent, **shared)
    if agent is not None:
        raise ConfigError(f"an agent's settings for {kind}", "none: a factory makes its own", "leave `agent` out")
    code, factory = named(kind) if isinstance(kind, str) else (described(cast(Factory, kind)), cast(Factory, kind))
    return ExternalSettings(factory=code, folder=folder_of(factory), **shared)


def run_walk_forward(
    bars: Bars | Panel,
    settings: Settings,
    out: Path,
    pool: Pool | None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    usd_per_hour: float = USD_PER_HOUR,
    accept: Sequence[str] = (),
    overwrite: bool = False,
    tell: Tell = nothing_said,
    beliefs_from: Sequence[Bars] = (),
) -> dict[str, Any]:
    """Trains, plays and judges; continues where an earlier call of the same command stopped.

    Args:
        overwrite: sets a run that is in `out` aside.
        tell: called with each line that a person must know before the training starts.

    Returns:
        the document of RUN/walk_forward.json.

    Raises:
        DataError: too few bars, or a finding not accepted.
        StorageError: the folder belongs to another run or cannot be written.
    """
    said: dict[str, Any] = {"progress": progress, "usd_per_hour": usd_per_hour, "overwrite": overwrite, "tell": tell}
    return _run(bars, settings, out, pool, accept=accept, beliefs_from=beliefs_from, **said)[0]


def _run(
    bars: Bars | Panel,
    settings: Settings,
    out: Path,
    pool: Pool | None,
    *,
    progress: Callable[[int, int], None],
    overwrite: bool,
    accept: Sequence[str],
    usd_per_hour: float = USD_PER_HOUR,
    tell: Tell = nothing_said,
    beliefs_from: Sequence[Bars] = (),
) -> tuple[dict[str, Any], Judgement]:
    started = time.perf_counter()
    facts = recorded(accepted_facts(bars, accept), accept)
    work = plan(bars, settings, kept=out, others=beliefs_from)
    require_ledger()
    this = identity_of_run(settings, bars, beliefs_from)
    same = "a run that was cut off continues, a finished one is judged again from its folds"
    with claimed(out, this, same=same, overwrite=overwrite, tell=tell):
        tell(settings.budget)
        return _judged(work, bars, out, pool, facts, progress, usd_per_hour, started)


def _judged(
    work: WalkForwardPlan,
    bars: Bars | Panel,
    out: Path,
    pool: Pool | None,
    facts: Mapping[str, Any],
    progress: Callable[[int, int], None],
    usd_per_hour: float,
    started: float,
) -> tuple[dict[str, Any], Judgement]:
    """Trains what is left to train in a folder that is ours, and writes the judgement."""
    write_settings(work, bars, out)
    if work.planted is not None:
        keep(work.planted, out)
    trained = train_all(work, out, pool, progress)
    trained_s = time.perf_counter() - started
    searched = search_all(work.searches((REAL,)), out / FOLDS_FOLDER, None)  # their files are all there now
    work = replace(work, searched=searched)
    number, registration, history = _counted(work, out)
    text, judgement = write_judgement(work, bars, out, trained, facts, number, registration)
    seconds = time.perf_counter() - started
    cost = {
        "seconds": round(seconds, 1),
        "training_seconds": round(trained_s, 1),
        "usd": round(seconds / 3600.0 * usd_per_hour, 4),
        "usd_per_hour": usd_per_hour,
        "bars_trained": sum(_stepped(each) for each in trained.values()),
        "trials": [{"at": t.at, "purpose": t.purpose, "what": t.what} for t in history],
    }
    write_atomic(out / COST, json.dumps(cost, indent=2).encode())
    return json.loads(text), judgement


def identity_of_run(settings: Settings, bars: Bars | Panel, beliefs_from: Sequence[Bars]) -> RunIdentity:
    """What makes two walk-forwards the same run: the settings, the bars and whatever else was evidence."""
    data = " ".join(each.fingerprint for each in (bars, *beliefs_from))
    return RunIdentity(WALK_FORWARD, settings.hash, data, settings.plain)


def write_settings(work: WalkForwardPlan, bars: Bars | Panel, out: Path) -> None:
    settings = work.settings
    record = {"hash": settings.hash, "data_sha256": bars.fingerprint, "settings": settings.plain}
    write_atomic(out / SETTINGS, (json.dumps(record, indent=2) + "\n").encode())


def _stepped(fold: TrainedFold) -> int:
    """Bars that a fold was trained with, whole rollouts."""
    run = fold.manifest.config["run"]
    bars = run.get("bars", 0) if isinstance(run, dict) else 0
    return bars if isinstance(bars, int) else 0


def _counted(work: WalkForwardPlan, out: Path) -> tuple[int, dict[str, Any], Sequence[Trial]]:
    """Writes this walk-forward, and what its searches tried, to the trial ledger.

    Returns:
        the number of trials on its span, what was registered for it, the trials themselves.
    """
    settings, judged, place = work.settings, judged_bars(work), shown(out.resolve())
    span, paths = span_of(judged), paths_of(judged)
    with Trials() as trials:
        for search in work.searches((REAL,)):
            searched = paths_of(search.train)
            for what, tried in work.searched[REAL, search.fold].tried.items():
                look = look_of(what, search.train, place)
                trials.look("tune", *span_of(search.train), look, tried, paths=searched)
        detail = {"kind": settings.kind, "seeds": len(settings.seeds)}
        number = trials.look("walk-forward", *span, look_of(settings.hash, judged, place), detail, paths=paths)
        registration = standing(trials, *span, settings.plain, paths=paths).to_dict()
        history = trials.history(*span, paths)
    return *_remembered(out, number, registration), history


def _remembered(out: Path, number: int, registration: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """What the ledger said when this run was first judged: a run that is continued or read again stays what it was."""
    path = out / "trials.json"
    if path.exists():
        there = read_document(path)
        return int(there.get("trials", number)), dict(there.get("registration", registration))
    write_atomic(path, json.dumps({"trials": number, "registration": registration}).encode())
    return number, registration
