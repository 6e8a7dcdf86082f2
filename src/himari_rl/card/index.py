"""The index of many runs, `himari runs --html`: each with its verdict, its figures, its cost and what sets it apart."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from himari_rl.card.blocks import NONE, Cell, Grid, Page, Prose, Row, Section, number, percent, verdict_mark
from himari_rl.card.pages import found_mark
from himari_rl.card.template import render

CARD = "report.html"  # of a run, where himari report wrote it
EVENTS = "events.out.tfevents*"  # TensorBoard's


def index_page(found: Sequence[Mapping[str, Any]], folder: str | Path, place: str | Path) -> str:
    """The page.

    Args:
        found: rows of `himari runs`.
        folder: where the runs are.
        place: where the page will stand; links to run cards are relative to it.

    Raises:
        ConfigError: Jinja2 is not installed.
    """
    rows: list[Row] = []
    for of in sorted(found, key=lambda row: -row.get("utility", float("-inf"))):
        name = _named(of, Path(folder), Path(place))
        if "unreadable" in of:
            rows.append([name, Cell("✕ unreadable", "mark worse"), *[NONE] * 6, of["unreadable"]])
            continue
        gate = NONE if of["gate"] is None else verdict_mark(of["gate"], "passed", "refused")
        failed = f"failed: {', '.join(of['failed_controls'])}" if of["failed_controls"] else ""
        differs = ", ".join(f"{key} {value}" for key, value in of["differs"].items())
        rows.append(
            [
                name,
                found_mark(of["answer"])._replace(style=f"mark {found_mark(of['answer']).style}"),
                gate,
                percent(of["utility"], sign=True),
                number(of["sharpe"], sign=True),
                f"{of['trials']:,}",
                number(of["seconds"], 0),
                number(of["usd"], 4),
                "; ".join(part for part in (", ".join(of["symbols"]), failed, differs) if part),
            ]
        )
    head = ("run", "verdict", "gate", "utility over 1.0, a year", "Sharpe a year", "trials", "seconds", "USD",
            "what sets it apart")  # fmt: skip
    better = sum(of.get("gate") is True for of in found)
    lines = [f"{len(found)} walk-forward{'s' * (len(found) != 1)}, {better} of them passed the gate when it was asked."]
    logs = sorted({str(path.parent) for path in Path(folder).rglob(EVENTS)})
    told = [Prose(lines=[f"TensorBoard: tensorboard --logdir {log}" for log in logs], style="note")] if logs else []
    note = (
        "The largest utility first. That is a list to choose from, and each look makes the next one less convincing: "
    )
    note += "the number of trials on a span is in every run's own deflated figures."
    grid = Grid(head=head, rows=rows, prose=frozenset({1, 2, 8}), note=note)
    section = Section(name="runs", title="", blocks=[Prose(lines=lines), grid, *told])
    return render(Page(what="himari runs", title=f"Walk-forwards in {Path(folder).name or folder}", sections=[section]))


def _named(of: Mapping[str, Any], folder: Path, place: Path) -> Cell:
    """The run's name, a link to its card where it has one."""
    run = Path(of["run"])
    card = (run if run.is_absolute() or run == folder else folder / run) / CARD
    if not card.is_file():
        return Cell(of["run"])
    return Cell(of["run"], href=quote(Path(os.path.relpath(card, place.parent)).as_posix()))
