"""The pages of a verdict: the sections that a run card and an evaluation share, in the order of doubt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from himari_rl.card import conduct, performance, robustness, setup
from himari_rl.card.blocks import Cell, Page, Prose, Section, TimePanels
from himari_rl.card.diversification import risk_taken_away
from himari_rl.card.over_time import time_panels
from himari_rl.card.source import Source
from himari_rl.card.template import render
from himari_rl.evaluation.statements import BETTER, COLLAPSED, LOOK_AHEAD, NO_EDGE, WORSE
from himari_rl.evaluation.statistics import Interval

_FOUND = {
    BETTER: Cell("✓ Better than multiplier 1.0", "better"),
    NO_EDGE: Cell("– No edge found", "soft"),
    WORSE: Cell("✕ Worse than multiplier 1.0", "worse"),
    COLLAPSED: Cell("✕ Collapsed to one answer", "worse"),
    LOOK_AHEAD: Cell("✕ A look-ahead is suspected", "worse"),
}


def verdict(source: Source, mark: Cell, after: Sequence[str] = (), *, synthetic: bool = False) -> Section:
    """The first thing that is read.

    Args:
        mark: what is decided, where somebody decides; else what was found.
        after: below the statements: why refused, which policies these were.
    """
    warn = ["These bars are synthetic: this says nothing about a market."] if synthetic else []
    blocks: list[Any] = [
        Prose(lines=[mark.text], style=f"answer {mark.style}"),
        Prose(lines=[source.verdict["sentence"]], style="sentence"),
        Prose(lines=warn, style="worse"),
        Prose(lines=[str(each) for each in source.verdict["statements"]], bullets=True),
        performance.tiles(source),
        Prose(lines=[*source.notes, *after], style="note"),
    ]
    return Section(name="verdict", title="", blocks=blocks)


def found_mark(answer: str) -> Cell:
    """What was found, in a word and a colour."""
    return _FOUND.get(answer, Cell(answer, "worse"))


def diversification_of(source: Source) -> Interval | None:
    """For several assets whose prices were kept, and a policy that held anything."""
    market = source.market
    if market is None or len(source.symbols) < 2 or not source.exposure.any():
        return None
    return risk_taken_away(source.exposure, market.asset_return)


def shared(source: Source, measured: Any = None) -> tuple[list[Section], dict[str, Any]]:
    """Sections from the expected figures to the controls, and the page's panels with their axis.

    Args:
        measured: a portfolio's measures, as in an evaluation's document.
    """
    away = diversification_of(source)
    panels, axis = time_panels(source)
    sections = [
        performance.expected(source, away),
        Section(name="time", short="over time", title="Over time", blocks=[TimePanels(panels=panels)]),
        performance.absolute(source),
        performance.performance(source),
        performance.drawdowns(source),
        conduct.trade_list(source),
        conduct.conduct(source),
        conduct.limits(source),
        conduct.signals(source),
    ]
    if away is not None:
        sections.append(conduct.portfolio(source, away, measured))
    sections.append(robustness.controls(source))
    return sections, {"panels": panels, "axis": axis}


def evaluation_page(source: Source, document: dict[str, Any]) -> str:
    """The page of `himari evaluate --html`.

    Args:
        document: as in evaluation.json.
    """
    found = source.verdict
    sections, drawn = shared(source, document.get("portfolio"))
    data = {**document["data"], "signals": document["signals"], "registration": document["registration"]["line"]}
    looks = robustness.trials(found["trials"], document["registration"]["line"], ())
    page = Page(
        what="evaluation on held-out bars",
        title=f"{', '.join(source.symbols)}: {document['model_version']}",
        subtitle=f"{found['decisions']:,} decisions, {found['start']} to {found['end']}",
        sections=[
            verdict(source, found_mark(found["answer"]), synthetic=document["synthetic"]),
            *sections,
            looks,
            setup.ledger(source.ledger),
            setup.facts(source.facts, source.accepted, data),
            setup.settings(document["config"], document["config_hash"]),
        ],
        **drawn,
    )
    return render(page)
