"""A verdict recomputed by a third party: from a run's folds, its bundle and the same data, and held against its files.

    verify("runs/btc", bars)        himari verify runs/btc --data BTC-USDT_1h.parquet

Equal means: the folds are whole and belong to these settings and this data, the bundle is their newest ensemble, and
judging them here gives the document and the curves that the run's folder holds. What is not equal is named. Nothing is
written into the run, and no look is counted. That the folds were trained as they say is found out with `train=True`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himari_rl.agents.config import config_type
from himari_rl.config import from_dict
from himari_rl.data.panel import Panel
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.errors import DataError, HimariError, StorageError
from himari_rl.evaluation.record import (
    BUNDLE,
    CURVES,
    SETTINGS,
    read_curves,
    read_document,
    read_run,
    seal,
)
from himari_rl.experiments.config import WalkForwardConfig
from himari_rl.experiments.fold_files import TrainedFold
from himari_rl.experiments.fold_search import search_all
from himari_rl.experiments.judged import write_judgement
from himari_rl.experiments.train_all import FOLDS_FOLDER, train_all
from himari_rl.experiments.walk_forward import REAL, ExternalSettings, Key, Settings, WalkForwardPlan, plan
from himari_rl.features.own import with_features
from himari_rl.policy.bundle import read_bundle
from himari_rl.policy.code import CodeReference, resolved
from himari_rl.schema import Bars
from himari_rl.storage import read_bytes
from himari_rl.storage.mirror import workplace
from himari_rl.storage.sealed import unsealed
from himari_rl.training.fan_out import Pool

SAME = 1e-6  # relative: another machine sums in another order; the same one gives the same bits
MOST = 8  # differences of one file that are named one by one


@dataclass(frozen=True)
class Discrepancy:
    """One thing that is not as the folds and the data give it."""

    what: str  # settings, fold, weight, bundle, curve or document
    which: str
    why: str

    def __str__(self) -> str:
        return f"{self.what} {self.which}: {self.why}"


@dataclass(frozen=True, kw_only=True, repr=False)
class Verification:
    """What was compared, and what differs."""

    run: str
    compared: tuple[str, ...]
    differences: tuple[Discrepancy, ...]

    @property
    def equal(self) -> bool:
        return not self.differences

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        found = [vars(each) for each in self.differences]
        return {"run": self.run, "equal": self.equal, "compared": list(self.compared), "differences": found}

    def __str__(self) -> str:
        if self.equal:
            return f"{self.run}: equal ({'; '.join(self.compared)})"
        return "\n".join([f"{self.run}: NOT equal", *(f"  {each}" for each in self.differences)])

    def __repr__(self) -> str:
        return f"<Verification of {self.run}: {'equal' if self.equal else f'{len(self.differences)} differences'}>"


def verify(
    run: str | Path,
    bars: Bars | Panel,
    *,
    beliefs_from: Sequence[Bars] = (),
    train: bool = False,
    pool: Pool | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Recomputes the verdict of a finished walk-forward.

    Args:
        bars, beliefs_from: the data that it was judged on.
        train: trains every fold again and compares the weights; takes as long as the run did.

    Raises:
        StorageError: no finished walk-forward. DataError: bars of other data. BundleError: code nobody allowed.
    """
    with workplace(run) as folder:
        document, said = read_run(folder), read_document(folder / SETTINGS)
        bars = with_features(bars, document["data"].get("features", ()))
        if bars.fingerprint != said["data_sha256"]:
            raise DataError(
                f"{bars.source} is {bars.fingerprint[:12]}",
                f"the data of the run, {said['data_sha256'][:12]} ({document['data']['source']})",
                "give the files that it was judged on",
            )
        settings = settings_again(said["settings"])
        if settings.code is not None:
            resolved(settings.code)
        found = [] if settings.hash == said["hash"] else [Discrepancy("settings", SETTINGS, "not those of its hash")]
        work = plan(bars, settings, kept=folder, others=beliefs_from)
        damaged = list(_damaged(work, folder))
        if damaged or found:
            return Verification(run=str(run), compared=(), differences=(*found, *damaged))
        try:
            trained = train_all(work, folder, None)
        except StorageError as error:  # a file of another task
            return Verification(run=str(run), compared=(), differences=(Discrepancy("fold", "file", str(error)),))
        differing = list(_judged_again(work, bars, folder, document, trained))
        if train:
            differing += list(_trained_again(work, trained, pool, progress))
    compared = [f"{len(trained)} folds", f"{len(document['settings'])} settings", "weights, curves and document"]
    compared += ["every fold trained again"] if train else []
    return Verification(run=str(run), compared=tuple(compared), differences=tuple(differing))


def settings_again(said: Mapping[str, Any]) -> Settings:
    """Settings from what a run's folder keeps of them."""
    own = {name: value for name, value in said.items() if name not in ("kind", "agent", "environment", "factory")}
    shared: dict[str, Any] = vars(from_dict(WalkForwardConfig, own))
    shared["environment"] = from_dict(TradingEnvConfig, said["environment"])
    if "factory" in said:
        return ExternalSettings(factory=CodeReference(**said["factory"]), **shared)
    return Settings(kind=said["kind"], agent=from_dict(config_type(said["kind"]), said["agent"]), **shared)


def _damaged(work: WalkForwardPlan, folder: Path) -> Iterator[Discrepancy]:
    """Files of folds that are missing or not whole."""
    for part, fold, seed in work.pieces():
        name = f"{part}/{fold:03d}-{seed}.fold"
        path = folder / FOLDS_FOLDER / name
        if not path.exists():
            yield Discrepancy("fold", name, "its file is missing")
            continue
        try:
            unsealed(read_bytes(path), name)
        except StorageError:
            yield Discrepancy("fold", name, "its file was changed: the digest in front of it is of other bytes")
    for task in work.searches():
        if not (folder / FOLDS_FOLDER / task.name).exists():
            yield Discrepancy("fold", task.name, "the file of its search is missing")


def _judged_again(
    work: WalkForwardPlan,
    bars: Bars | Panel,
    folder: Path,
    document: Mapping[str, Any],
    trained: Mapping[Key, TrainedFold],
) -> Iterator[Discrepancy]:
    searched = search_all(work.searches((REAL,)), folder / FOLDS_FOLDER, None)
    facts = {name: document[name] for name in ("facts", "accepted")}
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        number = int(document["judgement"]["verdict"]["trials"])
        again = replace(work, searched=searched)
        write_judgement(again, bars, out, trained, facts, number, document["registration"])
        yield from _weights(folder, out)
        yield from _curves(folder, out, work)
        for which, why in differing(document, read_run(out)):
            if not which.startswith("bundle."):  # said of the weights
                yield Discrepancy("document", which, why)
        yield from _vouched(folder)


def _vouched(folder: Path) -> Iterator[Discrepancy]:
    """The digests in the bundle's manifest, of the files as they are."""
    try:
        known = read_bundle(folder / BUNDLE)[0].evaluation or {}
    except HimariError:  # said of the weights
        return
    for name, digest in seal(folder).items():
        if known.get(name) != digest:
            what = "curve" if name == CURVES else "document"
            yield Discrepancy(what, name, "its digest is not the one in the bundle's manifest")


def _weights(folder: Path, out: Path) -> Iterator[Discrepancy]:
    _, expected = read_bundle(out / BUNDLE)
    try:
        _, found = read_bundle(folder / BUNDLE)
    except HimariError as error:
        yield Discrepancy("weight", BUNDLE, str(error))
        return
    for name in sorted(expected.keys() | found.keys()):
        if name not in found or name not in expected:
            yield Discrepancy("weight", name, "in one of bundle and folds only")
        elif found[name].shape != expected[name].shape or not np.array_equal(found[name], expected[name]):
            yield Discrepancy("weight", name, "not that of the folds of the newest window")


def _curves(folder: Path, out: Path, work: WalkForwardPlan) -> Iterator[Discrepancy]:
    try:
        found = read_curves(folder)
    except StorageError as error:
        yield Discrepancy("curve", CURVES, str(error))
        return
    expected = read_curves(out)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found or name not in expected:
            yield Discrepancy("curve", name, "in one of file and folds only")
            continue
        rows = _unlike(found[name], expected[name])
        if rows is None:
            yield Discrepancy("curve", name, f"shape {found[name].shape}, recomputed {expected[name].shape}")
        elif len(rows):
            yield Discrepancy("curve", name, f"{len(rows)} rows differ from row {rows[0]} on{_whose(name, rows, work)}")


def _whose(name: str, rows: NDArray[np.int64], work: WalkForwardPlan) -> str:
    """Which folds decided those rows, where the curve is of decisions."""
    if not name.startswith(("multiplier", "exposure", "growth/policy", "return/policy")):
        return ""
    starts = [fold.test.start - work.start_row for fold in work.folds]
    folds = sorted({int(each) for each in np.searchsorted(starts, rows, side="right") - 1})
    return f", of fold {', '.join(map(str, folds))}"


def _unlike(found: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.int64] | None:
    """Rows in which two arrays differ; None where their shapes do."""
    if found.shape != expected.shape:
        return None
    apart = ~np.isclose(np.asarray(found, float), np.asarray(expected, float), rtol=SAME, atol=1e-9, equal_nan=True)
    return np.flatnonzero(apart.reshape(len(apart), -1).any(axis=1)) if apart.ndim else np.flatnonzero(apart)


def differing(found: Any, expected: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Where two JSON documents differ, and how; numbers to a relative 1e-6."""
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        for name in sorted(found.keys() | expected.keys()):
            here = f"{at}.{name}" if at else str(name)
            if name not in found or name not in expected:
                yield here, "there in one of them only"
            else:
                yield from differing(found[name], expected[name], here)
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            yield from differing(one, other, f"{at}.{i}")
    elif isinstance(found, float | int) and isinstance(expected, float | int) and not isinstance(found, bool):
        if not math.isclose(found, expected, rel_tol=SAME, abs_tol=1e-9):
            yield at, f"{found!r}, recomputed {expected!r}"
    elif found != expected:
        yield at, f"{_short(found)}, recomputed {_short(expected)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def _trained_again(
    work: WalkForwardPlan,
    trained: Mapping[Key, TrainedFold],
    pool: Pool | None,
    progress: Callable[[int, int], None],
) -> Iterator[Discrepancy]:
    with tempfile.TemporaryDirectory() as place:
        again = train_all(work, Path(place), pool, progress)
    for key, fold in trained.items():
        name = "{}/{:03d}-{}.fold".format(*key)
        for tensor, values in fold.tensors.items():
            rows = _unlike(values, again[key].tensors[tensor]) if tensor in again[key].tensors else None
            if rows is None or len(rows):
                yield Discrepancy("fold", name, f"trained again, {tensor} is another")
                break
