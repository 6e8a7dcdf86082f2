"""A whole walk-forward as a folder: settings, one file for each fold and seed, bundle, judgement, curves.

RUN/settings.json           what is run, written first
RUN/folds/PART/003-1.fold   weights of fold 3, seed 1
RUN/bundle/                 the ensemble of the newest window: what would be shipped
RUN/walk_forward.json       the judgement; the same bytes however often the run was killed
RUN/curves.safetensors      equity of every strategy, multiplier, exposure, cost
RUN/cost.json               time and money of this call
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from himari_rl.config import as_dict
from himari_rl.data.leaks import suspected_leaks
from himari_rl.data.panel import Panel
from himari_rl.data.table import stamp
from himari_rl.errors import StorageError
from himari_rl.evaluation import metrics
from himari_rl.evaluation.backtest import POLICY, SEED, Backtest
from himari_rl.evaluation.baselines import ONE
from himari_rl.evaluation.control import Judgement
from himari_rl.evaluation.record import BUNDLE, COST, CURVES, DOCUMENT, SETTINGS, curves_of, read_document, seal
from himari_rl.evaluation.trials import Trials, look_of, span_of
from himari_rl.experiments.controls import judge_walk
from himari_rl.experiments.fan_out import Pool
from himari_rl.experiments.fold_search import search_all
from himari_rl.experiments.folds import Trained, ensemble
from himari_rl.experiments.walk_forward import FOLDS_FOLDER, REAL, Key, Plan, Settings, plan, train_all
from himari_rl.policy.bundle import amend, write_bundle
from himari_rl.schema import Bars
from himari_rl.storage import write_atomic

USD_PER_HOUR = 0.10  # of a two-core machine; for the cost line only, change it with --usd-per-hour


def run_walk_forward(
    bars: Bars | Panel,
    settings: Settings,
    out: Path,
    pool: Pool | None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    usd_per_hour: float = USD_PER_HOUR,
) -> dict[str, Any]:
    """Trains, plays and judges; continues where an earlier call of the same command stopped.

    Returns:
        the document of RUN/walk_forward.json.

    Raises:
        DataError: too few bars. StorageError: the folder belongs to another run or cannot be written.
    """
    started = time.perf_counter()
    sha256 = bars.fingerprint
    work = plan(bars, settings)
    _claim(out, settings, sha256)
    trained = train_all(work, out, pool, progress)
    trained_s = time.perf_counter() - started
    judged_bars = bars[work.start_row : work.stop_row]
    judged = span_of(judged_bars)
    searches = work.searches((REAL,))
    work = replace(work, searched=search_all(searches, out / FOLDS_FOLDER, None))  # their files are all there now
    with Trials() as trials:
        for search in searches:
            for what, tried in work.searched[REAL, search.fold].tried.items():
                trials.look("tune", *span_of(search.train), look_of(what, search.train), tried)
        what = look_of(settings.hash, judged_bars)
        number = trials.look("walk-forward", *judged, what, {"kind": settings.kind, "seeds": len(settings.seeds)})
        history = trials.history(*judged)
    number = _remembered(out, number)
    judgement, result = judge_walk(work, trained, number)
    newest, tensors = ensemble([trained[REAL, len(work.folds), seed] for seed in settings.seeds])
    manifest = write_bundle(out / BUNDLE, newest, tensors)
    document = {
        "kind": settings.kind,
        "symbols": list(result.symbols),
        "settings": as_dict(settings),
        "settings_hash": settings.hash,
        "data": {
            "sha256": sha256,
            "source": bars.source,
            "rows": len(bars),
            "start": stamp(int(bars.timestamp[0])),
            "end": stamp(int(bars.timestamp[-1])),
            "interval_ms": bars.interval_ms,
            "synthetic": bars.synthetic,
            "signals": "data" if bars.signals_supplied else "reference",
        },
        "span": dict(zip(("market", "first_ms", "last_ms"), judged, strict=True)),
        "leaks": [report.message for one in bars.each for report in suspected_leaks(one)],
        "folds": _folds(work, trained, result),
        "bundle": {"weights_sha256": manifest.weights_sha256, "model_version": manifest.version},
        "judgement": judgement.to_dict(),
    }
    write_atomic(out / CURVES, curves_of(result))
    text = json.dumps(document, indent=2, allow_nan=False)
    write_atomic(out / DOCUMENT, text.encode())
    amend(out / BUNDLE, evaluation=_summary(judgement, settings, sha256) | seal(out))
    seconds = time.perf_counter() - started
    cost = {
        "seconds": round(seconds, 1),
        "training_seconds": round(trained_s, 1),
        "usd": round(seconds / 3600.0 * usd_per_hour, 4),
        "usd_per_hour": usd_per_hour,
        "bars_trained": len(trained) * settings.recipe.bars_per_seed,
        "trials": [{"at": t.at, "purpose": t.purpose, "what": t.what} for t in history],
    }
    write_atomic(out / COST, json.dumps(cost, indent=2).encode())
    again: dict[str, Any] = json.loads(text)
    return again


def _summary(judgement: Judgement, settings: Settings, sha256: str) -> dict[str, Any]:
    """The verdict as the bundle's manifest keeps it."""
    verdict = judgement.verdict
    parts = {"utility": verdict.utility, "sharpe": verdict.own.sharpe}
    return {
        "walk_forward": settings.hash,
        "data_sha256": sha256,
        "start": verdict.start,
        "end": verdict.end,
        "decisions": verdict.decisions,
        "trials": verdict.trials,
        "answer": verdict.answer,
        "sentence": verdict.sentence,
        **{name: [part.estimate, part.lower, part.upper] for name, part in parts.items()},
    }


def _claim(out: Path, settings: Settings, sha256: str) -> None:
    """Writes the settings, or refuses a folder that holds another run."""
    record = {"hash": settings.hash, "data_sha256": sha256, "settings": as_dict(settings)}
    path = out / SETTINGS
    if path.exists():
        there = read_document(path)
        if (there.get("hash"), there.get("data_sha256")) != (record["hash"], sha256):
            raise StorageError(
                f"{out} holds a walk-forward of other settings or data",
                "the same command as before, or a new folder",
                "choose another --out",
            )
    write_atomic(path, (json.dumps(record, indent=2) + "\n").encode())


def _remembered(out: Path, number: int) -> int:
    """The number of trials when this run was first judged: a run that is continued or read again stays what it was."""
    path = out / "trials.json"
    if path.exists():
        return int(read_document(path).get("trials", number))
    write_atomic(path, json.dumps({"trials": number}).encode())
    return number


def _folds(work: Plan, trained: Mapping[Key, Trained], result: Backtest) -> list[dict[str, Any]]:
    """One row a fold: spans, the policy's and multiplier 1.0's growth on its test rows, each seed's too."""
    times, year = work.bars[REAL].timestamp, result.bars_per_year
    starts = [fold.test.start - work.start_row for fold in work.folds]
    rows = []
    for i, fold in enumerate(work.folds):
        part = slice(starts[i], starts[i + 1] if i + 1 < len(starts) else len(result))
        names = [POLICY, ONE, *(f"{SEED}{s}" for s in work.settings.seeds if len(work.settings.seeds) > 1)]
        rows.append(
            {
                "train": [stamp(int(times[fold.train.start])), stamp(int(times[fold.train.stop - 1]))],
                "test": [stamp(int(times[fold.test.start])), stamp(int(times[fold.test.stop - 1]))],
                "growth": {name: float(result.run(name).log_growth[part].sum()) for name in names},
                "sharpe": metrics.sharpe(result.run(POLICY).log_growth[part], year),
                "training_gain": float(np.mean([trained[REAL, i, s].gain for s in work.settings.seeds])) * year,
            }
            | _search_of(work, i)
        )
    return rows


def _search_of(work: Plan, fold: int) -> dict[str, Any]:
    """What the search inside a fold's training rows chose, where there was one."""
    found = work.searched.get((REAL, fold))
    if found is None:
        return {}
    return {"search": {"settings": found.settings, "trials": len(found.tried), "overfitting": found.overfitting}}
