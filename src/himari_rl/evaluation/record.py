"""A finished run as a folder of files: what experiments write and release reads.

RUN/bundle/                 the policy that would be shipped
RUN/walk_forward.json       the judgement; the same bytes however often the run was killed
RUN/curves.safetensors      equity of every strategy, multiplier, exposure, cost; what the shipped bundle answers
RUN/cost.json               time and money of the last call
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from himari_rl.errors import BundleError, StorageError
from himari_rl.evaluation.backtest import POLICY, Backtest
from himari_rl.evaluation.baselines import ONE
from himari_rl.evaluation.one_liners import candidates
from himari_rl.evaluation.portfolio_baselines import EQUAL
from himari_rl.policy.manifest import Manifest
from himari_rl.storage import is_file, join, read_bytes
from himari_rl.storage.sealed import digest_of

SUMMARY = "evaluation.json"  # in a bundle: what himari evaluate last found
DOCUMENT, CURVES, COST, SETTINGS, BUNDLE = (
    "walk_forward.json",
    "curves.safetensors",
    "cost.json",
    "settings.json",
    "bundle",
)
SHIPPED = "shipped/"  # before the names of curves of the bundle that ships, and not of the policies that were judged
_AGAIN = "run himari walk-forward again"


def read_run(run: str | Path) -> dict[str, Any]:
    """The document of a finished walk-forward.

    Raises:
        StorageError: the folder holds none.
    """
    path = join(run, DOCUMENT)
    if not is_file(path):
        raise StorageError(
            f"{run} holds no {DOCUMENT}",
            "the folder of a walk-forward",
            "run himari walk-forward first; a training alone is judged, with a page, by himari evaluate --html",
        )
    return read_document(path)


def read_curves(run: str | Path) -> dict[str, NDArray[Any]]:
    """The curves of a finished walk-forward, by name.

    Raises:
        StorageError: they are missing or damaged.
    """
    path = join(run, CURVES)
    try:
        return dict(load(read_bytes(path)))
    except SafetensorError as error:
        raise StorageError(f"{path} is damaged: {error}", "the file as written", _AGAIN) from error


def seal(run: str | Path) -> dict[str, str]:
    """Digests of a walk-forward's judgement and curves, for the manifest of its bundle.

    They stand in the manifest and not in front of the files: people and other programs read these as they are.
    """
    return {name: digest_of(read_bytes(join(run, name))) for name in (DOCUMENT, CURVES)}


def has_evidence(run: str | Path, manifest: Manifest) -> bool:
    """Whether a walk-forward made this bundle, told by its files or by the manifest: `himari train` makes neither."""
    return is_file(join(run, DOCUMENT)) or DOCUMENT in (manifest.evaluation or {})


def require_evidence(run: str | Path, manifest: Manifest) -> None:
    """Returns where a walk-forward's files are those that its bundle's manifest names, to the last byte.

    Whoever rewrites the manifest too is not found out by a digest but by a signature (policy/signature.py).

    Raises:
        StorageError: there are no such files, or somebody changed them.
        BundleError: the bundle is of no walk-forward.
    """
    read_run(run)
    known = manifest.evaluation or {}
    if not {DOCUMENT, CURVES} <= set(known):
        raise BundleError(
            f"{manifest.version} names no walk-forward", "a bundle that himari walk-forward wrote", _AGAIN
        )
    for name, found in seal(run).items():
        if found != known[name]:
            raise StorageError(
                f"{join(run, name)} is not the one that {manifest.version} names", f"{known[name]}", _AGAIN
            )


def read_document(path: str | Path) -> dict[str, Any]:
    """A JSON object from a file of the run.

    Raises:
        StorageError: the file is damaged, or holds something else.
    """
    try:
        document = json.loads(read_bytes(path))
    except ValueError as error:  # UnicodeDecodeError is one
        raise StorageError(f"{path} is damaged: {error}", "the file as written", _AGAIN) from error
    if not isinstance(document, dict):
        raise StorageError(f"{path} holds a {type(document).__name__}", "the file as written", _AGAIN)
    return document


def curves_of(result: Backtest, beside: Mapping[str, NDArray[Any]]) -> bytes:
    """`arrays_of` as the file of a run."""
    return bytes(save({name: np.ascontiguousarray(values) for name, values in arrays_of(result, beside).items()}))


def arrays_of(result: Backtest, beside: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Equity of every strategy, what the policy did, and all that the gate needs to compute its figures again.

    Args:
        beside: states and answers of the bundle that ships (experiments/shipped.py), what the one-liners did on
            training rows (one_liners.py), and what the market did (card/market.py).
    """
    mine = result.run(POLICY)
    arrays: dict[str, NDArray[Any]] = {
        "fill_time": result.fill_time,
        "end_time": np.array([result.end_time]),
        "multiplier": mine.multiplier,
        "active": mine.active,
        "exposure": mine.exposure,
        "cost": np.cumsum(mine.cost),
        **beside,
    }
    arrays |= {f"equity/{name}": result.run(name).marked_log_equity for name in result.strategies}
    rivals = candidates(len(result.symbols))
    compared = [name for name in (POLICY, ONE, EQUAL, *rivals) if name in result.strategies]
    arrays |= {f"growth/{name}": result.run(name).log_growth for name in compared}
    arrays |= {f"return/{name}": result.run(name).portfolio_return for name in compared if name != EQUAL}
    if EQUAL in compared:
        arrays[f"exposure/{EQUAL}"] = result.run(EQUAL).exposure
    for variant in result.variants[1:]:
        run = result.run(POLICY, variant.name)
        kind, values = ("return", run.portfolio_return) if variant.lag else ("growth", run.log_growth)
        arrays[f"{kind}/{POLICY} {variant.name}"] = values
    return arrays
