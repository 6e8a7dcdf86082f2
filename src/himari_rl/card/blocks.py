"""What a page consists of: sections of blocks. How they look is the matter of templates and style sheet alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

THIN = "\u202f"  # narrow no-break space, before a unit
NONE = "–"  # no such figure


class Cell(NamedTuple):
    """A cell of a table that is more than a text."""

    text: str
    style: str = ""
    """Classes of style.css."""
    heat: float | None = None
    """From -1, worse, to 1, better: the depth of its colour."""
    title: str = ""
    """What a mouse over it is told."""
    href: str = ""
    """A place beside the page."""


Row = list[Cell | str]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table. The first column names the row; on a narrow screen each row becomes a small card of its own."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    prose: frozenset[int] = frozenset()
    """Columns of text; the others but the first hold numbers and stand to the right."""
    look: str = ""
    """`narrow` where it fits a small screen as it is, `heat` for months and folds, `strip` for colours alone."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One figure that is seen first."""

    label: str
    value: str
    notes: Sequence[str] = ()
    style: str = ""


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Figures side by side."""

    tiles: Sequence[Tile]


@dataclass(frozen=True, kw_only=True)
class Prose:
    """Paragraphs, or a list."""

    lines: Sequence[str]
    style: str = ""
    bullets: bool = False


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """An SVG of drawing.py with its name."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """Small drawings side by side, and what their colours mean."""

    drawings: Sequence[Drawing]
    key: Sequence[tuple[str, str]] = ()
    """(class of the colour, name)."""


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Blocks side by side where the page is wide enough, else one below the other."""

    blocks: Sequence[Any]


@dataclass(frozen=True, kw_only=True)
class TimePanels:
    """Where the panels over time are drawn; their curves are in the page's data."""

    panels: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file inside the page."""

    label: str
    name: str
    base64: str


@dataclass(frozen=True, kw_only=True)
class Folded:
    """Blocks that are opened by whoever wants them; in print they are open."""

    summary: str
    blocks: Sequence[Any]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A titled part of a page."""

    name: str
    """Of its anchor."""
    title: str
    blocks: Sequence[Any]
    short: str = ""
    """In the row of links at the top; not there if empty."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page."""

    what: str
    """Small, above the title: what sort of page this is."""
    title: str
    subtitle: str = ""
    sections: Sequence[Section] = ()
    panels: Sequence[Mapping[str, Any]] = ()
    axis: Mapping[str, Any] = field(default_factory=dict)
    footer: str = ""


def percent(share: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """A share as per cent, with a true minus; a dash where there is no number."""
    return NONE if share is None or not math.isfinite(share) else f"{number(100.0 * share, digits, sign=sign)}{THIN}%"


def number(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """With a true minus and thousands apart; a dash where there is no number."""
    if value is None or not math.isfinite(value):
        return NONE
    rounded = round(value, digits) + 0.0  # never -0.0
    return f"{rounded:{'+' if sign else ''},.{digits}f}".replace("-", "−")


def span(of: Mapping[str, float], digits: int = 1, *, scale: float = 100.0, sign: bool = True) -> str:
    """An interval's bounds in words, from its document; per cent unless another scale is given."""
    low, high = (number(scale * of[key], digits, sign=sign) for key in ("lower", "upper"))
    return f"{low} to {high}"


def verdict_mark(passed: bool, yes: str = "pass", no: str = "refuse") -> Cell:
    """A sign that is read without its colour."""
    return Cell(f"✓ {yes}", "mark better") if passed else Cell(f"✕ {no}", "mark worse")
