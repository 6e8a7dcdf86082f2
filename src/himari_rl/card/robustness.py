"""How far the answer can be trusted, as sections: controls, costs, lag profile, folds and seeds, trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from himari_rl.card.blocks import (
    Cell,
    Drawing,
    Drawings,
    Folded,
    Grid,
    Prose,
    Row,
    Section,
    number,
    percent,
    verdict_mark,
)
from himari_rl.card.drawing import Plot
from himari_rl.card.source import Source
from himari_rl.evaluation.backtest import POLICY, is_seed
from himari_rl.evaluation.baselines import ONE

SIDE_BY_SIDE = 4  # policy and seeds, with which a row of a fold still has room on a telephone


def controls(source: Source) -> Section:
    """Every control with its sentence, the Sharpe ratio by costs, and how the edge fades with a lag."""
    rows = [[each["name"], verdict_mark(each["passed"], "ok", "failed"), each["sentence"]] for each in source.controls]
    blocks: list[Any] = []
    if rows:
        blocks.append(Grid(head=("control", "", "what was found"), rows=rows, prose=frozenset({1, 2})))
    else:
        blocks.append(Prose(lines=["None could be run: these are measurements, not a verdict."], style="worse"))
    if source.detectable is not None:
        smallest = f"{percent(source.detectable)} a year (power 95 %)"
        line = f"Smallest difference in utility this data can show: {smallest}."
        blocks.append(Prose(lines=[line], style="note"))
    drawings = [drawing for drawing in (_costs(source), _lags(source)) if drawing is not None]
    if drawings:
        key = [("c-policy", "policy"), ("c-other", "the exposure's own autocorrelation")]
        blocks.append(Drawings(drawings=drawings, key=key))
    return Section(name="controls", short="controls", title="Controls", blocks=blocks)


def _costs(source: Source) -> Drawing | None:
    numbers = next((each["numbers"] for each in source.controls if each["name"] == "costs"), None)
    if not numbers:
        return None
    low, high = min(0.0, *numbers.values()), max(0.0, *numbers.values())
    room = 0.1 * (high - low or 1.0)
    plot = Plot(
        x=(-0.6, len(numbers) - 0.4),
        y=(low - (room if low < 0.0 else 0.0), high + room),
        x_names=list(numbers),
        x_label="multiple of the costs",
        y_label="Sharpe a year",
        says=f"Sharpe ratio by costs: {', '.join(f'{name} {value:.2f}' for name, value in numbers.items())}",
    )
    for k, value in enumerate(numbers.values()):
        plot.bar(k - 0.3, k + 0.3, min(0.0, value), max(0.0, value), "c-policy" if value >= 0.0 else "c-worse")
    return Drawing(title="Sharpe ratio at higher costs", svg=plot.svg())


def _lags(source: Source) -> Drawing | None:
    found = source.lag_profile
    if not found or not found["bars"]:
        return None
    at = list(range(len(found["bars"])))
    both = (*found["retained"], *found["autocorrelation"], 0.0, 1.0)
    plot = Plot(
        x=(-0.3, len(at) - 0.7),
        y=(min(both) - 0.05, max(both) + 0.05),
        x_names=[f"{bars:g}" for bars in found["bars"]],
        x_label="bars late",
        y_label="share kept",
        decimals=1,
        says=f"Return kept by lag: {', '.join(f'{value:.2f}' for value in found['retained'])}",
    )
    plot.line(at, found["autocorrelation"], "c-other thin dashed").dots(at, found["autocorrelation"], "c-other")
    plot.line(at, found["retained"], "c-policy").dots(at, found["retained"], "c-policy")
    return Drawing(
        title="Lag profile: return before costs kept",
        svg=plot.svg(),
        note="For reading: an honest edge fades about as the exposure itself forgets. No rule rests on it.",
    )


def folds(document: Sequence[Mapping[str, Any]]) -> Section:
    """Log-growth over multiplier 1.0 by fold and seed."""
    names = [name for name in document[0]["growth"] if name != ONE]
    gains = {name: [fold["growth"][name] - fold["growth"][ONE] for fold in document] for name in names}
    won = sum(gain > 0.0 for gain in gains[POLICY])
    reach = max((abs(gain) for row in gains.values() for gain in row), default=0.0) or 1.0
    rows: list[Row] = []
    for k, fold in enumerate(document):
        heat = [Cell(number(100.0 * gains[name][k], 1, sign=True), "", gains[name][k] / reach) for name in names]
        row = [fold["test"][0][:10], *heat, number(fold.get("sharpe"), 1), percent(fold.get("training_gain"))]
        rows.append(row)
    head = ("tested from", *(name.removeprefix("seed ") if is_seed(name) else name for name in names), "Sharpe",
            "in training")  # fmt: skip
    seeds = sum(is_seed(name) for name in names)
    rivals = ", ".join(dict.fromkeys(fold["one_liner"] for fold in document if "one_liner" in fold))
    lines = [
        f"Better than multiplier 1.0 in {won} of {len(document)} folds; numbers are log-growth over it, in per cent."
        + (f" Best one-liners: {rivals}." if rivals else "")
    ]
    note = f"Columns 0 to {seeds - 1} are single seeds. " if seeds > 1 else ""
    note += "In training: utility a year over multiplier 1.0 on the fold's own training rows."
    table = Grid(head=head, rows=rows, look="heat" if len(names) <= SIDE_BY_SIDE else "many", note=note)
    strip = _strip(names, gains, reach, [fold["test"][0][:10] for fold in document])
    found: list[Any] = [Prose(lines=lines), strip, Folded(summary="Every fold", blocks=[table])]
    searched = [fold["search"] for fold in document if "search" in fold]
    if searched:
        found.append(_searches(document))
    return Section(name="folds", short="folds", title="Folds and seeds", blocks=found)


def _strip(names: Sequence[str], gains: Mapping[str, Sequence[float]], reach: float, at: Sequence[str]) -> Grid:
    """One row a seed, one column a fold, coloured by the gain."""
    rows: list[Row] = [
        [
            name,
            *(
                Cell(
                    "",
                    "",
                    math.copysign(math.sqrt(abs(gain) / reach), gain),
                    f"{name}, {when}: {percent(gain, sign=True)}",
                )
                for gain, when in cells
            ),
        ]
        for name in names
        for cells in [list(zip(gains[name], at, strict=True))]
    ]
    return Grid(head=("", *at), rows=rows, look="strip")


def _searches(document: Sequence[Mapping[str, Any]]) -> Folded:
    rows: list[Row] = [
        [fold["test"][0][:10], f"{fold['search']['trials']}", number(fold["search"].get("overfitting")),
         ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in fold["search"]["settings"].items())]
        for fold in document
        if "search" in fold
    ]  # fmt: skip
    head = ("tested from", "tried", "P(overfitting)", "chosen inside the training rows")
    return Folded(summary="What each fold's search chose", blocks=[Grid(head=head, rows=rows, prose=frozenset({3}))])


def trials(number_of: int, registration: str, history: Sequence[Mapping[str, str]]) -> Section:
    """What was tried on this span."""
    line = f"{number_of} look(s) counted in the deflated Sharpe ratio; {registration}."
    blocks: list[Any] = [Prose(lines=[line])]
    if history:
        rows = [[each["at"], each["purpose"], each["what"]] for each in history[-30:]]
        grid = Grid(head=("when", "what for", "which"), rows=rows, prose=frozenset({1, 2}))
        blocks.append(Folded(summary=f"The newest {len(rows)} on this span", blocks=[grid]))
    return Section(name="trials", short="trials", title="What was tried on this span", blocks=blocks)
