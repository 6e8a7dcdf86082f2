"""The evidence again, from the curves: every figure that a rule asks for, beside what the document says of it.

A document is text that anybody can edit, and whoever edits it can compute its digest too. So the gate believes none of
its figures: it computes them from the curves (no bootstrap library is needed), refuses a document that disagrees, by
name, and judges by its own. A bound of an interval is drawn at random, here with other draws than there, and may differ
by BOUND_SLACK standard errors; every other figure agrees to rounding. Curves that are made up as well are a matter for
a signature (`himari gate --signer`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himari_rl.errors import StorageError
from himari_rl.evaluation import metrics, statistics
from himari_rl.evaluation.backtest import BASE, LAGGED, POLICY, VARIANTS
from himari_rl.evaluation.baselines import ONE
from himari_rl.evaluation.control import NAMES, control, own_deflated
from himari_rl.evaluation.record import CURVES, DOCUMENT
from himari_rl.evaluation.statements import control_doubt
from himari_rl.evaluation.statistics import Interval
from himari_rl.release.figures import SLACK, Figure, bounded
from himari_rl.release.rivals import rival_claims, rival_figures
from himari_rl.schema import RISK_AVERSION, YEAR_MS, FloatArray

Z_SLACK = 0.25  # of a z, whose standard error is drawn
REPLICATIONS = 2000
SHOWN = 6  # objections in the gate's line

Curves = Mapping[str, NDArray[Any]]


def examined(document: Mapping[str, Any], curves: Curves) -> tuple[list[str], dict[str, Any]]:
    """Objections to the document, by name, and the document with the gate's own figures in their place.

    Raises:
        StorageError: the curves lack one that is needed, or the document a whole part.
    """
    _require(curves)
    try:
        return _examined(document, curves)
    except (AttributeError, KeyError, TypeError) as error:
        raise StorageError(
            f"{DOCUMENT} has no {error}", "the judgement of a walk-forward", "run himari walk-forward again"
        ) from error


def _examined(document: Mapping[str, Any], curves: Curves) -> tuple[list[str], dict[str, Any]]:
    own: dict[str, Any] = copy.deepcopy(dict(document))
    verdict = own["judgement"]["verdict"]
    year, wrong = _year(verdict, curves["fill_time"])
    accounts = Accounts.of(curves)
    found = [
        *_measures(accounts, curves, year),
        *_chances(accounts, verdict),
        *rival_figures(accounts.growth[0], accounts.useful[0], (accounts.growth[1], accounts.useful[1]), curves, year),
        *_controls(accounts, own, curves, year),
        _promised(own),
    ]
    objections = [wrong, *(figure.objection(document) for figure in found)]
    objections += [*_claims(own, curves), *rival_claims(document, curves)]
    for figure in found:
        part: Any = own
        for step in figure.path[:-1]:
            part = part.setdefault(step, {}) if isinstance(part, dict) else part[step]
        part[figure.path[-1]] = figure.value
    objections += _remade(document, own)
    failed = ", ".join(part["name"] for part in own["judgement"]["controls"] if not part["passed"])
    if failed and not verdict["doubt"]:
        own["judgement"]["verdict"]["doubt"] = control_doubt(failed)
    return [objection for objection in objections if objection], own


@dataclass(frozen=True)
class Accounts:
    """Policy and multiplier 1.0, in this order."""

    growth: list[FloatArray]
    useful: list[FloatArray]
    equity: list[FloatArray]

    @classmethod
    def of(cls, curves: Curves) -> Accounts:
        growth, returns, equity = (
            [np.asarray(curves[f"{kind}/{name}"], float) for name in (POLICY, ONE)]
            for kind in ("growth", "return", "equity")
        )
        useful = [metrics.utility_per_bar(g, r, RISK_AVERSION) for g, r in zip(growth, returns, strict=True)]
        return cls(growth, useful, equity)


def _require(curves: Curves) -> None:
    names = [f"{kind}/{name}" for kind in ("growth", "return", "equity") for name in (POLICY, ONE)]
    missing = [name for name in (*names, "fill_time", "multiplier", "active", _late()) if name not in curves]
    if missing:
        raise StorageError(
            f"{CURVES} lacks {missing[0]}", "the curves of this release", "run himari walk-forward again"
        )
    decisions = len(curves["fill_time"])
    short = [name for name in (*names, "multiplier", "active", _late()) if len(curves[name]) != decisions]
    if short:
        raise StorageError(
            f"{CURVES}: {short[0]} has {len(curves[short[0]])} rows", f"{decisions}", "run himari walk-forward again"
        )


def _late() -> str:
    return f"return/{POLICY} {LAGGED.name}"


def _year(verdict: Mapping[str, Any], fill_time: NDArray[Any]) -> tuple[float, str]:
    """Bars of a year as the document has them, and what is wrong with that: the times of the fills bound it."""
    steps = np.diff(fill_time)
    least, most = (YEAR_MS / float(step) for step in (steps.mean(), np.median(steps)))  # with what is missing, without
    room = 2e-3 + 2.0 / len(fill_time)
    said = verdict.get("bars_per_year")
    if isinstance(said, int | float) and min(least, most) * (1.0 - room) <= said <= max(least, most) * (1.0 + room):
        return float(said), ""
    return least, f"bars of a year: the document says {said}, the times of the fills give {least:.6g}"


@dataclass(frozen=True)
class Measured:
    """What the accounts did: intervals of what a rule asks a bound of, per year."""

    sharpe: Interval
    growth: Interval  # paired
    utility: Interval  # paired
    ratio: tuple[float, ...]  # Sharpe ratios a year, of both
    drawdown: tuple[float, ...]  # of both


def measured(accounts: Accounts, year: float, replications: int = REPLICATIONS) -> Measured:
    """The accounts' figures; blocks are as long as the paired differences remember, as in evaluation/comparison.py."""
    mine, one = accounts.growth
    paired = np.column_stack([mine - one, accounts.useful[0] - accounts.useful[1]])
    draws = statistics.resampled_means(
        np.column_stack([mine, mine**2, paired]),
        0,
        replications=replications,
        block=statistics.block_length(paired),
    )
    deviation = np.sqrt(np.maximum(draws[:, 1] - draws[:, 0] ** 2, 0.0) * len(mine) / (len(mine) - 1))
    ratio = [metrics.sharpe(growth) for growth in accounts.growth]
    interval, root = statistics.interval, math.sqrt(year)
    gain = [interval(float(paired[:, k].mean()), draws[:, 2 + k]).scaled(year) for k in (0, 1)]
    return Measured(
        sharpe=interval(ratio[0], metrics.sharpe_ratio(draws[:, 0], deviation)).scaled(root),
        growth=gain[0],
        utility=gain[1],
        ratio=tuple(each * root for each in ratio),
        drawdown=tuple(metrics.max_drawdown(equity) for equity in accounts.equity),
    )


def _measures(accounts: Accounts, curves: Curves, year: float) -> list[Figure]:
    """Own and paired measures, with their bounds where a rule asks for one."""
    mine, found = accounts.growth[0], measured(accounts, year)
    ratio, depth = found.ratio, found.drawdown
    verdict = ("judgement", "verdict")
    counted = np.asarray(curves["multiplier"], float), np.asarray(curves["active"], bool)
    return [
        Figure("decisions", (*verdict, "decisions"), float(len(mine))),
        Figure("risk aversion", (*verdict, "risk_aversion"), RISK_AVERSION),
        *bounded("Sharpe", (*verdict, "own", "sharpe"), found.sharpe),
        Figure("drawdown", (*verdict, "own", "drawdown", "estimate"), depth[0]),
        Figure("growth", (*verdict, "own", "growth", "estimate"), metrics.growth(mine, year)),
        Figure("utility", (*verdict, "own", "utility", "estimate"), metrics.growth(accounts.useful[0], year)),
        *bounded("paired difference in growth", (*verdict, "growth"), found.growth),
        *bounded("paired difference in utility", (*verdict, "utility"), found.utility),
        Figure("paired difference in Sharpe", (*verdict, "sharpe", "estimate"), ratio[0] - ratio[1]),
        Figure("paired difference in drawdown", (*verdict, "drawdown", "estimate"), depth[0] - depth[1]),
        Figure("action spread", (*verdict, "spread"), metrics.action_spread(*counted)),
        Figure("saturation", (*verdict, "saturation"), metrics.saturation(*counted)),
    ]


def _chances(accounts: Accounts, verdict: Mapping[str, Any]) -> list[Figure]:
    """PSR and both deflated Sharpe ratios, for as many trials as the document counts."""
    trials = _trials(verdict) or 1
    mine = accounts.growth[0]
    difference = statistics.moments(accounts.useful[0] - accounts.useful[1])
    own = statistics.probabilistic_sharpe(statistics.moments(mine))
    place = ("judgement", "verdict")
    return [
        Figure("probabilistic Sharpe", (*place, "probabilistic_sharpe"), own),
        Figure("deflated difference", (*place, "deflated_sharpe"), statistics.deflated_sharpe(difference, trials)),
        Figure("deflated Sharpe", ("judgement", "own_deflated_sharpe"), own_deflated(mine, trials)),
    ]


def _trials(verdict: Mapping[str, Any]) -> int:
    """Looks that the document counts; 0 where that is no count."""
    said = verdict.get("trials")
    return said if isinstance(said, int) and said >= 1 else 0


def _controls(accounts: Accounts, document: Mapping[str, Any], curves: Curves, year: float) -> list[Figure]:
    """The numbers of controls that the curves of the real part have in them."""
    at = {part["name"]: i for i, part in enumerate(document["judgement"]["controls"])}
    now, late = (np.log1p(np.asarray(curves[name], float)) for name in (f"return/{POLICY}", _late()))
    loss = now - late
    draws = statistics.resampled_means(loss[:, None], 1, replications=400, block=statistics.block_length(loss))
    error = float(draws.std(ddof=1))
    z = float(loss.mean()) / error if error > 0.0 else 0.0
    gain = metrics.growth(accounts.useful[0] - accounts.useful[1], year)
    costs = [v.name for v in VARIANTS if not v.lag and (v is BASE or f"growth/{POLICY} {v.name}" in curves)]
    told: dict[str, dict[str, tuple[float, float]]] = {
        "shuffled": {"gain": (gain, 0.0)},
        "lag": {
            "sharpe": (metrics.sharpe(now, year), 0.0),
            "lagged_sharpe": (metrics.sharpe(late, year), 0.0),
            "z": (z, Z_SLACK * (1.0 + abs(z))),
        },
        "costs": {name: (metrics.sharpe(_at_costs(curves, name), year), 0.0) for name in costs},
    }
    return [
        Figure(f"control {name}, {what}", ("judgement", "controls", at[name], "numbers", what), value, slack)
        for name, numbers in told.items()
        if name in at
        for what, (value, slack) in numbers.items()
    ]


def _at_costs(curves: Curves, name: str) -> FloatArray:
    return np.asarray(curves[f"growth/{POLICY}" if name == BASE.name else f"growth/{POLICY} {name}"], float)


def _promised(document: Mapping[str, Any]) -> Figure:
    """What the training rows promised: the mean of the folds' promises."""
    promised = [fold.get("training_gain", math.nan) for fold in document["folds"]]
    mean = float(np.mean(promised)) if promised else math.nan
    return Figure("advantage on training rows", ("judgement", "training_gain"), mean)


def _claims(document: Mapping[str, Any], curves: Curves) -> list[str]:
    """What the document says of its folds and its span, against the curves."""
    growth = {name: float(np.asarray(curves[f"growth/{name}"], float).sum()) for name in (POLICY, ONE)}
    found = []
    for name, total in growth.items():
        said = sum(fold["growth"].get(name, math.nan) for fold in document["folds"])
        if not abs(said - total) <= SLACK * max(1.0, abs(total)):
            found.append(f"growth of the folds, {name}: the document says {said:.6g}, the curves give {total:.6g}")
    if not _trials(document["judgement"]["verdict"]):
        found.append("trials: the document has no count of looks")
    first, last = (int(curves["fill_time"][i]) for i in (0, -1))
    span = document.get("span", {})
    if not (span.get("first_ms", first) <= first and last <= span.get("last_ms", last)):
        found.append("span: the document's is not that of the fills")
    return found


def _remade(document: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Objections to controls whose answer or sentence is not what their numbers say; `own` gets what they do say.

    A control whose numbers are not there has not passed.
    """
    said = {part["name"]: part for part in document["judgement"]["controls"]}
    found = []
    for part in own["judgement"]["controls"]:
        name = part["name"]
        try:
            made, stated = control(name, part["numbers"]), control(name, said[name]["numbers"])
        except (KeyError, TypeError, ValueError):
            part["passed"] = False
            found.append(f"control {name}: its numbers are missing" if name in NAMES else f"{name} is no control")
            continue
        part["passed"] = made.passed
        if said[name]["passed"] is not stated.passed:
            words = ("refused", "passed")
            found.append(
                f"control {name}: the document says {words[bool(said[name]['passed'])]}, "
                f"its numbers {words[stated.passed]}"
            )
        elif said[name]["sentence"] != stated.sentence:
            found.append(f"control {name}: its sentence is not that of its numbers, which is: {stated.sentence}")
    return found


def objections_in_words(objections: Sequence[str]) -> str:
    """One line: the first few, and how many there are."""
    more = f"; and {len(objections) - SHOWN} more" if len(objections) > SHOWN else ""
    return "; ".join(objections[:SHOWN]) + more
