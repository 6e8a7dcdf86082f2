"""The judgement of trained folds, written into a run's folder: what a walk-forward ends with, and verify.py repeats.

Nothing is trained and nothing is counted here: the same folds, bars and number of trials give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from himari_rl.card.market import market_curves
from himari_rl.data.facts import whose_signals
from himari_rl.data.leaks import doubtful_columns
from himari_rl.data.panel import Panel
from himari_rl.data.table import stamp
from himari_rl.evaluation import metrics
from himari_rl.evaluation.backtest import POLICY, SEED, Backtest
from himari_rl.evaluation.baselines import ONE
from himari_rl.evaluation.control import Judgement
from himari_rl.evaluation.one_liners import OneLiners
from himari_rl.evaluation.record import BUNDLE, CURVES, DOCUMENT, curves_of, seal
from himari_rl.evaluation.verdict import lag_profile
from himari_rl.experiments.controls import judge_walk
from himari_rl.experiments.fold_files import TrainedFold, ensemble
from himari_rl.experiments.shipped import shipped_answers
from himari_rl.experiments.walk_forward import REAL, Key, Settings, WalkForwardPlan
from himari_rl.policy.bundle import amend, write_bundle
from himari_rl.policy.manifest import Manifest
from himari_rl.policy.runtime import load_policy
from himari_rl.schema import Bars
from himari_rl.storage import write_atomic
from himari_rl.trials.ledger import look_of, span_of


def write_judgement(
    work: WalkForwardPlan,
    bars: Bars | Panel,
    out: Path,
    trained: Mapping[Key, TrainedFold],
    facts: Mapping[str, Any],
    number: int,
    registration: Mapping[str, Any],
) -> tuple[str, Judgement]:
    """Plays and judges trained folds; writes bundle, curves and document into `out`.

    Args:
        facts: what the data says of itself, as the document keeps it.
        number: trials on the judged span. registration: what was registered for it, as the document keeps it.

    Returns:
        the document's text and the judgement.
    """
    settings, sha256 = work.settings, bars.fingerprint
    judgement, result = judge_walk(work, trained, number)
    manifest = _bundled(work, trained, out)
    doubtful = [doubtful_columns(one) for one in bars.each]
    document = {
        "kind": settings.kind,
        "symbols": list(result.symbols),
        "settings": settings.plain,
        "settings_hash": settings.hash,
        "budget": settings.budget,
        "data": _described(bars, sha256),
        "span": dict(zip(("market", "first_ms", "last_ms"), span_of(judged_bars(work)), strict=True)),
        "look": look_of(settings.hash, judged_bars(work)),
        "registration": registration,
        "leaks": [report.message for named, _ in doubtful for report in named],
        "implausible": [report.message for _, too_good in doubtful for report in too_good],
        "lag_profile": lag_profile(result.run(POLICY).exposure, result.asset_return),
        **facts,
        "folds": _folds(work, trained, result, judgement.one_liners),
        "bundle": {"weights_sha256": manifest.weights_sha256, "model_version": manifest.version},
        "judgement": judgement.to_dict(),
    }
    shipped = shipped_answers(load_policy(out / BUNDLE), bars[work.bundle_rows])
    rivals = judgement.one_liners
    seen = market_curves(work.bars[REAL][: work.stop_row], manifest.ledger, work.start_row)
    write_atomic(out / CURVES, curves_of(result, shipped | seen | (rivals.curves() if rivals else {})))
    text = json.dumps(document, indent=2, allow_nan=False)
    write_atomic(out / DOCUMENT, text.encode())
    summary = _summary(judgement, settings, sha256) | ({"accepted": facts["accepted"]} if facts["accepted"] else {})
    amend(out / BUNDLE, evaluation=summary | seal(out))
    return text, judgement


def judged_bars(work: WalkForwardPlan) -> Bars | Panel:
    """The rows that are decided out of sample."""
    return work.bars[REAL][work.start_row : work.stop_row]


def _bundled(work: WalkForwardPlan, trained: Mapping[Key, TrainedFold], out: Path) -> Manifest:
    """Writes the ensemble of the newest window as the run's bundle."""
    manifest, tensors = ensemble([trained[REAL, len(work.folds), seed] for seed in work.settings.seeds])
    return write_bundle(out / BUNDLE, manifest, tensors)


def _described(bars: Bars | Panel, sha256: str) -> dict[str, Any]:
    """The data as the document names it."""
    return {
        "sha256": sha256,
        "source": bars.source,
        "rows": len(bars),
        "start": stamp(int(bars.timestamp[0])),
        "end": stamp(int(bars.timestamp[-1])),
        "interval_ms": bars.interval_ms,
        "synthetic": bars.synthetic,
        "signals": whose_signals(bars),
    } | ({"features": list(bars.features)} if bars.features else {})


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


def _folds(
    work: WalkForwardPlan, trained: Mapping[Key, TrainedFold], result: Backtest, rivals: OneLiners | None
) -> list[dict[str, Any]]:
    """One row a fold: spans, the policy's and multiplier 1.0's growth on its test rows, each seed's too; its rival."""
    times = work.bars[REAL].timestamp
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
                "sharpe": metrics.sharpe(result.run(POLICY).log_growth[part], result.per_year(part)),
                "training_gain": float(np.mean([trained[REAL, i, s].gain for s in work.settings.seeds]))
                * work.train_year(i),
            }
            | _search_of(work, i)
            | ({} if rivals is None else {"one_liner": rivals.chosen[i]})
        )
    return rows


def _search_of(work: WalkForwardPlan, fold: int) -> dict[str, Any]:
    """What the search inside a fold's training rows chose, where there was one."""
    found = work.searched.get((REAL, fold))
    if found is None:
        return {}
    return {"search": {"settings": found.settings, "trials": len(found.tried), "overfitting": found.overfitting}}
