"""Folds of somebody's own policy: training rows in, one file's bytes out, as folds.py does with this project's agents.

The factory is called once for each task with the task's rows and seed; what it fits is kept as policy/external.py says.
Torch-free, unless the factory is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from himari_rl.config import as_dict, config_hash
from himari_rl.data.panel import Panel
from himari_rl.errors import ConfigError, HimariError, RefusedError
from himari_rl.evaluation import metrics
from himari_rl.evaluation.backtest import BASE, MIN_DECISIONS, POLICY, backtest, stage
from himari_rl.evaluation.baselines import ONE
from himari_rl.experiments.fold_files import FoldTask, TrainedFold, packed
from himari_rl.features.contract import account_mask
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy import confidence
from himari_rl.policy.bundle import new_manifest
from himari_rl.policy.clock import decisions_of
from himari_rl.policy.code import CodeReference, Factory, resolved
from himari_rl.policy.external import (
    ASKED,
    KEPT,
    REFIT,
    Arrays,
    ExternalPolicy,
    Way,
    ask,
    external_of,
    is_at_hand,
    kept,
    probed,
    reference_spec,
    remember,
)
from himari_rl.policy.manifest import LedgerSpec, Manifest, NormaliserSpec
from himari_rl.policy.network import InputNormaliser
from himari_rl.policy.protocol import DecidesBatch
from himari_rl.schema import RISK_AVERSION, Bars, FloatArray
from himari_rl.training.record import code_version, now, training_data

CLIP = 10.0
CONSTANT = 1e-8
MEASURED_DECISIONS = 2000  # the newest of the training rows, for the gain there


def fit_folds(tasks: Sequence[FoldTask]) -> list[bytes]:
    """Fits each task's policy; the bytes of its file. Same task, same bytes, where the factory keeps to its seed.

    Raises:
        RefusedError: the factory failed, or what it returned is no policy.
    """
    return [_fitted_file(task) for task in tasks]


def is_fitted(fold: TrainedFold) -> bool:
    """Whether a fold's policy can answer in this process."""
    return fold.manifest.external is None or is_at_hand(fold.manifest, fold.manifest.seeds[0])


def learned_nothing(folds: Sequence[TrainedFold]) -> bool:
    """Whether somebody's policy came out the same wherever it was fitted with one seed, on real rows and on twins.

    Told by what is kept of it, and of what cannot be kept by its answers to the same states.
    """
    if any(fold.manifest.external is None for fold in folds):
        return False
    first: dict[int, TrainedFold] = {}
    return all(_alike(first.setdefault(fold.manifest.seeds[0], fold), fold) for fold in folds)


def _alike(one: TrainedFold, other: TrainedFold) -> bool:
    if external_of(one.manifest).kept != REFIT:
        held, there = ({n: v for n, v in each.tensors.items() if n.startswith(f"0.{KEPT}")} for each in (one, other))
        return held.keys() == there.keys() and all(np.array_equal(held[name], there[name]) for name in held)
    states = one.tensors.get(f"0.{ASKED}")
    if states is None or one is other:
        return one is other
    said, answered = (each.policy.decide_batch(states)[0] for each in (one, other))
    return bool(np.array_equal(said, answered))


def fit_again(folds: Sequence[tuple[FoldTask, Manifest]]) -> None:
    """Fits here what no file could keep; what it answered then is in the file, and asked again when it is loaded."""
    for task, manifest in folds:
        factory = resolved(_code(task), task.folder, told=True)
        remember(manifest, task.seed, fit(factory, task))


def fit(factory: Factory, task: FoldTask) -> DecidesBatch:
    """Calls the factory.

    Raises:
        RefusedError: it failed, or what it returned is no policy.
    """
    where = f"fold {task.fold}, seed {task.seed}, {task.part} rows"
    told = getattr(factory, "in_environment", None)  # of one that trains in the ledger it is judged in
    factory = told(task.recipe.environment) if callable(told) else factory
    try:
        policy: DecidesBatch = factory(task.train, task.seed)
    except HimariError:
        raise
    except Exception as error:  # anything at all may happen in somebody's code, and it is said in one line
        raise RefusedError(
            f"{task.code} failed on {where}: {type(error).__name__}: {' '.join(str(error).split())}",
            "a policy",
            "call it yourself with the same rows for the traceback",
        ) from error
    if not callable(getattr(policy, "decide_batch", None)):
        raise RefusedError(
            f"{task.code} returned a {type(policy).__name__} on {where}",
            "an object with decide_batch(states, memory)",
            "see docs/judge.md",
        )
    return policy


def _code(task: FoldTask) -> CodeReference:
    if task.code is None:
        raise ConfigError("a fold of no code", "a task with a factory")
    return task.code


def _fitted_file(task: FoldTask) -> bytes:
    code = _code(task)
    factory = resolved(code, task.folder, told=True)
    policy = fit(factory, task)
    encoder = StateEncoder.of(task.train)
    rows, _ = decisions_of(task.train, encoder, task.recipe.environment)
    way, arrays = kept(policy, factory)
    clocked = hasattr(policy, "at")
    ships = not clocked and not _remembers(policy, rows, len(encoder.symbols))
    tensors = {f"0.{KEPT}{name}": value for name, value in arrays.items()}
    tensors |= {f"0.{name}": value for name, value in probed(policy, rows, len(encoder.symbols)).items()}
    manifest = _manifest(task, tensors, way, rows, ships)
    remember(manifest, task.seed, policy)
    gain = _gain(ExternalPolicy(manifest, [policy]), task.train, manifest.ledger) if not clocked else 0.0
    return packed(task.key, TrainedFold(manifest, tensors, gain))


def _remembers(policy: DecidesBatch, rows: FloatArray, assets: int) -> bool:
    """Whether it carries something from bar to bar, which no server could carry for it."""
    return ask(policy, np.asarray(rows[:1], np.float32), None, assets, "the policy")[1] is not None


def _manifest(task: FoldTask, tensors: Arrays, way: Way, rows: FloatArray, ships: bool) -> Manifest:
    encoder, environment = StateEncoder.of(task.train), task.recipe.environment
    normaliser = fitted_normaliser(rows, len(encoder.symbols))
    data = training_data(task.train)
    return new_manifest(
        kind="external",
        symbols=list(encoder.symbols),
        state_dim=encoder.state_dim,
        action_dim=len(encoder.symbols),
        feature_names=list(encoder.names),
        encoder_hash=encoder.schema_hash,
        normaliser=normaliser,
        network={"trunk": "external", "hidden": [], "head": "external"},
        external=reference_spec(_code(task), way, tensors, ships),
        seeds=[task.seed],
        training_data=data,
        ledger=LedgerSpec.of(environment, data["interval_ms"]),
        config={"environment": as_dict(environment), "run": {"fold": task.fold, "part": task.part}},
        config_hash=config_hash({"code": _code(task).key}),
        code_version=code_version(),
        created_at=now().isoformat(timespec="seconds"),
        confidence=confidence.fit(
            np.asarray(InputNormaliser(normaliser).many(np.asarray(rows, np.float32)), np.float64),
            np.array(normaliser.keep, np.float64),
        ),
    )


def fitted_normaliser(rows: FloatArray, assets: int = 1) -> NormaliserSpec:
    """How far a state is from the training rows (D, F) is measured in; what the policy itself reads is its affair."""
    mean, std = rows.mean(0), rows.std(0)
    plain = std < CONSTANT
    account = np.array(account_mask(rows.shape[1], assets))
    keep = ~plain & ~account
    return NormaliserSpec(
        mean=tuple(np.where(plain, 0.0, mean).tolist()),
        std=tuple(np.where(plain, 1.0, std).tolist()),
        keep=tuple(1 if one else 0 for one in (keep if keep.any() else ~account)),
        clip=CLIP,
    )


def _gain(policy: DecidesBatch, train: Bars | Panel, ledger: LedgerSpec) -> float:
    """Utility a bar over multiplier 1.0 on the newest training rows."""
    first = max(0, len(train) - 2 - MEASURED_DECISIONS)
    if len(train) - 2 - first < MIN_DECISIONS:
        return 0.0
    played = backtest(
        {POLICY: policy}, stage(train, ledger, first), ledger, variants=(BASE,), rng=np.random.default_rng(0)
    )
    useful: dict[str, Any] = {
        name: metrics.utility_per_bar(played.run(name).log_growth, played.run(name).portfolio_return, RISK_AVERSION)
        for name in (POLICY, ONE)
    }
    return float((useful[POLICY] - useful[ONE]).mean())
