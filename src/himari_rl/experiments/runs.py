"""Many walk-forwards side by side: what each found, what it cost, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from himari_rl.errors import HimariError, StorageError
from himari_rl.evaluation.record import BUNDLE, COST, DOCUMENT, read_document
from himari_rl.evaluation.terminal import aligned
from himari_rl.policy.bundle import read_manifest
from himari_rl.trials.register import flat

NOT_SETTINGS = "factory.sha256"


def listed(folder: str | Path) -> list[dict[str, Any]]:
    """Every finished walk-forward below a folder, by path; of one that cannot be read, why.

    Raises:
        StorageError: no such folder, or none in it.
    """
    root = Path(folder)
    places = sorted(path.parent for path in root.rglob(DOCUMENT)) if root.is_dir() else []
    if not places:
        raise StorageError(f"no walk-forward in {folder}", "a folder of runs", "himari walk-forward makes one")
    found = [_row(place, root) for place in places]
    plain = [flat(row.pop("settings")) for row in found]
    every = dict.fromkeys(key for settings in plain for key in settings)
    apart = [key for key in every if len({repr(settings.get(key)) for settings in plain if settings}) > 1]
    for row, settings in zip(found, plain, strict=True):
        row["differs"] = {key: settings.get(key) for key in apart if settings and key != NOT_SETTINGS}
    return found


def _row(place: Path, root: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"run": str(place.relative_to(root) if place != root else place), "settings": {}}
    try:
        document = read_document(place / DOCUMENT)
        verdict = document["judgement"]["verdict"]
        row |= {"kind": document["kind"], "symbols": document["symbols"], "settings": document["settings"]}
        row |= {"answer": verdict["answer"], "trials": verdict["trials"], "decisions": verdict["decisions"]}
        row |= {"utility": verdict["utility"]["estimate"], "sharpe": verdict["own"]["sharpe"]["estimate"]}
        row["failed_controls"] = [each["name"] for each in document["judgement"]["controls"] if not each["passed"]]
        row["gate"] = (read_manifest(place / BUNDLE).gate or {}).get("passed")
        cost = read_document(place / COST) if (place / COST).exists() else {}
        row |= {"seconds": cost.get("seconds"), "usd": cost.get("usd")}
    except (HimariError, KeyError, TypeError) as error:
        row["unreadable"] = str(error)
    return row


def table(found: Sequence[dict[str, Any]], folder: str) -> str:
    """The rows as text."""
    rows = [("run", "kind", "verdict", "gate", "utility %/y", "Sharpe", "trials", "seconds", "USD")]
    for row in found:
        if "unreadable" in row:
            rows.append((row["run"], "?", f"unreadable: {row['unreadable']}", *[""] * 6))
            continue
        gate = {True: "passed", False: "refused", None: "not asked"}[row["gate"]]
        figures = (f"{100.0 * row['utility']:+.1f}", f"{row['sharpe']:+.2f}", str(row["trials"]))
        cost = tuple("" if row[name] is None else f"{row[name]:g}" for name in ("seconds", "usd"))
        rows.append((row["run"], row["kind"], row["answer"], gate, *figures, *cost))
    lines = [f"{len(found)} walk-forwards in {folder}", "", aligned(rows)]
    told = [(row["run"], row["differs"]) for row in found if row["differs"]]
    if told:
        lines += ["", "They differ in:"]
        lines += [f"  {run}: " + ", ".join(f"{key}={value}" for key, value in apart.items()) for run, apart in told]
    return "\n".join(lines)
